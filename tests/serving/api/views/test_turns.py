"""Few at a time, each key once, and nobody who has gone or at a stop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from fastapi import Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from serving.api.views.live.events import STOPPING
from serving.api.views.turns import Turns
from tests.patience import PATIENCE


class Asked:
    """A request, and what is found for it, which takes until it is let go or told to stop."""

    def __init__(self, stopping: asyncio.Event | None = None) -> None:
        self.began, self.stopped, self.go = threading.Event(), threading.Event(), threading.Event()
        self.leaves = asyncio.Event()
        extensions = {} if stopping is None else {STOPPING: stopping}
        self._request = Request({"type": "http", "headers": [], "extensions": extensions}, self._receive)

    def by(self, turns: Turns, key: str | None) -> asyncio.Task[str]:
        return asyncio.create_task(turns.ask(self._request, key, self._find, self._stop))

    async def until_began(self) -> None:
        assert await asyncio.to_thread(self.began.wait, PATIENCE)

    def _find(self) -> str:
        self.began.set()
        assert self.go.wait(PATIENCE)
        return "stopped" if self.stopped.is_set() else "found"

    def _stop(self) -> None:
        self.stopped.set()
        self.go.set()

    async def _receive(self) -> dict[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(PATIENCE):
            await test()

    asyncio.run(in_time())


async def status(task: asyncio.Task[str]) -> int:
    with pytest.raises(HTTPException) as refused:
        await task
    assert refused.value.headers is not None
    assert "Retry-After" in refused.value.headers
    return refused.value.status_code


def test_a_key_asks_once_at_a_time_and_the_others_are_not_kept_waiting() -> None:
    async def test() -> None:
        turns = Turns(2, 4)
        first, other = Asked(), Asked()
        one = first.by(turns, "app")
        await first.until_began()
        for _ in range(10):
            assert await status(Asked().by(turns, "app")) == 429
        two = other.by(turns, "other")
        await other.until_began()
        first.go.set()
        other.go.set()
        assert [await one, await two] == ["found", "found"]
        again = Asked()
        again.go.set()
        assert await again.by(turns, "app") == "found"

    run(test)


def test_so_many_wait_and_no_more() -> None:
    async def test() -> None:
        turns = Turns(1, 2)
        asked = [Asked() for _ in range(3)]
        tasks = [one.by(turns, None) for one in asked]
        await asked[0].until_began()
        assert await status(Asked().by(turns, None)) == 503
        for one in asked:
            one.go.set()
        assert [await one for one in tasks] == ["found"] * 3

    run(test)


def test_who_has_gone_takes_no_turn_and_what_is_found_for_it_is_stopped() -> None:
    async def test() -> None:
        turns = Turns(1, 2)
        asked = [Asked() for _ in range(3)]
        tasks = [one.by(turns, f"key {place}") for place, one in enumerate(asked)]
        await asked[0].until_began()
        for place in (1, 0):
            asked[place].leaves.set()
            with pytest.raises(ClientDisconnect):
                await tasks[place]
        await asked[2].until_began()
        assert asked[0].stopped.is_set()
        assert not asked[1].began.is_set()
        asked[2].go.set()
        assert await tasks[2] == "found"

    run(test)


def test_at_a_stop_all_are_refused() -> None:
    async def test() -> None:
        turns, stopping = Turns(1, 4), asyncio.Event()
        asked = [Asked(stopping) for _ in range(4)]
        tasks = [one.by(turns, None) for one in asked]
        await asked[0].until_began()
        stopping.set()
        assert [await status(one) for one in tasks] == [503] * 4
        assert [one.began.is_set() for one in asked] == [True, False, False, False]
        assert await status(Asked(stopping).by(turns, None)) == 503

    run(test)


def test_a_cancelled_request_gives_its_place_back_when_its_thread_has_ended() -> None:
    async def test() -> None:
        turns = Turns(1, 0)
        asked, later = Asked(), Asked()
        task = asked.by(turns, "app")
        await asked.until_began()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asked.stopped.is_set()
        later.go.set()
        while True:
            try:
                assert await later.by(turns, "app") == "found"
                break
            except HTTPException:
                await asyncio.sleep(0.01)

    run(test)
