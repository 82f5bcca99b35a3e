"""Operating points: for each quality target the knob that saves most and can be certified on calibration requests.

The certificate is about violations: the chosen candidate fails and the reference candidate would not have. For a target
t it says that P(violation) <= alpha = 1 - t with confidence 1 - delta, over the draw of the calibration requests. It takes
whole conversations to be independent of each other, and calibration requests to be a fair sample of the traffic to come (of
complete requests: `evidence.traffic`): it does not cover a later shift of the traffic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from serving.bundle.arrays import Columns, Floats
from serving.bundle.manifest import Certificate, Estimated, OperatingPoint, WorkflowBound
from serving.decide.value import Setting
from training.certify.evidence import CalibrationData, Evidence, evidence, traffic
from training.dataset.matrix import workflow_names
from training.measure.bounds import RateBound
from training.measure.frontier import Resamples
from training.measure.metrics import mean_of
from training.measure.offpolicy import (
    CLIP,
    MINIMUM_EFFECTIVE,
    effective_sample_size,
    importance_weights,
    pseudo_outcomes,
)

_RESAMPLES = 500
# A routing that gives away less is the reference, whatever the target.
_LEAST_GIVEN = 0.01


@dataclass(frozen=True)
class _Tested:
    """One knob's test: its routing, what is known to have come of it, and the bound that follows; and where the heads that are
    served send the same requests, `served` (n,). There is one at a time: of each knob only `_Passed` is kept."""

    setting: Setting
    seen: Evidence
    bound: RateBound
    served: Columns


@dataclass(frozen=True)
class _Passed:
    """What is kept of a knob's test: its bound, how much it gives away and, where that is worth asking, what it saves."""

    setting: Setting
    upper: float
    given_away: float
    saving: float


@dataclass(frozen=True)
class _Outcomes:
    """Outcomes of the n requests used, complete by doubly robust pseudo-outcomes: `quality` and `cost` (n, m).

    A test's requests count for as many of the traffic as its bound has them count for.
    """

    data: CalibrationData
    quality: Floats
    cost: Floats
    reference: int

    def mean(self, values: Floats, test: _Tested, columns: Columns) -> float:
        """Of `values` (n, m) at these choices (n,)."""
        return float(test.seen.shares @ values[np.arange(len(values)), columns] / test.seen.shares.sum())

    def saving(self, test: _Tested) -> float:
        """Of the heads that are served, against sending everything to the reference."""
        base = float(test.seen.shares @ self.cost[:, self.reference] / test.seen.shares.sum())
        return 1.0 - self.mean(self.cost, test, test.served) / base

    def given_away(self, test: _Tested) -> float:
        """The share of the traffic that goes elsewhere than to the reference, by the heads that are served or those that are
        certified, whichever give less."""
        shares = test.seen.shares / test.seen.shares.sum()
        return min(float(shares @ (columns != self.reference)) for columns in (test.served, test.seen.columns))


