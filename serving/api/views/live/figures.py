"""Where live figures are from: the store, which all services on it share, and the metrics of all workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from cachetools import LRUCache
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Connection

from serving.account.savings import Line, Method
from serving.account.window import By, Window
from serving.api.endpoints import budget_lines
from serving.api.views.live.paced import Behind, Paced, Worker
from serving.decide.decision import Reason
from serving.runtime.pipeline import Service
from serving.store import series
from serving.store.savings import savings
from serving.store.transaction import STATEMENT_SECONDS
from serving.traffic.month import DAY, last_midnight, whole_weeks

T = TypeVar("T")

WINDOW_SECONDS = 60.0
SHARES_SECONDS = 15 * 60.0
ACCOUNT_SECONDS = series.DAY
VOLUME_DAYS = 28
MINUTES = 60
LATEST = 10
ABSTENTIONS = (Reason.NOVEL, Reason.LOW_CONFIDENCE, Reason.REFERENCE, Reason.NO_CANDIDATE)
FAULTS = (Reason.TIMEOUT, Reason.FAULT)
_VOLUME_SECONDS = 60.0
_WAIT_SECONDS = 0.25  # for each part that is being summed; what is not there then is shown later
_MOST_VIEWERS = 256  # keys whose figures are remembered, each for as long as it is looked at
_BY = {
    Method.OWN: "the reference's own answers",
    Method.OTHERS: "other candidates' answers",
    Method.PROMPTS: "its prompts alone",
}
_UNSTORED = (
    "Nothing is stored (ROUTER_STORE is empty): shares, reasons and costs are since this server was started, and there is "
    "nothing by minute, of single decisions, or of what calls really cost."
)
_UNFINISHED = "Some of the figures are still being summed for the first time: there are many decisions."
# One sample of the metrics: the values of each name, by the values of its labels.
Sample = dict[str, dict[tuple[str, ...], float]]


@dataclass(frozen=True)
class _Recent:
    a_minute: int
    by_candidate: dict[str, int]
    by_reason: dict[str, int]
    minutes: list[series.Minute]


@dataclass(frozen=True)
class _Day:
    total: int
    costs: series.Costs
    since: float
    as_of: float


@dataclass(frozen=True)
class _Account:
    line: Line
    reference: str
    method: Method | None
    as_of: float


@dataclass(frozen=True)
class _Odd:
    abstentions: list[series.Odd]
    faults: list[series.Odd]


class _Stored:
    """What the store says to one viewer: the decisions of `key`, or of all where that is None."""

    def __init__(self, service: Service, key: str | None, seconds: float, quick: Worker, slow: Worker) -> None:
        self._service, self._key = service, key
        self.recent = Behind(Paced(lambda: self._read(self._recent), seconds), quick)
        self.day = Behind(Paced(lambda: self._read(self._day), seconds), quick)
        self.odd = Behind(Paced(lambda: self._read(self._odd), seconds), slow)
        self.account = Behind(Paced(self._account, seconds), slow)
        self.volume = Paced(lambda: self._read(self._volume), _VOLUME_SECONDS)

    def _read(self, ask: Callable[[Connection], T]) -> T:
        assert self._service.store is not None
        engine = self._service.store.engine
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(STATEMENT_SECONDS * 1e3)}")
            return ask(connection)

    def _recent(self, connection: Connection) -> _Recent:
        now = time.time()
        known = self._service.live.current.router.candidates
        by_candidate, by_reason = series.whereto(connection, now - SHARES_SECONDS, known, self._key)
        a_minute, _ = series.made(connection, now - WINDOW_SECONDS, now, self._key)
        minutes = series.minutes(connection, now, MINUTES, self._key)
        return _Recent(a_minute, by_candidate, by_reason, minutes)

    def _day(self, connection: Connection) -> _Day:
        now = time.time()
        since = now - ACCOUNT_SECONDS
        costs = series.costs(connection, since, self._key)
        return _Day(series.total(connection, self._key), costs, since, now)

    def _account(self) -> _Account:
        assert self._service.store is not None
        now = time.time()
        window = Window(By.DAY, now - ACCOUNT_SECONDS, now, self._key)
        account = savings(self._service.store.engine, window)
        return _Account(account.total, ", ".join(one.reference for one in account.ratios), account.method, now)

    def _odd(self, connection: Connection) -> _Odd:
        since = time.time() - series.DAY
        abstentions = series.latest(connection, ABSTENTIONS, since, LATEST, self._key)
        return _Odd(abstentions, series.latest(connection, FAULTS, since, LATEST, self._key))

    def _volume(self, connection: Connection) -> tuple[int, int]:
        now = time.time()
        until = last_midnight(now)
        _, first = series.made(connection, until - VOLUME_DAYS * DAY, until, self._key)
        days = whole_weeks(first, now)
        decisions, _ = series.made(connection, until - days * DAY, until, self._key)
        return decisions, days


class Figures:
    """Live figures of one service. A viewer is the name of the API key whose decisions are shown, None sees everything."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._seconds = service.settings.live_seconds
        # What takes long is not in the way of what does not.
        self._workers = Worker("live-counts"), Worker("live-sums")
        self._stored: LRUCache[str | None, _Stored] = LRUCache(_MOST_VIEWERS)
        self._sample = Paced(lambda: (time.monotonic(), _sample(service.metrics.document())), self._seconds)
        self._before: list[tuple[float, float]] = []
        self._lock = threading.Lock()

    def volume(self, viewer: str | None) -> tuple[int, int]:
        """How many decisions were made in the last whole weeks, and of how many days these are; raises SQLAlchemyError."""
        return self._of(viewer).volume.value()

    def snapshot(self, viewer: str | None) -> dict[str, Any]:
        """What `LiveResponse` describes; raises SQLAlchemyError where the store cannot be read."""
        service, everything = self._service, viewer is None
        shadow = service.shadow.live.version if service.shadow is not None and everything else None
        document = {
            "at": time.time(),
            "from": "store",
            "note": None,
            "scope": "all" if everything else "key",
            "window_seconds": WINDOW_SECONDS,
            "budgets": budget_lines(service, viewer),
            "drift": None,
            "problems": None,
            "latency_ms": None,
            "queue_rows": None,
            "bundle": service.live.version,
            "shadow": shadow,
        }
        if everything:
            document |= self._of_server()
        return document | (self._without_store() if service.store is None else self._from_store(viewer))

    def _of(self, viewer: str | None) -> _Stored:
        with self._lock:
            stored = self._stored.get(viewer)
            if stored is None:
                stored = self._stored[viewer] = _Stored(self._service, viewer, self._seconds, *self._workers)
        return stored

    def _from_store(self, viewer: str | None) -> dict[str, Any]:
        stored = self._of(viewer)
        recent, day = stored.recent.value(_WAIT_SECONDS), stored.day.value(_WAIT_SECONDS)
        odd, account = stored.odd.value(_WAIT_SECONDS), stored.account.value(_WAIT_SECONDS)
        return {
            "note": _UNFINISHED if None in (recent, day, odd, account) else None,
            "decisions_per_minute": None if recent is None else float(recent.a_minute),
            "total_decisions": None if day is None else day.total,
            "shares": {} if recent is None else _shares(recent.by_candidate),
            "reasons": {} if recent is None else recent.by_reason,
            "cost": None if day is None else _cost(day),
            "saved": None if account is None else _saved(account),
            "abstentions": [] if odd is None else [asdict(one) for one in odd.abstentions],
            "faults": [] if odd is None else [asdict(one) for one in odd.faults],
            "series": [] if recent is None else [_minute(one) for one in recent.minutes],
        }

    def _without_store(self) -> dict[str, Any]:
        looked, sample = self._sample.value()
        decided = sample.get("router_decisions_total", {})
        total = sum(decided.values())
        by_candidate: dict[str, float] = {}
        by_reason: dict[str, float] = {}
        for (candidate, reason), count in decided.items():
            by_candidate[candidate] = by_candidate.get(candidate, 0.0) + count
            by_reason[reason] = by_reason.get(reason, 0.0) + count
        expected, reference, actual = (
            sum(sample.get(f"router_{name}_cost_usd_total", {}).values())
            for name in ("expected", "reference", "actual")
        )
        named = self._service.live.current.router.manifest.reference
        return {
            "from": "metrics",
            "note": _UNSTORED,
            "decisions_per_minute": self._rate(looked, total),
            "total_decisions": int(total),
            "shares": _shares(by_candidate),
            "reasons": {name: int(count) for name, count in sorted(by_reason.items(), key=lambda one: -one[1])},
            "cost": {
                "expected_usd": expected,
                "reference_expected_usd": reference,
                "costed": 0,
                "actual_usd": actual,
                "expected_of_costed_usd": None,
                "since": None,
                "as_of": time.time(),
            },
            "saved": {
                "usd": reference - expected,
                "low": None,
                "high": None,
                "counterfactual": f"all to {named}, expected: what calls really cost is not known",
                "as_of": time.time(),
            }
            if total
            else None,
            "abstentions": [],
            "faults": [],
            "series": [],
        }

    def _rate(self, looked: float, total: float) -> float | None:
        """Decisions a minute by two looks at the counters, of which this process remembers those of the last minute."""
        with self._lock:
            if not self._before or self._before[-1][0] < looked:
                self._before = [one for one in self._before if looked - one[0] <= WINDOW_SECONDS and one[1] <= total]
                self._before.append((looked, total))
            first, before = self._before[0]
        return (total - before) / (looked - first) * 60.0 if looked > first else None

    def _of_server(self) -> dict[str, Any]:
        """What the metrics of all workers say of this server."""
        _, sample = self._sample.value()
        settings = self._service.settings

        def gauge(name: str) -> float | None:  # which is 0 while too little was seen
            return sample.get(name, {}).get((), 0.0) or None

        return {
            "drift": {
                "psi": gauge("router_drift_psi"),
                "novel_share": gauge("router_novel_share"),
                "calibration_error": gauge("router_feedback_calibration_error"),
                "thresholds": {
                    "psi": settings.drift_psi,
                    "novel_share": settings.drift_novel_share,
                    "calibration_error": settings.drift_calibration_error,
                },
                "scope": "this server",
            },
            "problems": {
                status: int(count) for (status,), count in sorted(sample.get("router_problems_total", {}).items())
            },
            "latency_ms": {
                "p50": _quantile(sample, "total", 0.5),
                "p99": _quantile(sample, "total", 0.99),
            },
            "queue_rows": None if self._service.store is None else int(gauge("router_store_queue_rows") or 0),
        }


