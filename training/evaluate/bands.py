"""What each place of the knob gives, with 95% bands: on requests of which every outcome is known, or is estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from serving.account.intervals import wilson
from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.manifest import Manifest
from serving.decide.decision import Estimates
from serving.decide.value import Setting, choose
from training.certify.evidence import stands_for
from training.dataset.matrix import workflow_names
from training.measure.frontier import bootstrap_weights
from training.measure.offpolicy import MINIMUM_EFFECTIVE, doubly_robust, effective_sample_size, pseudo_outcomes

COMPLETE: Literal["complete"] = "complete"
DOUBLY_ROBUST: Literal["doubly robust"] = "doubly robust"
# 320 MB of weights; and as many resamples as a 95% interval takes at least.
_MOST_WEIGHTS, _LEAST_REPEATS = 40_000_000, 100
_MOST_NAMED = 5
_NO_WIDTH = 1e-9


@dataclass(frozen=True)
class Mark:
    """Where n requests went, by candidate, and what came of it: means with 95% intervals.

    `saving` is against sending everything to the reference, NaN where the log cannot bear what that costs. `violation_rate` is
    the share of requests that failed where the reference did not, None where that is not known. `cost_quality` is the place
    from 0 to 10 that stands for the knob.
    """

    knob: float
    cost_usd: float
    cost_low: float
    cost_high: float
    quality: float
    quality_low: float
    quality_high: float
    saving: float
    saving_low: float
    saving_high: float
    shares: dict[str, float] = field(default_factory=dict)
    violation_rate: float | None = None
    cost_quality: float | None = None


@dataclass(frozen=True)
class Tradeoff:
    """The knob's sweep by what is expected (`sweep`), by what is expected to be broken (`guarded`), and single candidates and
    operating points by name. It rests on `requests`, worth `effective_requests` independent ones at the default point.

    `basis` says how outcomes are known; None where they are not, and `why_not` says why. `note` says of what traffic the
    figures are, where the complete requests are not like all of it: it belongs beside each of them.
    """

    basis: Literal["complete", "doubly robust"] | None = None
    requests: int = 0
    effective_requests: float = 0.0
    sweep: tuple[Mark, ...] = ()
    guarded: tuple[Mark, ...] = ()
    singles: dict[str, Mark] = field(default_factory=dict)
    points: dict[str, Mark] = field(default_factory=dict)
    why_not: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class Outcomes:
    """What is known of n requests and m candidates: `value` and `cost_usd` (n, m), NaN where not observed; `labels` (n, m) 1
    acceptable, 0 not; `propensity` (n, m) of what was observed, and `judged` (n, m) the part of it that is judging's, as
    `measure.offpolicy` has both; `complete` (n,) where everything is known; `groups` (n,) what
    belongs together, and `workflow` (n,); `standing` (n,) how many requests of a sampled log each stands for, None: alike."""

    value: Floats
    cost_usd: Floats
    labels: Floats
    propensity: Floats | None
    judged: Floats | None
    complete: Bools
    groups: Columns
    workflow: NDArray[np.object_]
    standing: Floats | None = None


def places(knobs: Sequence[float]) -> list[float]:
    """The place from 0 (the cheapest) to 10 (quality alone) of each knob of a sweep that rises from 0, as `knob_for` has it."""
    steps = max(len(knobs) - 2, 1)
    return [10.0 if knob == 0 else 10.0 * (1.0 - (place - 1) / steps) for place, knob in enumerate(knobs)]


def guarded_knobs(manifest: Manifest) -> list[float]:
    """The bundle's sweep, with the knobs of its operating points in place of the nearest ones of the sweep."""
    knobs = set(manifest.knobs)
    own = {point.knob for point in manifest.operating_points if point.guard is not None and np.isfinite(point.knob)}
    for knob in sorted(own - knobs):
        if near := [one for one in knobs - own if 0 < one < np.inf]:
            knobs.remove(min(near, key=lambda one: abs(np.log(one) - np.log(knob))) if knob > 0 else near[0])
        knobs.add(knob)
    return sorted(knobs)


