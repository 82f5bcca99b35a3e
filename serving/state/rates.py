"""How often an API key may be used: a moving window for each key of the rule file that has a rate.

The notation ("100/second") is that of `limits`. Its own window is not used: in memory it starts a timer thread every 10 ms
while requests come, and its other storages are servers.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from limits import RateLimitItem

from serving.state.rulebook import Key


class NeverFitsError(ValueError):
    """More requests together than the key's rate allows in its whole window, however long one waits."""

    def __init__(self, requests: int, rate: RateLimitItem) -> None:
        super().__init__(
            f"{requests} arrived together, and the key's rate is {rate.amount} in {rate.get_expiry()} s: send fewer at once"
        )


class Rates:
    """Counts the requests of each key. Safe to share between threads; `clock` gives seconds that only go up.

    A window holds at most as many times as its rate allows requests, so the rule file bounds the memory.
    """

    def __init__(self, keys: Mapping[str, Key], clock: Callable[[], float] = time.monotonic) -> None:
        self._rates = {name: key.limit for name, key in keys.items() if key.limit is not None}
        self._windows = {name: deque[float]() for name in self._rates}
        self._clock = clock
        self._lock = threading.Lock()

    @property
    def unshared(self) -> bool:
        """Whether each process counts by itself although it should not."""
        return False

    def follow(self, keys: Mapping[str, Key]) -> None:
        """Takes other rates over; what a key has used of its window goes on counting."""
        rates = {name: key.limit for name, key in keys.items() if key.limit is not None}
        with self._lock:
            self._windows = {**{name: deque[float]() for name in rates}, **self._windows}
            self._rates = rates

    def keep(self, key: str, requests: int = 1, counted: int = 0) -> float | None:
        """Counts requests of a key: None, or the seconds until they fit its rate, and then none of them is counted.

        `counted` of them are so already: only the others are added, or these taken back. Raises NeverFitsError.
        """
        rate = self._rates.get(key)
        if rate is None:
            return None
        if requests > rate.amount:
            raise NeverFitsError(requests, rate)
        seconds, taken = float(rate.get_expiry()), self._windows[key]
        with self._lock:
            now = self._clock()
            while taken and taken[0] <= now - seconds:
                taken.popleft()
            over = len(taken) + requests - counted - rate.amount
            if over <= 0:
                taken.extend([now] * (requests - counted))
                return None
            for _ in range(min(counted, len(taken))):
                taken.pop()
            # They fit once so many of the oldest have left.
            return taken[over - 1] + seconds - now

    async def kept(self, key: str, requests: int = 1, counted: int = 0) -> float | None:
        """As `keep`, for an event loop, which must not wait."""
        return self.keep(key, requests, counted)

    def close(self) -> None:
        """Ends what it has begun."""
