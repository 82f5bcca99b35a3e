"""How often an API key may be used: a moving window for each key of the rule file that has a rate.

The notation ("100/second") is that of `limits`. Its own window is not used: in memory it starts a timer thread every 10 ms
while requests come, and its other storages are servers.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from serving.state.rulebook import Key


class Rates:
    """Counts the requests of each key. Safe to share between threads; `clock` gives seconds that only go up.

    A window holds at most as many times as its rate allows requests, so the rule file bounds the memory.
    """

    def __init__(self, keys: Mapping[str, Key], clock: Callable[[], float] = time.monotonic) -> None:
        rates = {name: key.limit for name, key in keys.items()}
        self._windows = {
            name: (rate.amount, float(rate.get_expiry()), deque[float]()) for name, rate in rates.items() if rate
        }
        self._clock = clock
        self._lock = threading.Lock()

    def keep(self, key: str, requests: int = 1) -> float | None:
        """Counts requests of a key: None, or the seconds until they fit its rate, and then none of them is counted."""
        if key not in self._windows:
            return None
        amount, seconds, taken = self._windows[key]
        with self._lock:
            now = self._clock()
            while taken and taken[0] <= now - seconds:
                taken.popleft()
            over = len(taken) + requests - amount
            if over <= 0:
                taken.extend([now] * requests)
                return None
            # They fit once so many of the oldest have left; more than the rate allows at all wait for an empty window.
            return taken[min(over, len(taken)) - 1] + seconds - now if taken else seconds
