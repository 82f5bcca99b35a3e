"""Sums of days that are over give the figures of their rows, whoever changes these later and however."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
import sqlalchemy as sa

from serving.account.asked import asked
from serving.account.shown import document
from serving.account.window import DAY
from serving.store import series
from serving.store.days import summing
from serving.store.days.summing import Summing, sum_up
from serving.store.days.tables import DAYS, METADATA
from serving.store.days.tables import make as make_days
from serving.store.months.ids import new_id
from serving.store.months.prune import prune
from serving.store.savings import savings
from serving.store.tables import ALSO_FEEDBACK, DECISIONS, FEEDBACK
from serving.store.writer import DecisionStore
from tests.patience import PATIENCE, until
from tests.postgres_server import engine_of, needs_postgres
from tests.serving.account.test_gathered import TABLES, same
from tests.serving.store.days.over import ALL, BASE, FIRST, agree, holding, ids
from tests.serving.store.rows import decision, feedback, told

pytestmark = needs_postgres


def test_days_that_are_over_are_summed_and_give_the_figures_of_their_rows(engine: sa.Engine) -> None:
    assert sum_up(engine) == 9, "from the first decision's to yesterday"
    assert holding(engine) == list(range(9))
    agree(engine)
    with engine.connect() as connection:
        days = connection.exec_driver_sql("SELECT count(*) FROM savings_sums").scalar()
        several = (
            "SELECT count(*) FROM (SELECT FROM savings_cells GROUP BY conversation HAVING min(day) < max(day)) several"
        )
        assert days
        assert (connection.exec_driver_sql(several).scalar() or 0) > 10, "some conversations are on several days"
    assert sum_up(engine) == 0, "nothing is summed twice"


def test_what_is_told_late_is_in_the_figures(engine: sa.Engine) -> None:
    sum_up(engine)
    store = DecisionStore(engine)
    untold = DECISIONS.c.id.not_in(sa.select(FEEDBACK.c.decision_id))
    first, second = ids(engine, 1, untold)[0], ids(engine, 3, untold)[0]
    assert told(store, feedback(first, cost_usd=0.5)) == [{"quality", "cost_usd"}]
    assert holding(engine) == [0, 2, 3, 4, 5, 6, 7, 8]
    agree(engine, 2)
    assert told(store, feedback(second, cost_usd=0.25), feedback(first, cost_usd=9.0, replace=True))
    assert holding(engine) == [0, 2, 4, 5, 6, 7, 8]
    agree(engine, 2)
    assert sum_up(engine) == 2
    agree(engine)
    store.close(PATIENCE)
    with engine.connect() as connection:
        assert not connection.exec_driver_sql("SELECT count(*) FROM savings_changed").scalar(), "no note stays for ever"


def test_what_somebody_changes_in_sql_is_in_the_figures(engine: sa.Engine) -> None:
    sum_up(engine)
    changes = {
        0: "DELETE FROM feedback WHERE decision_id = '{0}'",
        1: "DELETE FROM decision WHERE id = '{0}'",
        2: "UPDATE decision SET candidate = 'middle', session_id = 's1' WHERE id = '{0}'",
        3: "INSERT INTO also_feedback (decision_id, at, cost_usd, error) VALUES ('{0}', 1, 0.5, false)",
        4: "UPDATE feedback SET cost_usd = 3 WHERE decision_id = '{0}'",
    }
    for day, change in changes.items():
        with engine.begin() as connection:
            connection.exec_driver_sql(change.format(ids(engine, day)[0]))
        assert day not in holding(engine), change
    agree(engine)
    sum_up(engine)
    agree(engine)


def test_a_decision_of_a_day_that_is_over_is_in_the_figures_and_in_the_count(engine: sa.Engine) -> None:
    sum_up(engine)
    with engine.connect() as connection:
        before = series.total(connection)
        assert before == connection.scalar(sa.select(sa.func.count()).select_from(DECISIONS))
        own = sa.select(sa.func.count()).select_from(DECISIONS).where(DECISIONS.c.key == "other")
        assert series.total(connection, "other") == connection.scalar(own)
    earlier = ids(engine, 2, DECISIONS.c.session_id.is_(None) & (sa.func.length(DECISIONS.c.id) == 32))[-1]
    with engine.begin() as connection:
        key = connection.scalar(sa.select(DECISIONS.c.key).where(DECISIONS.c.id == earlier))
        at, later = BASE + 4.2 * DAY, BASE + 8.55 * DAY
        late = decision(new_id(at), at=at, key=key, session_id=earlier, reference="large", candidate="small")
        now = decision(new_id(later), at=later, key="other")
        connection.execute(DECISIONS.insert(), [late, now])
        connection.execute(FEEDBACK.insert(), [feedback(late["id"], cost_usd=0.5).row(BASE)])
        connection.execute(FEEDBACK.delete().where(FEEDBACK.c.decision_id == earlier))
        connection.execute(FEEDBACK.insert(), [feedback(earlier, cost_usd=0.25).row(BASE)])
    agree(engine)
    sum_up(engine)
    agree(engine)
    sum_up(engine)
    assert len(holding(engine)) == 9
    agree(engine)
    with engine.connect() as connection:
        assert series.total(connection) == before + 2


def test_what_is_written_while_a_day_is_summed_is_not_lost(engine: sa.Engine) -> None:
    """It was noted before, and is committed after: the day's sums do not know of it."""
    sum_up(engine)
    first, other = ids(engine, 1)[0], ids(engine, 2)[0]
    with engine_of(engine.url.render_as_string(hide_password=False)).connect() as writing:
        writing.execute(FEEDBACK.delete().where(FEEDBACK.c.decision_id == first))
        with engine.begin() as connection:
            connection.execute(FEEDBACK.delete().where(FEEDBACK.c.decision_id == other))
        assert sum_up(engine) == 0, "who writes may have written before a day was over: it is waited for"
        writing.commit()
    assert holding(engine) == [0, 3, 4, 5, 6, 7, 8]
    agree(engine, 2)
    assert sum_up(engine) == 2


