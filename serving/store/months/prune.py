"""Lets go of old decisions, with all that is about them: feedback, on who was asked too as well, charges, repeated answers.

In PostgreSQL a month that is old as a whole is taken out of the table at once, and dropped when what is about its decisions is
gone; everything else goes in batches, each a transaction with all that is about its decisions. So whoever kills it finds a
store that is whole, and calls it again. Decisions of the running month stay until it is over: a budget that is set meanwhile
begins with what they cost.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Table, column, exists, func, or_, select, text
from sqlalchemy import table as named
from sqlalchemy.exc import OperationalError

from serving.account.window import iso
from serving.store.days.tables import UNNOTED
from serving.store.months.calendar import month_of
from serving.store.months.ids import EVER, made_around
from serving.store.months.partitions import Partition, partitions, timed_out
from serving.store.tables import ALSO_FEEDBACK, CHARGES, DECISIONS, FEEDBACK, REPLAYS
from serving.store.transaction import begin

BATCH = 10_000
_ABOUT = (FEEDBACK, ALSO_FEEDBACK, CHARGES)
_LEAVING = "pruned_"
# What `prune` takes out of the table is named and marked so; no other table is finished, whatever it is called.
_LEFT = re.compile(r"pruned_decision_(before|\d{4}_\d{2})", re.ASCII)
_MARK = "outcome-router: was taken out of the table decision by prune, which drops it"
_TABLES = """
SELECT relname, obj_description(oid, 'pg_class') FROM pg_class
WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace
"""
_LOCK = "SELECT pg_try_advisory_xact_lock(hashtext('outcome_router_prune'))"
_LONGEST = {"day": 86_400.0, "month": 31 * 86_400.0}  # of a budget's periods
_MOST_APART = 86_400.0
_WAIT_MS, _TRIES, _BETWEEN = 1_000, 60, 1.0
_PAGES = 1_000  # that SQLite gives back at a time
Progress = Callable[[str], object]


class BusyError(RuntimeError):
    """The table of decisions was in use all the time, or somebody else prunes it; the message says what to do."""


class ClockError(RuntimeError):
    """This machine and the database do not agree what day it is; nothing is changed."""

    def __init__(self, here: float, there: float) -> None:
        super().__init__(
            f"it is {iso(here)} by this machine's clock and {iso(there)} by the database's; expected less than a day "
            "between them. Nothing is pruned: set the clock that is wrong"
        )


@dataclass
class Pruned:
    """What was let go, or would be: decisions made before `until` (epoch seconds) by month, as 2026-03, and rows by table."""

    until: float
    months: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def add(self, table: str, rows: int) -> None:
        self.rows[table] = self.rows.get(table, 0) + rows


def until_of(now: float, seconds: float) -> float:
    """Until when decisions are old: so many seconds ago, and not in the running month."""
    return min(now - seconds, float(month_of(now).begins))


def now_of(engine: Engine, here: float) -> float:
    """The database's time, in epoch seconds, where it has a clock. Raises ClockError where `here` is far from it."""
    if engine.dialect.name != "postgresql":
        return here
    with engine.connect() as connection:
        there = float(connection.scalar(text("SELECT extract(epoch FROM now())")) or 0.0)
    if abs(there - here) > _MOST_APART:
        raise ClockError(here, there)
    return there


def counted(engine: Engine, until: float) -> Pruned:
    """What `prune` would let go; nothing is changed."""
    found = Pruned(until)
    with engine.connect() as connection:
        d, months = DECISIONS.c, _months(connection)
        asked = select(months, func.count()).where(d.at < until).group_by(months).order_by(months)
        found.months = {str(month): int(rows) for month, rows in connection.execute(asked)}
        found.rows["decision"] = sum(found.months.values())
        old = select(d.id).where(d.at < until)
        for one in _ABOUT:
            found.rows[one.name] = connection.scalar(_count(one, one.c.decision_id.in_(old))) or 0
        found.rows["replay"] = connection.scalar(_count(REPLAYS, REPLAYS.c.at < until)) or 0
        alone = [_alone(until)]
        for name in _left(connection):
            leaving = select(named(name, column("id")).c.id)
            found.add("decision", connection.scalar(select(func.count()).select_from(named(name))) or 0)
            for one in _ABOUT:
                found.add(one.name, connection.scalar(_count(one, one.c.decision_id.in_(leaving))) or 0)
            alone.append(CHARGES.c.decision_id.not_in(leaving))
        found.add("charge", connection.scalar(_count(CHARGES, *alone)) or 0)
    return found


