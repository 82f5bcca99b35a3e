"""What is done again and again beside the requests, and what budgets take from the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime

from sqlalchemy import Engine

from serving.state.budgets import Budgets, Period, bounds
from serving.store.queries import open_since, spent_since

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
                except Exception:  # the next turn may succeed, and nobody else would take it
                    logger.exception("%s: a turn failed", self._thread.name)

    def stop(self) -> None:
        """Ends the thread; waits at most 5 seconds for what is being done."""
        self._stop.set()
        self._thread.join(_LONGEST_STOP)


def restore_budgets(budgets: Budgets, engine: Engine) -> None:
    """Takes from the store what decisions made before this process have spent, and holds what has no feedback yet."""
    budgets.restore(open_since(engine, budgets.clock() - budgets.release_after))
    refresh_budgets(budgets, engine)


def refresh_budgets(budgets: Budgets, engine: Engine) -> None:
    """Takes what was spent from the store. Between two times a worker does not see what the others spend."""
    now = budgets.clock()
    periods: tuple[Period, ...] = ("day", "month")
    for period in periods:
        begins, _ = bounds(period, datetime.fromtimestamp(now, UTC))
        budgets.load(spent_since(engine, begins.timestamp(), now - budgets.release_after), period)
