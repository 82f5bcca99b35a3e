"""The store of decisions and feedback: SQLite (WAL) by default, PostgreSQL by URL.

Writing is off the hot path: a bounded queue, and one thread that writes whatever has gathered in one transaction. A
decision that finds the queue full is dropped and counted, for a route decision must not wait. Feedback is acknowledged
when it is on disk, and refused when the queue is full, so that nothing that was acknowledged is ever lost.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    func,
    inspect,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

logger = logging.getLogger(__name__)

# Raise it when a store written before can no longer be used by this code.
STORE_VERSION = 1
_MOST_AT_ONCE = 1000
_LINGER = 0.1  # seconds that decisions wait for more of them: a transaction for each would slow down the deciding
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0

METADATA = MetaData()
STORE = Table("outcome_router_store", METADATA, Column("version", Integer, nullable=False))
DECISIONS = Table(
    "decision",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("at", Float, nullable=False),  # seconds since the epoch, UTC
    Column("key", String(256)),
    Column("workflow", Text),
    Column("session_id", Text),
    Column("prompt", Text),  # null where prompts are not kept
    Column("messages", Text),  # JSON
    Column("candidate", String(256), nullable=False),
    Column("reason", String(32), nullable=False),
    Column("propensity", Float, nullable=False),
    Column("knob", Float),  # null: infinite
    Column("operating_point", String(256)),
    Column("quality_target", Float),
    Column("confidence", Float),
    Column("expected_quality", Float),
    Column("expected_cost_usd", Float),
    Column("expected_latency_ms", Float),
    Column("novelty", Float),
    Column("cluster", Integer),
    Column("tools", Boolean),
    Column("json_schema", Boolean),
    Column("max_output_tokens", BigInteger),
    Column("bundle", String(256)),
    Column("shadow_bundle", String(256)),
    Column("shadow_candidate", String(256)),
    Column("shadow_confidence", Float),
    Column("shadow_expected_cost_usd", Float),
    Index("decision_at", "at"),
)
FEEDBACK = Table(
    "feedback",
    METADATA,
    Column("decision_id", String(64), primary_key=True),
    Column("at", Float, nullable=False),
    Column("candidate", String(256)),  # who answered, if not the one that was chosen
    Column("quality", Float),
    Column("cost_usd", Float),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("latency_ms", Float),
    Column("error", Boolean, nullable=False),
    Index("feedback_at", "at"),
)


class StoreError(ValueError):
    """A store that cannot be opened; the message says which and why, without a password."""


class StoreFullError(RuntimeError):
    """The queue is full: feedback was not taken, and is to be sent again."""


@dataclass(frozen=True, slots=True)
class _Item:
    table: Table
    row: Mapping[str, Any]
    done: Future[bool] | None


def open_engine(url: str) -> Engine:
    """An engine for a store's URL, its tables made if there are none; raises StoreError.

    A bare path is an SQLite file. Workers share it: SQLite in WAL mode waits for another's write, PostgreSQL needs not.
    """
    if "://" not in url:
        Path(url).parent.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{url}"
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        engine = create_engine(parsed, pool_pre_ping=True, hide_parameters=True)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        raise StoreError(f"store URL: {error}; expected sqlite:///file.db or postgresql://user@host/database") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _pragmas)
    shown = parsed.render_as_string(hide_password=True)
    try:
        _make_tables(engine)
        with engine.connect() as connection:
            version = connection.scalar(select(STORE.c.version))
    except SQLAlchemyError as error:
        raise StoreError(f"{shown}: cannot be used as a store: {getattr(error, 'orig', None) or error}") from None
    if version != STORE_VERSION:
        raise StoreError(f"{shown}: store version is {version}, this code uses {STORE_VERSION}; give another one")
    return engine


def _make_tables(engine: Engine) -> None:
    """Makes what is missing. Several workers may start at once: who comes second finds it made."""
    for attempt in (1, 2, 3):
        try:
            METADATA.create_all(engine)
            break
        except OperationalError:
            if attempt == 3 or not inspect(engine).has_table(STORE.name):
                raise
            time.sleep(0.1 * attempt)
    with engine.begin() as connection:
        if connection.scalar(select(func.count()).select_from(STORE)) == 0:
            connection.execute(STORE.insert().values(version=STORE_VERSION))


def _pragmas(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    # In WAL mode, NORMAL survives a killed process; what it risks is a power cut.
    for pragma in ("journal_mode = wal", "synchronous = normal", "busy_timeout = 5000"):
        cursor.execute(f"pragma {pragma}")
    cursor.close()


class DecisionStore:
    """Takes decisions and feedback, and writes them in a thread of its own until `close`.

    Counters, for metrics: `written`, `dropped` (decisions that found the queue full), `retries` (a database that could not
    be written to; what was to be written is kept and tried again).
    """

    def __init__(self, engine: Engine, most_waiting: int = 20_000, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self._queue: queue.Queue[_Item | None] = queue.Queue(most_waiting)
        self._clock = clock
        self.written = self.dropped = self.retries = 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write, name="decision-store", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many rows are in the queue."""
        return self._queue.qsize()

    @property
    def most_waiting(self) -> int:
        return self._queue.maxsize

    def decided(self, row: Mapping[str, Any]) -> bool:
        """Takes a decision's row; False, and counted, if the queue is full."""
        try:
            self._queue.put_nowait(_Item(DECISIONS, row, None))
        except queue.Full:
            self.dropped += 1
            return False
        return True

    def feedback(self, row: Mapping[str, Any]) -> Future[bool]:
        """Takes feedback; the future is done when it is on disk, True if it is new, False if there was some before.

        Raises StoreFullError.
        """
        done: Future[bool] = Future()
        if self._closing.is_set():
            raise StoreFullError("the service is stopping")
        try:
            self._queue.put_nowait(_Item(FEEDBACK, {"at": self._clock(), **row}, done))
        except queue.Full:
            raise StoreFullError(f"{self._queue.maxsize} rows wait to be written") from None
        return done

    def close(self, timeout: float = 10.0) -> None:
        """Writes what waits and stops the thread."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            logger.error("the decision store still has %d rows to write after %g s", self.waiting, timeout)
        self.engine.dispose()

    def _write(self) -> None:
        stopping = False
        while not stopping:
            items, stopping = self._gather()
            if items:
                self._write_until_done(items)

    def _gather(self) -> tuple[list[_Item], bool]:
        """At least one item and what else waits, and whether the end was among it. Feedback waits for no more to come."""
        items: list[_Item] = []
        item = self._queue.get()
        until = time.monotonic() + _LINGER
        awaited = False
        while item is not None:
            items.append(item)
            awaited = awaited or item.done is not None
            if len(items) >= _MOST_AT_ONCE:
                return items, False
            try:
                item = (
                    self._queue.get_nowait() if awaited else self._queue.get(timeout=max(until - time.monotonic(), 0))
                )
            except queue.Empty:
                return items, False
        return items, True

    def _write_until_done(self, items: Sequence[_Item]) -> None:
        wait = _FIRST_WAIT
        while True:
            try:
                with self.engine.begin() as connection:
                    new = self._insert(connection, items)
            except OperationalError as error:
                self.retries += 1
                if self._closing.is_set() and wait >= _LONGEST_WAIT:
                    logger.error("%d rows could not be written before the end: %s", len(items), error.orig)
                    self._fail(items, error)
                    return
                logger.warning("the decision store cannot be written to, %d rows wait: %s", len(items), error.orig)
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            except SQLAlchemyError as error:
                logger.exception("rows that the decision store cannot take")
                self._fail(items, error)
                return
            else:
                break
        self.written += len(items)
        for item in items:
            if item.done is not None and not item.done.done():
                item.done.set_result(id(item) in new)

    @staticmethod
    def _fail(items: Sequence[_Item], error: Exception) -> None:
        for item in items:
            if item.done is not None and not item.done.done():
                item.done.set_exception(error)

    def _insert(self, connection: Connection, items: Sequence[_Item]) -> set[int]:
        """Writes everything; returns the ids of the items whose feedback was new."""
        if decisions := [dict(item.row) for item in items if item.table is DECISIONS]:
            connection.execute(self._upsert(DECISIONS, "id"), decisions)
        feedback = [item for item in items if item.table is FEEDBACK]
        if not feedback:
            return set()
        wanted = {item.row["decision_id"] for item in feedback}
        there = set(connection.scalars(select(FEEDBACK.c.decision_id).where(FEEDBACK.c.decision_id.in_(wanted))).all())
        first: dict[str, _Item] = {}
        for item in feedback:
            if item.row["decision_id"] not in there:
                first.setdefault(item.row["decision_id"], item)
        if first:
            connection.execute(self._upsert(FEEDBACK, "decision_id"), [dict(item.row) for item in first.values()])
        return {id(item) for item in first.values()}

    def _upsert(self, table: Table, key: str) -> Any:
        """An insert that leaves a row of the same key as it is."""
        dialect = postgresql if self.engine.dialect.name == "postgresql" else sqlite
        return dialect.insert(table).on_conflict_do_nothing(index_elements=[key])


def spent_since(
    engine: Engine, since: float, reserved_since: float
) -> list[tuple[str | None, str | None, float, float]]:
    """What decisions since a time cost: (key, workflow, settled USD, reserved USD) for each pair of the two.

    Settled is the cost that feedback reports (the expected one where it reports none), reserved the expected cost of
    decisions since `reserved_since` without feedback.
    """
    settled = func.coalesce(FEEDBACK.c.cost_usd, DECISIONS.c.expected_cost_usd)
    joined = DECISIONS.join(FEEDBACK, FEEDBACK.c.decision_id == DECISIONS.c.id, isouter=True)
    has = FEEDBACK.c.decision_id.is_not(None)
    columns = (DECISIONS.c.key, DECISIONS.c.workflow)
    with engine.connect() as connection:
        done = connection.execute(
            select(*columns, func.sum(settled))
            .select_from(joined)
            .where(DECISIONS.c.at >= since, has)
            .group_by(*columns)
        ).all()
        open_ = connection.execute(
            select(*columns, func.sum(DECISIONS.c.expected_cost_usd))
            .select_from(joined)
            .where(DECISIONS.c.at >= max(since, reserved_since), ~has)
            .group_by(*columns)
        ).all()
    found: dict[tuple[str | None, str | None], list[float]] = {}
    for place, rows in enumerate((done, open_)):
        for key, workflow, usd in rows:
            found.setdefault((key, workflow), [0.0, 0.0])[place] = float(usd or 0.0)
    return [(key, workflow, settled_usd, open_usd) for (key, workflow), (settled_usd, open_usd) in found.items()]


def open_since(engine: Engine, since: float) -> list[tuple[str, str | None, str | None, float, float]]:
    """The decisions since a time that have no feedback: (id, key, workflow, expected USD, epoch seconds), oldest first."""
    columns = (DECISIONS.c.id, DECISIONS.c.key, DECISIONS.c.workflow, DECISIONS.c.expected_cost_usd, DECISIONS.c.at)
    asked = (
        select(*columns)
        .join(FEEDBACK, FEEDBACK.c.decision_id == DECISIONS.c.id, isouter=True)
        .where(DECISIONS.c.at >= since, FEEDBACK.c.decision_id.is_(None), DECISIONS.c.expected_cost_usd.is_not(None))
        .order_by(DECISIONS.c.at)
    )
    with engine.connect() as connection:
        return [(row[0], row[1], row[2], float(row[3]), float(row[4])) for row in connection.execute(asked)]
