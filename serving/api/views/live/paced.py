"""Figures that are asked for again and again, and looked up no oftener than is good for who has to find them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# So many times as long as it took passes before it is looked up again: watching takes a twentieth of a processor at most.
_REST = 20.0
_LONGEST = 600.0
_IDLE_SECONDS = 60.0


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
        found = self.known()
        assert found is not None
        return found

    def known(self) -> T | None:
        """What was found last, None before there is anything."""
        known = self._known
        if isinstance(known, Exception):
            raise known.with_traceback(None)
        return known

    @property
    def due(self) -> bool:
        """Whether `value` would find it anew."""
        return self._clock() >= self._again


class Behind(Generic[T]):
    """The same, found in a `Worker`'s thread: who asks soon after it was begun waits a moment, the others do not.

    Until it is found they get what was known before, or None.
    """

    def __init__(self, paced: Paced[T], worker: Worker) -> None:
        self._paced, self._worker = paced, worker
        self._lock = threading.Lock()
        self._coming: Future[T] | None = None
        self._begun = 0.0

    def value(self, seconds: float) -> T | None:
        """What is known `seconds` after it was begun to be found anew, or now where that is later."""
        with self._lock:
            if self._coming is None or self._coming.done():
                if not self._paced.due:
                    return self._paced.known()
                self._coming, self._begun = self._worker.does(self._paced.value), time.monotonic()
            coming, left = self._coming, self._begun + seconds - time.monotonic()
        wait([coming], max(left, 0.0))
        return coming.result() if coming.done() else self._paced.known()


class Worker:
    """A thread that does one thing after another, and ends where there was nothing for a minute.

    A process that ends does not wait for it.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def does(self, find: Callable[[], T]) -> Future[T]:
        """Has it done, after what was asked for before."""
        done: Future[T] = Future()
        with self._lock:
            self._queue.put((find, done))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
        return done

    def _work(self) -> None:
        while True:
            try:
                find, done = self._queue.get(timeout=_IDLE_SECONDS)
            except queue.Empty:
                with self._lock:
                    if self._queue.empty():
                        self._thread = None
                        return
                continue
            try:
                done.set_result(find())
            except Exception as error:  # noqa: BLE001 - who asked is told
                done.set_exception(error)
