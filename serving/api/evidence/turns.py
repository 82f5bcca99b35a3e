"""Threads for what is found out beside decisions: a few at once, a few that wait, and none for long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Found = TypeVar("Found")


class NoTurnError(RuntimeError):
    """As many are at work or wait as may, or it did not come to its end in time."""


class Turns:
    """Calls functions in `at_once` threads of its own, for event loops of any thread.

    At most `waiting` others wait, and nobody longer than `seconds`: what takes several times as long as a decision must not
    take the threads, nor the time, that decisions need.
    """

    def __init__(self, at_once: int = 2, waiting: int = 8, seconds: float = 2.0) -> None:
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix="explain")
        self._room = threading.BoundedSemaphore(at_once + waiting)
        self._seconds = seconds

    async def call(self, find: Callable[[], Found]) -> Found:
        """What `find` gives, or raises; raises NoTurnError. One that is given up before its turn is left out."""
        if not self._room.acquire(blocking=False):
            raise NoTurnError("as many wait as may wait")
        try:
            coming = self._threads.submit(find)
        except RuntimeError as error:  # closed
            self._room.release()
            raise NoTurnError("the service is stopping") from error
        coming.add_done_callback(lambda _: self._room.release())
        try:
            return await asyncio.wait_for(asyncio.wrap_future(coming), self._seconds)
        except TimeoutError as error:
            raise NoTurnError("it took too long") from error

    def close(self) -> None:
        """Ends the threads; what has not begun is left out."""
        self._threads.shutdown(wait=False, cancel_futures=True)