def operating_points(
    data: CalibrationData,
    knobs: Floats,
    targets: Sequence[float],
    reference: int,
    names: Sequence[str],
    *,
    delta: float,
    minimum: int,
    seed: int,
    explore: float = 0.0,
    uncertified: Literal["reference", "estimated"] = "reference",
) -> tuple[OperatingPoint, ...]:
    """One operating point per target, highest first.

    Of each target's alpha the share `explore` is set aside for requests that are sent elsewhere to learn, each of which adds
    at most its own probability to the rate of violations: knobs are tested at the rest of alpha.

    Each knob weighs cost against the expected violation itself, with the reference as guard (`Setting.guarded`): at knob 0
    every request goes to the reference, which violates nothing, and each step up gives away the violations that save most.
    Knobs are tested in rising order, from the most conservative on, and testing stops at the first whose bound is above
    alpha: this fixed sequence needs no correction for having tested many (Learn-then-Test, Angelopoulos et al. 2021).
    Among those that passed, the one that saves most is the point. What gives away no more than alpha keeps the target whatever
    comes of it: that takes no evidence, and is no point. Where nothing else passes, or fewer than `minimum` requests can be
    used, the point has no certificate: it is the reference candidate itself, or what is estimated to keep the target where
    `uncertified` says so.

    What each request says, and how complete requests and those with one outcome are put together, is `evidence`'s.
    """
    used = data.usable()

    def without(target: float) -> OperatingPoint:
        found = estimate(data, knobs, target, reference, seed)
        if found is None or uncertified == "reference":
            return _always(target, names[reference], len(used)).model_copy(update={"estimated": found})
        return OperatingPoint(
            name=_name(target),
            quality_target=target,
            knob=found.knob,
            guard=names[reference],
            calibration_requests=len(used),
            saving=found.saving,
            estimated=found,
        )

    if len(used) < minimum:
        return tuple(without(target) for target in sorted(targets, reverse=True))
    stands_for = traffic(used)
    # The propensity is that of a judged attempt, so an attempt that nobody judged counts for neither.
    judged_cost = np.where(np.isfinite(used.labels), used.cost, np.nan)
    outcomes = _Outcomes(
        used,
        quality=pseudo_outcomes(used.labels, used.propensity, used.acceptable, judged=used.judged),
        cost=pseudo_outcomes(judged_cost, used.propensity, used.expected_cost, judged=used.judged),
        reference=reference,
    )

    def test(setting: Setting) -> _Tested:
        seen = evidence(used, stands_for, setting, reference, delta)
        served = seen.columns if used.served is None else used.served.choices(setting)
        return _Tested(setting, seen, seen.bound(delta), served)

    alphas = [1.0 - target for target in sorted(targets, reverse=True)]
    tested = []
    for knob in sorted(knobs.tolist()):
        one = test(Setting(knob, guarded=True))
        if not one.bound.upper <= max(alphas, default=0.0) * (1.0 - explore):
            break  # it ends the sequence of every target
        given = outcomes.given_away(one)
        worth_asking = given > max(min(alphas), _LEAST_GIVEN)
        tested.append(_Passed(one.setting, one.bound.upper, given, outcomes.saving(one) if worth_asking else 0.0))
    points = []
    for target in sorted(targets, reverse=True):
        alpha = 1.0 - target
        failed = (place for place, one in enumerate(tested) if not one.upper <= alpha * (1.0 - explore))
        passed = tested[: next(failed, len(tested))]
        worth = [one for one in passed if one.given_away > max(alpha, _LEAST_GIVEN)]
        kept = max(worth, key=lambda one: one.saving, default=None)
        if kept is None or kept.saving <= 0.0:
            points.append(without(target))
            continue
        best = test(kept.setting)
        reweighted = stands_for.reweighted
        point = _point(target, alpha, delta, best, outcomes, names[reference], seed=seed, reweighted=reweighted)
        points.append(point.model_copy(update={"explore": alpha * explore}))
    return tuple(points)


def estimate(data: CalibrationData, knobs: Floats, target: float, reference: int, seed: int) -> Estimated | None:
    """What routing is estimated to give at the highest knob at which the heads expect the target to be kept; None where that is
    no knob that gives anything away.
    """
    rows = np.arange(len(data))
    found: tuple[float, float] | None = None
    for knob in sorted(knobs.tolist()) if len(data) else []:
        columns = Setting(knob, guarded=True).choose(data.acceptable, data.violation, data.expected_cost)
        expected = float(mean_of(data.violation[rows, columns], data.standing))
        if expected > 1.0 - target:
            break
        if (columns != reference).any():
            found = knob, expected
    if found is None:
        return None
    used = data.usable()
    columns = Setting(found[0], guarded=True).choose(used.acceptable, used.violation, used.expected_cost)
    seen = np.isfinite(used.labels)
    same = np.full(len(used), reference, dtype=np.intp)
    counts = np.ones(len(used)) if used.standing is None else used.standing
    known = [
        effective_sample_size(counts * importance_weights(seen, used.propensity, chosen, clip=CLIP, judged=used.judged))
        for chosen in (columns, same)
    ]
    if min(known) < MINIMUM_EFFECTIVE:
        return Estimated(knob=found[0], violation_rate=found[1])
    cost = pseudo_outcomes(np.where(seen, used.cost, np.nan), used.propensity, used.expected_cost, judged=used.judged)
    spent, base = cost[np.arange(len(used)), columns], cost[:, reference]
    resampled = Resamples.draw(used.groups, _RESAMPLES, seed, standing=used.standing)
    low, high = np.quantile(1.0 - (resampled @ spent) / (resampled @ base), [0.025, 0.975]).tolist()
    return Estimated(
        knob=found[0],
        violation_rate=found[1],
        saving=1.0 - float(mean_of(spent, used.standing) / mean_of(base, used.standing)),
        saving_low=low,
        saving_high=high,
    )


