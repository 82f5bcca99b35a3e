"""What is old is let go with all that is about it, whole months at once, and a call that is stopped is called again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from serving.cli import main
from serving.store.engine import open_engine
from serving.store.ledger import BudgetKey, Charge, Limit
from serving.store.months import command
from serving.store.months import prune as module
from serving.store.months.calendar import Month, month_of
from serving.store.months.ids import new_id
from serving.store.months.partitions import make, partitions
from serving.store.months.prune import BusyError, counted, now_of, prune, until_of
from serving.store.tables import ALSO_FEEDBACK, BUDGETS, CHARGES, DECISIONS, FEEDBACK, METADATA, REPLAYS
from serving.store.transaction import Item, totals_of, write
from tests.postgres_server import engine_of, needs_postgres
from tests.serving.store.rows import decision, feedback

NOW = time.time()
DAY = 86_400.0
THIS = month_of(NOW)
MONTHS = [month_of(THIS.begins - days * DAY) for days in (80, 50, 20)]
ABOUT = (FEEDBACK, ALSO_FEEDBACK, CHARGES)


def at(month: Month) -> float:
    return month.begins + 5 * DAY


def fill(engine: sa.Engine, *, each: int = 20) -> None:
    """Decisions of the three months before, of long ago and of this one, with feedback, charges and answers."""
    make(engine, MONTHS)
    times = [100.0, *map(at, MONTHS), max(NOW - 60, THIS.begins)]
    ids = [(new_id(when + n), when + n) for when in times for n in range(each)]
    budgets = [(Limit(BudgetKey("default", "month", month_of(when).begins), None),) for _, when in ids]
    charges = [Charge(name, limits, 1_000) for (name, _), limits in zip(ids, budgets, strict=True)]
    write(engine, [Item(row=decision(name, at=when)) for name, when in ids])
    write(engine, [Item(charge=one) for one in charges])
    with engine.begin() as connection:
        connection.execute(FEEDBACK.insert(), [feedback(name).row(when) for name, when in ids])
        connection.execute(ALSO_FEEDBACK.insert(), [feedback(name).row(when) for name, when in ids])
        connection.execute(REPLAYS.insert(), [{"id": name, "at": when, "body_hash": "x"} for name, when in ids])


def ids_in(engine: sa.Engine, table: sa.Table) -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(sa.select(table.c.id if "id" in table.c else table.c.decision_id)))


@pytest.fixture
def engine(url: str) -> Iterator[sa.Engine]:
    made = open_engine(url)
    fill(made)
    yield made
    made.dispose()


def everything(engine: sa.Engine) -> dict[str, list[Any]]:
    with engine.connect() as connection:
        return {name: sorted(map(tuple, connection.execute(sa.select(one)))) for name, one in METADATA.tables.items()}


@pytest.mark.parametrize("batch", [7, 10_000])
def test_what_is_old_goes_with_all_that_is_about_it(engine: sa.Engine, batch: int) -> None:
    until = at(MONTHS[1]) + 10  # the first month whole, half of the second
    said, before = counted(engine, until), everything(engine)
    assert everything(engine) == before, "it is only counted"
    gone = prune(engine, until, batch)
    assert gone.months == said.months == {"1970-01": 20, MONTHS[0].name: 20, MONTHS[1].name: 10}
    assert gone.rows == said.rows == dict.fromkeys(("decision", "feedback", "also_feedback", "charge", "replay"), 50)
    left = ids_in(engine, DECISIONS)
    assert len(left) == 50
    for table in (*ABOUT, REPLAYS):
        assert ids_in(engine, table) == left
    with engine.connect() as connection:
        assert MONTHS[0] not in [
            Month(int(one.begins), int(one.ends)) for one in partitions(connection) if one.begins > 0
        ]
    again = prune(engine, until, batch)
    assert (again.months, set(again.rows.values()) <= {0}) == ({}, True)


def test_budgets_stay_as_they_are(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        before = list(connection.execute(sa.select(BUDGETS).order_by(*BUDGETS.primary_key.columns)))
    prune(engine, until_of(NOW, DAY))
    with engine.connect() as connection:
        assert list(connection.execute(sa.select(BUDGETS).order_by(*BUDGETS.primary_key.columns))) == before
    running = BudgetKey("key:new", "month", THIS.begins), BudgetKey("workflow:w", "month", THIS.begins)
    assert {one.decisions for one in totals_of(engine, running).values()} == {0}
    everyone = BudgetKey("whoever", "month", THIS.begins)
    assert totals_of(engine, [everyone])[everyone].decisions == 20, (
        "a budget that is set now begins with all of the month"
    )


def test_the_running_month_stays() -> None:
    assert until_of(NOW, DAY) == min(NOW - DAY, THIS.begins)
    assert until_of(NOW, 400 * DAY) == NOW - 400 * DAY


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", range(1, 9))
def test_a_call_that_is_stopped_anywhere_leaves_a_whole_store_and_is_called_again(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    until, plain, calls = at(MONTHS[1]) + 10, module.begin, [0]
    kept = {one for one in ids_in(engine, DECISIONS) if one >= new_id(until)[:12]}

    def killed(engine: sa.Engine) -> Any:
        calls[0] += 1
        if calls[0] > after:
            raise Killed
        return plain(engine)

    with monkeypatch.context() as patched:
        patched.setattr(module, "begin", killed)
        with pytest.raises(Killed):
            prune(engine, until, batch=7)
    decisions = ids_in(engine, DECISIONS)
    for table in ABOUT:
        assert decisions <= ids_in(engine, table), "a decision that is there has all that is about it"
    prune(engine, until, batch=7)
    for table in (DECISIONS, *ABOUT, REPLAYS):
        assert ids_in(engine, table) == kept
    with engine.connect() as connection:
        assert not [one for one in sa.inspect(connection).get_table_names() if one.startswith("pruned_")]


@needs_postgres
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_month_that_is_read_all_the_time_is_left_with_all_that_is_about_it(
    engine: sa.Engine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WAIT_MS", 20)
    monkeypatch.setattr(module, "_TRIES", 2)
    monkeypatch.setattr(module, "_BETWEEN", 0.0)
    before = everything(engine)
    with engine_of(url).begin() as reading:
        reading.exec_driver_sql("SELECT count(*) FROM decision")
        with pytest.raises(
            BusyError, match=r"somebody reads decisions all the time\. Nothing of it is lost; prune again"
        ):
            prune(engine, float(MONTHS[0].ends))
    assert everything(engine) == before


@needs_postgres
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_a_table_that_was_no_month_stays_whatever_it_is_called(engine: sa.Engine) -> None:
    names = ["pruned_decisions_kept", "pruned_decision_2020_01", "pruned_decision_before"]
    with engine.begin() as connection:
        for name in names:
            connection.exec_driver_sql(f"CREATE TABLE {name} AS SELECT * FROM decision")
    before = everything(engine)
    assert counted(engine, 50.0).rows == dict.fromkeys(("decision", "feedback", "also_feedback", "charge", "replay"), 0)
    prune(engine, 50.0)
    assert everything(engine) == before
    prune(engine, until_of(NOW, DAY))
    with engine.connect() as connection:
        assert set(names) <= set(sa.inspect(connection).get_table_names())


@needs_postgres
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_what_a_stopped_call_left_is_counted_with_what_is_about_it(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise Killed

    until = float(MONTHS[0].ends)
    whole = counted(engine, until).rows
    with monkeypatch.context() as patched:
        patched.setattr(module, "_finish", killed)
        with pytest.raises(Killed):
            prune(engine, until)
    said = counted(engine, until).rows
    assert said == whole
    assert prune(engine, until).rows == said


@needs_postgres
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_two_do_not_prune_at_once(engine: sa.Engine, capsys: pytest.CaptureFixture[str], url: str) -> None:
    before = everything(engine)
    with engine.begin() as connection:
        assert connection.scalar(sa.text(module._LOCK))
        with pytest.raises(SystemExit) as ended:
            main(["prune", "--store", url, "--older-than", "1d"])
    assert ended.value.code == 2
    assert "somebody else prunes this store at this moment; nothing was done" in capsys.readouterr().err
    assert everything(engine) == before


@needs_postgres
@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("years", [-3, 3])
def test_a_clock_that_is_wrong_prunes_nothing(
    engine: sa.Engine, url: str, years: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(engine)
    assert abs(now_of(engine, NOW) - NOW) < 3_600
    with monkeypatch.context() as patched:
        patched.setattr(command, "time", SimpleNamespace(time=lambda: NOW + years * 365 * DAY))
        for more in ([], ["--dry-run"]):
            with pytest.raises(SystemExit) as ended:
                main(["prune", "--store", url, "--older-than", "400d", *more])
            assert ended.value.code == 2
            said = capsys.readouterr().err
            assert "by this machine's clock" in said
            assert "expected less than a day between them. Nothing is pruned: set the clock that is wrong" in said
    assert everything(engine) == before


def test_charges_without_a_decision_go_once_their_period_is_old(engine: sa.Engine) -> None:
    last = month_of(MONTHS[0].begins - DAY).begins
    rows = [
        {"decision_id": name, "scope": "key:a", "period": period, "begins": begins, "amount": 1, "settled": False}
        for name, period, begins in [
            ("day", "day", MONTHS[0].ends - DAY),
            ("new day", "day", MONTHS[0].ends),
            ("month", "month", last),
            ("new month", "month", MONTHS[1].begins),
        ]
    ]
    with engine.begin() as connection:
        connection.execute(CHARGES.insert(), rows)
    until = float(MONTHS[0].ends)
    said, gone = counted(engine, until), prune(engine, until, batch=1)
    assert said.rows == gone.rows
    assert {"new day", "new month"} == ids_in(engine, CHARGES) - ids_in(engine, DECISIONS)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_an_sqlite_file_gives_its_room_back(url: str) -> None:
    engine = open_engine(url)
    with engine.begin() as connection:
        rows = [decision(new_id(at(MONTHS[0])), at=at(MONTHS[0]), prompt="long " * 2_000) for _ in range(500)]
        connection.execute(DECISIONS.insert(), rows)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    before = Path(url).stat().st_size
    prune(engine, until_of(NOW, DAY), batch=100)
    engine.dispose()
    assert Path(url).stat().st_size < before / 10


def test_the_command_says_what_would_go_and_what_is_gone(
    url: str, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    days = f"{int((NOW - MONTHS[0].ends) / DAY)}d"
    before = everything(engine)
    main(["prune", "--store", url, "--older-than", days, "--dry-run"])
    said = capsys.readouterr().out
    assert "would be gone, and is still there" in said
    assert f"{MONTHS[0].name}: 20 decisions" in said
    assert everything(engine) == before
    main(["prune", "--store", url, "--older-than", days, "--batch", "11"])
    gone = capsys.readouterr().out
    assert "is gone:" in gone
    assert gone.splitlines()[2:] == said.splitlines()[2:]
    main(["prune", "--store", url, "--older-than", days])
    assert "nothing: no decision is from before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--older-than", "0d"], "'0d' arrived; expected days, as 400d"),
        (["--older-than", "\u0663d"], "'\u0663d' arrived; expected days, as 400d"),
        (["--older-than", "4d", "--batch", "\u0663"], "'\u0663' arrived; expected a whole number from 1 to 30000"),
        (["--older-than", "1y"], "'1y' arrived; expected days, as 400d"),
        (["--older-than", "4d", "--batch", "30001"], "'30001' arrived; expected a whole number from 1 to 30000"),
        ([], "--older-than"),
    ],
)
def test_wrong_options_are_told(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["prune", "--store", "nowhere.db", *arguments])
    assert ended.value.code == 2
    assert why in capsys.readouterr().err


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prune", "--store", str(tmp_path / "d.db"), "--older-than", "400d"])
    assert "is not there yet, and will be made, once router-serve is started with it" in capsys.readouterr().err
    assert not (tmp_path / "d.db").exists()
