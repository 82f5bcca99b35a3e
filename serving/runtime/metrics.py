"""Prometheus metrics of one process, or of all workers where PROMETHEUS_MULTIPROC_DIR is set."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from serving.decide.decision import Decision
from serving.runtime.reloading import Reloading
from serving.runtime.shadow import ShadowAnswer
from serving.settings import metrics_folder, several_processes
from serving.state.budgets import Budgets
from serving.state.drift import Drift
from serving.state.rates import Rates
from serving.state.reservations import Reservations
from serving.store.feedback import Feedback
from serving.store.writer import DecisionStore

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# From a tenth of a millisecond on: a decision takes well under one.
_SECONDS = (1e-4, 2e-4, 3e-4, 5e-4, 7.5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0)
Among = Literal["livesum", "livemin", "livemax", "livemostrecent"]
# What is read when somebody asks: name, meaning, labels, and how the workers' values make one.
GAUGES: tuple[tuple[str, str, tuple[str, ...], Among], ...] = (
    ("router_store_queue_rows", "Rows that wait to be written.", (), "livesum"),
    ("router_store_dropped_decisions", "Decisions not stored: the queue was full.", (), "livesum"),
    ("router_store_retries", "Writes that had to be tried again.", (), "livesum"),
    ("router_store_misplaced_decisions", "Decisions that no month has a partition for.", (), "livemax"),
    ("router_budget_left_usd", "What is left of a budget.", ("scope", "period"), "livemin"),
    ("router_budget_unconfirmed", "Decisions that the store did not confirm a budget for.", (), "livesum"),
    ("router_store_queue_bytes", "Memory of the rows that wait, about.", (), "livesum"),
    ("router_budget_pace", "What a budget adds to the knob, 1/USD.", ("scope", "period"), "livemax"),
    ("router_also_spent_usd", "What who was asked too cost today, expected or told.", (), "livemax"),
    ("router_bundle_info", "The bundle that is served.", ("version",), "livesum"),
    ("router_bundle_reloads", "Bundles taken over since the start.", (), "livesum"),
    ("router_bundle_refusals", "Bundles refused since the start.", (), "livesum"),
    ("router_rules_refused", "1 while the rule file is wrong and the rules before it hold.", (), "livemax"),
    ("router_rates_unshared", "1 while Redis does not answer and rates hold for each process.", (), "livemax"),
    ("router_embedding_cache_hit_share", "Share of embeddings known.", (), "livemostrecent"),
    ("router_drift_psi", "Stability index of prompts' clusters; 0 until enough are seen.", (), "livemax"),
    ("router_novel_share", "Share of novel prompts; 0 until enough.", (), "livemax"),
    ("router_feedback_calibration_error", "Calibration error on feedback; 0 until enough.", (), "livemax"),
)
# For each gauge its values, by those of its labels.
Snapshot = Mapping[str, Mapping[tuple[str, ...], float]]


class _Gauges(Collector):
    """The gauges of this process, read when they are collected."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[GaugeMetricFamily]:
        now = self._snapshot()
        for name, text, labels, _ in GAUGES:
            family = GaugeMetricFamily(name, text, labels=labels)
            for values, value in now[name].items():
                family.add_metric(values, value)
            yield family


class _SharedGauges:
    """The gauges of this worker in files that all workers share, where a label that was written stays."""

    def __init__(self) -> None:
        self._gauges = {
            name: Gauge(name, text, labels, registry=None, multiprocess_mode=among)
            for name, text, labels, among in GAUGES
        }
        self._written: dict[str, set[tuple[str, ...]]] = {name: set() for name in self._gauges}

    def write(self, now: Snapshot) -> None:
        for name, gauge in self._gauges.items():
            self._written[name] = written = self._written[name] | now[name].keys()
            for values in written:
                (gauge.labels(*values) if values else gauge).set(now[name].get(values, 0.0))


