"""What is written: what is acknowledged is on disk, and what cannot be written is said and counted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from serving.store.engine import open_engine
from serving.store.tables import DECISIONS, FEEDBACK
from serving.store.writer import DecisionStore, NotStoredError, StoreFullError
from tests.patience import PATIENCE, until
from tests.postgres_server import engine_of, needs_postgres, own_database
from tests.serving.store.rows import acknowledged, decision, feedback, stored

# --- facts, SQLite and PostgreSQL ---


def test_what_is_taken_is_stored_as_it_is(url: str, store: DecisionStore) -> None:
    row = decision(knob=2.5, cluster=3, tools=True, max_output_tokens=10**9, session_id="s", messages='[{"a": 1}]')
    assert store.decided(row)
    said = feedback(cost_usd=0.25, input_tokens=10**12, latency_ms=7.5, candidate="acme/large", at=101.0)
    assert acknowledged(store, said) == [True]
    assert dict(stored(url, DECISIONS)[0]) == row
    assert dict(stored(url, FEEDBACK)[0]) == said
    until(lambda: store.written == 2)


def test_feedback_is_acknowledged_once_and_the_first_counts(url: str, store: DecisionStore) -> None:
    assert acknowledged(store, feedback(quality=1.0), feedback(quality=0.0), feedback("d2")) == [True, False, True]
    assert acknowledged(store, feedback(quality=0.5), feedback("d3")) == [False, True]
    assert [(row["decision_id"], row["quality"]) for row in stored(url, FEEDBACK)] == [
        ("d1", 1.0), ("d2", 1.0), ("d3", 1.0),
    ]  # fmt: skip


def test_two_stores_on_one_database_agree_on_what_is_new(url: str, store: DecisionStore) -> None:
    other = DecisionStore(open_engine(url))
    with ThreadPoolExecutor(8) as pool:
        stores = (store, other) * 40
        came = list(pool.map(lambda n: acknowledged(stores[n], feedback(f"d{n // 2}"))[0], range(80)))
    other.close()
    assert sum(came) == 40
    assert len(stored(url, FEEDBACK)) == 40


def test_the_same_decision_twice_is_stored_once(url: str, store: DecisionStore) -> None:
    store.decided(decision())
    store.decided(decision(candidate="acme/large"))
    store.close()
    assert [row["candidate"] for row in stored(url, DECISIONS)] == ["acme/small"]


def test_close_writes_what_waits_and_takes_nothing_more(url: str, store: DecisionStore) -> None:
    for number in range(2_500):
        assert store.decided(decision(f"d{number:04}"))
    waiting = store.feedback([feedback()])
    store.close()
    assert waiting[0].result(timeout=0) is True
    assert len(stored(url, DECISIONS)) == 2_500
    assert not store.decided(decision("late"))
    assert store.dropped == 1
    with pytest.raises(StoreFullError, match="stopping"):
        store.feedback([feedback("late")])
    store.close()  # a second time does nothing


def test_a_row_that_cannot_be_stored_harms_no_other(
    url: str, store: DecisionStore, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [decision(f"d{n}", candidate=None if n == 13 else "acme/small", prompt="my secret") for n in range(40)]
    for row in broken:
        store.decided(row)
    assert acknowledged(store, feedback()) == [True]
    store.close()
    assert {row["id"] for row in stored(url, DECISIONS)} == {f"d{n}" for n in range(40) if n != 13}
    assert store.refused == 1
    assert "1 rows were not stored" in caplog.text
    assert "secret" not in caplog.text


def test_feedback_that_cannot_be_stored_is_not_acknowledged(url: str, store: DecisionStore) -> None:
    bad, good = store.feedback([feedback("d1", error=None), feedback("d2")])
    with pytest.raises(NotStoredError, match="does not take it"):
        bad.result(PATIENCE)
    assert good.result(PATIENCE) is True
    assert [row["decision_id"] for row in stored(url, FEEDBACK)] == ["d2"]


def test_text_that_a_database_cannot_hold_is_stored_without_it(url: str, store: DecisionStore) -> None:
    store.decided(decision(prompt="a\0b\ud800c"))
    store.decided(decision("d2", prompt="plain"))
    store.close()
    first, second = stored(url, DECISIONS)
    assert (first["prompt"], second["prompt"]) == ("a\ufffdb\ufffdc", "plain")


# --- a database that is full, locked or away ---


def hold(store: DecisionStore, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Keeps the store from writing: the first event is set when it begins to, it goes on when the second is."""
    begun, held, write = threading.Event(), threading.Event(), store._transaction

    def transaction(items: Any) -> set[int]:
        begun.set()
        held.wait(PATIENCE)
        return write(items)

    monkeypatch.setattr(store, "_transaction", transaction)
    return begun, held


