"""Routers swept over the knob on the same test requests, whose every outcome is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.bundle.arrays import Columns, Floats
from serving.decide.value import choose
from training.dataset.matrix import workflow_names
from training.evaluate.evaluation import ORACLE, ROUTER, Line, WorkflowLine
from training.measure.frontier import (
    Frontier,
    Resamples,
    Singles,
    bootstrap_aiq,
    cross_fitted_cost_save,
    frontier,
    singles,
)
from training.measure.metrics import cost_save, headroom_captured, mean_of, non_decreasing_hull, performance_gain


@dataclass(frozen=True)
class CompleteOutcomes:
    """Complete outcomes of n requests: `quality` (acceptable or not) and `cost_usd` (n, m), and what ties requests; `standing`
    (n,) how many requests of a sampled log each stands for, None: as many each."""

    quality: Floats
    cost_usd: Floats
    groups: Columns
    workflow: NDArray[np.object_]
    standing: Floats | None = None

    def __len__(self) -> int:
        return len(self.quality)


@dataclass(frozen=True)
class Contender:
    """A router to be swept over the knob: what it expects of m candidates on test and on calibration requests.

    Both are an estimate and an expected cost, each (n, m). Without `calibration` it is the served router. `simulated_truth`
    marks one that no log could train: it knows the simulator's true probabilities.
    """

    name: str
    test: tuple[Floats, Floats]
    calibration: tuple[Floats, Floats] | None = None
    simulated_truth: bool = False


@dataclass(frozen=True)
class Contest:
    """What is compared: contenders (the served router first), routers without a knob, and the outcomes."""

    calibration: CompleteOutcomes
    test: CompleteOutcomes
    contenders: Sequence[Contender]
    fixed: Mapping[str, tuple[Floats, Floats]]
    served: Columns  # (n,) where the served router sends the test requests
    knobs: Floats
    reference: int
    candidates: tuple[str, ...]
    quality_target: float


def sweep(data: Contest, *, resamples: int, seed: int) -> tuple[tuple[Line, ...], dict[str, Any], Singles]:
    """The result table, each contender's hull as (cost, quality), and the single candidates' points."""
    outcome = data.test
    standing = outcome.standing
    alone = singles(outcome.quality, outcome.cost_usd, standing)
    weights = Resamples.draw(outcome.groups, resamples, seed, outcome.workflow, standing)
    reference_cost = outcome.cost_usd[:, data.reference]
    tuning = data.calibration
    oracle = Contender(ORACLE, (outcome.quality, outcome.cost_usd), (tuning.quality, tuning.cost_usd))
    lines, curves, resampled = [], {}, {}
    everyone = [*data.contenders, oracle]
    for contender in everyone:
        points = frontier(*contender.test, outcome.quality, outcome.cost_usd, data.knobs, standing)
        resampled[contender.name] = bootstrap_aiq(points, outcome.quality, outcome.cost_usd, weights)
        curves[contender.name] = points
    values = {name: alone.aiq(points.cost, points.quality) for name, points in curves.items()}
    for contender in everyone:
        quality, cost = _at_operating_point(contender, data)
        points = curves[contender.name]
        best = alone.best
        fitted = cross_fitted_cost_save(points, outcome.quality, outcome.cost_usd, outcome.groups, seed)
        gap = resampled[ROUTER] - resampled[contender.name]
        lines.append(
            Line(
                name=contender.name,
                quality=float(mean_of(quality, standing)),
                cost_usd=float(mean_of(cost, standing)),
                saving=_saving(cost, reference_cost, standing),
                aiq=values[contender.name],
                headroom=headroom_captured(values[contender.name], alone.zero_router, values[ORACLE]),
                cost_save=fitted[0],
                cost_save_quality=fitted[1],
                cost_save_in_sample=cost_save(points.cost, points.quality, alone.quality[best], alone.cost[best]),
                performance_gain=performance_gain(points.quality, alone.quality[best]),
                beats=(float(np.quantile(gap, 0.025)), float(np.quantile(gap, 0.975))),
                simulated_truth=contender.simulated_truth,
            )
        )
    for name, (quality, cost) in data.fixed.items():
        quality_mean, cost_mean = (float(mean_of(part, standing)) for part in (quality, cost))
        lines.append(Line(name, quality_mean, cost_mean, _saving(cost, reference_cost, standing)))
    hulls = {
        name: tuple(part.tolist() for part in non_decreasing_hull(points.cost, points.quality))
        for name, points in curves.items()
    }
    return tuple(lines), hulls, alone


def _at_operating_point(contender: Contender, data: Contest) -> tuple[Floats, Floats]:
    """Each test request's quality and cost at the contender's operating point, both (n,).

    The served router decides as it serves. For the others it is the cheapest knob that keeps the target
    share of the reference's mean quality on the same calibration requests, which is easier than being certified; the
    oracle sees the outcomes there too.
    """
    rows, tuned_on = np.arange(len(data.test)), contender.calibration
    columns = data.served if tuned_on is None else choose(*contender.test, _knob(tuned_on, data))
    return data.test.quality[rows, columns], data.test.cost_usd[rows, columns]


def _knob(expected: tuple[Floats, Floats], data: Contest) -> float:
    outcome = data.calibration
    if not len(outcome):
        return 0.0
    points: Frontier = frontier(*expected, outcome.quality, outcome.cost_usd, data.knobs, outcome.standing)
    wanted = data.quality_target * float(mean_of(outcome.quality[:, data.reference], outcome.standing))
    enough = points.quality >= wanted
    return float(data.knobs[np.where(enough, points.cost, np.inf).argmin()]) if enough.any() else 0.0


def by_workflow(
    outcome: CompleteOutcomes, columns: Columns, reference: int, candidates: tuple[str, ...]
) -> tuple[WorkflowLine, ...]:
    """One line per workflow (requests without one are "(none)"), most requests first; `columns` (n,) is the routing."""
    names = workflow_names(outcome.workflow)
    rows = np.arange(len(outcome))
    quality, cost = outcome.quality[rows, columns], outcome.cost_usd[rows, columns]
    lines = []
    for name in sorted(set(names.tolist())):
        inside = names == name
        of = None if outcome.standing is None else outcome.standing[inside]
        lines.append(
            WorkflowLine(
                workflow=name,
                requests=int(inside.sum()),
                quality=float(mean_of(quality[inside], of)),
                reference_quality=float(mean_of(outcome.quality[inside, reference], of)),
                cost_usd=float(mean_of(cost[inside], of)),
                reference_cost_usd=float(mean_of(outcome.cost_usd[inside, reference], of)),
                share={c: float(mean_of(columns[inside] == k, of)) for k, c in enumerate(candidates)},
            )
        )
    return tuple(sorted(lines, key=lambda line: -line.requests))


def shares(columns: Columns, candidates: Sequence[str], standing: Floats | None) -> dict[str, float]:
    """The share of requests that go to each candidate, the largest first; `columns` (n,) is where each goes, `standing` (n,) as
    of `CompleteOutcomes`."""
    total = float(len(columns) if standing is None else standing.sum())
    share = np.bincount(columns, standing, minlength=len(candidates)) / max(total, 1.0)
    return {candidates[place]: float(share[place]) for place in np.argsort(-share, kind="stable")}


def _saving(cost: Floats, reference_cost: Floats, standing: Floats | None) -> float:
    base = float(mean_of(reference_cost, standing))
    return 1.0 - float(mean_of(cost, standing)) / base if base > 0 else 0.0
