"""What takes long is found for few at a time, for each key once, and for nobody who has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serving.api.views.live.events import STOPPING

T = TypeVar("T")

# So long an answer waits, at a stop, for the thread that is told to end.
_END_SECONDS = 5.0
_LATER = {"Retry-After": "10"}


class Turns:
    """`at_once` threads find something, and `waiting` requests wait for their turn. All of it is the event loop's."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._most = at_once + waiting
        self._slots, self._threads = asyncio.Semaphore(at_once), CapacityLimiter(at_once)
        self._begun = 0
        self._keys: set[str] = set()

    async def ask(self, request: Request, key: str | None, find: Callable[[], T], stop: Callable[[], None]) -> T:
        """What `find` gives in a thread; `stop` has it end early, once the client has gone or the server stops.

        Raises HTTPException 429 where the key asks already (None: any number of times), 503 where too many wait or the server
        stops; ClientDisconnect where nobody waits for the answer any more.
        """
        if key is not None and key in self._keys:
            why = f"The key {key} asks for this already on this worker; ask again when that is answered."
            raise HTTPException(429, why, _LATER)
        if self._begun >= self._most:
            raise HTTPException(503, f"Too many ask for this at once: at most {self._most} on a worker.", _LATER)
        self._enter(key)
        running = asyncio.Event()
        work = asyncio.create_task(self._found(find, running))
        work.add_done_callback(lambda done: self._leave(key, done))
        ends = asyncio.create_task(_ends(request))
        try:
            await asyncio.wait({work, ends}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            stopping = ends.result()
            self._end(work, running, stop)
            if not stopping:
                raise ClientDisconnect
            await asyncio.wait({work}, timeout=_END_SECONDS)
            raise HTTPException(503, "The service is being stopped.", {"Retry-After": "1"})
        finally:
            ends.cancel()
            self._end(work, running, stop)

    async def _found(self, find: Callable[[], T], running: asyncio.Event) -> T:
        async with self._slots:
            running.set()
            return await to_thread.run_sync(find, limiter=self._threads)

    def _end(self, work: asyncio.Task[T], running: asyncio.Event, stop: Callable[[], None]) -> None:
        """A thread is told to end, and its place is taken until it has; who waits for one is just not waited for."""
        if work.done():
            return
        if running.is_set():
            stop()
        else:
            work.cancel()

    def _enter(self, key: str | None) -> None:
        self._begun += 1
        if key is not None:
            self._keys.add(key)

    def _leave(self, key: str | None, work: asyncio.Task[T]) -> None:
        self._begun -= 1
        if key is not None:
            self._keys.discard(key)
        if not work.cancelled():
            work.exception()  # who asked may have gone


async def _ends(request: Request) -> bool:
    """Returns when the client has gone, with False, or the server is about to stop, with True."""
    stopping: asyncio.Event | None = request.scope.get("extensions", {}).get(STOPPING)
    left = asyncio.create_task(_left(request))
    stops = asyncio.create_task((stopping or asyncio.Event()).wait())
    try:
        await asyncio.wait({left, stops}, return_when=asyncio.FIRST_COMPLETED)
        if left.done():
            left.result()  # a body perhaps that nobody asked for, and that is refused
        return not left.done()
    finally:
        left.cancel()
        stops.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
