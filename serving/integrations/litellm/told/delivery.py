"""Delivers what the spool keeps, in batches, as a task of the event loop that the calls run in, and out of their way.

Each destination has its own pace: one that fails is waited for, up to a minute, and holds up no other.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from serving.integrations.litellm.told.spool import Spool, SpoolError
from serving.integrations.litellm.told.spool_rows import Leased
from serving.integrations.litellm.told.tally import Tally

logger = logging.getLogger(__name__)

# A batch is small, so that what it takes of the loop is a few milliseconds at most.
_MOST_AT_ONCE = 50
_LEASE_SECONDS = 30.0
_LINGER, _IDLE_SECONDS = 0.2, 2.0
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
_CLOSE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Came:
    """What a batch came to: rows that are done with, and rows to try again."""

    done: Sequence[Leased]
    again: Sequence[Leased] = ()


Deliver = Callable[[Sequence[Leased]], Awaitable[Came]]


@dataclass(frozen=True, slots=True)
class Destination:
    """Where rows of this name go; `deliver` raises where nothing of a batch is known to have arrived."""

    name: str
    deliver: Deliver


class Delivery:
    """The task. `counts` gets `delivered`, `retried` (batches that failed), and by `to_router` what became of feedback."""

    def __init__(self, spool: Spool, destinations: Sequence[Destination], counts: Tally) -> None:
        self._spool, self._destinations, self._counts = spool, destinations, counts
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._told = [asyncio.Event() for _ in destinations]

    def alive_in(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether it delivers, in this loop of this process, or in another that still runs."""
        if self._pid != os.getpid():
            return False
        running = self._loop is loop or (self._loop.is_running() and not self._loop.is_closed())
        return running and not any(task.done() for task in self._tasks)

    def begin(self) -> None:
        """Starts, if it has not, and has what is new delivered soon."""
        if not self._tasks:
            self._tasks = [
                self._loop.create_task(self._run(one, told))
                for one, told in zip(self._destinations, self._told, strict=True)
            ]
        if self._loop is asyncio.get_running_loop():
            for told in self._told:
                told.set()

    async def close(self) -> None:
        """Delivers what is due, within a few seconds."""
        self._closing = True
        for told in self._told:
            told.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)
            for task in late:
                task.cancel()

    async def _run(self, destination: Destination, told: asyncio.Event) -> None:
        wait = _FIRST_WAIT
        while True:
            came = await self._batch(destination)
            if came is None:
                if self._closing:
                    return
                await asyncio.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
                continue
            wait = _FIRST_WAIT
            if came:
                continue
            if self._closing:
                return
            told.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(told.wait(), _IDLE_SECONDS)
            if not self._closing:
                await asyncio.sleep(_LINGER)  # more of them come together

    async def _batch(self, destination: Destination) -> int | None:
        """How many rows were taken to be delivered; None where that failed, and is to be tried again later."""
        try:
            rows = await asyncio.wrap_future(self._spool.take(destination.name, _MOST_AT_ONCE, _LEASE_SECONDS))
        except SpoolError:
            return None
        if not rows:
            return 0
        try:
            came = await destination.deliver(rows)
        except Exception as error:  # noqa: BLE001 - whatever a destination raises, its rows are kept
            self._counts.add("retried")
            logger.warning("%s took nothing of %d outcomes (%s)", destination.name, len(rows), type(error).__name__)
            await self._back(rows, max(_FIRST_WAIT, getattr(error, "retry_after_seconds", None) or 0.0))
            return None
        with suppress(SpoolError):
            await asyncio.wrap_future(self._spool.delivered(came.done))
        self._counts.add("delivered", len(came.done))
        for tries, waiting in _by_tries(came.again).items():
            await self._back(waiting, min(_FIRST_WAIT * 2**tries, _LONGEST_WAIT))
        return len(rows)

    async def _back(self, rows: Sequence[Leased], seconds: float) -> None:
        with suppress(SpoolError):
            await asyncio.wrap_future(self._spool.later(rows, seconds))


def _by_tries(rows: Sequence[Leased]) -> Mapping[int, list[Leased]]:
    found: dict[int, list[Leased]] = {}
    for row in rows:
        found.setdefault(min(row.tries, 10), []).append(row)
    return found
