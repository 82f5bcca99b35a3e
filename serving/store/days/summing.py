"""Sums the days that are over and are not summed as they are now; in the background, one process at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import Connection, CreateTableAs, Engine, delete, func, insert, select, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from serving.account.days import made, name_of, rest_of
from serving.account.gathered import alone
from serving.account.told import Tables, told_rows
from serving.account.window import DAY, By, Window
from serving.store.days.kept import ROWS_ALONE, Held, able, by_rows, known, named_elsewhere
from serving.store.days.tables import CHANGED, DAYS, SUMS, make
from serving.store.tables import ALSO_FEEDBACK, DECISIONS, FEEDBACK
from serving.store.transaction import begin

logger = logging.getLogger(__name__)

MOST_DAYS = 800  # that are kept
_TOLD = "savings_of_days"
_SECONDS = 600.0
FIRST_SECONDS = 30.0
_BATCH, _LONGEST_BATCH = 50_000, 31  # decisions, about, and days
_MOST_FAILED = 3  # days that are passed over before it is the database's fault
_APART = 120.0  # seconds by which the database's clock may be put back
_CHANGED_MEANWHILE = "40001"
_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('outcome_router_days'))"
_NOW = "SELECT CAST(extract(epoch FROM clock_timestamp()) AS float)"
_NUMBER = "SELECT pg_current_xact_id()"
_OVER = "SELECT pg_snapshot_xmin(pg_current_snapshot()) > CAST(:number AS xid8)"
_SNAPSHOT = "SELECT CAST(pg_current_snapshot() AS text)"
_KNOWN = """
DELETE FROM savings_changed WHERE day = ANY(:days) AND pg_visible_in_snapshot(changed, CAST(:snapshot AS pg_snapshot))
"""


def sum_up(engine: Engine, ended: Callable[[], bool] = lambda: False) -> int:
    """Sums what is to be summed, until `ended`; how many days were. Raises what SQLAlchemy does.

    Nobody waits for it: who writes notes what has changed, and a day that changed meanwhile is summed the next time.
    """
    if engine.dialect.name != "postgresql":
        return 0
    with begin(engine) as connection:
        # Whoever wrote before a day was over made no note of it. All of these have lower numbers than what has one afterwards.
        today = int((connection.scalar(text(_NOW)) - _APART) // DAY)
        number = str(connection.scalar(text(_NUMBER)))
    days = _lacking(engine, today)
    done, failed, size = 0, 0, 1
    while done + failed < len(days) and not ended():
        batch = days[done + failed : done + failed + size]
        try:
            rows = _summed(engine, number, batch)
        except OperationalError as error:
            # One day that takes too long is not to keep those before it from being summed.
            if len(batch) == 1:
                failed += 1
                kind = type(getattr(error, "orig", None) or error).__name__
                logger.warning("the day %d could not be summed (%s), it is tried again", batch[0], kind)
                if failed >= _MOST_FAILED:
                    raise
            size = 1
            continue
        if rows is None:
            return done
        done += len(batch)
        size = max(min(int(len(batch) * _BATCH / max(rows, 1)), 2 * size, _LONGEST_BATCH), 1)
    return done


def _lacking(engine: Engine, today: int) -> list[int]:
    """The days that are over and have no sums that hold, the latest first: those are asked for most."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection, connection.begin():
        if not able(connection):
            return []
        since = (today - MOST_DAYS) * DAY
        earliest = connection.scalar(select(func.min(DECISIONS.c.at)).where(DECISIONS.c.at >= since))
        first = today if earliest is None else int(earliest // DAY)
        for table in (*SUMS, DAYS, CHANGED):  # of what was pruned
            connection.execute(delete(table).where(table.c.day < min(first, today)))
        for table in (*SUMS, DAYS):  # of what a clock that was ahead took to be over
            connection.execute(delete(table).where(table.c.day >= today))
        there = known(connection, since, today * DAY)
        return [day for day in range(today - 1, first - 1, -1) if day not in there]


def _summed(engine: Engine, number: str, days: Sequence[int]) -> int | None:
    """As `_sum`, once more where somebody changed meanwhile what it changes: it says nothing of the days."""
    try:
        return _sum(engine, number, days)
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _CHANGED_MEANWHILE:
            raise
        return _sum(engine, number, days)


def _sum(engine: Engine, number: str, days: Sequence[int]) -> int | None:
    """Sums some days anew, in one transaction; how many decisions they have.

    None where somebody else sums, or who wrote while they were not over has not ended yet.
    """
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection, connection.begin():
        if not connection.scalar(text(_LOCK)) or not connection.scalar(text(_OVER), {"number": number}):
            return None
        for setting in ("jit = off", "work_mem = '64MB'", "statement_timeout = '120s'"):
            connection.exec_driver_sql(f"SET LOCAL {setting}")
        snapshot, held = connection.scalar(text(_SNAPSHOT)), Held(connection)
        for table in (*SUMS, DAYS):
            connection.execute(delete(table).where(table.c.day.in_(days)))
        unsummed = by_rows(connection, days)
        summed = [day for day in days if day not in unsummed]
        decisions = _insert(connection, summed) if summed else 0
        rows = [
            {"day": day, "snapshot": snapshot, "held": held.by_rows(day) if day in unsummed else held.by(day)}
            for day in days
        ]
        connection.execute(insert(DAYS), rows)
        connection.execute(text(_KNOWN), {"days": list(days), "snapshot": snapshot})
    return decisions


def _insert(connection: Connection, days: Sequence[int]) -> int:
    window = Window(By.DAY, min(days) * DAY, (max(days) + 1) * DAY)
    others = [day for day in range(min(days), max(days) + 1) if day not in set(days)]
    when = partial(rest_of, window=window, days=others)
    named = (
        select(SUMS.cells.c.day).where(SUMS.cells.c.conversation == name_of(DECISIONS.c.key, DECISIONS.c.id)).exists()
    )
    tables = Tables(DECISIONS, FEEDBACK, ALSO_FEEDBACK)
    told = told_rows(
        tables, window, connection.dialect.name, alone=alone(tables, when, named), when=when(DECISIONS.c.at)
    )
    rows = CreateTableAs(select(told), _TOLD, temporary=True)
    connection.execute(rows)
    connection.exec_driver_sql(f"ANALYZE {_TOLD}")
    count = connection.scalar(select(func.count()).select_from(rows.table)) or 0
    for statement in made(rows.table, SUMS, ~rows.table.c.alone):
        connection.execute(statement)
    connection.exec_driver_sql(f"DROP TABLE {_TOLD}")
    # What is named here and was a conversation of its own elsewhere is no longer: that day is summed again.
    others_summed = select(DAYS.c.day).where(DAYS.c.day.not_in(days), DAYS.c.held.not_like(f"{ROWS_ALONE}%"))
    elsewhere = list(connection.scalars(others_summed))
    unknown = named_elsewhere(when(DECISIONS.c.at), elsewhere).subquery()
    note = insert(CHANGED).from_select(["day", "changed"], select(unknown.c.day, func.pg_current_xact_id()))
    connection.execute(note)
    return count


class Summing:
    """Sums the days that are over every ten minutes, in a thread of its own, until `stop`; in PostgreSQL alone."""

    def __init__(self, engine: Engine) -> None:
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if engine.dialect.name == "postgresql":
            self._thread = threading.Thread(target=self._run, args=(engine,), name="days", daemon=True)
            self._thread.start()

    def _run(self, engine: Engine) -> None:
        wait = FIRST_SECONDS
        while not self._ended.wait(wait):
            wait = _SECONDS
            try:
                make(engine)
                if days := sum_up(engine, self._ended.is_set):
                    logger.info("%d days are summed for accounts of savings", days)
            except SQLAlchemyError as error:
                kind = type(getattr(error, "orig", None) or error).__name__
                logger.warning("days could not be summed for accounts of savings (%s), it is tried again", kind)

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(1.0)
