"""Evaluation of a router, as it is served, against baselines on test requests whose every outcome is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.bundle.arrays import Floats
from serving.decide.value import Setting, choose
from training.dataset.matrix import workflow_names
from training.evaluate.baselines import Contender
from training.measure.frontier import Frontier, Singles, bootstrap_aiq, bootstrap_weights, frontier, singles
from training.measure.metrics import (
    apgr,
    aurc,
    brier,
    collapse,
    cost_save,
    cpt,
    equal_mass_bins,
    expected_calibration_error,
    headroom_captured,
    non_decreasing_hull,
    performance_gain,
    strong_weak,
)
from training.measure.offpolicy import Estimate

ROUTER = "outcome-router"
ORACLE = "oracle"
# What the names of figures by another split than the run's own begin with.
SPLIT = "split_"


@dataclass(frozen=True)
class CompleteOutcomes:
    """Complete outcomes of n requests: `quality` (acceptable or not) and `cost_usd` (n, m), and what ties requests."""

    quality: Floats
    cost_usd: Floats
    groups: NDArray[np.intp]
    workflow: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.quality)


@dataclass(frozen=True)
class Line:
    """One router in the result table; fields that do not apply to it are NaN.

    `quality`, `cost_usd` and `saving` (against the reference) are at its operating point; `beats` is the 95% interval of
    the served router's AIQ minus this one's.
    """

    name: str
    quality: float
    cost_usd: float
    saving: float
    aiq: float = float("nan")
    headroom: float = float("nan")
    cost_save: float = float("nan")
    performance_gain: float = float("nan")
    beats: tuple[float, float] = (float("nan"), float("nan"))
    simulated_truth: bool = False


@dataclass(frozen=True)
class WorkflowLine:
    """One workflow at the operating point, against sending all of it to the reference candidate."""

    workflow: str
    requests: int
    quality: float
    reference_quality: float
    cost_usd: float
    reference_cost_usd: float
    share: dict[str, float]


@dataclass(frozen=True)
class Calibration:
    """Calibration on the judged test outcomes, pooled over candidates; bins are (mean p, mean outcome, count)."""

    outcomes: int
    ece: float
    brier: float
    ece_before: float
    brier_before: float
    bins: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Confidence:
    """How the router uses what it knows, on complete requests.

    `aurc`: area under the risk-coverage curve of the chosen candidates' confidence (lower is better). `apgr`, `cpt50`,
    `cpt80`: RouteLLM's figures for the reference against the cheapest candidate. `collapse`: the share sent to the
    reference minus the share that the oracle would send there with the same knob.
    """

    aurc: float
    apgr: float
    cpt50: float
    cpt80: float
    collapse: float


@dataclass(frozen=True)
class OffPolicyLine:
    """What requests with one outcome say of a routing: cost, and quality three times (doubly robust, IPS and SNIPS)."""

    name: str
    quality: Estimate
    quality_ips: Estimate
    quality_snips: Estimate
    cost_usd: Estimate


@dataclass(frozen=True)
class SplitLine:
    """AIQ by one split of the log, re-learnt with the quick `estimators`; `why_not` says why there are no figures.

    `requests` are the complete test requests of all `parts`, of `workflows` different workflows; `lead` is the paired 95%
    interval of the router's AIQ minus the workflow table's.
    """

    name: str
    estimators: tuple[str, ...]
    requests: int = 0
    parts: int = 0
    workflows: int = 0
    aiq: float = float("nan")
    workflow_table: float = float("nan")
    zero_router: float = float("nan")
    lead: tuple[float, float] = (float("nan"), float("nan"))
    why_not: str | None = None

    def summary(self) -> dict[str, float]:
        """Its figures under names that begin with `SPLIT` and the split; empty where there are none."""
        if self.why_not is not None:
            return {}
        low, high = self.lead
        figures = {
            "requests": self.requests,
            "aiq": self.aiq,
            "aiq_workflow_table": self.workflow_table,
            "aiq_zero_router": self.zero_router,
            "lead_low": low,
            "lead_high": high,
        }
        return {f"{SPLIT}{self.name.replace(' ', '_')}_{key}": value for key, value in figures.items()}


@dataclass(frozen=True)
class Evaluation:
    """All figures of one evaluation. `why_not` says what was missing where nothing could be measured."""

    test_requests: int
    complete_requests: int
    lines: tuple[Line, ...] = ()
    workflows: tuple[WorkflowLine, ...] = ()
    off_policy: tuple[OffPolicyLine, ...] = ()
    calibration: Calibration | None = None
    confidence: Confidence | None = None
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None
    zero_router: float = float("nan")
    splits: tuple[SplitLine, ...] = ()
    why_not: str | None = None

    def line(self, name: str = ROUTER) -> Line:
        return next(line for line in self.lines if line.name == name)

    def summary(self) -> dict[str, Any]:
        """The headline figures, for the manifest and for tracking; empty where nothing was measured."""
        figures: dict[str, Any] = {"test_requests": self.test_requests, "complete_requests": self.complete_requests}
        if self.lines:
            router = self.line()
            figures |= {
                "aiq": router.aiq,
                "aiq_zero_router": self.zero_router,
                "aiq_oracle": self.line(ORACLE).aiq,
                "headroom_captured": router.headroom,
                "quality": router.quality,
                "cost_usd": router.cost_usd,
                "saving": router.saving,
                "cost_save": router.cost_save,
                "performance_gain": router.performance_gain,
            }
            tables = [line.aiq for line in self.lines if line.name == "workflow table"]
            figures |= {"aiq_workflow_table": tables[0]} if tables else {}
        if self.confidence is not None:
            figures |= vars(self.confidence)
        if self.calibration is not None:
            figures |= {"ece": self.calibration.ece, "brier": self.calibration.brier}
        for split in self.splits:
            figures |= split.summary()
        return {key: value for key, value in figures.items() if not (isinstance(value, float) and np.isnan(value))}


@dataclass(frozen=True)
class Test:
    """What `evaluate` compares: contenders (the served router first), routers without a knob, and the outcomes."""

    calibration: CompleteOutcomes
    test: CompleteOutcomes
    contenders: Sequence[Contender]
    fixed: Mapping[str, tuple[Floats, Floats]]
    operating: Setting  # the served operating point
    knobs: Floats
    reference: int
    candidates: tuple[str, ...]
    quality_target: float


def evaluate(data: Test, *, resamples: int, seed: int) -> tuple[tuple[Line, ...], dict[str, Any], Singles]:
    """The result table, each contender's hull as (cost, quality), and the single candidates' points."""
    outcome = data.test
    alone = singles(outcome.quality, outcome.cost_usd)
    weights = bootstrap_weights(outcome.groups, resamples, seed, outcome.workflow)
    reference_cost = outcome.cost_usd[:, data.reference]
    oracle = Contender(
        ORACLE,
        (data.calibration.quality, data.calibration.cost_usd),
        (outcome.quality, outcome.cost_usd),
        simulated_truth=False,
    )
    lines, curves, resampled = [], {}, {}
    everyone = [*data.contenders, oracle]
    for contender in everyone:
        points = frontier(*contender.test, outcome.quality, outcome.cost_usd, data.knobs)
        resampled[contender.name] = bootstrap_aiq(points, outcome.quality, outcome.cost_usd, weights)
        curves[contender.name] = points
    values = {name: alone.aiq(points.cost, points.quality) for name, points in curves.items()}
    for contender in everyone:
        quality, cost = _at_operating_point(contender, data)
        points = curves[contender.name]
        best = alone.best
        gap = resampled[ROUTER] - resampled[contender.name]
        lines.append(
            Line(
                name=contender.name,
                quality=float(quality.mean()),
                cost_usd=float(cost.mean()),
                saving=_saving(cost, reference_cost),
                aiq=values[contender.name],
                headroom=headroom_captured(values[contender.name], alone.zero_router, values[ORACLE]),
                cost_save=cost_save(points.cost, points.quality, alone.quality[best], alone.cost[best]),
                performance_gain=performance_gain(points.quality, alone.quality[best]),
                beats=(float(np.quantile(gap, 0.025)), float(np.quantile(gap, 0.975))),
                simulated_truth=contender.simulated_truth,
            )
        )
    for name, (quality, cost) in data.fixed.items():
        lines.append(Line(name, float(quality.mean()), float(cost.mean()), _saving(cost, reference_cost)))
    hulls = {
        name: tuple(part.tolist() for part in non_decreasing_hull(points.cost, points.quality))
        for name, points in curves.items()
    }
    return tuple(lines), hulls, alone


def _at_operating_point(contender: Contender, data: Test) -> tuple[Floats, Floats]:
    """Each test request's quality and cost at the contender's operating point, both (n,).

    The served router uses the certified point in its bundle. For the others it is the cheapest knob that keeps the target
    share of the reference's mean quality on the same calibration requests, which is easier than being certified; the
    oracle sees the outcomes there too.
    """
    rows = np.arange(len(data.test))
    setting = data.operating if contender.name == ROUTER else Setting(_knob(contender, data))
    columns = setting.choose(*contender.test)
    return data.test.quality[rows, columns], data.test.cost_usd[rows, columns]


def _knob(contender: Contender, data: Test) -> float:
    outcome = data.calibration
    if not len(outcome):
        return 0.0
    points: Frontier = frontier(*contender.calibration, outcome.quality, outcome.cost_usd, data.knobs)
    wanted = data.quality_target * outcome.quality[:, data.reference].mean()
    enough = points.quality >= wanted
    return float(data.knobs[np.where(enough, points.cost, np.inf).argmin()]) if enough.any() else 0.0


def confidence_figures(
    estimate: Floats, outcome: CompleteOutcomes, columns: NDArray[np.intp], reference: int, knob: float
) -> Confidence:
    """The figures of `Confidence`; `estimate` (n, m), `columns` (n,) the routing at the operating point's `knob`."""
    rows = np.arange(len(outcome))
    weak = int(outcome.cost_usd.mean(axis=0).argmin())
    strong_quality, weak_quality = outcome.quality[:, reference], outcome.quality[:, weak]
    score = estimate[:, reference] - estimate[:, weak]
    share, quality = strong_weak(score, strong_quality, weak_quality, np.quantile(score, np.linspace(0, 1, 101)))
    low, high = float(weak_quality.mean()), float(strong_quality.mean())
    return Confidence(
        aurc=aurc(estimate[rows, columns], outcome.quality[rows, columns]),
        apgr=apgr(share, quality, low, high),
        cpt50=cpt(share, quality, low, high, 0.5),
        cpt80=cpt(share, quality, low, high, 0.8),
        collapse=collapse(columns, reference, choose(outcome.quality, outcome.cost_usd, knob)),
    )


