"""One thread looks for all who watch, and for nobody while nobody does."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from fastapi import FastAPI

from serving.api.app import create_app
from serving.api.views.live import events
from serving.api.views.live.feed import LiveFeed
from serving.api.views.live.figures import Figures
from serving.runtime.pipeline import Service
from serving.settings import Settings
from tests import fake_bundle
from tests.patience import PATIENCE, until
from tests.serving.api.views.rules import get, serving

Message = MutableMapping[str, Any]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture
def service(bundle: Path, tmp_path: Path) -> Iterator[Service]:
    settings = Settings(bundle=str(bundle), store=str(tmp_path / "decisions.db"), live_seconds=0.2, live_streams=8)
    made = Service(settings)
    yield made
    made.close()


@contextmanager
def statements(service: Service) -> Iterator[list[str]]:
    """What the store is asked in the block."""
    assert service.store is not None
    asked: list[str] = []

    def note(*arguments: Any) -> None:
        asked.append(arguments[2])

    sa.event.listen(service.store.engine, "before_cursor_execute", note)
    try:
        yield asked
    finally:
        sa.event.remove(service.store.engine, "before_cursor_execute", note)


async def gone(feed: LiveFeed) -> None:
    async with asyncio.timeout(PATIENCE):
        while feed.looking:
            await asyncio.sleep(0.02)


async def quiet(service: Service) -> None:
    """Waits until nothing is asked for longer than from one look to the next; an account that was begun may end."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with statements(service) as asked:
                await asyncio.sleep(1.5)
            if not asked:
                return


def test_nothing_is_asked_while_nobody_watches(service: Service) -> None:
    async def run() -> None:
        feed = LiveFeed(service)
        with statements(service) as asked:
            await asyncio.sleep(0.5)
            assert (asked, feed.looking) == ([], False)
        stream = feed.join(None)
        assert stream is not None
        assert feed.looking
        assert await stream.next(PATIENCE) is not None
        feed.leave(stream)
        await gone(feed)
        await quiet(service)
        again = feed.join(None)  # another thread takes over
        assert again is not None
        assert await again.next(PATIENCE) is not None
        feed.close()
        await gone(feed)

    asyncio.run(run())


def test_all_who_watch_get_the_same_looks(service: Service) -> None:
    async def run() -> None:
        feed = LiveFeed(service)
        streams = [feed.join(None, f"192.0.2.{number}") for number in range(8)]
        assert feed.join(None, "192.0.2.9") is None
        for _ in range(3):
            events = {await stream.next(PATIENCE) for stream in streams if stream is not None}
            assert len(events) <= 2  # one joined while the first was looked for, perhaps
        with statements(service) as asked:
            seen = set()
            while len(seen) < 3:
                seen |= {await stream.next(PATIENCE) for stream in streams if stream is not None}
        assert len(asked) < 8 * 3 * 5  # were each of them to be asked for, it would be more than five each
        feed.close()
        await gone(feed)

    asyncio.run(run())


def test_one_address_or_key_leaves_room_for_the_others(service: Service) -> None:
    async def run() -> None:
        feed = LiveFeed(service)  # of 8 streams
        admins = [feed.join(None, "192.0.2.1") for _ in range(3)]
        apps = [feed.join("app", f"192.0.2.{number}") for number in range(3)]
        for streams in (admins, apps):
            assert [one is None for one in streams] == [False, False, True]
        assert feed.join(None, "192.0.2.2") is not None
        assert feed.join("other", "192.0.2.1") is not None, "a key's streams are not its address's"
        assert admins[0] is not None
        feed.leave(admins[0])
        assert feed.join(None, "192.0.2.1") is not None
        feed.close()
        await gone(feed)

    asyncio.run(run())


def test_who_looks_without_end_asks_the_store_no_oftener(bundle: Path, tmp_path: Path) -> None:
    made = Service(Settings(bundle=str(bundle), store=str(tmp_path / "decisions.db"), live_seconds=3_600.0))
    figures = Figures(made)
    until(lambda: figures.snapshot("app")["note"] is None, "everything is summed")
    figures.volume("app")
    with statements(made) as asked:
        for _ in range(200):
            figures.snapshot("app")
            figures.volume("app")
    made.close()
    assert asked == []


def test_a_slow_one_gets_the_newest_and_misses_those_between(service: Service) -> None:
    async def run() -> None:
        feed = LiveFeed(service)
        stream = feed.join(None)
        assert stream is not None
        first = await stream.next(PATIENCE)
        quick = feed.join(None)
        assert quick is not None
        for _ in range(4):
            assert await quick.next(PATIENCE) is not None
        second = await stream.next(PATIENCE)
        assert first is not None
        assert second is not None
        assert number(second) > number(first) + 1
        feed.close()

    asyncio.run(run())


def number(event: bytes) -> int:
    return int(event.split(b"\nid: ")[1].split(b"\n")[0])


