"""Prometheus metrics of one process, or of all workers where PROMETHEUS_MULTIPROC_DIR is set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from serving.decide.router import Decision
from serving.runtime.shadow import ShadowAnswer
from serving.settings import metrics_folder, several_processes
from serving.store.feedback import Feedback

if TYPE_CHECKING:
    from serving.runtime.pipeline import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# From a tenth of a millisecond on: a decision takes well under one.
_SECONDS = (1e-4, 2e-4, 3e-4, 5e-4, 7.5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 1.0)
Among = Literal["livesum", "livemin", "livemax", "livemostrecent"]


class Metrics:
    """Counters and histograms that are kept as requests go by, and gauges that are read when they are asked for."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.registry = CollectorRegistry()
        self._stages = self._histogram("router_stage_seconds", "Time by stage.", ["stage"])
        self._decisions = self._counter("router_decisions", "Decisions.", ["candidate", "reason"])
        self._expected = self._counter("router_expected_cost_usd", "Expected cost of decisions.", ["candidate"])
        self._actual = self._counter("router_actual_cost_usd", "Cost that feedback reported.")
        self._feedback = self._counter("router_feedback", "Feedback stored, by what it says.", ["outcome"])
        self._problems = self._counter("router_problems", "Requests answered with a problem.", ["status"])
        self._shadow = self._counter(
            "router_shadow_decisions", "What the shadow bundle would have decided.", ["outcome"]
        )
        self._queue = self._gauge("router_store_queue_rows", "Rows that wait to be written.")
        self._dropped = self._gauge("router_store_dropped_decisions", "Decisions not stored: the queue was full.")
        self._retries = self._gauge("router_store_retries", "Writes that had to be tried again.")
        scope = ["scope", "period"]
        self._budget = self._gauge("router_budget_left_usd", "What is left of a budget.", scope, "livemin")
        self._pace = self._gauge("router_budget_pace", "What a budget adds to the knob, 1/USD.", scope, "livemax")
        self._bundle = self._gauge("router_bundle_info", "The bundle that is served.", ["version"])
        self._reloads = self._gauge("router_bundle_reloads", "Bundles taken over since the start.")
        self._refusals = self._gauge("router_bundle_refusals", "Bundles refused since the start.")
        self._served: str | None = None
        self._cache = self._gauge(
            "router_embedding_cache_hit_share", "Share of embeddings known.", (), "livemostrecent"
        )
        self._psi = self._gauge(
            "router_drift_psi", "Stability index of prompts' clusters; 0 until enough are seen.", (), "livemax"
        )
        self._novel = self._gauge("router_novel_share", "Share of novel prompts; 0 until enough.", (), "livemax")
        self._calibration = self._gauge(
            "router_feedback_calibration_error", "Calibration error on feedback; 0 until enough.", (), "livemax"
        )
        self._children: dict[tuple[str, str], Counter] = {}
        self._costs: dict[str, Counter] = {}
        self._timers: dict[str, Histogram] = {}

    def _histogram(self, name: str, text: str, labels: Sequence[str] = ()) -> Histogram:
        return Histogram(name, text, labels, buckets=_SECONDS, registry=self.registry)

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: Sequence[str] = (), among: Among = "livesum") -> Gauge:
        """A gauge; `among` says how the workers' values make one."""
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=among)

    def stage(self, name: str, seconds: float) -> None:
        timer = self._timers.get(name)
        if timer is None:
            timer = self._timers[name] = self._stages.labels(name)
        timer.observe(seconds)

    def decided(self, decision: Decision) -> None:
        label = (decision.candidate, decision.reason.value)
        child = self._children.get(label)
        if child is None:
            child = self._children[label] = self._decisions.labels(*label)
        child.inc()
        if decision.expected_cost_usd is not None:
            cost = self._costs.get(decision.candidate)
            if cost is None:
                cost = self._costs[decision.candidate] = self._expected.labels(decision.candidate)
            cost.inc(decision.expected_cost_usd)

    def fed_back(self, said: Feedback) -> None:
        quality = said.quality
        outcome = "error" if said.error else "unjudged" if quality is None else "good" if quality >= 0.5 else "bad"
        self._feedback.labels(outcome).inc()
        if said.cost_usd is not None:
            self._actual.inc(said.cost_usd)

    def shadowed(self, answer: ShadowAnswer) -> None:
        self._shadow.labels(answer).inc()

    def problem(self, status: int) -> None:
        self._problems.labels(str(status)).inc()

    def document(self) -> bytes:
        """All metrics in Prometheus's text format."""
        self.read()
        if not several_processes():
            return generate_latest(self.registry)
        _forget_the_dead(Path(metrics_folder()))
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone)

    def read(self) -> None:
        """Takes the gauges' values."""
        service = self._service
        if service.store is not None:
            self._queue.set(service.store.waiting)
            self._dropped.set(service.store.dropped)
            self._retries.set(service.store.retries)
        for account in service.budgets.lines():
            self._budget.labels(account.scope, account.period).set(account.left)
            self._pace.labels(account.scope, account.period).set(account.pace)
        serving = service.live.current
        self._show_version(serving.router.manifest.version)
        self._reloads.set(service.live.reloads)
        self._refusals.set(service.live.refusals)
        asked = serving.embeddings.hits + serving.embeddings.misses
        self._cache.set(serving.embeddings.hits / asked if asked else 0.0)
        measured = service.drift.measure()
        self._psi.set(measured.psi or 0.0)
        self._novel.set(measured.novel_share or 0.0)
        self._calibration.set(measured.calibration_error or 0.0)

    def _show_version(self, version: str) -> None:
        """1 for the bundle that is served; the one before goes, or is 0 where workers share files, which keep labels."""
        if self._served not in (None, version):
            if several_processes():
                self._bundle.labels(self._served).set(0)
            else:
                self._bundle.remove(self._served)
        self._served = version
        self._bundle.labels(version).set(1)


def _forget_the_dead(folder: Path) -> None:
    """Removes the gauges of workers that were killed; what they counted stays."""
    for pid in {int(path.stem.rpartition("_")[2]) for path in folder.glob("gauge_live*.db")}:
        if not Path(f"/proc/{pid}").exists() and Path("/proc/self").exists():
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