def test_a_full_queue_drops_decisions_and_refuses_feedback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DecisionStore(open_engine(str(tmp_path / "d.db")), most_waiting=3)
    begun, held = hold(store, monkeypatch)
    store.decided(decision("writing"))
    assert begun.wait(PATIENCE)
    assert [store.decided(decision(f"d{n}")) for n in range(5)] == [True, True, True, False, False]
    assert (store.dropped, store.waiting) == (2, 3)
    with pytest.raises(StoreFullError, match="3 rows wait to be written, of at most 3"):
        store.feedback([feedback()])
    held.set()
    until(lambda: store.waiting == 0)
    assert acknowledged(store, *(feedback(f"d{n}") for n in range(5))) == [True] * 5, "an empty queue takes any batch"
    store.close()
    assert len(stored(str(tmp_path / "d.db"), DECISIONS)) == 4


def test_a_batch_of_feedback_is_taken_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DecisionStore(open_engine(str(tmp_path / "d.db")), most_waiting=3)
    begun, held = hold(store, monkeypatch)
    store.decided(decision("writing"))
    assert begun.wait(PATIENCE)
    store.decided(decision())
    with pytest.raises(StoreFullError):
        store.feedback([feedback(f"d{n}") for n in range(3)])
    assert store.waiting == 1
    held.set()
    store.close()
    assert stored(str(tmp_path / "d.db"), FEEDBACK) == []


def impatient_store(path: Path) -> DecisionStore:
    """A store that waits a millisecond for another's write, not five seconds."""
    engine = open_engine(str(path))
    sa.event.listen(engine, "connect", lambda connection, _: connection.execute("pragma busy_timeout = 1"))
    engine.dispose()
    return DecisionStore(engine)


@contextmanager
def locked(path: Path) -> Iterator[sa.Connection]:
    """A connection that holds the database's only write lock, until it is rolled back."""
    with sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool).connect() as connection:
        connection.exec_driver_sql("begin immediate")
        yield connection


def test_a_locked_database_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.db"
    store = impatient_store(path)
    with locked(path) as connection:
        (waiting,) = store.feedback([feedback()])
        until(lambda: store.retries >= 2)
        assert not waiting.done()
        connection.rollback()
    assert waiting.result(PATIENCE) is True
    store.close()
    assert len(stored(str(path), FEEDBACK)) == 1


def test_a_database_that_stays_away_is_given_up_at_close_and_said(tmp_path: Path) -> None:
    path = tmp_path / "d.db"
    store = impatient_store(path)
    with locked(path) as connection:
        (waiting,) = store.feedback([feedback()])
        until(lambda: store.retries >= 1)
        store.close(timeout=0.2)
        with pytest.raises(NotStoredError, match="service stopped"):
            waiting.result(timeout=0)
        connection.rollback()
    assert stored(str(path), FEEDBACK) == []


@needs_postgres
def test_a_lost_connection_loses_nothing(postgres: str) -> None:
    url = own_database(postgres)
    store = DecisionStore(open_engine(url))
    assert acknowledged(store, feedback("d0")) == [True]
    cut = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()"
    )
    for number in range(1, 6):
        with engine_of(postgres).connect() as connection:
            assert connection.execute(cut, {"name": sa.make_url(url).database}).all()
        assert acknowledged(store, feedback(f"d{number}")) == [True]
    store.close()
    assert len(stored(url, FEEDBACK)) == 6


def test_who_stops_waiting_does_not_stop_the_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DecisionStore(open_engine(str(tmp_path / "d.db")))
    _, held = hold(store, monkeypatch)
    (waiting,) = store.feedback([feedback()])
    assert not waiting.cancel()
    held.set()
    assert waiting.result(PATIENCE) is True
    store.close()


def test_a_decision_is_never_behind_its_feedback(tmp_path: Path) -> None:
    path = str(tmp_path / "d.db")
    store = DecisionStore(open_engine(path))
    reader = open_engine(path)

    def one(number: int) -> int:
        store.decided(decision(f"d{number}"))
        acknowledged(store, feedback(f"d{number}"))
        with reader.connect() as connection:
            return len(connection.execute(sa.select(DECISIONS.c.id).where(DECISIONS.c.id == f"d{number}")).all())

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(one, range(100))) == {1}
    store.close()
    reader.dispose()
