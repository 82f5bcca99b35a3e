"""Operating points: for each quality target the knob that saves most and can be certified on calibration requests.

The certificate is about violations: the chosen candidate fails and the reference candidate would not have. For a target
t it says that P(violation) <= alpha = 1 - t with confidence 1 - delta, over the draw of the calibration requests. It takes
these to be independent and a fair sample of the traffic to come: it does not cover a later shift of the traffic, and
conversations whose turns succeed and fail together make it optimistic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.manifest import Certificate, OperatingPoint, WorkflowBound
from serving.decide.value import Setting
from training.dataset.matrix import workflow_names
from training.measure.bounds import clopper_pearson_upper, weighted_upper
from training.measure.frontier import bootstrap_weights
from training.measure.offpolicy import importance_weights, pseudo_outcomes

_RESAMPLES = 500


@dataclass(frozen=True)
class CalibrationData:
    """The calibration requests: what is expected of the candidates on them, and what is known to have come of it.

    `acceptable` and `expected_cost` (n, m) are the served estimates. `labels`, `cost` and `propensity` (n, m) are observed,
    NaN elsewhere; `complete` (n,) marks requests with every outcome known.
    """

    acceptable: Floats
    expected_cost: Floats
    labels: Floats
    cost: Floats
    propensity: Floats
    complete: Bools
    groups: Columns
    workflow: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Bools) -> CalibrationData:
        return CalibrationData(**{name: value[rows] for name, value in vars(self).items()})


@dataclass(frozen=True)
class _Tested:
    """One knob's test: its routing, the violations' upper bound and what it rests on."""

    setting: Setting
    columns: Columns
    losses: Floats
    weights: Floats
    bound: float
    effective: float


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
) -> tuple[OperatingPoint, ...]:
    """One operating point per target, highest first.

    Of each target's alpha the share `explore` is set aside for requests that are sent elsewhere to learn, each of which adds
    at most its own probability to the rate of violations: knobs are tested at the rest of alpha.

    Each knob weighs cost against the expected violation itself, with the reference as guard (`policy.guarded`): at knob 0
    every request goes to the reference, which violates nothing, and each step up gives away the violations that save most.
    Knobs are tested in rising order, from the most conservative on, and testing stops at the first whose bound is above
    alpha: this fixed sequence needs no correction for having tested many (Learn-then-Test, Angelopoulos et al. 2021).
    Among those that passed, the one of least cost is the point. Where none passes, or fewer than `minimum` requests can
    be used, the point is the reference candidate itself, without a certificate.

    Complete requests alone are used where there are `minimum` of them: the violation is observed, and the bound is
    Clopper-Pearson's. Otherwise requests with one outcome are weighted by 1 / propensity, and every failure of a chosen
    candidate counts as a violation, which is more than can be held against it.
    """
    exact = int(data.complete.sum()) >= minimum
    used = data.take(data.complete if exact else _usable(data))
    if len(used) < minimum:
        return tuple(_always(target, names[reference], len(used)) for target in sorted(targets, reverse=True))
    tested = [
        _test(used, Setting(knob, guard=reference), reference, delta, exact=exact) for knob in sorted(knobs.tolist())
    ]
    # The propensity is that of a judged attempt, so an attempt that nobody judged counts for neither.
    judged_cost = np.where(np.isfinite(used.labels), used.cost, np.nan)
    cost = used.cost if exact else pseudo_outcomes(judged_cost, used.propensity, used.expected_cost)
    quality = used.labels if exact else pseudo_outcomes(used.labels, used.propensity, used.acceptable)
    points = []
    for target in sorted(targets, reverse=True):
        alpha = 1.0 - target
        passed: list[_Tested] = []
        for test in tested:
            if not test.bound <= alpha * (1.0 - explore):
                break
            passed.append(test)
        rows = np.arange(len(used))
        best = min(passed, key=lambda test: float(cost[rows, test.columns].mean()), default=None)
        if best is None or cost[rows, best.columns].mean() >= cost[:, reference].mean():
            points.append(_always(target, names[reference], len(used)))
            continue
        point = _point(
            target, alpha, delta, best, used, quality, cost, reference, names[reference], exact=exact, seed=seed
        )
        points.append(point.model_copy(update={"explore": alpha * explore}))
    return tuple(points)


def _usable(data: CalibrationData) -> Bools:
    """(n,) requests with a propensity for every outcome that was observed, and for at least one."""
    known = np.isfinite(data.propensity)
    lacking = np.isfinite(data.labels) & ~known
    return np.asarray(known.any(axis=1) & ~lacking.any(axis=1))


def violations(labels: Floats, columns: Columns, reference: int) -> Floats:
    """(n,) 1 where the chosen candidate's answer was not acceptable and the reference's was; `labels` (n, m) complete."""
    chosen = labels[np.arange(len(labels)), columns]
    return np.asarray((chosen == 0) & (labels[:, reference] == 1), dtype=np.float64)


def _test(data: CalibrationData, setting: Setting, reference: int, delta: float, *, exact: bool) -> _Tested:
    columns = setting.choose(data.acceptable, data.expected_cost)
    if exact:
        losses = violations(data.labels, columns, reference)
        bound = clopper_pearson_upper(int(losses.sum()), len(losses), delta)
        return _Tested(setting, columns, losses, np.ones(len(losses)), bound, float(len(losses)))
    observed = np.isfinite(data.labels)
    weights = importance_weights(observed, data.propensity, columns, clip=np.inf)
    failed = np.nan_to_num(data.labels[np.arange(len(columns)), columns], nan=1.0) == 0
    same = columns == reference  # the reference cannot be violated by itself, seen or not
    losses = np.where(same, 0.0, failed.astype(np.float64))
    weights = np.where(same, 1.0, weights)
    # Where the log has less of what is chosen than its propensities say, what is missing counts as failed.
    missing = max(float((~same).sum() - weights[~same].sum()), 0.0)
    bound, effective = weighted_upper(np.append(losses, 1.0), np.append(weights, missing), delta)
    return _Tested(setting, columns, losses, weights, bound, effective)


def _always(target: float, reference: str, n: int) -> OperatingPoint:
    return OperatingPoint(
        name=f"quality-{target:g}",
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
    data: CalibrationData,
    quality: Floats,
    cost: Floats,
    reference: int,
    reference_name: str,
    *,
    exact: bool,
    seed: int,
) -> OperatingPoint:
    rows = np.arange(len(data))
    spent, base = cost[rows, test.columns], cost[:, reference]
    resampled = bootstrap_weights(data.groups, _RESAMPLES, seed)
    savings = 1.0 - (resampled @ spent) / (resampled @ base)
    rate = float(np.average(test.losses, weights=test.weights))
    return OperatingPoint(
        name=f"quality-{target:g}",
        quality_target=target,
        knob=test.setting.knob,
        guard=reference_name,
        calibration_requests=len(data),
        quality=float(quality[rows, test.columns].mean()),
        cost_usd=float(spent.mean()),
        saving=1.0 - float(spent.mean() / base.mean()),
        certificate=Certificate(
            alpha=round(alpha, 12),
            delta=delta,
            method="clopper-pearson" if exact else "weighted",
            requests=len(data),
            effective_requests=test.effective,
            violation_rate=rate,
            bound=test.bound,
            saving_low=float(np.quantile(savings, 0.025)),
            saving_high=float(np.quantile(savings, 0.975)),
            workflows=_by_workflow(test, data, spent, base, delta),
        ),
    )


def _by_workflow(
    test: _Tested, data: CalibrationData, spent: Floats, base: Floats, delta: float
) -> dict[str, WorkflowBound]:
    names = workflow_names(data.workflow)
    found = {}
    for name in sorted(set(names.tolist())):
        inside = names == name
        weights = test.weights[inside]
        bound, _ = weighted_upper(test.losses[inside], weights, delta)
        found[name] = WorkflowBound(
            requests=int(inside.sum()),
            violation_rate=float(np.average(test.losses[inside], weights=weights)) if weights.sum() > 0 else None,
            bound=bound,
            saving=1.0 - float(spent[inside].mean() / base[inside].mean()) if base[inside].mean() > 0 else 0.0,
        )
    return found
