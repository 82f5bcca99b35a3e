"""Calls with an Idempotency-Key: one decision and the same bytes, however often and whoever asks; and a store that is away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.runtime.pipeline import Service
from serving.settings import Settings
from serving.state import replays as module
from serving.state.replays import Asker, AwayError, Call, OtherBodyError, Replays, UnderWayError
from serving.state.rulebook import digest_of
from serving.store.engine import open_engine
from serving.store.tables import CHARGES, DECISIONS, REPLAYS
from tests import fake_bundle
from tests.patience import PATIENCE, until
from tests.postgres_server import needs_postgres, own_database

SECONDS, WAIT = 600.0, 0.4


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    url = str(tmp_path / "d.db")
    if request.param == "postgresql":
        url = own_database(request.getfixturevalue("postgres"))
    made = open_engine(url)
    yield made
    made.dispose()


@pytest.fixture
def made(engine: sa.Engine) -> Iterator[Callable[..., Replays]]:
    known: list[Replays] = []

    def make(clock: Clock | None = None, wait: float = PATIENCE) -> Replays:
        known.append(Replays(engine, SECONDS, wait, clock or Clock()))
        return known[-1]

    yield make
    for one in known:
        one.close()


class Decided:
    """What decides; counts how often it did."""

    def __init__(self, error: Exception | None = None, *, kept: bool = True) -> None:
        self.calls: list[Call | None] = []
        self._error, self._kept = error, kept

    async def __call__(self, call: Call | None) -> tuple[bytes, bool]:
        self.calls.append(call)
        if self._error is not None:
            raise self._error
        return b"answer %d" % len(self.calls), self._kept


def once(
    replays: Replays,
    make: Decided,
    header: str = "k",
    body: bytes = b"{}",
    caller: str | None = None,
    path: str = "/v1/route",
) -> bytes:
    return asyncio.run(replays.once(caller, header, path, body, make))


def rows(engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(REPLAYS)) or 0)


def test_the_same_call_is_decided_once_and_answered_by_the_same_bytes(made: Callable[..., Replays]) -> None:
    first, second, make = made(), made(), Decided()  # two replicas
    assert [once(one, make) for one in (first, second, first)] == [b"answer 1"] * 3
    with pytest.raises(OtherBodyError):
        once(second, make, body=b"[]")
    with pytest.raises(OtherBodyError):
        once(second, make, path="/v1/route/batch")
    assert [once(first, make, header="l"), once(first, make, caller="bot")] == [b"answer 2", b"answer 3"]
    assert len(make.calls) == 3


def test_a_refusal_and_what_decides_nothing_are_not_kept(made: Callable[..., Replays], engine: sa.Engine) -> None:
    replays, tried = made(), Decided(kept=False)
    with pytest.raises(ValueError, match="refused"):
        once(replays, Decided(ValueError("refused")))
    assert rows(engine) == 0
    assert [once(replays, tried), once(replays, tried)] == [b"answer 1", b"answer 2"]
    assert rows(engine) == 0


def test_one_that_is_under_way_is_waited_for(made: Callable[..., Replays]) -> None:
    first, second = made(), made()
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Call | None) -> tuple[bytes, bool]:
        begun.set()
        await go.wait()
        return b"slow", True

    async def ask() -> list[bytes]:
        one = asyncio.create_task(first.once(None, "k", "/v1/route", b"{}", slow))
        await begun.wait()
        other = asyncio.create_task(second.once(None, "k", "/v1/route", b"{}", Decided()))
        await asyncio.sleep(0.1)
        assert not other.done()
        go.set()
        return [await one, await other]

    assert asyncio.run(ask()) == [b"slow", b"slow"]


def test_one_that_was_killed_is_decided_by_another_under_the_same_id(made: Callable[..., Replays]) -> None:
    clock, calls = Clock(), []

    async def killed(call: Call | None) -> tuple[bytes, bool]:
        calls.append(call)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(made(clock).once(None, "k", "/v1/route", b"{}", killed))
    late, make = made(clock, WAIT), Decided()
    with pytest.raises(UnderWayError):
        once(late, make)
    clock.now += 4 * WAIT
    assert once(late, make) == b"answer 1"
    assert calls[0].named() == make.calls[0].named()  # type: ignore[union-attr]
    assert calls[0].named(1) != calls[0].named()  # type: ignore[union-attr]


def test_what_is_too_old_is_decided_anew_and_deleted(
    made: Callable[..., Replays], engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, make = Clock(), Decided()
    replays = made(clock)
    assert [once(replays, make), once(replays, make, header="l")] == [b"answer 1", b"answer 2"]
    clock.now += SECONDS
    assert once(replays, make, body=b"another") == b"answer 3"
    monkeypatch.setattr(module, "_PRUNE_SECONDS", 0.0)
    clock.now += 1.0
    replays.prune()
    assert rows(engine) == 1
    assert once(replays, make, body=b"another") == b"answer 3"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=12))
def test_in_any_order_and_at_once_each_key_has_one_answer(
    made: Callable[..., Replays], order: list[tuple[int, int]]
) -> None:
    salt = uuid4()
    replicas, make = [made() for _ in range(3)], Decided()

    async def ask() -> list[bytes]:
        return await asyncio.gather(
            *(replicas[who].once(None, f"{salt}{key}", "/v1/route", b"{}", make) for who, key in order)
        )

    came = asyncio.run(ask())
    answers = {key: {one for (_, k), one in zip(order, came, strict=True) if k == key} for _, key in order}
    assert all(len(one) == 1 for one in answers.values())
    assert len(make.calls) == len(answers)
    for one in replicas:
        one.close()


def test_where_the_store_is_away_every_call_is_decided(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = open_engine(str(tmp_path / "d.db"))
    replays, make = Replays(engine, SECONDS, WAIT, Clock()), Decided()
    with engine.connect() as connection:
        connection.exec_driver_sql("DROP TABLE replay")
        connection.commit()
    assert [once(replays, make), once(replays, make)] == [b"answer 1", b"answer 2"]
    assert make.calls == [None, None]
    assert [one for one in caplog.messages if "idempotency keys" in one]
    replays.close()
    engine.dispose()


def test_what_hangs_costs_one_wait_and_what_comes_late_is_taken_back() -> None:
    go, late = threading.Event(), list[int]()
    asker = Asker("it", 0.05)

    def hang() -> int:
        assert go.wait(PATIENCE)
        return 7

    async def ask() -> None:
        with pytest.raises(AwayError, match="TimeoutError"):
            await asker.answer(hang, late.append)

    asyncio.run(ask())
    assert asker.failing
    with pytest.raises(AwayError, match="a moment ago"):
        asker.ask(lambda: 1)
    go.set()
    until(lambda: late == [7])
    until(lambda: not asker.away)
    assert asker.ask(lambda: 1) == 1
    assert not asker.failing
    asker.close()


def test_who_waits_for_what_hangs_waits_no_longer_than_the_first(caplog: pytest.LogCaptureFixture) -> None:
    go, began = threading.Event(), threading.Event()
    asker = Asker("it", 0.3, threads=2)

    def hang() -> int:
        began.set()
        assert go.wait(PATIENCE)
        return 7

    async def ask() -> None:
        with pytest.raises(AwayError):
            await asker.answer(hang)

    async def all_of_them() -> None:
        first = asyncio.create_task(ask())
        await asyncio.sleep(0.2)
        asker.seconds = PATIENCE  # what the others would wait by themselves
        await asyncio.wait_for(asyncio.gather(first, *(ask() for _ in range(20))), PATIENCE / 2)

    asyncio.run(all_of_them())
    until(lambda: not asker.away)
    with ThreadPoolExecutor(1) as pool:
        began.clear()
        one = pool.submit(asker.ask, hang)
        until(lambda: len(asker._open) == 1)
        with pytest.raises(AwayError, match="a moment ago"):
            asker.ask(lambda: 1)  # one finds out whether it is back
        go.set()
        assert one.result(PATIENCE) == 7
    assert asker.ask(lambda: 1) == 1
    assert len(caplog.messages) == 1
    asker.close()


def test_what_came_while_the_event_loop_was_busy_has_come() -> None:
    asker = Asker("it", 0.05)

    async def busy() -> int:
        asked = asyncio.create_task(asker.answer(lambda: 7))
        await asyncio.sleep(0)
        time.sleep(0.5)
        return await asked

    assert asyncio.run(busy()) == 7
    assert not asker.failing
    asker.close()


# --- over HTTP ---


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture
def client(folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    rules = tmp_path / "policies.toml"
    budget = 'budget = { month_usd = 1.0, at_limit = "reject" }'
    keys = [f'[keys.{name}]\nsha256 = "{digest_of(name)}"\n{budget}\n' for name in ("one", "two")]
    rules.write_text("".join(keys))
    given = Settings(bundle=str(folder), store=str(tmp_path / "d.db"), policies=rules, reserve_wait_ms=60_000)
    with TestClient(create_app(given, Service(given))) as made:
        yield made


def post(client: TestClient, path: str, body: Any, header: str = "k", key: str = "one") -> Any:
    return client.post(path, json=body, headers={"idempotency-key": header, "authorization": f"Bearer {key}"})


def stored(client: TestClient, table: sa.Table) -> int:
    engine = client.app.state.service.store.engine  # type: ignore[attr-defined]
    with engine.connect() as connection:
        return int(connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


@pytest.mark.parametrize(
    ("path", "body", "decisions"),
    [
        ("/v1/route", {"prompt": "hello"}, 1),
        ("/v1/route", {"prompt": "hello " * 8000}, 1),  # in a thread of its own
        ("/v1/route", {"prompt": "hello", "explain": True}, 1),
        ("/v1/route/batch", {"requests": [{"prompt": "hello"}, {"prompt": "prove"}]}, 2),
    ],
)
def test_a_call_that_is_sent_again_is_one_decision_and_one_charge(
    client: TestClient, path: str, body: Any, decisions: int
) -> None:
    first, again = post(client, path, body), post(client, path, body)
    assert (first.status_code, again.content) == (200, first.content)
    assert stored(client, CHARGES) == decisions
    until(lambda: stored(client, DECISIONS) == decisions)
    other = post(client, path, {**body, "more": 1})
    assert (other.status_code, other.json()["type"]) == (409, "urn:outcome-router:idempotency-conflict")
    elsewhere = post(client, "/v1/route" if path.endswith("batch") else "/v1/route/batch", body)
    assert (elsewhere.status_code, elsewhere.json()["type"]) == (409, "urn:outcome-router:idempotency-conflict")
    mine = post(client, path, body, key="two")
    assert (mine.status_code, mine.content == first.content) == (200, False)
    assert stored(client, CHARGES) == 2 * decisions


def test_without_the_header_and_for_a_dry_run_nothing_is_kept(client: TestClient) -> None:
    headers = {"authorization": "Bearer one"}
    ids = {client.post("/v1/route", json={"prompt": "hello"}, headers=headers).json()["id"] for _ in range(2)}
    assert len(ids) == 2
    assert post(client, "/v1/route", {"prompt": "hello", "dry_run": True}).status_code == 200
    assert post(client, "/v1/route", {"prompt": 3}).status_code == 422
    assert stored(client, REPLAYS) == 0


def test_a_key_that_is_too_long_is_refused(client: TestClient) -> None:
    assert post(client, "/v1/route", {"prompt": "hello"}, header="k" * 255).status_code == 200
    refused = post(client, "/v1/route", {"prompt": "hello"}, header="k" * 256)
    assert refused.status_code == 422
    [error] = refused.json()["errors"]
    assert error == {"field": "Idempotency-Key", "message": "it has 256 characters, expected 1 to 255"}


def test_one_that_hangs_is_told_to_come_again(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    assert service.replays is not None
    call = Call.of("one", "k", "/v1/route", b'{"prompt":"hello"}')
    row = {"id": call.id, "at": time.time() + 3600, "body_hash": call.body, "answer": None, "status": None}
    with service.store.engine.begin() as connection:  # type: ignore[union-attr]
        connection.execute(REPLAYS.insert(), row)
    monkeypatch.setattr(service.replays._asker, "seconds", 0.1)
    headers = {"idempotency-key": "k", "authorization": "Bearer one"}
    answer = client.post("/v1/route", content=b'{"prompt":"hello"}', headers=headers)
    assert (answer.status_code, answer.headers["retry-after"]) == (409, "1")
    assert answer.json()["type"] == "urn:outcome-router:idempotency-under-way"
