"""The circuit breaker: whether it is worth asking a router that has just failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

MOST_WAIT_SECONDS = 60.0


@dataclass
class Attempt:
    """One request that may go out; `alive` says what became of it, None that nothing is known (it was given up)."""

    opening: int
    alive: bool | None = None


class Breaker:
    """Closed while the router answers. A failure opens it for `wait_seconds`, then one attempt at a time is let through.

    Each attempt that fails then doubles the wait, up to a minute, and one that is answered closes it. Attempts that were under
    way when it opened say nothing new, so a hundred that fail at once count as one. It may be used from any thread: the lock is
    held for no longer than a comparison, never while waiting.
    """

    def __init__(self, wait_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first_wait = min(wait_seconds, MOST_WAIT_SECONDS)
        self._clock = clock
        self._lock = threading.Lock()
        self._wait = self._first_wait
        self._until: float | None = None
        self._probing = False
        self._openings = 0

    @property
    def is_open(self) -> bool:
        """Whether the router is not asked at present, except to see whether it is back."""
        with self._lock:
            return self._until is not None

    @contextmanager
    def attempt(self) -> Iterator[Attempt | None]:
        """An attempt, whose `alive` is to be set; None: the router is not to be asked."""
        attempt = self._begin()
        if attempt is None:
            yield None
            return
        try:
            yield attempt
        finally:
            self._end(attempt)

    def _begin(self) -> Attempt | None:
        with self._lock:
            if self._until is not None:
                if self._probing or self._clock() < self._until:
                    return None
                self._probing = True
            return Attempt(self._openings)

    def _end(self, attempt: Attempt) -> None:
        with self._lock:
            if attempt.opening != self._openings:
                return  # it began before the breaker opened
            was_probe, self._probing = self._probing, False
            if attempt.alive:
                self._until, self._wait = None, self._first_wait
            elif attempt.alive is False:
                if was_probe:
                    self._wait = min(2 * self._wait, MOST_WAIT_SECONDS)
                self._until = self._clock() + self._wait
                self._openings += 1
