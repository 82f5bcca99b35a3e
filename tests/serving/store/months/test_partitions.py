"""PostgreSQL keeps decisions by months: made ahead, by whoever is first, and never in the way of a decision."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from serving.account.window import By, Window
from serving.decide.decision import Reason
from serving.store import series
from serving.store.engine import open_engine
from serving.store.months import partitions as module
from serving.store.months.calendar import Month, month_of, months_from
from serving.store.months.ids import made_around, new_id
from serving.store.months.partitions import OTHER, Ahead, make, make_ahead, partitions
from serving.store.savings import savings
from serving.store.tables import DECISIONS, FEEDBACK
from serving.store.writer import DecisionStore
from tests.patience import PATIENCE, until
from tests.postgres_server import engine_of, needs_postgres, own_database
from tests.serving.store.rows import decision, feedback, told

pytestmark = needs_postgres
MARCH = datetime(2031, 3, 15, tzinfo=UTC).timestamp()


@pytest.fixture
def url(postgres: str) -> str:
    return own_database(postgres, "months")


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    made = open_engine(url)
    yield made
    made.dispose()


def places(engine: sa.Engine) -> dict[str, str]:
    """In which partition each decision is."""
    with engine.connect() as connection:
        return {
            row[0]: row[1] for row in connection.exec_driver_sql("SELECT id, tableoid::regclass::text FROM decision")
        }


def plan(engine: sa.Engine, query: sa.Select[Any] | str) -> str:
    with engine.connect() as connection:
        said = query if isinstance(query, str) else str(query.compile(engine, compile_kwargs={"literal_binds": True}))
        return "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {said}".replace("%", "%%")))


def filled(engine: sa.Engine) -> None:
    """Twenty thousand decisions over two months, with feedback, as the planner sees them."""
    begins = month_of(MARCH).begins
    made = f"SELECT n, {begins} + n * 250.0 AS at FROM generate_series(0, 19999) n"
    identifier = "lpad(to_hex((at * 1e3)::bigint), 12, '0') || '7aaa8' || lpad(n::text, 15, '0')"
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO decision (id, at, key, candidate, reason, propensity) "
            f"SELECT {identifier}, at, 'k' || n %% 50, 'c', 'best_value', 1 FROM ({made}) made"
        )
        connection.exec_driver_sql(
            "INSERT INTO feedback (decision_id, at, quality, error) SELECT id, at, 1, false FROM decision"
        )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM (ANALYZE)")


@pytest.mark.parametrize(
    ("at", "name"),
    [
        (MARCH, "2031-03"),
        (0.0, "1970-01"),
        (month_of(MARCH).begins, "2031-03"),
        (month_of(MARCH).begins - 0.001, "2031-02"),
    ],
)
def test_months_are_those_of_utc(at: float, name: str) -> None:
    month = month_of(at)
    assert month.name == name
    assert month.begins <= at < month.ends
    assert month_of(month.ends) == month.following


def test_a_new_store_has_the_running_month_and_the_next_two(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        there = partitions(connection)
    assert [Month(int(one.begins), int(one.ends)) for one in there] == list(months_from(time.time(), 3))


def test_what_comes_before_its_partition_is_stored_and_moved_into_it(engine: sa.Engine) -> None:
    store = DecisionStore(engine)
    store.decided(decision("early", at=MARCH))
    store.decided(decision("old", at=100.0))
    store.decided(decision("odd", at=float("inf")))
    until(lambda: store.written == 3, "they are written")
    assert set(places(engine).values()) == {OTHER}
    assert make(engine, [month_of(MARCH)]) == ["decision_2031_03"]
    assert places(engine) == {"early": "decision_2031_03", "old": OTHER, "odd": OTHER}
    assert make(engine, [month_of(MARCH)]) == [], "it is there"
    [said] = told(store, feedback("early", quality=0.5))
    assert said == {"quality"}
    store.close(PATIENCE)


def test_whoever_is_first_makes_it(url: str) -> None:
    engines = [open_engine(url) for _ in range(4)]
    months = list(months_from(MARCH, 3))
    with ThreadPoolExecutor(4) as pool:
        made = [name for names in pool.map(lambda one: make(one, months), engines) for name in names]
    assert sorted(made) == ["decision_2031_03", "decision_2031_04", "decision_2031_05"]
    for one in engines:
        one.dispose()


def test_who_reads_is_not_waited_for_longer_than_a_moment(
    engine: sa.Engine, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "WAIT_MS", 50)
    with engine_of(url).begin() as reading:
        reading.exec_driver_sql("SELECT count(*) FROM decision")
        make_ahead(engine, MARCH)
    assert "could not be made (LockNotAvailable), it is tried again" in caplog.text
    make_ahead(engine, MARCH)
    with engine.connect() as connection:
        assert [one.name for one in partitions(connection)][-3:] == [
            "decision_2031_03",
            "decision_2031_04",
            "decision_2031_05",
        ]


def test_a_service_that_runs_on_makes_those_of_later_months(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.01)
    with engine.begin() as connection:
        connection.execute(DECISIONS.insert(), [decision("old", at=100.0), decision("early", at=MARCH)])
    ahead = Ahead(engine, lambda: MARCH)

    def there() -> bool:
        with engine.connect() as connection:
            return any(one.name == "decision_2031_05" for one in partitions(connection))

    until(there, "the months are made")
    until(lambda: ahead.misplaced == 1, "the one that no month has is counted, and the other is moved")
    ahead.stop()


def test_a_decision_is_stored_once_however_often_it_is_tried(engine: sa.Engine) -> None:
    store = DecisionStore(engine)
    row = decision(new_id(MARCH), at=MARCH)
    store.decided(row)
    store.decided(row | {"candidate": "other"})
    until(lambda: store.written == 2, "both are written")
    store.close(PATIENCE)
    assert len(places(engine)) == 1


def test_an_id_of_another_time_than_its_row_is_found(engine: sa.Engine) -> None:
    """A clock may have been wrong, and what was stored before has ids that say no time."""
    make(engine, months_from(MARCH, 3))
    store = DecisionStore(engine)
    ids = [new_id(MARCH), new_id(1e9), "legacy", *(new_id(n * 1e8) for n in range(1, 8))]
    for identifier in ids:
        store.decided(decision(identifier, at=MARCH))
    assert told(store, *(feedback(one, quality=0.5) for one in ids)) == [{"quality"}] * len(ids)
    store.shadowed(
        {
            "id": ids[0],
            "shadow_bundle": "b",
            "shadow_candidate": "c",
            "shadow_confidence": 0.5,
            "shadow_expected_cost_usd": 1,
        }
    )
    store.close(PATIENCE)
    with engine_of(engine.url.render_as_string(hide_password=False)).connect() as connection:
        asked = sa.select(DECISIONS.c.shadow_bundle).where(DECISIONS.c.id == ids[0])
        assert connection.scalar(asked) == "b"


def test_what_is_asked_looks_into_the_months_that_it_is_about(engine: sa.Engine) -> None:
    make(engine, months_from(MARCH, 6))
    filled(engine)
    d, at = DECISIONS.c, MARCH
    ids = [new_id(at + n) for n in range(3)]
    around = made_around(ids[0])
    of_feedback = plan(
        engine, sa.select(d.id).where(d.id.in_(ids), d.at >= around.since, d.at < around.until).with_for_update()
    )
    assert "decision_2031_03_pkey" in of_feedback
    everywhere = plan(engine, sa.select(d.id).where(d.id.in_(["legacy"])))
    assert "decision_2031_03_pkey" in everywhere
    assert "decision_2031_04_pkey" in everywhere
    last_hour = plan(engine, sa.select(sa.func.count()).where(d.at >= at - 3_600, d.at < at))
    assert "decision_2031_03_at_idx" in last_hour
    own = plan(engine, sa.select(d.candidate).where(d.key == "k7", d.at >= at - 9 * 86_400, d.at < at))
    assert "decision_2031_03_key_at_idx" in own
    told = plan(engine, sa.select(FEEDBACK).where(FEEDBACK.c.decision_id.in_(ids)))
    assert "feedback_pkey" in told
    for one in (of_feedback, last_hour, own):
        assert "Seq Scan on decision_2031" not in one
        assert "decision_2031_04" not in one
        assert "decision_2031_05" not in one
    whole_month = plan(engine, sa.select(sa.func.count()).where(d.at >= at, d.at < at + 30 * 86_400))
    assert "decision_2031_04" in whole_month
    assert "decision_2031_05" not in whole_month


def test_series_and_accounts_look_into_no_other_months(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every statement of the live figures and of an account, as the database plans it."""
    make(engine, months_from(MARCH, 6))
    filled(engine)
    asked: list[str] = []

    def explained(connection: sa.Connection, cursor: Any, statement: str, parameters: Any, *_: object) -> None:
        if "FROM decision" in statement and "EXPLAIN" not in statement:
            with connection.connection.driver_connection.cursor() as other:
                other.execute(f"EXPLAIN {statement}", parameters)
                asked.append("\n".join(row[0] for row in other.fetchall()))

    sa.event.listen(engine, "before_cursor_execute", explained)
    with engine.connect() as connection:
        series.minutes(connection, MARCH, 60)
        series.made(connection, MARCH - 3_600, MARCH)
        series.whereto(connection, MARCH - 3_600, ["c"])
        series.latest(connection, [Reason.NOVEL], MARCH - 3_600, 10)
    savings(engine, Window(By.DAY, MARCH - 30 * 86_400, MARCH))
    sa.event.remove(engine, "before_cursor_execute", explained)
    assert len(asked) >= 6
    for one in asked:
        assert "decision_2031_03" in one
        assert "decision_202" not in one, "what is older is not looked at"
    for one in asked[:2]:
        assert "Seq Scan on decision" not in one