def test_sums_do_not_outlive_the_tables_that_they_are_of(engine: sa.Engine) -> None:
    sum_up(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("TRUNCATE also_feedback")
    assert holding(engine) == [], "no trigger tells of it"
    sum_up(engine)
    prune(engine, BASE + 2.5 * DAY)
    assert holding(engine)[-3:] == [6, 7, 8]
    assert not {0, 1, 2} & set(holding(engine))
    agree(engine, 2)
    sum_up(engine)
    agree(engine, 2)
    with engine.connect() as connection:
        assert (connection.scalar(sa.select(sa.func.min(DAYS.c.day))) or 0) >= FIRST + 2, (
            "of what is pruned nothing is kept"
        )


def test_tables_that_are_dropped_are_made_again_and_nobody_is_in_want_of_them(engine: sa.Engine) -> None:
    sum_up(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE {', '.join(METADATA.tables)}")
    assert holding(engine) == []
    with engine.begin() as connection:
        connection.execute(FEEDBACK.delete().where(FEEDBACK.c.decision_id == ids(engine, 2)[0]))
    agree(engine, 1)
    make_days(engine)
    assert sum_up(engine) == 9
    with engine.begin() as connection:
        connection.execute(FEEDBACK.delete().where(FEEDBACK.c.decision_id == ids(engine, 2)[0]))
    assert len(holding(engine)) == 8, "its triggers note what is changed"
    agree(engine, 1)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE feedback DISABLE TRIGGER savings_feedback")
    assert holding(engine) == [], "without all of its triggers no sum is taken"
    assert sum_up(engine) == 0


def test_who_has_no_rights_to_the_sums_writes_and_asks_all_the_same(engine: sa.Engine) -> None:
    sum_up(engine)
    url = engine.url.set(username=f"other_{new_id()}", password="secret")
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {url.username} LOGIN PASSWORD 'secret'")
        for table in (DECISIONS, FEEDBACK, ALSO_FEEDBACK):
            connection.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table.name} TO {url.username}")
    other, first = sa.create_engine(url, poolclass=sa.NullPool), ids(engine, 2)[0]
    with other.begin() as connection:
        connection.execute(FEEDBACK.delete().where(FEEDBACK.c.decision_id == first))
    assert 2 not in holding(engine)
    assert holding(other) == []
    with engine.connect() as connection:
        assert same(document(savings(other, ALL)), document(asked(connection, TABLES, ALL)))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP OWNED BY {url.username}; DROP ROLE {url.username}")


def test_nobody_without_rights_runs_what_the_owner_may(engine: sa.Engine) -> None:
    sum_up(engine)
    url = engine.url.set(username=f"other_{new_id()}", password="secret")
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {url.username} LOGIN PASSWORD 'secret'")
        connection.exec_driver_sql(f"GRANT INSERT ON feedback TO {url.username}")
    other = sa.create_engine(url, poolclass=sa.NullPool)
    with other.connect() as connection:
        for call in ("savings_note(86400.0)", "savings_told('x')"):
            with pytest.raises(sa.exc.ProgrammingError, match="permission denied for function"), connection.begin():
                connection.exec_driver_sql(f"SELECT {call}")
        # Tables of the session stand before the store's, unless these are asked for first.
        made = (
            "CREATE TEMP TABLE savings_changed (day integer, changed xid8)",
            f"CREATE FUNCTION pg_temp.rise() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN ALTER ROLE {url.username} SUPERUSER; RETURN NEW; END $$",
            "CREATE TRIGGER rise BEFORE INSERT ON pg_temp.savings_changed FOR EACH ROW EXECUTE FUNCTION pg_temp.rise()",
            "GRANT ALL ON pg_temp.savings_changed TO PUBLIC",
        )
        for statement in made:
            connection.exec_driver_sql(statement)
        connection.execute(FEEDBACK.insert(), feedback(ids(engine, 2, sa.true())[0]).row(time.time()))
        connection.commit()
    with engine.begin() as connection:
        rose = sa.text("SELECT rolsuper FROM pg_roles WHERE rolname = :name")
        assert connection.scalar(rose, {"name": url.username}) is False
        assert connection.exec_driver_sql("SELECT count(*) FROM savings_changed").scalar() == 1
        connection.exec_driver_sql(f"DROP OWNED BY {url.username}; DROP ROLE {url.username}")


def test_functions_that_anybody_may_call_are_made_anew(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("GRANT EXECUTE ON FUNCTION savings_note TO PUBLIC")
    make_days(engine)
    with engine.connect() as connection:
        anybody = "SELECT has_function_privilege('public', 'savings_note(double precision)', 'EXECUTE')"
        assert connection.exec_driver_sql(anybody).scalar() is False
    assert sum_up(engine) == 9


def test_days_with_ids_that_do_not_say_when_are_read_from_their_rows(engine: sa.Engine) -> None:
    old, late = uuid.UUID(int=3, version=4).hex, new_id(BASE)
    with engine.begin() as connection:
        for number, name in enumerate((old, late)):
            alone = decision(name, at=BASE + 2.5 * DAY, key="other", reference="large", candidate="small")
            at = BASE + (3.5 + number) * DAY
            naming = alone | {"id": new_id(at), "at": at, "session_id": name}
            connection.execute(DECISIONS.insert(), [alone, naming])
            for row in (alone, naming):
                connection.execute(FEEDBACK.insert(), feedback(row["id"]).row(row["at"]))
    assert sum_up(engine) == 9
    until(lambda: sum_up(engine) == 0, "it is known which have no sums")
    assert holding(engine) == [0, 1, *range(3, 9)]
    agree(engine, 2)
    with engine.begin() as connection:
        connection.execute(DECISIONS.delete().where(DECISIONS.c.id.in_([old, late])))
    assert sum_up(engine) >= 1
    until(lambda: sum_up(engine) == 0)
    assert holding(engine) == list(range(9))


def test_a_day_that_cannot_be_summed_keeps_no_other_from_it(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    summed, failing = summing._sum, {FIRST + 8, FIRST + 5}

    def sum_one(engine: sa.Engine, number: str, days: Any) -> int | None:
        if failing & set(days):
            raise sa.exc.OperationalError("INSERT", {}, Exception("canceling statement due to statement timeout"))
        return summed(engine, number, days)

    monkeypatch.setattr(summing, "_sum", sum_one)
    assert sum_up(engine) == 7
    assert caplog.text.count("could not be summed") == 2
    until(lambda: sum_up(engine) == 0)  # what was summed before a later day named it is summed again
    assert holding(engine) == [0, 1, 2, 3, 4, 6, 7]
    agree(engine, 2)
    failing |= {FIRST + 7, FIRST + 6, FIRST + 4}
    with engine.begin() as connection:
        connection.execute(sa.delete(DAYS))
    with pytest.raises(sa.exc.OperationalError):  # the database's fault, and no day's
        sum_up(engine)
    failing.clear()
    sum_up(engine)
    until(lambda: sum_up(engine) == 0)
    assert holding(engine) == list(range(9))


def test_a_service_sums_in_the_background(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summing, "FIRST_SECONDS", 0.01)
    running = Summing(engine)
    until(lambda: len(holding(engine)) == 9, "all days are summed")
    running.stop()


def test_an_account_reads_no_rows_of_days_that_are_summed(engine: sa.Engine) -> None:
    sum_up(engine)
    said: list[str] = []

    def seen(_connection: sa.Connection, _cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("CREATE TEMPORARY TABLE savings_told"):
            said.append(statement)

    sa.event.listen(engine, "before_cursor_execute", seen)
    savings(engine, ALL)
    sa.event.remove(engine, "before_cursor_execute", seen)
    [statement] = said
    for edge in (ALL.since, (FIRST + 1) * DAY, (FIRST + 4) * DAY, ALL.until):
        assert str(edge) in statement
    assert str((FIRST + 2) * DAY) not in statement
