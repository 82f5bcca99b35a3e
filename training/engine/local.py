"""The engine of one process: a thread for each part that is worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from training.engine.engine import Given, Part, Progress, Result, in_order, noted, place_of, silent


class LocalEngine:
    """Works on so many parts at a time, each with one thread; a single worker works in the thread that asks, part by part.

    Fits this small gain nothing from a second thread of their own, and much from a second one beside them.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    @property
    def folder(self) -> Path | None:
        return None

    def map(
        self,
        function: Callable[[Given, Part], Result],
        given: Given,
        parts: Sequence[Part],
        stage: str,
        progress: Progress = silent,
        *,
        name: Callable[[Part], str] = str,
        ahead: int | None = None,
    ) -> Iterator[Result]:
        """See `Engine.map`."""

        def worked(place: int) -> Result:
            try:
                return function(given, parts[place])
            except Exception as error:
                noted(error, place_of(stage, place, len(parts), name(parts[place])))
                raise

        def told(done: int) -> None:
            progress(stage, done, len(parts))

        if parts:
            told(0)
        if self.workers == 1:
            for place in range(len(parts)):
                found = worked(place)
                told(place + 1)
                yield found
            return
        with threadpool_limits(1), ThreadPoolExecutor(self.workers, initializer=_one_thread) as pool:
            try:
                yield from in_order(
                    len(parts),
                    lambda place: pool.submit(worked, place),
                    _first_done,
                    lambda future, _: future.result(),
                    told,
                    ahead,
                )
            finally:
                pool.shutdown(cancel_futures=True)


def _first_done(running: Iterable[Future[Any]]) -> Iterable[Future[Any]]:
    return wait(running, return_when=FIRST_COMPLETED).done


def _one_thread() -> None:
    threadpool_limits(1)  # OpenMP counts its threads by thread


# What a run without a cluster works with; and who has no use for a second thread.
HERE, ALONE = LocalEngine(2), LocalEngine(1)
