"""What is written: what is acknowledged is on disk, and what cannot be written is said and counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from serving.store import transaction
from serving.store import writer as module
from serving.store.engine import open_engine
from serving.store.feedback import ConflictError, UnknownDecisionError
from serving.store.ledger import BudgetKey, Charge, Limit
from serving.store.months.ids import EVER, made_around, new_id
from serving.store.tables import DECISIONS, FEEDBACK
from serving.store.transaction import Item
from serving.store.waiting import late
from serving.store.writer import DecisionStore, NotStoredError, StoreFullError
from tests.patience import PATIENCE, until
from tests.postgres_server import engine_of, needs_postgres, own_database
from tests.serving.store.rows import acknowledged, decision, feedback, locked, stored, told

# --- facts, SQLite and PostgreSQL ---


def test_what_is_taken_is_stored_as_it_is(url: str, store: DecisionStore) -> None:
    row = decision(knob=2.5, cluster=3, tools=True, max_output_tokens=10**9, session_id="s", messages='[{"a": 1}]')
    assert store.decided(row)
    said = feedback(cost_usd=0.25, input_tokens=10**12, latency_ms=7.5, candidate="acme/large")
    assert acknowledged(store, said) == [True]
    assert dict(stored(url, DECISIONS)[0]) == row
    (kept,) = stored(url, FEEDBACK)
    assert dict(kept) == said.row(kept["at"])
    until(lambda: store.written == 2)


def test_feedback_merges_and_another_value_is_a_conflict(url: str, store: DecisionStore) -> None:
    for name in ("d1", "d2"):
        store.decided(decision(name))
    assert acknowledged(store, feedback(quality=1.0), feedback(quality=1.0), feedback("d2")) == [True, False, True]
    assert told(store, feedback(quality=None, cost_usd=0.5, latency_ms=9.0)) == [{"cost_usd", "latency_ms"}]
    (conflict,) = told(store, feedback(quality=0.5, cost_usd=0.25))
    assert isinstance(conflict, ConflictError)
    assert conflict.fields == ("quality", "cost_usd")
    assert told(store, feedback(quality=0.25, cost_usd=0.5, replace=True)) == [{"quality"}]
    first = stored(url, FEEDBACK)[0]
    assert (first["quality"], first["cost_usd"], first["latency_ms"]) == (0.25, 0.5, 9.0)


def test_feedback_on_what_is_not_there_is_unknown(url: str) -> None:
    store = DecisionStore(open_engine(url), late_seconds=0.0)
    store.decided(decision("d1", key="a"))
    assert isinstance(told(store, feedback("none"))[0], UnknownDecisionError)
    assert isinstance(told(store, feedback("d1"), key="b")[0], UnknownDecisionError)
    assert told(store, feedback("d1"), key="a") == [{"quality"}]
    store.close(PATIENCE)
    assert len(stored(url, FEEDBACK)) == 1


def test_feedback_waits_for_a_decision_that_another_process_has_yet_to_write(url: str) -> None:
    store, other = (DecisionStore(open_engine(url), late_seconds=PATIENCE) for _ in range(2))
    (waiting,) = store.feedback([feedback()])
    until(lambda: store.waiting == 0)
    assert not waiting.done()
    other.decided(decision(at=time.time()))
    assert waiting.result(PATIENCE) == {"quality"}
    store.close(PATIENCE)
    other.close(PATIENCE)


def test_a_decision_that_never_comes_is_looked_for_a_few_times(tmp_path: Path) -> None:
    engine = open_engine(str(tmp_path / "decisions.db"))
    begun: list[int] = []
    sa.event.listen(engine, "begin", lambda _: begun.append(1))
    store = DecisionStore(engine, late_seconds=3.2)
    assert isinstance(told(store, feedback("none"))[0], UnknownDecisionError)
    assert len(begun) <= 9  # at once, after .05, .1, .2, … s
    store.close(PATIENCE)


def test_what_is_not_there_is_looked_for_by_nobody_who_writes(
    url: str, store: DecisionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made-up ids are in one transaction, the first; from then on they are read for, and budgets do not wait for that."""
    writes: list[list[bool]] = []
    write = store._transaction

    def transaction(items: Sequence[Item]) -> None:
        writes.append([item.said is not None for item in items])
        write(items)

    monkeypatch.setattr(store, "_transaction", transaction)
    waiting = store.feedback([feedback(new_id()) for _ in range(600)])
    until(lambda: store._late.waiting > 0 and store.waiting == 0)
    budget = BudgetKey("key:a", "month", 0)
    for number in range(20):
        assert store.take(Charge(f"c{number}", (Limit(budget, None),), 1)).result(PATIENCE) is None
    assert all(isinstance(one.result(PATIENCE), UnknownDecisionError) for one in waiting)
    assert sum(map(sum, writes)) == 600, "each is in one transaction"
    assert all(sum(one) in (0, len(one)) for one in writes), "which holds nothing that anybody else waits for"
    assert max(map(len, writes)) <= 256


