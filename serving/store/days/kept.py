"""Which days' sums are those of the rows that there are, by what the database says of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Float,
    Integer,
    Select,
    cast,
    func,
    literal_column,
    not_,
    select,
    text,
    true,
)

from serving.account.days import ID_DIGITS, Summed, name_of, on_days, rest_of
from serving.account.window import DAY, Window
from serving.store.days.tables import SUMS, TRIGGERS
from serving.store.months.partitions import OTHER, partitions
from serving.store.tables import ALSO_FEEDBACK, DECISIONS, FEEDBACK

_FORM = 1  # of what is summed: with another, all days are summed anew
_USUAL = """
SELECT coalesce(has_table_privilege(to_regclass('savings_cells'), 'SELECT'), false)
    AND coalesce(has_table_privilege(to_regclass('savings_cells'), 'INSERT'), false)
    AND has_database_privilege(current_database(), 'TEMPORARY') AND has_function_privilege('pg_control_system()', 'EXECUTE')
    AND (SELECT count(*) FROM pg_trigger WHERE starts_with(tgname, 'savings_') AND tgenabled IN ('O', 'A')
        AND tgrelid IN (to_regclass('decision'), to_regclass('feedback'), to_regclass('also_feedback'))) = :triggers
"""
_DATABASE = """
SELECT system_identifier || '.' || (SELECT oid FROM pg_database WHERE datname = current_database()) FROM pg_control_system()
"""
_FILES = """
SELECT name, c.oid || '.' || c.relfilenode
FROM unnest(CAST(:names AS text[])) name JOIN pg_class c ON c.oid = to_regclass(name)
"""
# Of a day that is not over something was summed where the database's clock was ahead.
_KEPT = """
SELECT day, held FROM savings_day kept WHERE day >= :first AND day < :last
    AND day < floor(extract(epoch FROM clock_timestamp()) / 86400) AND NOT EXISTS (
    SELECT FROM savings_changed noted WHERE noted.day = kept.day
    AND NOT pg_visible_in_snapshot(noted.changed, kept.snapshot::pg_snapshot))
"""
# What an id of a decision looks like that says when it was made (`months.ids`), and the seconds that it says.
_SAYS_WHEN = "~ '^[0-9a-f]{{12}}7[0-9a-f]{{3}}[89ab][0-9a-f]{{15}}$'"
_SAID = "(CASE WHEN {id} " + _SAYS_WHEN + " THEN ('x' || substr({id}, 1, 12))::bit(48)::bigint / 1e3 END)"
# Decisions with an id of that length that says nothing, or something else: any session may be called like it.
_UNTOLD = f"""
SELECT DISTINCT floor(at / {DAY}) FROM decision WHERE at >= :since AND at < :until AND length(id) = {ID_DIGITS}
    AND coalesce(abs({_SAID.format(id="id")} - at) > {DAY}, true)
"""
ROWS_ALONE = "rows alone, "
_BESIDE = (OTHER, FEEDBACK.name, ALSO_FEEDBACK.name)


class Held:
    """What a day's rows are in: the database, the tables, and their files; in others there may be other rows."""

    def __init__(self, connection: Connection) -> None:
        self._months = partitions(connection)
        names = [*(one.name for one in self._months), *_BESIDE]
        self._files = {row[0]: row[1] for row in connection.execute(text(_FILES), {"names": names})}
        self._database = connection.scalar(text(_DATABASE))

    def by(self, day: int) -> str:
        """As it is kept beside the day's sums."""
        months = [one.name for one in self._months if one.begins < (day + 1) * DAY and day * DAY < one.ends]
        return " ".join(str(one) for one in (_FORM, self._database, *map(self._files.get, (*months, *_BESIDE))))

    def by_rows(self, day: int) -> str:
        """The same of a day that is not summed, for its decisions' ids do not say when they were made."""
        return ROWS_ALONE + self.by(day)


def hold(connection: Connection) -> None:
    """Keeps PostgreSQL's months in the table until the transaction ends; before anything else is read in it.

    Who reads first which months there are, and waits then while `prune` takes one out, has its sums and not its rows.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"LOCK TABLE {DECISIONS.name} IN ACCESS SHARE MODE")


def able(connection: Connection) -> bool:
    """Whether there are sums of days here, or may be."""
    return connection.dialect.name == "postgresql" and bool(connection.scalar(text(_USUAL), {"triggers": TRIGGERS}))


def kept(connection: Connection, since: float, until: float) -> list[int]:
    """The whole days between two times whose sums hold, in a transaction that sees one moment."""
    return sorted(day for day, by_rows in known(connection, since, until).items() if not by_rows)


def known(connection: Connection, since: float, until: float) -> dict[int, bool]:
    """The whole days of which it is known how they are summed: True where their rows are read (`by_rows`)."""
    if not able(connection):
        return {}
    held = Held(connection)
    asked = {"first": int(-(-since // DAY)), "last": int(until // DAY)}
    told = {row.day: row.held for row in connection.execute(text(_KEPT), asked)}
    return {day: was != held.by(day) for day, was in told.items() if was in (held.by(day), held.by_rows(day))}


def by_rows(connection: Connection, days: Sequence[int]) -> set[int]:
    """Of these days, those with a decision that no id says the time of: what names it would be looked for everywhere."""
    asked = {"since": min(days) * DAY, "until": (max(days) + 1) * DAY}
    return {int(day) for day in connection.scalars(text(_UNTOLD), asked)} & set(days)


def summed(connection: Connection, window: Window) -> Summed | None:
    """What an account of a window may take in place of rows; None where there is nothing."""
    days = kept(connection, window.since, window.until)
    if days:
        others = rest_of(DECISIONS.c.at, window, days)
        if window.key is not None:
            others &= DECISIONS.c.key == window.key
        unknown = named_elsewhere(others, days)
        days = sorted(set(days) - set(connection.scalars(unknown)))
    return Summed(SUMS, days) if days else None


def named_elsewhere(others: ColumnElement[bool], days: Sequence[int]) -> Select[Any]:
    """The days whose sums do not know that a decision of theirs is of a conversation of the others'.

    It is one that names no session, and has for its id what a session of the others is called. Such a name says when it was
    made, for days with other ids have no sums (`by_rows`); what clients call their sessions mostly does not.
    """
    d, named = DECISIONS.c, DECISIONS.alias("named").c
    said: ColumnElement[float] = literal_column(_SAID.format(id=f"{DECISIONS.name}.session_id"), Float)
    found = select(d.key, d.session_id, said.label("at")).where(others, func.length(d.session_id) == ID_DIGITS)
    every = found.distinct().subquery("every")
    names = select(every).where(every.c.at.is_not(None)).subquery("names")
    same = (
        named.id == names.c.session_id,
        named.at >= names.c.at - DAY,
        named.at <= names.c.at + DAY,
        named.session_id.is_(None),
        named.key.is_not_distinct_from(names.c.key),
    )
    # By the id, in the month that it says, for each name: PostgreSQL would else read all decisions.
    made = select(cast(func.floor(named.at / DAY), Integer).label("day")).where(*same).offset(0).lateral("made")
    known_there = on_days(SUMS.cells, Summed(SUMS, days), name_of(names.c.key, names.c.session_id))
    chosen = select(made.c.day).select_from(names.join(made, true()))
    return chosen.where(made.c.day.in_(days), not_(known_there)).distinct()
