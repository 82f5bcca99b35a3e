"""The store of decisions and feedback: SQLite (WAL) by default, PostgreSQL by URL.

Writing is off the hot path: a bounded queue, and one thread that writes whatever has gathered in one transaction. A
decision that finds the queue full is dropped and counted, for a route decision must not wait. Feedback is acknowledged
when it is on disk, and refused when the queue is full, so that nothing that was acknowledged is ever lost. Rows are
written in the order in which they came, so a decision is never behind its feedback.
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
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    IntegrityError,
    InternalError,
    NoSuchModuleError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)

logger = logging.getLogger(__name__)

# Raise it when a store written before can no longer be used by this code.
STORE_VERSION = 1
_MOST_AT_ONCE = 1000
# Decisions wait this long for others, in seconds, so that a busy service writes few transactions; feedback does not wait.
_LINGER = 0.02
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0
_CONNECT_SECONDS = 10
_HIDDEN = "***"
# What a database, a driver or a row's own values may raise; the thread that writes has to live on.
_FAULTS = (SQLAlchemyError, ArithmeticError, TypeError, ValueError)
_KINDS = "an SQLite file, sqlite:///file.db or postgresql://user@host/database"

METADATA = MetaData()
STORE = Table("outcome_router_store", METADATA, Column("version", Integer, primary_key=True, autoincrement=False))
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


class NotStoredError(RuntimeError):
    """Feedback that is not on disk; the message says why."""


class StoreFullError(NotStoredError):
    """The queue is full, or the service stops: feedback was not taken, and is to be sent again."""


@dataclass(frozen=True, slots=True)
class _Item:
    table: Table
    row: Mapping[str, Any]
    done: Future[bool] | None


def open_engine(url: str) -> Engine:
    """An engine for a store's URL, its tables made if there are none; raises StoreError.

    A bare path is an SQLite file. Workers share it: SQLite in WAL mode waits for another's write, PostgreSQL needs not.
    """
    parsed = _parsed(url)
    shown = _shown(parsed)
    options: dict[str, Any] = {"pool_pre_ping": True, "hide_parameters": True}
    if parsed.get_backend_name() == "postgresql":
        options["connect_args"] = {"connect_timeout": _CONNECT_SECONDS}
    try:
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, **options)
    except (ImportError, OSError) as error:
        raise StoreError(f"{shown}: cannot be used as a store: {error}") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _pragmas)
    try:
        version = _made_tables(engine)
    except SQLAlchemyError as error:
        engine.dispose()
        raise StoreError(f"{shown}: cannot be used as a store: {_said(error, parsed)}") from None
    if version != STORE_VERSION:
        engine.dispose()
        raise StoreError(f"{shown}: store version is {version}, this code uses {STORE_VERSION}; give another store")
    return engine


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url) if "://" in url else URL.create("sqlite", database=url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        # What arrived may hold a password where nobody looks for one.
        raise StoreError(f"{url.partition(':')[0]}://{_HIDDEN}: not a store's URL; expected {_KINDS}") from None
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend not in ("sqlite", "postgresql"):
        raise StoreError(f"{_shown(parsed)}: {backend} is no store; expected {_KINDS}")
    return parsed


def _secrets(url: URL) -> dict[str, Any]:
    return {name: value for name, value in url.query.items() if "password" in name.lower()}


def _shown(url: URL) -> str:
    return url.update_query_dict(dict.fromkeys(_secrets(url), _HIDDEN)).render_as_string(hide_password=True)


def _said(error: SQLAlchemyError, url: URL) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    for secret in (url.password, *_secrets(url).values()):
        text = text.replace(str(secret), _HIDDEN) if secret else text
    return text


def _made_tables(engine: Engine) -> int:
    """Makes what is missing, and gives the store's version. Where several workers start, who comes second finds it made.

    A store of another version is left as it is.
    """
    for wait in (0.1, 0.3, 0.6, None):
        try:
            if not inspect(engine).has_table(STORE.name):
                METADATA.create_all(engine)
            break
        except (OperationalError, ProgrammingError, IntegrityError):
            if wait is None:
                raise
            time.sleep(wait)
    with engine.begin() as connection:
        version = connection.scalar(select(STORE.c.version))
        if version is None:
            connection.execute(_insert_new(engine, STORE, "version").values(version=STORE_VERSION))
            return STORE_VERSION
        return int(version)


def _insert_new(engine: Engine, table: Table, key: str) -> Any:
    """An insert that leaves a row of the same key as it is."""
    dialect = postgresql if engine.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing(index_elements=[key])


def _pragmas(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    # In WAL mode, NORMAL survives a killed process; what it risks is a power cut.
    for pragma in ("busy_timeout = 5000", "journal_mode = wal", "synchronous = normal"):
        cursor.execute(f"pragma {pragma}")
    cursor.close()


class DecisionStore:
    """Takes decisions and feedback, and writes them in a thread of its own until `close`.

    Counters, for metrics: `written`, `dropped` (decisions that found the queue full), `retries` (a database that could not
    be written to; what was to be written is kept and tried again), `refused` (rows that the database does not take).
    """

    def __init__(self, engine: Engine, most_waiting: int = 20_000, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.most_waiting = most_waiting
        self.written = self.dropped = self.retries = self.refused = 0
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._clock = clock
        self._lock = threading.Lock()  # held while something is put, so that nothing comes behind the end
        self._closed = False
        self._give_up = float("inf")  # on the monotonic clock
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._write, name="decision-store", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many rows are in the queue."""
        return self._queue.qsize()

    def decided(self, row: Mapping[str, Any]) -> bool:
        """Takes a decision's row; False, and counted, if the queue is full or the store is closed."""
        with self._lock:
            if self._closed or self._queue.qsize() >= self.most_waiting:
                self.dropped += 1
                return False
            self._queue.put(_Item(DECISIONS, row, None))
        return True

    def feedback(self, rows: Sequence[Mapping[str, Any]]) -> list[Future[bool]]:
        """Takes feedback, all of it or none; a row's future is True if it is new, False if there was some before.

        A future is done when its row is on disk; it raises NotStoredError where that cannot be. Raises StoreFullError.
        """
        items = [_Item(FEEDBACK, {"at": self._clock(), **row}, Future()) for row in rows]
        with self._lock:
            waiting = self._queue.qsize()
            if self._closed:
                raise StoreFullError("the service is stopping")
            if waiting and waiting + len(items) > self.most_waiting:
                raise StoreFullError(f"{waiting} rows wait to be written, of at most {self.most_waiting}")
            for item in items:
                assert item.done is not None
                item.done.set_running_or_notify_cancel()  # who stops waiting does not cancel the writing
                self._queue.put(item)
        self._hurry.set()
        return [item.done for item in items if item.done is not None]

    def close(self, timeout: float = 10.0) -> None:
        """Writes what waits and stops the thread; after `timeout` seconds what could not be written is given up."""
        with self._lock:
            self._give_up = time.monotonic() + timeout
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._hurry.set()
        self._thread.join(timeout + _LONGEST_WAIT)
        if self._thread.is_alive():
            logger.error("the decision store still has %d rows to write after %g s", self.waiting, timeout)
        self.engine.dispose()

    def _write(self) -> None:
        ended = False
        while not ended:
            items, ended = self._gather()
            if items:
                self._write_until_done(items)

    def _gather(self) -> tuple[list[_Item], bool]:
        """At least one item and what else waits, and whether the end was among it."""
        items: list[_Item] = []
        item = self._queue.get()
        if item is not None and item.done is None:
            self._hurry.wait(_LINGER)
        self._hurry.clear()
        while item is not None:
            items.append(item)
            if len(items) >= _MOST_AT_ONCE:
                return items, False
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return items, False
        return items, True

    def _write_until_done(self, items: Sequence[_Item]) -> None:
        wait = _FIRST_WAIT
        while True:
            try:
                new = self._transaction(items)
            except _FAULTS as error:
                if not _may_pass(error):
                    self._write_apart(items, error)
                    return
                self.retries += 1
                if time.monotonic() >= self._give_up:
                    self._fail(items, "the service stopped before the store could be written to")
                    return
                # A driver's message may hold what a row holds, so its kind has to do.
                kind = type(getattr(error, "orig", None) or error).__name__
                logger.warning("the decision store cannot be written to, %d rows wait (%s)", len(items), kind)
                time.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
            else:
                break
        self.written += len(items)
        for item in items:
            if item.done is not None:
                item.done.set_result(id(item) in new)

    def _write_apart(self, items: Sequence[_Item], error: Exception) -> None:
        """Halves what the database does not take, down to the row that it is about; the others are written."""
        if len(items) > 1:
            middle = len(items) // 2
            self._write_until_done(items[:middle])
            self._write_until_done(items[middle:])
            return
        (item,) = items
        cleaned = {name: _cleaned(value) for name, value in item.row.items()}
        if cleaned != item.row:
            self._write_until_done([_Item(item.table, cleaned, item.done)])
            return
        self.refused += 1
        self._fail(items, f"the store does not take it ({type(getattr(error, 'orig', None) or error).__name__})")

    def _fail(self, items: Sequence[_Item], why: str) -> None:
        logger.error("%d rows were not stored: %s", len(items), why)
        for item in items:
            if item.done is not None:
                item.done.set_exception(NotStoredError(why))

    def _transaction(self, items: Sequence[_Item]) -> set[int]:
        """Writes everything; returns the ids of the items whose feedback was new."""
        decisions = [dict(item.row) for item in items if item.table is DECISIONS]
        first: dict[str, _Item] = {}
        for item in items:
            if item.table is FEEDBACK:
                first.setdefault(item.row["decision_id"], item)
        with self.engine.begin() as connection:
            if decisions:
                connection.execute(_insert_new(self.engine, DECISIONS, "id"), decisions)
            if not first:
                return set()
            insert = _insert_new(self.engine, FEEDBACK, "decision_id").returning(FEEDBACK.c.decision_id)
            new = connection.scalars(insert, [dict(item.row) for item in first.values()]).all()
        return {id(first[decision]) for decision in new}


def _may_pass(error: Exception) -> bool:
    """Whether the database may take the same rows later: it is locked, full, being switched over or away."""
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return lost or isinstance(error, OperationalError | InternalError)


def _cleaned(value: Any) -> Any:
    """Text without what UTF-8 (lone surrogates) or PostgreSQL (NUL) cannot hold: U+FFFD stands there instead."""
    if not isinstance(value, str):
        return value
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


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
