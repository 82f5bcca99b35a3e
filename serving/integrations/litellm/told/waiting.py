"""Rows that wait in a process's memory to be written: thumbs apart from all others, each kind within bounds of its own."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from serving.integrations.litellm.told.spool_rows import Kept
from serving.integrations.litellm.told.tally import Tally

MOST_ROWS, MOST_BYTES = 10_000, 16 * 2**20
MOST_THUMBS, MOST_BYTES_OF_THUMBS = 1_000, 2**20


class Load:
    """How many rows there are, and how long their bodies are together, of thumbs and of others."""

    def __init__(self) -> None:
        self._rows: Counter[bool] = Counter()
        self._bytes: Counter[bool] = Counter()

    def add(self, rows: Sequence[Kept], times: int = 1) -> None:
        """Counts rows in; `times` -1 counts them out."""
        for row in rows:
            self._rows[row.thumb is not None] += times
            self._bytes[row.thumb is not None] += times * len(row.body)

    def is_full(self, *, thumbs: bool) -> bool:
        """Whether the kind is at one of its bounds."""
        rows, size = (MOST_THUMBS, MOST_BYTES_OF_THUMBS) if thumbs else (MOST_ROWS, MOST_BYTES)
        return self._rows[thumbs] >= rows or self._bytes[thumbs] >= size

    def is_above(self, *, thumbs: bool) -> bool:
        """Whether the kind is above one of its bounds."""
        rows, size = (MOST_THUMBS, MOST_BYTES_OF_THUMBS) if thumbs else (MOST_ROWS, MOST_BYTES)
        return self._rows[thumbs] > rows or self._bytes[thumbs] > size


class Waiting:
    """The rows that could not be written, the oldest first. Above the bounds the oldest go: `lost`, or `thumbs_dropped`."""

    def __init__(self, counts: Tally) -> None:
        self._counts = counts
        self._others: deque[Kept] = deque()
        self._thumbs: deque[Kept] = deque()
        self._load = Load()

    def __len__(self) -> int:
        """How many there are, without thumbs."""
        return len(self._others)

    def __bool__(self) -> bool:
        return bool(self._others or self._thumbs)

    def all(self) -> list[Kept]:
        return [*self._others, *self._thumbs]

    def hold(self, rows: Sequence[Kept]) -> None:
        for row in rows:
            (self._others if row.thumb is None else self._thumbs).append(row)
        self._load.add(rows)
        for held, thumbs, what in ((self._others, False, "lost"), (self._thumbs, True, "thumbs_dropped")):
            while held and self._load.is_above(thumbs=thumbs):
                self._load.add([held.popleft()], -1)
                self._counts.add(what)

    def clear(self) -> None:
        self._others.clear()
        self._thumbs.clear()
        self._load = Load()