def _shares(counts: dict[str, int] | dict[str, float]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()}


def _cost(day: _Day) -> dict[str, Any]:
    costs = asdict(day.costs)
    costs.pop("decisions")
    return {**costs, "since": day.since, "as_of": day.as_of}


def _saved(account: _Account) -> dict[str, Any] | None:
    """What was saved, None where no decision can be compared yet."""
    line = account.line
    if not line.compared or account.method is None:
        return None
    return {
        "usd": line.saved_usd,
        "low": line.saved_low,
        "high": line.saved_high,
        "method": account.method.value,
        "counterfactual": f"all to {account.reference}, by {_BY[account.method]}",
        "as_of": account.as_of,
    }


def _minute(one: series.Minute) -> dict[str, Any]:
    known = asdict(one)
    return {"minute": known.pop("begins"), **known}


def _sample(document: bytes) -> Sample:
    """Every value of a document in Prometheus's text format."""
    found: Sample = {}
    for family in text_string_to_metric_families(document.decode()):
        for one in family.samples:
            labels = tuple(value for name, value in sorted(one.labels.items()))
            found.setdefault(one.name, {})[labels] = one.value
    return found


def _quantile(sample: Sample, stage: str, share: float) -> float | None:
    """Milliseconds that so many of a stage's times are within, as Prometheus works it out: straight within a bucket."""
    buckets = sorted(
        (float(bound), count)
        for (bound, of), count in sample.get("router_stage_seconds_bucket", {}).items()
        if of == stage
    )
    if not buckets or not buckets[-1][1]:
        return None
    wanted, below, before = share * buckets[-1][1], 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted:
            if bound == float("inf"):
                return below * 1e3
            return (below + (bound - below) * (wanted - before) / (count - before)) * 1e3
        below, before = bound, count
    return below * 1e3
