"""Writes decisions and feedback, off the hot path.

A bounded queue, and one thread that writes whatever has gathered in one transaction. A decision that finds the queue full
is dropped and counted, for a route decision must not wait. Feedback is acknowledged when it is on disk, and refused when the
queue is full, so that nothing that was acknowledged is ever lost. Rows are written in the order in which they came, so a
decision is never behind its feedback.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Table
from sqlalchemy.exc import DBAPIError, InternalError, OperationalError, SQLAlchemyError

from serving.store.tables import DECISIONS, FEEDBACK, insert_new

logger = logging.getLogger(__name__)

_MOST_AT_ONCE = 1000
# Decisions wait this long for others, in seconds, so that a busy service writes few transactions; feedback does not wait.
_LINGER = 0.02
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0
# What a database, a driver or a row's own values may raise; the thread that writes has to live on.
_FAULTS = (SQLAlchemyError, ArithmeticError, TypeError, ValueError)


class NotStoredError(RuntimeError):
    """Feedback that is not on disk; the message says why."""


class StoreFullError(NotStoredError):
    """The queue is full, or the service stops: feedback was not taken, and is to be sent again."""


@dataclass(frozen=True, slots=True)
class _Item:
    table: Table
    row: Mapping[str, Any]
    done: Future[bool] | None


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
                connection.execute(insert_new(self.engine, DECISIONS, "id"), decisions)
            if not first:
                return set()
            insert = insert_new(self.engine, FEEDBACK, "decision_id").returning(FEEDBACK.c.decision_id)
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
