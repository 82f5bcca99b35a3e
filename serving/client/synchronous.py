"""The client for programs that do not await: the other one, on an event loop in a thread of its own.

Nothing else holds a limit of time in all: a socket's own is started anew by every byte, and a name is looked up without any.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from serving.client.answers import Route
from serving.client.asynchronous import AsyncRouterClient, Said

Result = TypeVar("Result")
_CLOSED = "this client is closed"


class RouterClient:
    """`AsyncRouterClient` without `await`; the same options, and the same promises. It may be used from several threads.

    `http` is an httpx.AsyncClient here too. After a fork the child begins anew, with a thread and connections of its own.
    """

    def __init__(
        self,
        url: str,
        *,
        fallback: str,
        api_key: str | None = None,
        timeout_seconds: float = 0.5,
        retry_after_seconds: float = 5.0,
        feedback_timeout_seconds: float = 15.0,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        def made() -> AsyncRouterClient:
            return AsyncRouterClient(
                url,
                fallback=fallback,
                api_key=api_key,
                timeout_seconds=timeout_seconds,
                retry_after_seconds=retry_after_seconds,
                feedback_timeout_seconds=feedback_timeout_seconds,
                http=http,
            )

        self._made = made
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._client = self._made()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    @property
    def fallback(self) -> str:
        """The LLM that answers where the router does not."""
        return self._client.fallback

    @property
    def is_open(self) -> bool:
        """Whether the router has failed and is not asked at present, except to see whether it is back."""
        return self._client.is_open

    def route(self, body: Mapping[str, Any] | str) -> Route:
        """As `AsyncRouterClient.route`."""
        return self._waited(lambda client: client.route(body))

    def feedback(self, said: Said) -> list[str | Mapping[str, Any]]:
        """As `AsyncRouterClient.feedback`."""
        return self._waited(lambda client: client.feedback(said))

    def close(self) -> None:
        """Closes the connections and ends the thread. Who still waits for an answer gets a RuntimeError."""
        if self._process != os.getpid():
            self._begin()
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
        if loop is not None:
            asyncio.run_coroutine_threadsafe(_end(self._client), loop).result()
            loop.call_soon_threadsafe(loop.stop)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _waited(self, work: Callable[[AsyncRouterClient], Coroutine[Any, Any, Result]]) -> Result:
        """What the work gives, on an event loop that is begun when it is first needed."""
        if self._process != os.getpid():
            self._begin()
        with self._lock:
            if self._closed:
                raise RuntimeError(_CLOSED)
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run, args=(self._loop,), name="router-client", daemon=True).start()
            future = asyncio.run_coroutine_threadsafe(work(self._client), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError(_CLOSED) from None
        except BaseException:
            future.cancel()  # who waited was interrupted: nothing goes on behind its back
            raise


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _end(client: AsyncRouterClient) -> None:
    """Gives up what is under way on this loop, and closes the connections."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await client.close()
