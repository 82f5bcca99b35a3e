"""What an evaluation says: a line for each router, each workflow and each split, and the figures of the confidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.bundle.manifest import OperatingPoint
from training.dataset.volume import Volume
from training.evaluate.bands import Tradeoff
from training.evaluate.profiles import Profile
from training.evaluate.reliability import Reliability, Risk
from training.measure.offpolicy import Estimate

ROUTER = "outcome-router"
ORACLE = "oracle"
# What the name of a single candidate's line begins with.
ONLY = "only "
# What the names of figures by another split than the run's own begin with.
SPLIT = "split_"


@dataclass(frozen=True)
class Line:
    """One router in the result table; fields that do not apply to it are NaN.

    `quality`, `cost_usd` and `saving` (against the reference) are at its operating point; `beats` is the 95% interval of
    the served router's AIQ minus this one's. `cost_save` is cross-fitted, with `cost_save_quality` the quality beyond the best
    single candidate's there; `cost_save_in_sample` is chosen and measured on the same requests, hence too high.
    """

    name: str
    quality: float
    cost_usd: float
    saving: float
    aiq: float = float("nan")
    headroom: float = float("nan")
    cost_save: float = float("nan")
    cost_save_quality: float = float("nan")
    cost_save_in_sample: float = float("nan")
    performance_gain: float = float("nan")
    beats: tuple[float, float] = (float("nan"), float("nan"))
    simulated_truth: bool = False


@dataclass(frozen=True)
class WorkflowLine:
    """One workflow at the operating point, against sending all of it to the reference candidate.

    Where no request is complete, the figures are doubly robust estimates.
    """

    workflow: str
    requests: int
    quality: float
    reference_quality: float
    cost_usd: float
    reference_cost_usd: float
    share: dict[str, float]


@dataclass(frozen=True)
class Calibration:
    """Calibration on the judged test outcomes, pooled over candidates; bins are (mean p, mean outcome, count).

    `ece_chosen` is on the outcomes of the candidates that the operating point chooses, `chosen` many: a candidate is
    chosen where its estimate is high, and so more often where it is too high.
    """

    outcomes: int
    ece: float
    brier: float
    ece_before: float
    brier_before: float
    bins: tuple[tuple[float, float, float], ...]
    chosen: int = 0
    ece_chosen: float = float("nan")


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
class PointLine:
    """An operating point on the test part: the violation rate, found as on the calibration part, of so many requests.

    Of the `complete` ones, whose every outcome is known, the rate is `known_rate`, and the true one is hardly below `low`.
    """

    name: str
    requests: int
    violation_rate: float
    complete: int = 0
    known_rate: float = 0.0
    low: float = 0.0


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
    """All figures of one evaluation. `why_not` says what was missing where no frontier could be measured.

    `contradicted` says how they contradict what the bundle is certified for. Of the test requests `seen` are among those
    that the bundle was made from, where that is not what was asked for. `shares` says where the test requests go, by candidate,
    the largest share first. `novel` is the share of them that the router abstains on, as unlike what it was trained on.
    `volume` and `profiles` are of the whole log, and not of the test part alone. `against_log`: see `saved_against_log`.
    """

    test_requests: int
    complete_requests: int
    shares: Mapping[str, float] = field(default_factory=dict)
    lines: tuple[Line, ...] = ()
    workflows: tuple[WorkflowLine, ...] = ()
    off_policy: tuple[OffPolicyLine, ...] = ()
    points: tuple[PointLine, ...] = ()
    calibration: Calibration | None = None
    confidence: Confidence | None = None
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None
    zero_router: float = float("nan")
    splits: tuple[SplitLine, ...] = ()
    why_not: str | None = None
    contradicted: str | None = None
    seen: int = 0
    tradeoff: Tradeoff = field(default_factory=Tradeoff)
    profiles: tuple[Profile, ...] = ()
    reliability: Reliability | None = None
    risk_coverage: tuple[Risk, ...] = ()
    novel: float | None = None
    volume: Volume | None = None
    against_log: tuple[float, float] | None = None

    def line(self, name: str = ROUTER) -> Line:
        return next(line for line in self.lines if line.name == name)

    def point(self, name: str) -> PointLine | None:
        """How an operating point did on the test part; None where that is not known."""
        return next((line for line in self.points if line.name == name), None)

    def contradiction(self, point: OperatingPoint) -> str | None:
        """How the test part contradicts what the point is certified for; None where it does not."""
        line, proof = self.point(point.name), point.certificate
        if line is None or proof is None or line.low <= proof.alpha:
            return None
        return (
            f"THE TEST PART CONTRADICTS THE CERTIFICATE of {point.name}: its violation rate on {line.complete:,} test requests "
            f"whose every outcome is known is {line.known_rate:.1%}, and surely above {line.low:.1%}, where at most "
            f"{proof.alpha:.1%} is promised. The log has changed on the way, or its parts differ otherwise."
        )

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
            figures |= {"ece_chosen": self.calibration.ece_chosen}
        for split in self.splits:
            figures |= split.summary()
        return {key: value for key, value in figures.items() if not (isinstance(value, float) and np.isnan(value))}
