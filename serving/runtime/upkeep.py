"""What is done again and again beside the requests."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from sqlalchemy.exc import OperationalError

logger = logging.getLogger(__name__)

_LONGEST_STOP = 5.0


class Periodic:
    """Does its tasks every so many seconds, in a thread of its own, until `stop`.

    A task that fails is logged; the others have their turn all the same, and it has its next one.
    """

    def __init__(self, name: str, seconds: float, *tasks: Callable[[], object]) -> None:
        self._seconds = seconds
        self._tasks = tasks
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.wait(self._seconds):
            for task in self._tasks:
                try:
                    task()
                except OperationalError as error:  # the store is away, which needs no line of the code
                    kind = type(error.orig or error).__name__
                    logger.warning("%s: the store was away in a turn (%s)", self._thread.name, kind)
                except Exception:  # the next turn may succeed, and nobody else would take it
                    logger.exception("%s: a turn failed", self._thread.name)

    def stop(self) -> None:
        """Ends the thread; waits at most 5 seconds for what is being done."""
        self._stop.set()
        self._thread.join(_LONGEST_STOP)
