"""Sums of days where the clock, the triggers or the months are changed beside them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from serving.account.asked import asked
from serving.account.shown import document
from serving.account.window import DAY, By, Window
from serving.store import series
from serving.store.days import summing, tables
from serving.store.days.kept import able, kept
from serving.store.days.summing import sum_up
from serving.store.days.tables import DAYS
from serving.store.days.tables import make as make_days
from serving.store.months.calendar import month_of
from serving.store.months.ids import new_id
from serving.store.savings import savings
from serving.store.tables import DECISIONS, FEEDBACK
from tests.patience import PATIENCE, until
from tests.postgres_server import needs_postgres
from tests.serving.account.test_gathered import TABLES, same
from tests.serving.store.days.over import ALL, BASE, TODAY, agree, holding, ids
from tests.serving.store.rows import decision, feedback

pytestmark = needs_postgres


def made_by_another_version(engine: sa.Engine) -> None:
    """Triggers that are to be made anew."""
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE OR REPLACE FUNCTION savings_note(at double precision) RETURNS void LANGUAGE plpgsql AS "
            "$$ BEGIN END $$"
        )


def test_an_account_that_begins_while_a_month_is_taken_out_is_of_one_moment(engine: sa.Engine) -> None:
    sum_up(engine)
    month = month_of(BASE)
    window = Window(By.DAY, ALL.since, min(ALL.until, month.ends))
    name = f"decision_{month.name.replace('-', '_')}"
    counts: list[int] = []

    def count() -> None:
        with engine.connect() as connection:
            counts.append(series.total(connection))

    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = to_regclass('decision')")
    with ThreadPoolExecutor(2) as others, engine.connect() as looking:
        with engine.begin() as pruning:
            pruning.exec_driver_sql(f"ALTER TABLE decision DETACH PARTITION {name}")
            pruning.exec_driver_sql(f"ALTER TABLE {name} RENAME TO pruned_{name}")
            account, counted = others.submit(savings, engine, window), others.submit(count)
            until(lambda: looking.scalar(waiting) == 2)
        found = document(account.result(PATIENCE))
        counted.result(PATIENCE)
    with engine.connect() as connection:
        assert same(found, document(asked(connection, TABLES, window)))
        assert counts == [connection.scalar(sa.select(sa.func.count()).select_from(DECISIONS))]


def test_days_summed_by_a_clock_that_was_ahead_are_read_by_their_rows(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as ahead:
        ahead.setattr(summing, "_NOW", f"{summing._NOW} + {2 * DAY}")
        sum_up(engine)
    now = time.time() - 1.0
    today = int(now // DAY)
    window = Window(By.DAY, today * DAY - DAY, today * DAY + DAY)

    def noted() -> list[int]:
        with engine.connect() as connection:
            return list(connection.exec_driver_sql(f"SELECT day FROM savings_changed WHERE day >= {TODAY}").scalars())

    late = decision(new_id(now), at=now, workflow="w", candidate="small", reference="large")
    with engine.begin() as connection:
        assert connection.scalar(sa.select(DAYS.c.day).where(DAYS.c.day == today)) == today
        connection.execute(DECISIONS.insert(), late)
    assert noted() == [today], "until the sums are gone: whoever asks after midnight is not to take them"
    with engine.begin() as connection:
        connection.execute(FEEDBACK.insert(), feedback(late["id"], cost_usd=0.5).row(now))
        connection.execute(DECISIONS.update().where(DECISIONS.c.id == late["id"]).values(candidate="middle"))
    assert noted() == [today] * 2, "one of each transaction"
    with engine.connect() as connection:
        assert today not in kept(connection, window.since, window.until)
        plain = document(asked(connection, TABLES, window))
        assert same(document(savings(engine, window)), plain)
        connection.exec_driver_sql("DELETE FROM savings_changed")
        assert today not in kept(connection, window.since, window.until), "without a note too"
        connection.rollback()
    sum_up(engine)
    before = noted()
    with engine.begin() as connection:
        assert connection.scalar(sa.select(sa.func.max(DAYS.c.day))) == TODAY - 1
        connection.execute(DECISIONS.delete().where(DECISIONS.c.id == late["id"]))
        far = decision(new_id(now), at=1e300)
        connection.execute(DECISIONS.insert(), far)
    assert noted() == before, "of a day that is not over and not summed no note is made"


def test_triggers_of_before_are_made_anew_and_what_was_summed_beside_them_is_summed_anew(engine: sa.Engine) -> None:
    sum_up(engine)
    made_by_another_version(engine)
    with engine.begin() as connection:
        connection.execute(FEEDBACK.delete().where(FEEDBACK.c.decision_id == ids(engine, 2)[0]))
    make_days(engine)
    assert holding(engine) == []
    assert sum_up(engine) == 9
    agree(engine, 2)
    make_days(engine)
    assert len(holding(engine)) == 9, "they are made once"
    functions = ", ".join(("savings_note", "savings_told", "savings_decision_changed", "savings_feedback_changed"))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP FUNCTION {functions} CASCADE")
    make_days(engine)
    assert holding(engine) == [], "who drops the functions and leaves the tables does without sums"
    assert sum_up(engine) == 0


def test_a_day_is_summed_once_more_where_somebody_changed_what_it_changes(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    summed, changed = summing._sum, Exception("could not serialize access due to concurrent delete")
    changed.sqlstate = "40001"  # type: ignore[attr-defined]
    tried: list[tuple[int, ...]] = []

    def sum_days(engine: sa.Engine, number: str, days: Sequence[int]) -> int | None:
        tried.append(tuple(days))
        if tried.count(tuple(days)) == 1:
            raise sa.exc.OperationalError("DELETE", {}, changed)
        return summed(engine, number, days)

    monkeypatch.setattr(summing, "_sum", sum_days)
    assert sum_up(engine) == 9
    assert "could not be summed" not in caplog.text
    assert set(map(tried.count, tried)) == {2}


def test_triggers_that_are_made_anew_under_traffic_end_nobody_else(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads waits for them, as they for who writes: in one order, or PostgreSQL would end one as a deadlock."""
    monkeypatch.setattr(tables, "_WAIT_MS", PATIENCE * 1e3)
    made_by_another_version(engine)
    waiting = sa.text("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted")

    def count() -> int:
        with engine.connect() as connection:
            return series.total(connection)

    with ThreadPoolExecutor(2) as others, engine.connect() as looking:
        with engine.begin() as writing:
            now = time.time()
            writing.execute(DECISIONS.insert(), decision(new_id(now), at=now))
            making = others.submit(make_days, engine)
            until(lambda: looking.scalar(waiting) == 1)
            counted = others.submit(count)
            until(lambda: looking.scalar(waiting) == 2)
        making.result(PATIENCE)
        with engine.connect() as connection:
            assert counted.result(PATIENCE) == connection.scalar(sa.select(sa.func.count()).select_from(DECISIONS))
            assert able(connection), "they are made"


def test_no_service_waits_with_its_start_for_another_that_sums(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tables, "_WAIT_MS", 50)
    made_by_another_version(engine)
    with ThreadPoolExecutor(1) as others, engine.begin() as summing_days:
        assert summing_days.scalar(sa.text(summing._LOCK))
        making = others.submit(make_days, engine)
        try:
            making.result(PATIENCE)
        finally:
            summing_days.rollback()  # or who waits here would wait for ever
    assert "could not be made (LockNotAvailable), it is tried again" in caplog.text
