"""A router on a log, of which prices, candidates and constraints may be changed, and what comes of it then."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.catalogue import Candidate
from serving.bundle.features import feature_matrix
from serving.bundle.manifest import Manifest, Objective, OperatingPoint
from serving.bundle.request import ReadRequest, read
from serving.decide.decision import Estimates, Situation
from serving.decide.eligibility import NoEligibleCandidateError
from serving.decide.engine import Engine
from serving.decide.policy import Policy
from serving.decide.router import Router
from serving.decide.value import choose
from training.config import Params
from training.dataset.label import acceptable
from training.dataset.matrix import build_matrix
from training.dataset.split import SplitError, folds, group_requests
from training.dataset.volume import Volume, volume
from training.errors import TrainingError
from training.evaluate.bands import Outcomes as Known
from training.evaluate.bands import enough_complete, tradeoff
from training.learn.training_data import cell_judged, cell_propensity
from training.logs.outcomes import Outcomes
from training.prices.costs import fill_costs
from training.whatif.outcome import Outcome, lacking
from training.whatif.sample import unseen

_ANY = Policy()
# The name of the place that is asked for; no operating point has it, for these are named by letters.
_ASKED = "(asked)"


class WhatIfError(TrainingError):
    """A change that cannot be made, or a log on which nothing can be asked."""


@dataclass(frozen=True)
class Case:
    """n requests, what is expected of m candidates on them and what is known to have come of it.

    `input_tokens` and `output_tokens` (n, m) are those of the logged answers, else the expected ones. `on` says which requests
    these are, and `in_sample` whether the bundle was made from them. `changes` says, in words, what is otherwise than in the
    bundle, and `stays` what of it has no effect.
    """

    manifest: Manifest
    requests: tuple[ReadRequest, ...]
    estimates: Estimates
    known: Known
    input_tokens: Floats
    output_tokens: Floats
    volume: Volume
    on: str
    in_sample: bool = False
    policy: Policy = _ANY
    margin: float = 1.1
    changes: tuple[str, ...] = ()
    stays: tuple[str, ...] = ()
    resamples: int = 200
    seed: int = 0

    @classmethod
    def of(cls, router: Router, table: Outcomes, catalogue: Mapping[str, Candidate], params: Params) -> Case:
        """The router on a log, on requests that it was not made from wherever there are any.

        Of its own log these are the test part, by the heads that have not seen it; of another log those that it does not share
        with it. Raises WhatIfError for a log without an outcome of the bundle's candidates.
        """
        manifest = router.manifest
        if not table.frame["candidate"].isin(router.candidates).any():
            raise WhatIfError(
                f"the log has no outcome of the bundle's candidates ({', '.join(router.candidates)}); it has "
                f"{', '.join(sorted(table.frame['candidate'].unique()))}. Give the log of this bundle (LOG=)"
            )
        prices = {one.name: one for one in manifest.candidates} | dict(catalogue)
        matrix, _ = fill_costs(build_matrix(table.frame, router.candidates), prices, params.costs.assumed_output_tokens)
        groups = group_requests(list(matrix.texts), list(matrix.session_id))
        rows, on, in_sample, router = unseen(router, table, matrix, groups, params)
        amount = volume(matrix, params.report.requests_a_month)
        fair = np.where(matrix.learning, np.nan, matrix.quality)
        labels = acceptable(fair, manifest.acceptable)
        value = labels if manifest.objective is Objective.ACCEPTABLE else np.where(np.isnan(labels), np.nan, fair)
        propensity = judged = None
        if not enough_complete(matrix.complete()[rows], groups[rows]):
            features = feature_matrix(list(matrix.requests), manifest.head.workflows)
            with suppress(SplitError):  # too few requests to estimate it
                propensity, _ = cell_propensity(
                    matrix, labels, features, lambda among: folds(groups[among], params.fit.folds, params.fit.seed)
                )
                judged = cell_judged(matrix, labels)
        part = matrix.take(rows)
        requests = tuple(read(request) for request in part.requests)
        estimates = router.estimate(list(part.requests))
        counted = np.array([request.said for request in requests], dtype=np.float64)
        ratio = np.array([manifest.usual[name].input_ratio for name in router.candidates])
        tokens = counted[:, None] * ratio, estimates.output_tokens.astype(np.float64)
        seen = part.input_tokens, part.output_tokens
        said, answered = (np.where(np.isfinite(one), one, other) for one, other in zip(seen, tokens, strict=True))
        return cls(
            manifest,
            requests,
            estimates,
            Known(
                np.asarray(value)[rows],
                part.cost_usd,
                labels[rows],
                None if propensity is None else propensity[rows],
                None if judged is None else judged[rows],
                part.complete(),
                groups[rows],
                part.workflow,
            ),
            said,
            answered,
            amount,
            on,
            in_sample,
            resamples=params.evaluate.resamples,
            seed=params.evaluate.seed,
        )

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(candidate.name for candidate in self.manifest.candidates)

    def with_prices(self, prices: Mapping[str, tuple[float, float]]) -> Case:
        """As if candidates cost so many USD per million tokens, in and out.

        What is expected of a request is its tokens times the price. What a logged answer cost changes by the ratio of its
        tokens times the new price to its tokens times the old one, so that a discount on the logged costs stays. Where a
        candidate's cost was learned from logged costs (`cost_from`), no price has a part in it, and nothing changes.
        """
        case = self
        for name, (price_in, price_out) in prices.items():
            column = self._column(name)
            if min(price_in, price_out) < 0 or not np.isfinite([price_in, price_out]).all():
                raise WhatIfError(
                    f"price of {name}: expected two amounts of USD per million tokens, 0 or more, got {price_in}, {price_out}"
                )
            old = self.manifest.candidates[column]
            if self.manifest.cost_from[name] != "tokens":
                said = f"the cost of {name} was learned from logged costs, on which its price per token has no bearing"
                case = replace(case, stays=(*case.stays, said))
                continue
            now = self.input_tokens[:, column] * price_in + self.output_tokens[:, column] * price_out
            before = self.input_tokens[:, column] * (old.input_usd_per_mtok or 0.0)
            before = before + self.output_tokens[:, column] * (old.output_usd_per_mtok or 0.0)
            logged = self.known.cost_usd[:, column]
            with np.errstate(divide="ignore", invalid="ignore"):
                paid = np.where(before > 0, logged * now / before, np.where(np.isnan(logged), np.nan, now / 1e6))
            counted = np.array([request.said for request in self.requests], dtype=np.float64)
            expected = counted * self.manifest.usual[name].input_ratio * price_in
            expected = (expected + self.estimates.output_tokens[:, column] * price_out) / 1e6
            new = old.model_copy(update={"input_usd_per_mtok": price_in, "output_usd_per_mtok": price_out})
            case = case._costing(column, expected, paid, new)
            before_said = f"{old.input_usd_per_mtok:g} and {old.output_usd_per_mtok:g}"
            said = f"{name} costs {price_in:g} and {price_out:g} USD per million tokens in and out, not {before_said}"
            case = replace(case, changes=(*case.changes, said))
        return case

    def times(self, factors: Mapping[str, float]) -> Case:
        """As if each call of these candidates cost so many times as much, wherever its cost is from."""
        case = self
        for name, factor in factors.items():
            column = self._column(name)
            if not (np.isfinite(factor) and factor >= 0):
                raise WhatIfError(f"factor of {name}: expected a number of 0 or more, got {factor}")
            if factor == 1:
                continue
            old = case.manifest.candidates[column]
            price = {
                field: None if getattr(old, field) is None else getattr(old, field) * factor
                for field in ("input_usd_per_mtok", "output_usd_per_mtok")
            }
            case = case._costing(
                column,
                case.estimates.cost_usd[:, column] * factor,
                case.known.cost_usd[:, column] * factor,
                old.model_copy(update=price),
            )
            case = replace(case, changes=(*case.changes, f"{name} costs {factor:g} times as much"))
        return case

    def without(self, names: Collection[str]) -> Case:
        """As if these candidates were not there."""
        for name in names:
            self._column(name)
        if not names:
            return self
        if set(names) >= set(self.candidates):
            raise WhatIfError("without all candidates there is nothing to route to: leave one")
        policy = replace(self.policy, deny=(*self.policy.deny, *names))
        return replace(self, policy=policy, changes=(*self.changes, f"without {', '.join(names)}"))

    def only_regions(self, regions: Collection[str]) -> Case:
        """As if requests might go to these regions alone; of a candidate's region nothing known counts as no."""
        if not regions:
            raise WhatIfError("regions: expected one at least, got none")
        policy = replace(self.policy, regions=(*self.policy.regions, frozenset(regions)))
        changed = replace(self, policy=policy, changes=(*self.changes, f"only in {', '.join(sorted(regions))}"))
        unknown = [one.name for one in self.manifest.candidates if not one.regions]
        if unknown:
            said = f"the catalogue names no region of {', '.join(unknown)}, which are left out therefore"
            changed = replace(changed, stays=(*changed.stays, said))
        return changed

    def under(self, policy: Policy, said: str = "under another policy") -> Case:
        """As if this policy held for each request, beside what was changed before."""
        return replace(self, policy=self.policy.tightened(policy), changes=(*self.changes, said))

    def at(self, knob: float | None = None, *, target: float | None = None) -> Outcome:
        """What comes of it at a guarded knob alone, or at the operating point of a target; see `Outcome.here`."""
        if (knob is None) == (target is None):
            raise WhatIfError("expected a knob or a target, and not both")
        if knob is None:
            assert target is not None
            knob = self.knob_for(target)
        found = self.outcome(knob)
        sure = {
            point.knob
            for point in self.manifest.operating_points
            if point.certificate and point.quality_target == target
        }
        return replace(found, estimate=bool(self.changes) or knob not in sure)

    def knob_for(self, target: float) -> float:
        """The bundle's guarded knob for a target, else the highest at which the heads expect that the target is kept."""
        if not 0 < target < 1:
            raise WhatIfError(f"target: expected a share between 0 and 1, as 0.95, got {target}")
        for point in self.manifest.operating_points:
            if point.quality_target == target and point.guard is not None and not self.changes:
                return point.knob
        _, eligible, routable = self.routed()
        value, violation, usd = (
            np.asarray(one, dtype=np.float64)[routable]
            for one in (self.estimates.acceptable, self.estimates.violation, self.estimates.cost_usd)
        )
        best, rows = 0.0, np.arange(len(value))
        for knob in self.manifest.knobs:
            columns = choose(-violation, usd, knob, eligible[routable])
            if violation[rows, columns].mean() > 1.0 - target:
                break
            best = knob
        return best

    def outcome(self, knob: float | None = None) -> Outcome:
        """The frontier, the operating points and where requests go, with what was changed; and what a guarded `knob` gives."""
        columns, eligible, routable = self.routed()
        if not routable.any():
            why = "; ".join((*self.changes, *self.stays))
            raise WhatIfError(f"no candidate may answer any of the {len(self):,} requests: {why}")
        part = self if routable.all() else self._take(routable)
        columns, eligible = columns[routable], eligible[routable]
        found = tradeoff(
            part.manifest if knob is None else _with_point(part.manifest, knob),
            part.estimates,
            columns,
            part.known,
            resamples=self.resamples,
            seed=self.seed,
            eligible=eligible,
        )
        names = [name for column, name in enumerate(self.candidates) if eligible[:, column].any()]
        here = found.points.pop(_ASKED, None)
        found = replace(found, singles={name: mark for name, mark in found.singles.items() if name in names})
        expected = part.estimates.cost_usd[np.arange(len(columns)), columns]
        spent = np.bincount(columns, expected, len(self.candidates))
        shares = np.bincount(columns, minlength=len(self.candidates)) / len(columns)
        return Outcome(
            manifest=self.manifest,
            tradeoff=found,
            shares=dict(zip(self.candidates, shares.tolist(), strict=True)),
            spending=dict(zip(self.candidates, (spent / max(spent.sum(), 1e-300)).tolist(), strict=True)),
            volume=self.volume,
            requests=int(routable.sum()),
            nobody=float(1.0 - routable.mean()),
            on=self.on,
            in_sample=self.in_sample,
            changes=self.changes,
            stays=self.stays,
            left_out=tuple(name for name in self.candidates if name not in names),
            here=here,
            lacking=lacking(part.known, found.basis),
        )

    def routed(self) -> tuple[Columns, Bools, Bools]:
        """Where the service would send each request, (n,), who of the candidates may answer it, (n, m), and whether anybody
        may, (n,); by its own rules."""
        engine = Engine(self.manifest, self.margin)
        columns = np.zeros(len(self), dtype=np.intp)
        eligible = np.zeros((len(self), len(self.candidates)), dtype=np.bool_)
        usual = Situation()
        for row, request in enumerate(self.requests):
            try:
                made = engine.decide(request, self.policy, usual, self.estimates, row)
            except NoEligibleCandidateError:
                continue
            columns[row] = self.candidates.index(made.candidate)
            eligible[row] = [one.ruled_out is None for one in made.alternatives]
        return columns, eligible, np.asarray(eligible.any(axis=1))

    def _take(self, rows: Bools) -> Case:
        arrays = {name: getattr(self.estimates, name)[rows] for name in self.estimates.__dataclass_fields__}
        every = {name: getattr(self.known, name) for name in self.known.__dataclass_fields__}
        known: dict[str, Any] = {name: None if one is None else one[rows] for name, one in every.items()}
        return replace(
            self,
            requests=tuple(one for one, kept in zip(self.requests, rows, strict=True) if kept),
            estimates=Estimates(**arrays),
            known=Known(**known),
            input_tokens=self.input_tokens[rows],
            output_tokens=self.output_tokens[rows],
        )

    def _costing(self, column: int, expected: Floats, paid: Floats, candidate: Candidate) -> Case:
        usd, known = self.estimates.cost_usd.copy(), self.known.cost_usd.copy()
        usd[:, column], known[:, column] = expected, paid
        every = list(self.manifest.candidates)
        every[column] = candidate
        return replace(
            self,
            manifest=self.manifest.model_copy(update={"candidates": tuple(every)}),
            estimates=replace(self.estimates, cost_usd=usd),
            known=replace(self.known, cost_usd=known),
        )

    def _column(self, name: str) -> int:
        if name not in self.candidates:
            raise WhatIfError(f"{name!r} is no candidate of the bundle; it has {', '.join(self.candidates)}")
        return self.candidates.index(name)


def _with_point(manifest: Manifest, knob: float) -> Manifest:
    asked = OperatingPoint(name=_ASKED, knob=knob, guard=manifest.reference, calibration_requests=0)
    return manifest.model_copy(update={"operating_points": (*manifest.operating_points, asked)})