def prune(engine: Engine, until: float, batch: int = BATCH, progress: Progress = lambda _: None) -> Pruned:
    """Lets go of the decisions made before a time; raises BusyError, and what SQLAlchemy does."""
    with _alone_here(engine):
        return _pruned(engine, until, batch, progress)


def _pruned(engine: Engine, until: float, batch: int, progress: Progress) -> Pruned:
    pruned = Pruned(until)
    with engine.connect() as connection:
        left, whole = _left(connection), [one for one in partitions(connection) if one.ends <= until]
    for name in left:
        progress(f"{name} was left by a call that was stopped")
        _finish(engine, name, batch, pruned)
    for one in whole:
        _take_out(engine, one, pruned)
        progress(f"{one.name} is out of the table")
        _finish(engine, f"{_LEAVING}{one.name}", batch, pruned)
    while _some(engine, until, batch, pruned):
        progress(f"{pruned.rows['decision']} decisions are gone")
    while gone := _charges(engine, until, batch):
        pruned.add("charge", gone)
    while gone := _replays(engine, until, batch):
        pruned.add("replay", gone)
    _give_back(engine)
    return pruned


def shrinks(engine: Engine) -> bool:
    """Whether what is let go gives back room on the disk, which an SQLite file of an earlier version does not."""
    if engine.dialect.name != "sqlite":
        return True
    with engine.connect() as connection:
        return bool(connection.exec_driver_sql("PRAGMA auto_vacuum").scalar())


def _months(connection: Connection, at: ColumnElement[Any] = DECISIONS.c.at) -> ColumnElement[str]:
    if connection.dialect.name == "sqlite":
        return func.strftime("%Y-%m", at, "unixepoch")
    return func.to_char(func.timezone("UTC", func.to_timestamp(at)), "YYYY-MM")


def _count(table: Table, *which: ColumnElement[bool]) -> Any:
    return select(func.count()).select_from(table).where(*which)


def _left(connection: Connection) -> list[str]:
    """What is out of the table and still there: somebody stopped it."""
    if connection.dialect.name != "postgresql":
        return []
    tables = connection.execute(text(_TABLES))
    return sorted(name for name, mark in tables if mark == _MARK and _LEFT.fullmatch(name))


@contextmanager
def _alone_here(engine: Engine) -> Iterator[None]:
    """Keeps others from pruning the same store meanwhile; raises BusyError where somebody does."""
    if engine.dialect.name != "postgresql":
        yield
        return
    with engine.begin() as connection:
        if not connection.scalar(text(_LOCK)):
            raise BusyError("somebody else prunes this store at this moment; nothing was done, for they do it")
        yield


def _take_out(engine: Engine, one: Partition, pruned: Pruned) -> None:
    """Takes a month out of the table: from then on nobody sees it, and nothing can be told of it."""
    for last in (*[False] * (_TRIES - 1), True):
        try:
            with begin(engine) as connection:
                connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_WAIT_MS}")
                connection.exec_driver_sql(f"ALTER TABLE decision DETACH PARTITION {one.name}")
                connection.exec_driver_sql(f"ALTER TABLE {one.name} RENAME TO {_LEAVING}{one.name}")
                connection.exec_driver_sql(f"COMMENT ON TABLE {_LEAVING}{one.name} IS '{_MARK}'")
            break
        except OperationalError as error:
            if last or not timed_out(error):
                raise BusyError(
                    f"{one.name} could not be taken out of the table for {_TRIES * (_WAIT_MS / 1e3 + _BETWEEN):.0f} s: "
                    "somebody reads decisions all the time. Nothing of it is lost; prune again"
                ) from None
            time.sleep(_BETWEEN)
    with engine.connect() as connection:
        month = _months(connection, column("at"))
        for name, rows in connection.execute(
            select(month, func.count()).select_from(named(f"{_LEAVING}{one.name}")).group_by(month)
        ):
            pruned.months[name] = pruned.months.get(name, 0) + rows


