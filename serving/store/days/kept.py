"""Which days' sums are those of the rows that there are, by what the database says of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, Select, cast, func, not_, select, text, true

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
_KEPT = """
SELECT day, held FROM savings_day kept WHERE day >= :first AND day < :last AND NOT EXISTS (
    SELECT FROM savings_changed noted WHERE noted.day = kept.day
    AND NOT pg_visible_in_snapshot(noted.changed, kept.snapshot::pg_snapshot))
"""
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


def able(connection: Connection) -> bool:
    """Whether there are sums of days here, or may be."""
    return connection.dialect.name == "postgresql" and bool(connection.scalar(text(_USUAL), {"triggers": TRIGGERS}))


def kept(connection: Connection, since: float, until: float) -> list[int]:
    """The whole days between two times whose sums hold, in a transaction that sees one moment."""
    if not able(connection):
        return []
    held = Held(connection)
    asked = {"first": int(-(-since // DAY)), "last": int(until // DAY)}
    return sorted(day for day, was in connection.execute(text(_KEPT), asked) if was == held.by(day))


def summed(connection: Connection, window: Window) -> Summed | None:
    """What an account of a window may take in place of rows; None where there is nothing."""
    days = kept(connection, window.since, window.until)
    if days:
        unknown = named_elsewhere(rest_of(DECISIONS.c.at, window, days), days)
        days = sorted(set(days) - set(connection.scalars(unknown)))
    return Summed(SUMS, days) if days else None


def named_elsewhere(others: ColumnElement[bool], days: Sequence[int]) -> Select[Any]:
    """The days whose sums do not know that a decision of theirs is of a conversation of the others'.

    It is one that names no session, and has for its id what a session of the others is called.
    """
    d, named = DECISIONS.c, DECISIONS.alias("named").c
    names = (
        select(d.key, d.session_id).where(others, func.length(d.session_id) == ID_DIGITS).distinct().subquery("names")
    )
    same = (
        named.id == names.c.session_id,
        named.session_id.is_(None),
        named.key.is_not_distinct_from(names.c.key),
    )
    # By the id, in every month, for each name: PostgreSQL would else read all decisions.
    found = select(cast(func.floor(named.at / DAY), Integer).label("day")).where(*same).offset(0).lateral("found")
    known = on_days(SUMS.cells, Summed(SUMS, days), name_of(names.c.key, names.c.session_id))
    chosen = select(found.c.day).select_from(names.join(found, true()))
    return chosen.where(found.c.day.in_(days), not_(known)).distinct()
