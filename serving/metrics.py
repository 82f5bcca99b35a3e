"""Prometheus metrics of one process, or of all workers where PROMETHEUS_MULTIPROC_DIR is set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from serving.router import Decision
from serving.schemas import FeedbackBody
from serving.settings import several_processes

if TYPE_CHECKING:
    from serving.service import Service

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
        self._queue = self._gauge("router_store_queue_rows", "Rows that wait to be written.")
        self._dropped = self._gauge("router_store_dropped_decisions", "Decisions not stored: the queue was full.")
        self._retries = self._gauge("router_store_retries", "Writes that had to be tried again.")
        scope = ["scope", "period"]
        self._budget = self._gauge("router_budget_left_usd", "What is left of a budget.", scope, "livemin")
        self._pace = self._gauge("router_budget_pace", "What a budget adds to the knob, 1/USD.", scope, "livemax")
        self._bundle = self._gauge("router_bundle_info", "The bundle that is served.", ["version"])
        self._reloads = self._gauge("router_bundle_reloads", "Bundles taken over since the start.")
        self._refusals = self._gauge("router_bundle_refusals", "Bundles refused since the start.")
        self._cache = self._gauge(
            "router_embedding_cache_hit_share", "Share of embeddings known.", (), "livemostrecent"
        )
        self._children: dict[tuple[str, str], Counter] = {}
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

    def decided(self, decision: Decision, seconds: float) -> None:
        self.stage("decide", seconds)
        label = (decision.candidate, decision.reason.value)
        child = self._children.get(label)
        if child is None:
            child = self._children[label] = self._decisions.labels(*label)
        child.inc()
        if decision.expected_cost_usd is not None:
            self._expected.labels(decision.candidate).inc(decision.expected_cost_usd)

    def fed_back(self, body: FeedbackBody) -> None:
        quality = body.judged
        outcome = "error" if body.error else "unjudged" if quality is None else "good" if quality >= 0.5 else "bad"
        self._feedback.labels(outcome).inc()
        if body.cost_usd is not None:
            self._actual.inc(body.cost_usd)

    def problem(self, status: int) -> None:
        self._problems.labels(str(status)).inc()

    def document(self) -> bytes:
        """All metrics in Prometheus's text format."""
        self._read()
        if not several_processes():
            return generate_latest(self.registry)
        everyone = CollectorRegistry()
        MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        return generate_latest(everyone)

    def _read(self) -> None:
        service = self._service
        if service.store is not None:
            self._queue.set(service.store.waiting)
            self._dropped.set(service.store.dropped)
            self._retries.set(service.store.retries)
        for account in service.budgets.lines():
            self._budget.labels(account.scope, account.period).set(account.left)
            self._pace.labels(account.scope, account.period).set(account.pace)
        serving = service.live.current
        self._bundle.clear()
        self._bundle.labels(serving.router.manifest.version).set(1)
        self._reloads.set(service.live.reloads)
        self._refusals.set(service.live.refusals)
        asked = serving.embeddings.hits + serving.embeddings.misses
        self._cache.set(serving.embeddings.hits / asked if asked else 0.0)