def _finish(engine: Engine, name: str, batch: int, pruned: Pruned) -> None:
    """Deletes what is about the decisions of a table that was taken out, and drops it."""
    leaving, after = named(name, column("id")), ""
    while True:
        with _unnoted(engine) as connection:
            asked = select(leaving.c.id).where(leaving.c.id > after).order_by(leaving.c.id).limit(batch)
            ids = list(connection.scalars(asked))
            if not ids:
                break
            _delete_about(connection, ids, pruned)
        pruned.add("decision", len(ids))
        after = ids[-1]
    with begin(engine) as connection:
        connection.exec_driver_sql(f"DROP TABLE {name}")


def _some(engine: Engine, until: float, batch: int, pruned: Pruned) -> bool:
    """Deletes a batch of the oldest, with all that is about them; whether there were any."""
    d = DECISIONS.c
    months: dict[str, int] = {}
    with _unnoted(engine) as connection:
        month = _months(connection)
        asked = select(d.id, d.at, month).where(d.at < until).order_by(d.at).limit(batch)
        old = list(connection.execute(asked))
        if not old:
            return False
        ids, first, last = sorted(row[0] for row in old), old[0][1], old[-1][1]
        # Whoever tells something of one of these holds it, and is waited for: what was told goes as well.
        _hold(connection, ids, first, last)
        connection.execute(DECISIONS.delete().where(d.at >= first, d.at <= last, d.id.in_(ids)))
        for *_, name in old:
            months[name] = months.get(name, 0) + 1
        counts = Pruned(until)
        _delete_about(connection, ids, counts)
    for name, rows in months.items():
        pruned.months[name] = pruned.months.get(name, 0) + rows
    for name, rows in counts.rows.items():
        pruned.add(name, rows)
    pruned.add("decision", len(ids))
    return True


def _hold(connection: Connection, ids: Sequence[str], first: float, last: float) -> None:
    """Locks decisions in the order in which feedback on them does, so that neither waits for the other for ever."""
    d = DECISIONS.c
    dated = [one for one in ids if made_around(one) is not EVER]
    for some in (dated, sorted(set(ids) - set(dated))):
        if some:
            asked = select(d.id).where(d.at >= first, d.at <= last, d.id.in_(some)).order_by(d.id)
            connection.execute(asked.with_for_update()).all()


def _delete_about(connection: Connection, ids: Sequence[str], pruned: Pruned) -> None:
    for one in _ABOUT:
        pruned.add(one.name, connection.execute(one.delete().where(one.c.decision_id.in_(ids))).rowcount)


@contextmanager
def _unnoted(engine: Engine) -> Iterator[Connection]:
    """A transaction in which what is about decisions goes with them, so that noting the decisions' days does."""
    with begin(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(UNNOTED)
        yield connection


def _alone(until: float) -> ColumnElement[bool]:
    """Charges of a period that was over by then whose decision is not there: it found the queue full, say."""
    over = [(CHARGES.c.period == name) & (CHARGES.c.begins <= until - seconds) for name, seconds in _LONGEST.items()]
    return or_(*over) & ~exists().where(DECISIONS.c.id == CHARGES.c.decision_id)


def _charges(engine: Engine, until: float, batch: int) -> int:
    """Deletes a batch of charges that have no decision to go with."""
    alone = select(CHARGES.c.decision_id).where(_alone(until)).distinct().limit(batch)
    with _unnoted(engine) as connection:
        ids = list(connection.scalars(alone))
        if not ids:
            return 0
        return connection.execute(CHARGES.delete().where(CHARGES.c.decision_id.in_(ids), _alone(until))).rowcount


def _replays(engine: Engine, until: float, batch: int) -> int:
    """Deletes a batch of answers that were given to requests made before a time."""
    old = select(REPLAYS.c.id).where(REPLAYS.c.at < until).limit(batch)
    with begin(engine) as connection:
        return connection.execute(REPLAYS.delete().where(REPLAYS.c.id.in_(old))).rowcount


def _give_back(engine: Engine) -> None:
    """Gives back the room that SQLite keeps in its file, some at a time: others write meanwhile."""
    if engine.dialect.name != "sqlite" or not shrinks(engine):
        return
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        free = None
        while (left := driver.execute("PRAGMA freelist_count").fetchone()[0]) and left != free:
            free = left
            driver.executescript(f"PRAGMA incremental_vacuum({_PAGES})")  # which a single step does not finish
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
