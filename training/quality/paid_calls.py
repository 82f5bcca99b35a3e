"""What paid calls to LLMs share: a ledger on disk, a pool that stops at a budget, waiting after faults, and giving up.

A call's worst case is committed to the ledger before it is made and settled after it; a call that would not fit is not made.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import tenacity

FAILURES_IN_A_ROW = 10
_LONGEST_WAIT_S, _LONGEST_TOLD_S = 60.0, 600.0

Progress = Callable[[int, int], None]
Item = TypeVar("Item")
Result = TypeVar("Result")


class Spending:
    """The ledger of what calls on one account (an LLM, or a plan) cost, in SQLite; every change is committed at once.

    Any thread may use it. `spent` counts what is not settled at the most that it can have cost.
    """

    def __init__(self, path: Path, account: str, *, timeout: float = 5.0) -> None:
        self._account, self._lock = account, threading.RLock()
        self._database = sqlite3.connect(path, timeout=timeout, check_same_thread=False)
        try:
            self._prepare()
            with self._database:
                self._database.execute(
                    "create table if not exists spending "
                    "(id integer primary key, model text not null, usd real not null, open integer not null)"
                )
            (spent,) = self._database.execute(
                "select coalesce(sum(usd), 0.0) from spending where open and model = ?", (account,)
            ).fetchone()
            self.spent = float(spent)
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        """What is asked of the database before anything is read."""
        self._database.execute("pragma journal_mode = wal")

    def reserve(self, usd: float) -> int:
        """Notes what a call costs at most before it is made; the entry's number."""
        with self._lock, self._database:
            return self._reserve(usd)

    def settle(self, entry: int, usd: float | None) -> None:
        """Notes what a call did cost; None: it is not known, the reservation stands."""
        with self._lock, self._database:
            self._settle(entry, usd)

    def close(self) -> None:
        with self._lock:
            self._database.close()

    def _reserve(self, usd: float) -> int:
        cursor = self._database.execute(
            "insert into spending (model, usd, open) values (?, ?, 1)", (self._account, usd)
        )
        self.spent += usd
        return int(cursor.lastrowid or 0)

    def _settle(self, entry: int, usd: float | None) -> None:
        if usd is not None:
            (reserved,) = self._database.execute("select usd from spending where id = ?", (entry,)).fetchone()
            self._database.execute("update spending set usd = ? where id = ?", (usd, entry))
            self.spent += usd - reserved


def run_calls(
    queue: deque[Item],
    parallel: int,
    begin: Callable[[Item], Callable[[], Result] | None],
    end: Callable[[Item, Result], None],
) -> None:
    """Makes calls in the queue's order, some at a time; what is left in the queue was not begun.

    `begin` gives an item's call once what it costs is reserved, None while it may not be made: it is asked again when a call
    under way has ended, and with none under way nothing more is begun. `end`, in the caller's thread, may queue an item again.
    """
    running: dict[Future[Result], Item] = {}
    with ThreadPoolExecutor(parallel) as pool:
        while queue or running:
            while queue and len(running) < parallel and (call := begin(queue[0])) is not None:
                running[pool.submit(call)] = queue.popleft()
            if not running:  # the next call does not fit, and nothing under way could give money back
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                end(running.pop(future), future.result())


class Streak:
    """Counts failures in a row, to tell when no call can be expected to succeed."""

    def __init__(self) -> None:
        self.failures = 0

    def note(self, succeeded: bool) -> bool:
        """Whether there were too many by now."""
        self.failures = 0 if succeeded else self.failures + 1
        return self.failures >= FAILURES_IN_A_ROW


def waits(wait_s: float, told: Callable[[tenacity.RetryCallState], float] | None = None) -> Any:
    """tenacity's wait before a further attempt: exponential, by chance, and not shorter than the server told (seconds)."""
    backing_off = tenacity.wait_random_exponential(multiplier=wait_s, max=_LONGEST_WAIT_S)

    def seconds(state: tenacity.RetryCallState) -> float:
        least = told(state) if told is not None else 0.0
        return max(backing_off(state), min(least, _LONGEST_TOLD_S))

    return seconds