def repeats(resamples: int, n: int) -> int:
    """So many resamples of n requests, or fewer, so that their weights fit into memory."""
    return min(resamples, max(_MOST_WEIGHTS // max(n, 1), _LEAST_REPEATS))


def enough_complete(complete: Bools, groups: Columns) -> bool:
    """Whether requests of which everything is known, `complete` (n,), are of so many conversations that they can be counted.

    A few would give narrow bands that mean nothing, and would put the many requests with one outcome aside.
    """
    return len(np.unique(groups[complete])) >= MINIMUM_EFFECTIVE


def weighted_to_traffic(known: Outcomes) -> tuple[Floats, str | None]:
    """What each complete request counts for, and a sentence about it where they do not all count the same.

    As for the certificate (`certify.evidence.traffic`): where complete requests are of other workflows than the others, which
    are traffic, workflows are weighted to their shares among these. One without a complete request is not in the figures.
    """
    complete = known.complete
    standing = np.ones(len(complete)) if known.standing is None else known.standing
    ones = standing[complete]
    if not stands_for(known.workflow, known.groups, complete).reweighted:
        return ones, None
    names, code = np.unique(workflow_names(known.workflow), return_inverse=True)
    have = np.bincount(code[complete], ones, minlength=len(names))
    wanted = np.bincount(code[~complete], standing[~complete], minlength=len(names)) / standing[~complete].sum()
    covered = float(wanted[have > 0].sum())
    unlike = "The complete requests are of other workflows than the other test requests, which are traffic"
    if covered == 0:
        return ones, f"{unlike}: they have none in common, so that these figures say nothing of the traffic."
    weights = ones * (wanted / np.where(have > 0, have, 1.0))[code[complete]]
    note = f"{unlike}, and are weighted to the shares that their workflows have there."
    if (wanted[have == 0] > 0).any():
        known_of = [str(names[k]) for k in np.argsort(-wanted, kind="stable") if have[k] and wanted[k]]
        told = ", ".join(known_of[:_MOST_NAMED])
        told += f" and {len(known_of) - _MOST_NAMED} more" if len(known_of) > _MOST_NAMED else ""
        note += f" They cover {told}, which carry {covered:.1%} of the traffic: of the rest these figures say nothing."
    return weights / weights.mean(), note


def tradeoff(
    manifest: Manifest,
    expected: Estimates,
    columns: Columns,
    known: Outcomes,
    *,
    resamples: int,
    seed: int,
    eligible: Bools | None = None,
) -> Tradeoff:
    """What `expected` of n requests, and where the default point sends them, `columns` (n,), come to.

    On complete requests where they are enough (`enough_complete`); else by doubly robust pseudo-outcomes, for the places that
    the log can bear. Bands: 2.5% and 97.5% quantiles of the bootstrap of whole conversations (`frontier.bootstrap_weights`).
    Only candidates that are `eligible` (n, m) are chosen, at least one for each request; without it all of them are.
    """
    basis: Literal["complete", "doubly robust"] = (
        COMPLETE if enough_complete(known.complete, known.groups) else DOUBLY_ROBUST
    )
    rows = known.complete
    if basis == DOUBLY_ROBUST:
        if known.propensity is None:
            return Tradeoff(why_not="how likely the log was to try each candidate is not known")
        seen, drawn = np.isfinite(known.value), np.isfinite(known.propensity)
        rows = np.asarray(drawn.any(axis=1) & ~(seen & ~drawn).any(axis=1))
        if not rows.any():
            return Tradeoff(why_not="no request has a propensity of each of its judged outcomes")
    board = _Board.of(manifest, expected, known, rows, basis, resamples, seed)
    if eligible is not None:
        board = replace(board, eligible=eligible[rows])
    columns, settings = columns[rows], {}
    for point in manifest.operating_points:
        chosen = board.choices(Setting.of(manifest, point))
        settings[point.name] = columns if point.name == manifest.default_point else chosen
    effective, refused = board.support(columns)
    if refused is not None:
        return Tradeoff(requests=int(rows.sum()), effective_requests=effective, why_not=refused)
    knobs = list(manifest.knobs)
    sweep = [
        replace(mark, cost_quality=place)
        for knob, place in zip(knobs, places(knobs), strict=True)
        if (mark := board.mark(board.choices(Setting(knob)), knob)) is not None
    ]
    guarded = [board.mark(board.choices(Setting(knob, guarded=True)), knob) for knob in guarded_knobs(manifest)]
    points = {point.name: board.mark(settings[point.name], point.knob) for point in manifest.operating_points}
    alone = {
        name: board.mark(np.full(int(rows.sum()), column, dtype=np.intp), 0.0)
        for column, name in enumerate(board.candidates)
    }
    return Tradeoff(
        basis,
        int(rows.sum()),
        effective,
        tuple(sweep),
        tuple(mark for mark in guarded if mark is not None),
        {name: mark for name, mark in alone.items() if mark is not None},
        {name: mark for name, mark in points.items() if mark is not None},
        note=board.note,
    )


@dataclass(frozen=True)
class _Board:
    """The n requests, complete or completed, which count for `counts` (n,), and `weights` (resamples, n) of the bootstrap."""

    candidates: tuple[str, ...]
    reference: int
    expected: tuple[Floats, Floats, Floats]  # value, violation, cost in USD
    known: Outcomes
    value: Floats
    cost: Floats
    broken: Floats | None
    counts: Floats
    weights: Floats
    base: Floats  # (resamples,) what sending everything to the reference costs
    base_known: bool = True  # whether the log can bear that
    eligible: Bools | None = None
    note: str | None = None

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        expected: Estimates,
        known: Outcomes,
        rows: Bools,
        basis: str,
        resamples: int,
        seed: int,
    ) -> _Board:
        value, violation, usd = (
            np.asarray(part, dtype=np.float64)[rows]
            for part in (expected.of(manifest.objective), expected.violation, expected.cost_usd)
        )
        names = tuple(candidate.name for candidate in manifest.candidates)
        reference = names.index(manifest.reference)
        propensity = None if known.propensity is None else known.propensity[rows]
        judged = None if known.judged is None else known.judged[rows]
        part = Outcomes(
            known.value[rows],
            known.cost_usd[rows],
            known.labels[rows],
            propensity,
            judged,
            known.complete[rows],
            known.groups[rows],
            known.workflow[rows],
            None if known.standing is None else known.standing[rows],
        )
        found, cost, broken = part.value, part.cost_usd, None
        counts, note = np.ones(len(found)) if part.standing is None else part.standing, None
        if basis == COMPLETE:
            counts, note = weighted_to_traffic(known)
            broken = ((part.labels == 0) & (part.labels[:, [reference]] == 1)).astype(np.float64)
        else:
            assert propensity is not None
            judged_cost = np.where(np.isfinite(part.value), part.cost_usd, np.nan)
            found = pseudo_outcomes(part.value, propensity, value, judged=judged)
            cost = pseudo_outcomes(judged_cost, propensity, usd, judged=judged)
        weights = bootstrap_weights(part.groups, repeats(resamples, len(found)), seed, part.workflow)
        if note is not None or part.standing is not None:
            weights = weights * counts
            weights /= weights.sum(axis=1, keepdims=True)
        base = np.asarray(weights @ cost[:, reference])
        board = cls(
            names, reference, (value, violation, usd), part, found, cost, broken, counts, weights, base, note=note
        )
        everything = np.full(len(found), reference, dtype=np.intp)
        return replace(board, base_known=board.support(everything)[1] is None)

    def choices(self, setting: Setting) -> Columns:
        value, violation, usd = self.expected
        chosen = setting.choose(value, violation, usd)
        if self.eligible is None or self.eligible[np.arange(len(chosen)), chosen].all():
            return chosen
        instead = choose(setting.worth(value, violation), usd, setting.knob, self.eligible)
        return np.where(self.eligible[np.arange(len(chosen)), chosen], chosen, instead)

    def support(self, columns: Columns) -> tuple[float, str | None]:
        """How many independent requests the choices `columns` (n,) are known by, and why that is too few."""
        if self.broken is not None:
            return effective_sample_size(self.counts, self.known.groups), None
        assert self.known.propensity is not None
        found = doubly_robust(
            self.known.value,
            self.known.propensity,
            columns,
            self.expected[0],
            judged=self.known.judged,
            minimum_effective=MINIMUM_EFFECTIVE,
            groups=self.known.groups,
            standing=self.known.standing,
        )
        return found.effective_sample, found.refused

    def mark(self, columns: Columns, knob: float) -> Mark | None:
        """What the choices `columns` (n,) come to; None where the log cannot bear it."""
        effective, refused = self.support(columns)
        if refused is not None:
            return None
        rows = np.arange(len(columns))
        cost, quality = self.cost[rows, columns], self.value[rows, columns]
        base, mean = self._mean(self.cost[:, self.reference]), self._mean(cost)
        spent = self.weights @ cost
        share = np.bincount(columns, self.counts, minlength=len(self.candidates)) / self.counts.sum()
        saving = 1.0 - mean / base if base > 0 else 0.0
        savings = 1.0 - spent / self.base if (self.base > 0).all() else np.zeros_like(spent)
        if not self.base_known:
            saving, savings = np.nan, np.full_like(spent, np.nan)
        return Mark(
            knob,
            *_with_band(mean, spent, least=0.0),
            *_of_a_share(_with_band(self._mean(quality), self.weights @ quality, least=0.0, most=1.0), effective),
            *_with_band(saving, savings, most=1.0),
            shares={name: float(part) for name, part in zip(self.candidates, share, strict=True)},
            violation_rate=None if self.broken is None else self._mean(self.broken[rows, columns]),
        )

    def _mean(self, values: Floats) -> float:
        return float(np.average(values, weights=self.counts))


def _with_band(
    value: float, resampled: Floats, *, least: float = -np.inf, most: float = np.inf
) -> tuple[float, float, float]:
    """A value with its 95% band, all of them no further than what there can be: an estimate may lie beyond it."""
    low, high = np.quantile(resampled, [0.025, 0.975]).tolist()
    value, low, high = np.clip([value, min(low, value), max(high, value)], least, most).tolist()
    return value, low, high


def _of_a_share(band: tuple[float, float, float], effective: float) -> tuple[float, float, float]:
    """Where all outcomes are the same, resampling sees no spread: the band is then Wilson's, of `effective` requests."""
    value, low, high = band
    if high - low > _NO_WIDTH:
        return band
    least, most = wilson(value * effective, effective)
    return value, min(least, value), max(most, value)