def test_charges_overtake_feedback_that_came_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DecisionStore(open_engine(str(tmp_path / "d.db")))
    order: list[str] = []
    write = store._transaction

    def transaction(items: Any) -> None:
        order.append("charge" if items[0].charge is not None else "feedback" if items[0].said is not None else "row")
        write(items)

    begun, held = hold(store, monkeypatch)
    store.decided(decision())
    assert begun.wait(PATIENCE)
    monkeypatch.setattr(store, "_transaction", transaction)
    waiting = store.feedback([feedback(quality=0.5)] * 600)
    charged = store.take(Charge("c", (Limit(BudgetKey("key:a", "month", 0), None),), 1))
    held.set()
    assert charged.result(PATIENCE) is None
    assert [bool(one.result(PATIENCE)) for one in waiting].count(True) == 1
    store.close(PATIENCE)
    assert order == ["charge", "feedback", "feedback", "feedback"]  # 600 of them, some at a time


def test_a_key_has_so_much_feedback_waiting_and_others_have_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOST_OF_KEY", 300)
    store = DecisionStore(open_engine(str(tmp_path / "d.db")), late_seconds=PATIENCE)
    store.decided(decision(key="b"))
    store.feedback([feedback(new_id()) for _ in range(256)], key="a")
    with pytest.raises(StoreFullError, match="256 of this key wait to be written, of at most 300"):
        store.feedback([feedback(new_id()) for _ in range(256)], key="a")
    assert told(store, feedback(), key="b") == [{"quality"}]
    store.close(0.0)
    waiting = DecisionStore(open_engine(str(tmp_path / "d.db")), late_seconds=0.0)
    for _ in range(3):  # what was answered waits no longer
        assert len(told(waiting, *(feedback(new_id()) for _ in range(256)), key="a")) == 256
    waiting.close(PATIENCE)


def test_feedback_whose_decision_is_elsewhere_is_read_for_everywhere_once(
    url: str, store: DecisionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Any] = []

    def seen(engine: sa.Engine, where: Any) -> Any:
        looks.append(dict(where))
        return transaction.seen(engine, where)

    monkeypatch.setattr(late, "seen", seen)
    elsewhere, old, now = new_id(), new_id(100.0), new_id()
    store.decided(decision(elsewhere, at=100.0))
    assert told(store, feedback(elsewhere)) == [{"quality"}]
    came = told(store, feedback(old), feedback(now))
    assert all(isinstance(one, UnknownDecisionError) for one in came)
    asked = [where[old] for where in looks if old in where]
    assert asked == [EVER], "what cannot come any more is read for once, everywhere"
    asked = [where[now] for where in looks if now in where]
    assert asked[0] == EVER
    assert len(asked) > 1
    assert set(asked[1:]) == {made_around(now)}


