"""The line in which what is to be written waits, and what overtakes it: charges that somebody waits for."""

from __future__ import annotations

import queue
import threading
from collections import deque

from serving.store.transaction import Item

_MOST_AT_ONCE = 1000
# Decisions wait this long for others, in seconds, so that a busy service writes few transactions; feedback does not wait.
_LINGER = 0.2


class Line:
    """First come, first gathered, by one thread. Whoever puts something in holds a lock: nothing comes behind the end."""

    def __init__(self) -> None:
        self.ended = False  # whether the end was gathered
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._first: deque[Item] = deque()
        self._hurry = threading.Event()

    def __len__(self) -> int:
        return self._queue.qsize()

    def put(self, item: Item) -> None:
        """Adds one; a charge that somebody waits for is in front, too."""
        if _overtakes(item):
            self._first.append(item)
        self._queue.put(item)

    def end(self) -> None:
        self._queue.put(None)

    def hurry(self) -> None:
        """Has what waits gathered now: somebody waits for it."""
        self._hurry.set()

    def first(self) -> list[Item]:
        """The charges that somebody waits for, however many others came before."""
        return [self._first.popleft() for _ in range(len(self._first))]

    def gather(self, seconds: float | None) -> list[Item]:
        """What else waits, once there is something; nothing after so many seconds, and at the end."""
        try:
            item = self._queue.get(timeout=seconds)
        except queue.Empty:
            return []
        if item is not None and item.done is None:
            self._hurry.wait(_LINGER)
        self._hurry.clear()
        return self._and_others([item])

    def at_hand(self) -> list[Item]:
        """The same without waiting for it."""
        return self._and_others([])

    def _and_others(self, items: list[Item | None]) -> list[Item]:
        while len(items) < _MOST_AT_ONCE:
            try:
                items.append(self._queue.get_nowait())
            except queue.Empty:
                break
        self.ended = self.ended or None in items
        return [one for one in items if one is not None and not _overtakes(one)]


def _overtakes(item: Item) -> bool:
    return item.charge is not None and item.done is not None
