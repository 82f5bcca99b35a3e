"""Figures that are asked for again and again, and looked up no oftener than is good for who has to find them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

# So many times as long as it took passes before it is looked up again: watching takes a twentieth of a processor at most.
_REST = 20.0
_LONGEST = 600.0


class Paced(Generic[T]):
    """What `find` gives, found anew at the earliest after `seconds`, and later where finding it takes long.

    Several threads that ask at once find it once. What `find` raises is raised for as long as a value would be given.
    """

    def __init__(self, find: Callable[[], T], seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._find, self._seconds, self._clock = find, seconds, clock
        self._lock = threading.Lock()
        self._again = float("-inf")
        self._known: T | Exception | None = None

    def value(self) -> T:
        """What is known, or what is found now."""
        with self._lock:
            started = self._clock()
            if started >= self._again:
                try:
                    self._known = self._find()
                except Exception as error:  # noqa: BLE001 - it is raised below
                    self._known = error
                ended = self._clock()
                self._again = ended + min(max(self._seconds, _REST * (ended - started)), _LONGEST)
            known = self._known
        if isinstance(known, Exception):
            raise known.with_traceback(None)
        return known  # type: ignore[return-value]
