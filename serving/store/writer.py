"""Writes decisions, sessions, charges and feedback, off the hot path.

A bounded queue, and one thread that writes whatever has gathered in one transaction. A decision that finds the queue full
is dropped and counted, for a route decision must not wait. Feedback is acknowledged when it is on disk, and refused when the
queue is full, so that nothing that was acknowledged is ever lost. Rows are written in the order in which they came, so a
decision is never behind its feedback; feedback on a decision that another process has yet to write waits for it a while
(`late`). Charges that somebody waits for overtake all that, and feedback is in transactions of its own, of some rows each.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from sqlalchemy import Engine

from serving.store.days.summing import Summing
from serving.store.feedback import Feedback, UnknownDecisionError
from serving.store.ledger import BudgetKey, Charge, Limit
from serving.store.months.partitions import Ahead
from serving.store.transaction import FAULTS, Item, Told, may_pass, write
from serving.store.waiting.late import Late
from serving.store.waiting.line import Line
from serving.store.waiting.watched import Watch, Watched

logger = logging.getLogger(__name__)

_FEEDBACK_AT_ONCE = 256
_MOST_OF_KEY = 2000
_LATE_TURN = 0.05
_NOT_READ = "the service stopped before the store could be read"
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 2.0


class NotStoredError(RuntimeError):
    """What is not on disk; the message says why."""


class StoreFullError(NotStoredError):
    """The queue is full, or the service stops: feedback was not taken, and is to be sent again."""


class DecisionStore:
    """Takes what is to be written, and writes it in a thread of its own until `close`.

    The queue holds at most `most_waiting` rows, and with what is being written `most_bytes`; feedback on a decision that is
    not there is tried again for `late_seconds`. Counters, for metrics: `written`, `dropped` (decisions that found the queue
    full), `cut` (decisions that were stored without their text for want of room), `retries` (a database that could not be
    written to; what was to be written is kept and tried again), `refused` (rows that the database does not take).
    """

    def __init__(
        self,
        engine: Engine,
        most_waiting: int = 20_000,
        clock: Callable[[], float] = time.time,
        *,
        most_bytes: int = 64 * 2**20,
        late_seconds: float = 2.0,
        watched: Watched | None = None,
    ) -> None:
        self.engine = engine
        self.most_waiting = most_waiting
        self.most_bytes = most_bytes
        self.written = self.dropped = self.cut = self.retries = self.refused = 0
        self.failing = False
        self._late_seconds = late_seconds
        self._watch = Watch(engine, watched)
        self._line = Line()
        self._of_key: Counter[str | None] = Counter()  # feedback that is not written yet
        self._sums: dict[tuple[Limit, ...], Charge] = {}
        self._bytes = 0
        self._clock = clock
        self._lock = threading.Lock()  # held while something is put, so that nothing comes behind the end
        self._closed = False
        self._give_up = float("inf")  # on the monotonic clock
        self._late = Late(engine, late_seconds, clock, self._came, self._unknown)
        self._months, self._days = Ahead(engine, clock), Summing(engine)
        self._thread = threading.Thread(target=self._write, name="decision-store", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many rows are in the queue."""
        return len(self._line)

    @property
    def waiting_bytes(self) -> int:
        """What the rows that wait, and those that are being written, take of memory, about."""
        return self._bytes

    @property
    def misplaced(self) -> int:
        """How many decisions no month has a partition for, as PostgreSQL had it within the last ten minutes."""
        return self._months.misplaced

    def decided(self, row: Mapping[str, Any]) -> bool:
        """Takes a decision's row; False, and counted, if the queue is full or closed.

        Where there is no room for its text, the rest is taken.
        """
        item = Item(row=row)
        with self._lock:
            if not self._closed and len(self._line) < self.most_waiting:
                if self._put(item):
                    return True
                if self._put(item.without_text()):
                    self.cut += 1
                    return True
            self.dropped += 1
        return False

    def charge(self, charge: Charge) -> None:
        """Takes a charge, which is written whatever the budgets hold, and whatever waits: it is money.

        Where the queue is full only the sum is kept. A database that loses the connection while it writes that may count it
        twice, for nothing says whether it did.
        """
        limits = tuple(limit._replace(most=None) for limit in charge.limits)
        with self._lock:
            if self._closed:
                return
            if len(self._line) < self.most_waiting:
                self._put_anyway(Item(charge=replace(charge, limits=limits)))
            else:
                self._sums[limits] = replace(charge, limits=limits).added_to(self._sums.get(limits))

    def shadowed(self, row: Mapping[str, Any]) -> None:
        """Takes what the shadow bundle would have decided: the columns `shadow_...` of the decision `id`, taken before."""
        with self._lock:
            if not self._closed and len(self._line) < self.most_waiting:
                self._put(Item(shadow=row))

    def session(self, row: Mapping[str, Any], done: Future[None] | None = None) -> bool:
        """Takes a session's row, which takes the place of the one before; False where it is let go, for the queue is full.

        Where somebody waits for `done` it is written now.
        """
        with self._lock:
            if self._closed or len(self._line) >= self.most_waiting or not self._put(Item(session=row, done=done)):
                return False
        if done is not None:
            self._line.hurry()
        return True

    def take(self, charge: Charge) -> Future[BudgetKey | None]:
        """Charges budgets now, if all of them hold it; the future is done when that is on disk.

        It gives the budget that does not hold it, None if it was charged. Raises StoreFullError where the service stops.
        """
        done: Future[BudgetKey | None] = Future()
        done.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                raise StoreFullError("the service is stopping")
            self._put_anyway(Item(charge=charge, done=done))
        self._line.hurry()
        return done

    def feedback(self, said: Sequence[Feedback], key: str | None = None) -> list[Future[Told]]:
        """Takes feedback that a key gives, all of it or none; a future is done when its row is on disk.

        It gives the fields that are new (none: it was all told before), UnknownDecisionError where there is no such decision
        of the key, or ConflictError; it raises NotStoredError where it cannot be stored. Raises StoreFullError.
        """
        late = time.monotonic() + self._late_seconds
        items = [Item(said=one, key=key, at=self._clock(), late=late, done=Future()).cleaned() for one in said]
        with self._lock:
            waiting, of_key = len(self._line), self._of_key[key]
            if self._closed:
                raise StoreFullError("the service is stopping")
            if of_key and of_key + len(items) > _MOST_OF_KEY:
                raise StoreFullError(f"{of_key} of this key wait to be written, of at most {_MOST_OF_KEY}")
            if waiting and waiting + len(items) > self.most_waiting:
                raise StoreFullError(f"{waiting} rows wait to be written, of at most {self.most_waiting}")
            if self._bytes and self._bytes + sum(item.size for item in items) > self.most_bytes:
                raise StoreFullError(f"{self._bytes} bytes wait to be written, of at most {self.most_bytes}")
            self._of_key[key] += len(items)
            for item in items:
                assert item.done is not None
                item.done.set_running_or_notify_cancel()  # who stops waiting does not cancel the writing
                self._put_anyway(item)
        self._line.hurry()
        return [item.done for item in items if item.done is not None]

    def _put(self, item: Item) -> bool:
        """Whether there was room for it. The lock is held."""
        if self._bytes + item.size > self.most_bytes:
            return False
        self._put_anyway(item)
        return True

    def _put_anyway(self, item: Item) -> None:
        self._bytes += item.size
        self._line.put(item)

    def close(self, timeout: float = 10.0) -> None:
        """Writes what waits and stops the thread; after `timeout` seconds what could not be written is given up."""
        with self._lock:
            self._give_up = time.monotonic() + timeout
            if not self._closed:
                self._closed = True
                self._line.end()
        self._line.hurry()
        self._months.stop()
        self._days.stop()
        self._thread.join(timeout + _LONGEST_WAIT)
        if self._thread.is_alive():
            logger.error("the decision store still has %d rows to write after %g s", self.waiting, timeout)
            self._fail(self._late.left(), _NOT_READ)
        self.engine.dispose()

    def _write(self) -> None:
        while not self._line.ended:
            self._turn(self._line.gather(self._watch.patience()))
            if not self._line.ended:
                self._watch.look()
        self._late.stop(_LONGEST_WAIT)
        while self._late.waiting or len(self._line):  # in the order in which it goes from one to the other
            if time.monotonic() >= self._give_up:
                self._fail(self._late.left(), _NOT_READ)
            self._late.ended_turn()
            self._turn(self._line.at_hand())
            if not len(self._line) and self._late.waiting:
                time.sleep(_LATE_TURN)

    def _turn(self, items: Sequence[Item]) -> None:
        """Writes what was gathered: whoever waits for a budget waits for the rows, or some of the feedback, and no more."""
        rows = [item for item in items if item.said is None]
        # Sums before the rows: a budget that begins with those counts them itself.
        self._write_behind_first([*self._summed(), *rows])
        said = [item for item in items if item.said is not None]
        for place in range(0, len(said), _FEEDBACK_AT_ONCE):
            self._write_until_done(said[place : place + _FEEDBACK_AT_ONCE])
            self._write_behind_first([])

    def _write_behind_first(self, rows: Sequence[Item]) -> None:
        items = [*self._line.first(), *rows]
        if items:
            self._write_until_done(items)

    def _summed(self) -> list[Item]:
        """The charges that the full queue did not take, summed."""
        with self._lock:
            sums, self._sums = self._sums, {}
            items = [Item(charge=charge) for charge in sums.values()]
            self._bytes += sum(item.size for item in items)
        return items

    def _write_until_done(self, items: Sequence[Item]) -> None:
        wait = _FIRST_WAIT
        while True:
            try:
                self._transaction(items)
            except FAULTS as error:
                if not may_pass(error):
                    self._write_apart(items, error)
                    return
                self.failing = True
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
                self.failing = False
                return

    def _transaction(self, items: Sequence[Item]) -> None:
        written = write(self.engine, items)
        self._watch.wrote(items, written)
        late, done = list[Item](), list[Item]()
        for item in items:
            result = written.results.get(id(item))
            if isinstance(result, UnknownDecisionError):
                late.append(item)
                continue
            done.append(item)
            if item.done is not None:
                item.done.set_result(result)
        if late:
            self._late.wait(late)
        self._let_go(done, written=True)

    def _came(self, items: Sequence[Item]) -> None:
        """Takes feedback again whose decision has come; it was counted when it came first."""
        for item in items:
            self._line.put(item)
        self._line.hurry()

    def _unknown(self, items: Sequence[Item]) -> None:
        """There is no such decision."""
        for item in items:
            if item.done is not None and item.said is not None:
                item.done.set_result(UnknownDecisionError(item.said.decision_id))
        self._let_go(items, written=True)

    def _write_apart(self, items: Sequence[Item], error: Exception) -> None:
        """Halves what the database does not take, down to the row that it is about; the others are written."""
        if len(items) > 1:
            middle = len(items) // 2
            self._write_until_done(items[:middle])
            self._write_until_done(items[middle:])
            return
        cleaned = items[0].cleaned()
        if not cleaned.same_as(items[0]):
            self._write_until_done([cleaned])
            return
        self.refused += 1
        self._fail(items, f"the store does not take it ({type(getattr(error, 'orig', None) or error).__name__})")

    def _fail(self, items: Sequence[Item], why: str) -> None:
        logger.error("%d rows were not stored: %s", len(items), why)
        for item in items:
            if item.done is not None:
                item.done.set_exception(NotStoredError(why))
        self._let_go(items)

    def _let_go(self, items: Sequence[Item], *, written: bool = False) -> None:
        size = sum(item.size for item in items)
        of_key = Counter(item.key for item in items if item.said is not None)
        with self._lock:
            self._bytes = max(self._bytes - size, 0)
            self._of_key -= of_key  # without those that have none left
            self.written += len(items) if written else 0