def test_a_closed_feed_ends_its_streams_and_takes_no_other(service: Service) -> None:
    async def run() -> None:
        feed = LiveFeed(service)
        stream = feed.join("app")
        assert stream is not None
        feed.close("Enough.")
        await asyncio.sleep(0)
        assert await stream.next(PATIENCE) is None
        assert (stream.ended, feed.join("app")) == ("Enough.", None)
        await gone(feed)

    asyncio.run(run())


# --- the endpoint as an ASGI application, for clients that behave oddly ---


@asynccontextmanager
async def started(bundle: Path, folder: Path, **settings: Any) -> AsyncIterator[FastAPI]:
    app = create_app(Settings(bundle=str(bundle), store=str(folder / "decisions.db"), **settings))
    async with app.router.lifespan_context(app):
        yield app


def scope_of(app: FastAPI, stopping: asyncio.Event | None = None) -> dict[str, Any]:
    asked = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET"}
    where = {"scheme": "http", "path": "/v1/live", "raw_path": b"/v1/live", "root_path": "", "query_string": b""}
    who = {"headers": [], "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}
    return {**asked, **where, **who, "extensions": {} if stopping is None else {events.STOPPING: stopping}}


class Client:
    """Stays until `leaves` is set; `sent` is what it was sent, and after `takes` messages it takes no other."""

    def __init__(self, takes: int = 1_000) -> None:
        self.sent: list[bytes] = []
        self.leaves = asyncio.Event()
        self._takes = takes
        self._begun = False

    async def receive(self) -> Message:
        if not self._begun:
            self._begun = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if len(self.sent) >= self._takes:
            await asyncio.Event().wait()
        self.sent.append(message.get("body", b""))

    async def until(self, part: bytes) -> None:
        async with asyncio.timeout(PATIENCE):
            while part not in b"".join(self.sent):
                await asyncio.sleep(0.01)


def test_who_takes_nothing_loses_its_place(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_SEND_SECONDS", 0.1)

    async def run() -> None:
        async with started(bundle, tmp_path, live_streams=1) as app:
            client = Client(takes=2)
            async with asyncio.timeout(PATIENCE):
                await app(scope_of(app), client.receive, client.send)
            assert app.state.live.watching == 0

    asyncio.run(run())


def test_who_leaves_gives_its_place_back(bundle: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with started(bundle, tmp_path, live_streams=1) as app:
            client = Client()
            answering = asyncio.create_task(app(scope_of(app), client.receive, client.send))
            await client.until(b"event: snapshot")
            assert app.state.live.watching == 1
            client.leaves.set()
            async with asyncio.timeout(PATIENCE):
                await answering
            assert app.state.live.watching == 0
            await gone(app.state.live)

    asyncio.run(run())


def test_a_beat_is_sent_where_there_is_nothing_else(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "BEAT_SECONDS", 0.05)

    async def run() -> None:
        async with started(bundle, tmp_path, live_seconds=3_600.0) as app:
            client, stopping = Client(), asyncio.Event()
            answering = asyncio.create_task(app(scope_of(app, stopping), client.receive, client.send))
            await client.until(b"event: snapshot")
            await client.until(b": beat\n\n")
            stopping.set()
            async with asyncio.timeout(PATIENCE):
                await answering
            assert client.sent[-2:] == [b'event: end\ndata: {"why":"The service is being stopped."}\n\n', b""]

    asyncio.run(run())


def test_without_a_server_that_tells_of_it_the_end_of_the_application_ends_streams(
    bundle: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        client = Client()
        async with started(bundle, tmp_path) as app:
            answering = asyncio.create_task(app(scope_of(app), client.receive, client.send))
            await client.until(b"event: snapshot")
        async with asyncio.timeout(PATIENCE):
            await answering
        assert b"event: end" in client.sent[-2]

    asyncio.run(run())


def test_a_store_that_cannot_be_read_is_said(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, rules="", live_seconds=0.2) as client:
        assert get(client, "/v1/live/snapshot")["total_decisions"] == 0
        with sqlite3.connect(tmp_path / "decisions.db") as connection:
            connection.execute("alter table feedback rename to elsewhere")
        answer = client.get("/v1/live/snapshot")
        while answer.status_code == 200:  # what was found before is still told for a moment
            answer = client.get("/v1/live/snapshot")
        assert (answer.status_code, answer.json()["detail"]) == (503, "The store cannot be read now.")

        async def run() -> None:
            feed = LiveFeed(client.app.state.service)  # type: ignore[attr-defined]
            stream = feed.join(None)
            assert stream is not None
            event = await stream.next(PATIENCE)
            assert event is not None
            kind, _, data = event.decode().strip().split("\n")
            assert (kind, json.loads(data.removeprefix("data: "))) == (
                "event: fault",
                {"why": "The store cannot be read now."},
            )
            feed.close()

        asyncio.run(run())
