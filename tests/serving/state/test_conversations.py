"""Conversations: which a request belongs to, what it may have cached, and what processes tell each other of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from serving.bundle.catalogue import Candidate
from serving.bundle.request import RouteRequest, read
from serving.settings import Settings
from serving.state.conversations import CACHE_SECONDS, Conversations
from serving.store.engine import open_engine
from serving.store.tables import SESSIONS
from serving.store.writer import DecisionStore
from tests.patience import until
from tests.postgres_server import needs_postgres, own_database

CANDIDATES = (Candidate(name="a"), Candidate(name="b", cache_seconds=10.0), Candidate(name="c"))
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
LATER = [*TURNS, {"role": "assistant", "content": "hi"}, {"role": "user", "content": "and now?"}]


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DecisionStore]:
    made = DecisionStore(open_engine(str(tmp_path / "decisions.db")))
    yield made
    made.close()


def made(store: DecisionStore | None = None, clock: Clock | None = None, **settings: Any) -> Conversations:
    return Conversations(Settings(**{"hash_secret": "s", "workers": 2, **settings}), store, clock or Clock())


def written(store: DecisionStore) -> int:
    with store.engine.connect() as connection:
        return int(connection.scalar(select(func.count()).select_from(SESSIONS)) or 0)


def test_a_conversation_is_of_one_key_and_has_an_id_if_it_may() -> None:
    known = made()
    named, unnamed = RouteRequest("hello", session_id="s"), RouteRequest(messages=LATER)
    ids = [known.id_of(one, key, private=False) for one in (named, unnamed) for key in (None, "bot", "other")]
    assert len(set(ids)) == 6
    assert None not in ids
    assert known.id_of(named, "bot", private=True) == ids[1]
    assert known.id_of(unnamed, "bot", private=True) is None
    assert known.id_of(RouteRequest("hello"), "bot", private=False) is None
    assert made(derived_sessions=False).id_of(unnamed, "bot", private=False) is None
    assert made(hash_secret="another").id_of(unnamed, "bot", private=False) != ids[4]


def test_what_is_cached_is_what_is_common_while_the_cache_lives() -> None:
    clock = Clock()
    known = made(clock=clock)
    begins, goes_on = read(RouteRequest(messages=TURNS)), read(RouteRequest(messages=LATER))
    known.went("id", begins.data, "a", private=False)
    known.went("id", begins.data, "b", private=False)
    known.went("id", begins.data, "gone", private=False)
    common = goes_on.counted * len(begins.data) / len(goes_on.data)
    before = known.before("id", goes_on, CANDIDATES)
    assert before.candidate == "gone"
    assert before.cached == pytest.approx({"a": common, "b": common})
    clock.now += 11.0
    assert known.before("id", goes_on, CANDIDATES).cached == pytest.approx({"a": common})
    clock.now += CACHE_SECONDS
    assert known.before("id", goes_on, CANDIDATES).cached == {}
    assert known.before("id", begins, CANDIDATES).candidate is None, "it only begins"
    assert known.before("id", read(RouteRequest("x", session_id="s")), CANDIDATES).candidate == "gone"


def test_the_others_hear_of_it_and_not_how_a_private_prompt_begins(store: DecisionStore) -> None:
    clock = Clock()
    one, other = made(store, clock), made(store, clock)
    goes_on = read(RouteRequest(messages=LATER))
    one.went("open", goes_on.data, "a", private=False)
    one.went("private", goes_on.data, "b", private=True)
    until(lambda: written(store) == 2)
    other.hear()
    heard = other.before("open", goes_on, CANDIDATES)
    assert (heard.candidate, heard.cached) == ("a", pytest.approx({"a": goes_on.counted}))
    heard = other.before("private", goes_on, CANDIDATES)
    assert (heard.candidate, heard.cached) == ("b", {"b": 0.0})
    one.hear()
    assert one.before("private", goes_on, CANDIDATES).cached == pytest.approx({"b": goes_on.counted}), (
        "it knows its own better"
    )
    clock.now += 1.0
    other.went("open", goes_on.data, "c", private=False)
    until(lambda: written(store) == 2 and (one.hear() or one.before("open", goes_on, CANDIDATES).candidate == "c"))


def test_what_nobody_remembers_is_deleted(store: DecisionStore) -> None:
    clock = Clock()
    known = made(store, clock, session_seconds=100.0)
    known.went("old", b"hello", "a", private=False)
    until(lambda: written(store) == 1)
    clock.now += 601.0
    known.went("new", b"hello", "a", private=False)
    until(lambda: written(store) == 2)
    known.hear()
    assert written(store) == 1


def test_one_process_on_a_file_tells_nobody(store: DecisionStore) -> None:
    known = made(store, workers=1)
    known.went("id", b"hello", "a", private=False)
    known.hear()
    assert not known.shared
    assert (store.waiting, written(store)) == (0, 0)


# --- of several replicas on one PostgreSQL ---


@pytest.fixture
def stores(postgres: str) -> Iterator[list[DecisionStore]]:
    url = own_database(postgres)
    known = [DecisionStore(open_engine(url)) for _ in range(2)]
    yield known
    for one in known:
        one.close()


@needs_postgres
def test_a_turn_after_the_answer_to_the_one_before_is_known_to_another_replica(stores: list[DecisionStore]) -> None:
    ahead, behind = Clock(), Clock()
    ahead.now += 60.0
    first, second = (
        made(store, clock, workers=1, session_wait_ms=60_000)
        for store, clock in zip(stores, (ahead, behind), strict=True)
    )
    request = read(RouteRequest(messages=LATER))
    name = first.id_of(request.request, None, private=False)
    assert name is not None
    assert first.tells(name)
    for turn in range(20):
        here, there = (first, second) if turn % 2 else (second, first)
        here.went(name, request.data, f"a{turn}", private=False)
        here.settle()
        there.look_up([(name, request.request), (None, request.request)])
        assert there.before(name, request, CANDIDATES).candidate == f"a{turn}", "whoever's clock is ahead"
    first.close()
    second.close()


@needs_postgres
def test_who_need_not_be_asked_is_not(stores: list[DecisionStore]) -> None:
    known = made(stores[0], workers=1, session_wait_ms=60_000)
    begins = RouteRequest(messages=TURNS)
    stores[0].engine.dispose()
    known.look_up([("s", begins), (None, RouteRequest("hello"))])  # it begins here, or is no conversation
    assert not known.tells(None)
    assert not made(stores[0], workers=1, session_wait_ms=0).tells("s")
    assert not made(None).tells("s")
    known.close()


@needs_postgres
def test_a_store_that_fails_is_no_reason_to_wait(stores: list[DecisionStore]) -> None:
    known = made(stores[0], workers=1, session_wait_ms=60_000)
    with stores[0].engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE session")
    request = read(RouteRequest(messages=LATER))
    known.went("s", request.data, "a", private=False)
    known.settle()
    known.look_up([("s", request.request)])
    assert known.before("s", request, CANDIDATES).candidate == "a"
    known.close()
