"""Which candidate a conversation is on, so that its prompt cache is used."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cachetools import TTLCache


@dataclass(frozen=True, slots=True)
class OnCandidate:
    """Where a session's last request went, and how many tokens of it that candidate may have cached."""

    candidate: str
    tokens: float


class Sessions:
    """The last candidate of each session, for `seconds` after it was last used; at most `most` sessions, the oldest go."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._known: TTLCache[str, OnCandidate] = TTLCache(most, seconds, clock)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, session: str) -> OnCandidate | None:
        with self._lock:
            found: OnCandidate | None = self._known.get(session)
            return found

    def put(self, session: str, on: OnCandidate) -> None:
        with self._lock:
            self._known[session] = on