class Metrics:
    """Counters and histograms that are kept as requests go by, and gauges: what `snapshot` says when they are asked for."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self.registry = CollectorRegistry()
        self._stages = self._histogram("router_stage_seconds", "Time by stage.", ["stage"])
        self._decisions = self._counter("router_decisions", "Decisions.", ["candidate", "reason"])
        self._also = self._counter("router_also", "Decisions that this candidate was asked for too.", ["model"])
        self._expected = self._counter("router_expected_cost_usd", "Expected cost of decisions.", ["candidate"])
        self._reference = self._counter(
            "router_reference_cost_usd",
            "Expected cost had the reference answered the decisions that have an expected cost.",
        )
        self._certified = self._counter("router_certified_decisions", "Decisions that a certificate covers.")
        self._actual = self._counter("router_actual_cost_usd", "Cost that feedback reported.")
        self._feedback = self._counter("router_feedback", "Feedback stored, by what it says.", ["outcome"])
        self._dry_runs = self._counter("router_dry_runs", "Dry runs that were asked for, refused ones too.", ["scope"])
        self._problems = self._counter("router_problems", "Requests answered with a problem.", ["status"])
        self._failures = self._counter(
            "router_record_failures", "Parts of a decision's record that failed; the decision was answered.", ["part"]
        )
        self._shadow = self._counter(
            "router_shadow_decisions", "What the shadow bundle would have decided.", ["outcome"]
        )
        self._snapshot = snapshot
        self.registry.register(_Gauges(snapshot))
        self._shared = _SharedGauges() if several_processes() else None
        self._children: dict[tuple[str, str], Counter] = {}
        self._costs: dict[str, Counter] = {}
        self._timers: dict[str, Histogram] = {}

    def _histogram(self, name: str, text: str, labels: Sequence[str] = ()) -> Histogram:
        return Histogram(name, text, labels, buckets=_SECONDS, registry=self.registry)

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def stage(self, name: str, seconds: float) -> None:
        timer = self._timers.get(name)
        if timer is None:
            timer = self._timers[name] = self._stages.labels(name)
        timer.observe(seconds)

    def decided(self, decision: Decision, reference: str) -> None:
        """Counts a decision; `reference` is the candidate that savings are measured against."""
        label = (decision.label, decision.reason.value)
        child = self._children.get(label)
        if child is None:
            child = self._children[label] = self._decisions.labels(*label)
        child.inc()
        if decision.also is not None:
            self._also.labels(decision.also.candidate).inc()
        if decision.expected_cost_usd is not None:
            cost = self._costs.get(decision.candidate)
            if cost is None:
                cost = self._costs[decision.candidate] = self._expected.labels(decision.candidate)
            cost.inc(decision.expected_cost_usd)
            costs = {one.candidate: one.expected_cost_usd for one in decision.alternatives}
            self._reference.inc(costs.get(reference) or 0.0)
        if decision.certificate is not None:
            self._certified.inc()

    def tried(self, key: str | None) -> None:
        """Counts a dry run, of an API key where there are keys."""
        self._dry_runs.labels("default" if key is None else f"key:{key}").inc()

    def fed_back(self, said: Feedback, new: Collection[str]) -> None:
        """Counts feedback; `new` are the fields that had not been told before."""
        self._feedback.labels(_outcome(said)).inc()
        if said.cost_usd is not None and "cost_usd" in new:
            self._actual.inc(said.cost_usd)

    def shadowed(self, answer: ShadowAnswer) -> None:
        self._shadow.labels(answer).inc()

    def failures(self, part: str) -> Counter:
        """Counts failures of a part of the record; made before there is one, for it may be about the metrics themselves."""
        return self._failures.labels(part)

    def problem(self, status: int) -> None:
        self._problems.labels(str(status)).inc()

    def document(self) -> bytes:
        """All metrics in Prometheus's text format."""
        if self._shared is None:
            return generate_latest(self.registry)
        self.share()
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone)

    def share(self) -> None:
        """Where there are several workers: shows the others this one's gauges, and takes those of the dead away."""
        if self._shared is not None:
            self._shared.write(self._snapshot())
            _forget_the_dead(Path(metrics_folder()))


def _outcome(said: Feedback) -> str:
    """What feedback says of the answer; a weak quality says nothing that can be counted as good or bad."""
    if said.error or said.quality is None:
        return "error" if said.error else "unjudged"
    if said.weak:
        return "weak"
    return "good" if said.quality >= 0.5 else "bad"


def _forget_the_dead(folder: Path) -> None:
    """Removes the gauges of workers that were killed; what they counted stays."""
    for pid in {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*.db")}:
        if not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            mark_process_dead(pid)  # type: ignore[no-untyped-call]


def snapshot_of(
    reloading: Reloading,
    store: DecisionStore | None,
    budgets: Budgets,
    reservations: Reservations,
    drift: Drift,
    rates: Rates,
    also_spent_usd: float,
) -> Snapshot:
    """Every gauge's value now; 0 where there is nothing to measure."""
    live = reloading.live
    cache = live.current.embeddings
    asked = cache.hits + cache.misses
    measured = drift.measure()
    lines = budgets.lines()
    plain = {
        "router_store_queue_rows": 0 if store is None else store.waiting,
        "router_store_queue_bytes": 0 if store is None else store.waiting_bytes,
        "router_budget_unconfirmed": reservations.unconfirmed,
        "router_store_dropped_decisions": 0 if store is None else store.dropped,
        "router_store_retries": 0 if store is None else store.retries,
        "router_store_misplaced_decisions": 0 if store is None else store.misplaced,
        "router_also_spent_usd": also_spent_usd,
        "router_bundle_reloads": live.reloads,
        "router_bundle_refusals": live.refusals,
        "router_rules_refused": 0 if reloading.rules_refused is None else 1,
        "router_rates_unshared": 1 if rates.unshared else 0,
        "router_embedding_cache_hit_share": cache.hits / asked if asked else 0.0,
        "router_drift_psi": measured.psi or 0.0,
        "router_novel_share": measured.novel_share or 0.0,
        "router_feedback_calibration_error": measured.calibration_error or 0.0,
    }
    shown: dict[str, dict[tuple[str, ...], float]] = {name: {(): value} for name, value in plain.items()}
    shown["router_budget_left_usd"] = {(line.scope, line.period): line.left for line in lines}
    shown["router_budget_pace"] = {(line.scope, line.period): line.pace for line in lines}
    shown["router_bundle_info"] = {(live.version,): 1.0}
    return shown
