"""Feedback whose decision is not there yet: another process may still have to write it.

It is looked for by a thread of its own, which reads and holds nothing, so that nobody who writes waits for what is not there:
once everywhere, and then, while it may still come, where its id says. What has come is written as any feedback is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from serving.store.months.ids import EVER, Around, made_around
from serving.store.transaction import Item, seen

logger = logging.getLogger(__name__)

_TURN = 0.05
_AGAIN = 1.0  # seconds after which a store that could not be read is read again
_DAY = 86_400.0
MOST_LOOKED_FOR = 256


@dataclass(eq=False, slots=True)
class _Waiting:
    item: Item
    due: float  # when it is looked for next, on the monotonic clock
    looked: bool = False


class Late:
    """Looks for the decisions of feedback until they come, or until the feedback's time is over.

    `came` is given what can be written now, `gone` what cannot: there is no such decision. Both may be called from this
    thread; `clock` gives epoch seconds. A store that cannot be read says nothing of a decision: it is read again.
    """

    def __init__(
        self,
        engine: Engine,
        seconds: float,
        clock: Callable[[], float],
        came: Callable[[Sequence[Item]], None],
        gone: Callable[[Sequence[Item]], None],
    ) -> None:
        self._engine, self._seconds, self._clock = engine, seconds, clock
        self._came, self._gone = came, gone
        self._waiting: list[_Waiting] = []
        self._looked_for: dict[int, _Waiting] = {}  # just now; by id(), for one may be another's equal
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="late-feedback", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How much feedback waits for its decision."""
        with self._changed:
            return len(self._waiting) + len(self._looked_for)

    def wait(self, items: Sequence[Item]) -> None:
        """Takes feedback whose decision was not there."""
        with self._changed:
            self._waiting += [_Waiting(item, due=0.0) for item in items]
            self._changed.notify()

    def stop(self, timeout: float) -> None:
        """Ends the thread, unless it is still reading after `timeout` seconds."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join(timeout)

    def ended_turn(self) -> None:
        """A `turn` of whoever has stopped the thread; none while that still reads."""
        if not self._thread.is_alive():
            self.turn()

    def left(self) -> list[Item]:
        """Everything that waits, which does so no longer."""
        with self._changed:
            left = [*self._waiting, *self._looked_for.values()]
            self._waiting, self._looked_for = [], {}
        return [one.item for one in left]

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._ended:
                    soonest = min((one.due for one in self._waiting), default=None)
                    self._changed.wait(None if soonest is None else max(soonest - time.monotonic(), 0.0))
                if self._ended:
                    return
            self.turn()

    def turn(self) -> None:
        """Looks once for some of what is due."""
        now = time.monotonic()
        with self._changed:
            due = [one for one in self._waiting if one.due <= now][:MOST_LOOKED_FOR]
            taken = set(map(id, due))
            self._waiting = [one for one in self._waiting if id(one) not in taken]
            self._looked_for |= {id(one): one for one in due}
        looked_for = {_name(one): self._where(one) for one in due if not one.looked or self._may_come(one)}
        try:
            found = seen(self._engine, looked_for)
        except SQLAlchemyError as error:
            kind = type(getattr(error, "orig", None) or error).__name__
            logger.warning("decisions that feedback waits for could not be looked for (%s), it is tried again", kind)
            with self._changed:
                self._put_back([(one, now + _AGAIN) for one in self._still(due)])
            return
        came, gone, again = list[Item](), list[Item](), list[tuple[_Waiting, float]]()
        # Handed over at once: what waits no longer is with whoever it is given to, or back.
        with self._changed:
            for one in self._still(due):
                decided = found.get(_name(one))
                if decided is not None and one.item.may_tell(decided.key):
                    one.item.around = Around(decided.at - 1, decided.at + 1)
                    came.append(one.item)
                elif now >= one.item.late:
                    gone.append(one.item)
                else:
                    one.looked = True
                    again.append((one, self._next(one, now)))
            self._put_back(again)
            if came:
                self._came(came)
            if gone:
                self._gone(gone)

    def _still(self, due: Sequence[_Waiting]) -> list[_Waiting]:
        """Of what was looked for, what nobody took meanwhile (`left`). The lock is held."""
        return [one for one in due if self._looked_for.pop(id(one), None) is not None]

    def _put_back(self, again: Sequence[tuple[_Waiting, float]]) -> None:
        for one, due in again:
            one.due = due
            self._waiting.append(one)

    def _next(self, one: _Waiting, now: float) -> float:
        """As long from now as it has waited so far; what cannot come any more only waits for its time to be over."""
        if not self._may_come(one):
            return one.item.late
        waited = now - (one.item.late - self._seconds)
        return min(now + max(waited, _TURN), one.item.late)

    def _may_come(self, one: _Waiting) -> bool:
        """Whether its decision may have been made a moment ago: its id says so, or says nothing."""
        return made_around(_name(one)).until > self._clock()

    def _where(self, one: _Waiting) -> Around:
        """Everywhere once, and then where what comes now would be."""
        around = made_around(_name(one)) if one.looked else EVER
        now = self._clock()
        return Around(now - _DAY, now + _DAY) if one.looked and around == EVER else around


def _name(one: _Waiting) -> str:
    assert one.item.said is not None
    return one.item.said.decision_id