def violations(labels: Floats, columns: Columns, reference: int) -> Floats:
    """(n,) 1 where the chosen candidate's answer was not acceptable and the reference's was; `labels` (n, m) complete."""
    chosen = labels[np.arange(len(labels)), columns]
    return np.asarray((chosen == 0) & (labels[:, reference] == 1), dtype=np.float64)


def violation_bound(data: CalibrationData, setting: Setting, reference: int, delta: float) -> RateBound | None:
    """What one setting violates on other requests than it was certified on, found in the same way; None without any."""
    used = data.usable()
    if not len(used):
        return None
    return evidence(used, traffic(used), setting, reference, delta).bound(delta)


def _name(target: float) -> str:
    return f"quality-{target:g}"


def _always(target: float, reference: str, n: int) -> OperatingPoint:
    return OperatingPoint(
        name=_name(target),
        quality_target=target,
        knob=0.0,
        always=reference,
        calibration_requests=n,
        saving=0.0,
    )


def _point(
    target: float,
    alpha: float,
    delta: float,
    test: _Tested,
    outcomes: _Outcomes,
    reference: str,
    *,
    seed: int,
    reweighted: bool,
) -> OperatingPoint:
    data, seen = outcomes.data, test.seen
    spent, base = outcomes.cost[np.arange(len(data)), test.served], outcomes.cost[:, outcomes.reference]
    blocks = (weights * seen.shares for weights in Resamples.draw(data.groups, _RESAMPLES, seed).blocks())
    savings = np.concatenate([1.0 - (weights @ spent) / (weights @ base) for weights in blocks])
    return OperatingPoint(
        name=_name(target),
        quality_target=target,
        knob=test.setting.knob,
        guard=reference,
        calibration_requests=len(data),
        quality=outcomes.mean(outcomes.quality, test, seen.columns),
        cost_usd=outcomes.mean(outcomes.cost, test, test.served),
        saving=outcomes.saving(test),
        certificate=Certificate(
            alpha=round(alpha, 12),
            delta=delta,
            method=seen.method,
            requests=int(seen.rows.sum()),
            effective_requests=test.bound.effective,
            violation_rate=test.bound.rate,
            bound=test.bound.upper,
            saving_low=float(np.quantile(savings, 0.025)),
            saving_high=float(np.quantile(savings, 0.975)),
            workflows=_by_workflow(test, outcomes, spent, base, delta),
            conversations=len(np.unique(data.groups[seen.rows])),
            complete=int((data.complete & seen.rows).sum()),
            reweighted=reweighted,
        ),
    )


def _by_workflow(
    test: _Tested, outcomes: _Outcomes, spent: Floats, base: Floats, delta: float
) -> dict[str, WorkflowBound]:
    """Each workflow taken alone; one that the traffic does not have is left out."""
    names, weights = workflow_names(outcomes.data.workflow), test.seen.shares
    found = {}
    for name in sorted(set(names[test.seen.rows].tolist())):
        inside = names == name
        bound = test.seen.bound(delta, inside)
        before = float(weights[inside] @ base[inside])
        found[name] = WorkflowBound(
            requests=int((inside & test.seen.rows).sum()),
            violation_rate=None if np.isnan(bound.rate) else bound.rate,
            bound=bound.upper,
            saving=1.0 - float(weights[inside] @ spent[inside]) / before if before > 0 else 0.0,
        )
    return found