def test_closing_answers_feedback_that_is_just_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where somebody holds a lock on the table that decisions are in."""
    looking, free = threading.Event(), threading.Event()

    def seen(engine: sa.Engine, where: Any) -> Any:
        if not where:
            return {}
        looking.set()
        assert free.wait(PATIENCE)
        return transaction.seen(engine, where)

    monkeypatch.setattr(late, "seen", seen)
    store = DecisionStore(open_engine(str(tmp_path / "d.db")), late_seconds=PATIENCE)
    waiting = store.feedback([feedback(new_id()) for _ in range(3)])
    assert looking.wait(PATIENCE)
    assert store._late.waiting == 3
    store.close(0.2)
    for one in waiting:
        with pytest.raises(NotStoredError, match="the service stopped before the store could be read"):
            one.result(PATIENCE)
    free.set()


def test_two_stores_on_one_database_agree_on_what_is_new(url: str, store: DecisionStore) -> None:
    other = DecisionStore(open_engine(url))
    for number in range(40):
        store.decided(decision(f"d{number}", at=time.time()))
    with ThreadPoolExecutor(8) as pool:
        stores = (store, other) * 40
        came = list(pool.map(lambda n: acknowledged(stores[n], feedback(f"d{n // 2}"))[0], range(80)))
    other.close(PATIENCE)
    assert sum(came) == 40
    assert len(stored(url, FEEDBACK)) == 40


def test_the_same_decision_twice_is_stored_once(url: str, store: DecisionStore) -> None:
    store.decided(decision())
    store.decided(decision(candidate="acme/large"))
    store.close(PATIENCE)
    assert [row["candidate"] for row in stored(url, DECISIONS)] == ["acme/small"]


def test_close_writes_what_waits_and_takes_nothing_more(url: str, store: DecisionStore) -> None:
    for number in range(2_500):
        assert store.decided(decision(f"d{number:04}"))
    waiting = store.feedback([feedback("d0001")])
    store.close(PATIENCE)
    assert waiting[0].result(timeout=0) == {"quality"}
    assert len(stored(url, DECISIONS)) == 2_500
    assert not store.decided(decision("late"))
    assert store.dropped == 1
    with pytest.raises(StoreFullError, match="stopping"):
        store.feedback([feedback("late")])
    store.close(PATIENCE)  # a second time does nothing


def test_a_row_that_cannot_be_stored_harms_no_other(
    url: str, store: DecisionStore, caplog: pytest.LogCaptureFixture
) -> None:
    broken = [decision(f"d{n}", candidate=None if n == 13 else "acme/small", prompt="my secret") for n in range(40)]
    for row in broken:
        store.decided(row)
    assert acknowledged(store, feedback()) == [True]
    store.close(PATIENCE)
    assert {row["id"] for row in stored(url, DECISIONS)} == {f"d{n}" for n in range(40) if n != 13}
    assert store.refused == 1
    assert "1 rows were not stored" in caplog.text
    assert "secret" not in caplog.text


def test_feedback_that_cannot_be_stored_is_not_acknowledged(url: str, store: DecisionStore) -> None:
    for name in ("d1", "d2"):
        store.decided(decision(name))
    bad, good = store.feedback([feedback("d1", input_tokens=10**30), feedback("d2")])
    with pytest.raises(NotStoredError, match="does not take it"):
        bad.result(PATIENCE)
    assert good.result(PATIENCE) == {"quality"}
    assert [row["decision_id"] for row in stored(url, FEEDBACK)] == ["d2"]


def test_text_that_a_database_cannot_hold_is_stored_without_it(url: str, store: DecisionStore) -> None:
    store.decided(decision(prompt="a\0b\ud800c"))
    store.decided(decision("d2", prompt="plain"))
    store.close(PATIENCE)
    first, second = stored(url, DECISIONS)
    assert (first["prompt"], second["prompt"]) == ("a\ufffdb\ufffdc", "plain")


# --- a database that is full, locked or away ---


def hold(store: DecisionStore, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Keeps the store from writing: the first event is set when it begins to, it goes on when the second is."""
    begun, held, write = threading.Event(), threading.Event(), store._transaction

    def transaction(items: Any) -> None:
        begun.set()
        held.wait(PATIENCE)
        write(items)

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
    said = [feedback(f"d{n % 3}", quality=None, latency_ms=1.0 + n // 3) for n in range(5)]
    assert len(told(store, *said)) == 5, "an empty queue takes any batch"
    store.close(PATIENCE)
    assert len(stored(str(tmp_path / "d.db"), DECISIONS)) == 4


def test_a_queue_is_bounded_by_its_bytes_and_text_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DecisionStore(open_engine(str(tmp_path / "d.db")), most_bytes=2_000_000)
    begun, held = hold(store, monkeypatch)
    for number in range(60):
        assert store.decided(decision(f"d{number}", prompt="x" * 1_000_000))
    assert begun.wait(PATIENCE)
    assert store.waiting_bytes <= 2_000_000, "what is being written counts"
    assert store.cut == 59
    held.set()
    store.close(PATIENCE)
    assert store.waiting_bytes == 0
    assert sum(row["prompt"] is not None for row in stored(str(tmp_path / "d.db"), DECISIONS)) == 1


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
    store.close(PATIENCE)
    assert stored(str(tmp_path / "d.db"), FEEDBACK) == []


def impatient_store(path: Path) -> DecisionStore:
    """A store that waits a millisecond for another's write, not five seconds."""
    engine = open_engine(str(path))
    sa.event.listen(engine, "connect", lambda connection, _: connection.execute("pragma busy_timeout = 1"))
    engine.dispose()
    return DecisionStore(engine)


def test_a_locked_database_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.db"
    store = impatient_store(path)
    store.decided(decision())
    until(lambda: store.written == 1)
    with locked(path) as connection:
        (waiting,) = store.feedback([feedback()])
        until(lambda: store.retries >= 2)
        assert not waiting.done()
        assert store.failing
        connection.rollback()
    assert waiting.result(PATIENCE) == {"quality"}
    store.close(PATIENCE)
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
def test_a_statement_that_waits_too_long_is_given_up_and_tried_again(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = own_database(postgres)
    store = DecisionStore(open_engine(url))
    store.decided(decision())
    until(lambda: store.written == 1)
    monkeypatch.setattr(transaction, "STATEMENT_SECONDS", 0.5)
    with engine_of(url).connect() as connection:
        connection.exec_driver_sql("LOCK TABLE decision IN ACCESS EXCLUSIVE MODE")
        (waiting,) = store.feedback([feedback()])
        until(lambda: store.retries >= 2)
        assert not waiting.done()
        monkeypatch.undo()  # a slow machine may have its time from here on
        connection.rollback()
    assert waiting.result(PATIENCE) == {"quality"}
    store.close(PATIENCE)


def test_a_name_that_no_database_holds_is_the_same_when_it_is_told_again(url: str, store: DecisionStore) -> None:
    store.decided(decision())
    said = feedback(candidate="acme/\0large")
    assert acknowledged(store, said, said) == [True, False]
    assert [row["candidate"] for row in stored(url, FEEDBACK)] == ["acme/\ufffdlarge"]


@needs_postgres
def test_a_lost_connection_loses_nothing(postgres: str) -> None:
    url = own_database(postgres)
    store = DecisionStore(open_engine(url))
    for number in range(6):
        store.decided(decision(f"d{number}"))
    assert acknowledged(store, feedback("d0")) == [True]
    cut = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()"
    )
    for number in range(1, 6):
        with engine_of(postgres).connect() as connection:
            assert connection.execute(cut, {"name": sa.make_url(url).database}).all()
        assert acknowledged(store, feedback(f"d{number}")) == [True]
    store.close(PATIENCE)
    assert len(stored(url, FEEDBACK)) == 6


def test_who_stops_waiting_does_not_stop_the_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DecisionStore(open_engine(str(tmp_path / "d.db")))
    _, held = hold(store, monkeypatch)
    store.decided(decision())
    (waiting,) = store.feedback([feedback()])
    assert not waiting.cancel()
    held.set()
    assert waiting.result(PATIENCE) == {"quality"}
    store.close(PATIENCE)


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
    store.close(PATIENCE)
    reader.dispose()