def by_workflow(
    outcome: CompleteOutcomes, columns: NDArray[np.intp], reference: int, candidates: tuple[str, ...]
) -> tuple[WorkflowLine, ...]:
    """One line per workflow (requests without one are "(none)"), most requests first; `columns` (n,) is the routing."""
    names = workflow_names(outcome.workflow)
    rows = np.arange(len(outcome))
    quality, cost = outcome.quality[rows, columns], outcome.cost_usd[rows, columns]
    lines = []
    for name in sorted(set(names.tolist())):
        inside = names == name
        lines.append(
            WorkflowLine(
                workflow=name,
                requests=int(inside.sum()),
                quality=float(quality[inside].mean()),
                reference_quality=float(outcome.quality[inside, reference].mean()),
                cost_usd=float(cost[inside].mean()),
                reference_cost_usd=float(outcome.cost_usd[inside, reference].mean()),
                share={c: float((columns[inside] == k).mean()) for k, c in enumerate(candidates)},
            )
        )
    return tuple(sorted(lines, key=lambda line: -line.requests))


def calibration_figures(before: Floats, after: Floats, labels: Floats) -> Calibration | None:
    """Calibration of (n, m) probabilities on judged labels (NaN elsewhere), before and after; None without labels."""
    seen = np.isfinite(labels)
    if not seen.any():
        return None
    y, p, raw = labels[seen], after[seen], np.clip(before[seen], 0, 1)
    bins = equal_mass_bins(p, y)
    return Calibration(
        outcomes=len(y),
        ece=expected_calibration_error(p, y),
        brier=brier(p, y),
        ece_before=expected_calibration_error(raw, y),
        brier_before=brier(raw, y),
        bins=tuple((float(a), float(b), float(c)) for a, b, c in zip(*bins, strict=True)),
    )


def _saving(cost: Floats, reference_cost: Floats) -> float:
    base = float(reference_cost.mean())
    return 1.0 - float(cost.mean()) / base if base > 0 else 0.0
