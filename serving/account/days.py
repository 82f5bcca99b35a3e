"""Sums of whole days that are over, as a store may keep them: an account adds them to what it sums of other days' rows.

Of each day there are sums by all that an account tells apart, and what each conversation had that may go on another day
(`cells`): the squares of one that does are those of its days, and what `grouped.beyond_…` say. So what is kept of a day depends
on no other day.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import (
    ColumnElement,
    Connection,
    CreateTableAs,
    FromClause,
    Select,
    Subquery,
    Table,
    and_,
    func,
    or_,
    select,
)

from serving.account import grouped
from serving.account.grouped import OF_ANSWERS, OF_CELL, OF_PART, SQUARES, STRATUM, SUMMED
from serving.account.told import nothing
from serving.account.window import DAY, By, Window

ID_DIGITS = 32  # of a decision's id, as the router makes them
_LINKED = "savings_linked"
_REST = -1  # in place of a day: all days that are not summed
_OF_LINK = ("key", "workflow", "candidate", "reference")
# What the tables of sums are told apart by, besides the day; `apart` says by what they are, beyond the least.
OF_SUMS, OF_PARTS, OF_TOLD = ("workflow", "key", "candidate"), (*STRATUM, "candidate"), ("workflow", "key", "candidate")


class DayTables(NamedTuple):
    """Where sums of days are kept, with the columns that `made` gives."""

    sums: Table
    parts: Table
    answers: Table
    cells: Table


class Summed(NamedTuple):
    """The days (since 1970, in UTC) whose sums may be taken for their rows."""

    tables: DayTables
    days: Sequence[int]


def rest_of(at: ColumnElement[float], window: Window, days: Sequence[int]) -> ColumnElement[bool]:
    """What of a window is not on these days, as few spans as there are."""
    spans: list[ColumnElement[bool]] = []
    since = window.since
    for day in [*sorted(days), None]:
        until = window.until if day is None else day * DAY
        if since < until:
            spans.append(and_(at >= since, at < until))
        since = window.until if day is None else until + DAY
    return or_(sa.false(), *spans)


def name_of(key: ColumnElement[Any], conversation: ColumnElement[Any]) -> ColumnElement[bytes]:
    """A conversation's name of 16 bytes, which another's is not."""
    owner = func.coalesce(sa.cast(func.length(key), sa.Text) + ":" + key, "-")
    named: ColumnElement[bytes] = func.substr(func.sha256(func.convert_to(owner + ":" + conversation, "UTF8")), 1, 16)
    return named


def made(told: FromClause, tables: DayTables, loose: ColumnElement[bool]) -> list[sa.Insert]:
    """What puts the sums of days into the tables, from rows by day; `loose` are those that another day's may go on with."""
    day = told.c.line.label("day")
    inserts = []
    for table, names, sums, apart in (
        (tables.sums, (*SUMMED, *SQUARES), grouped.sums, (("", ("key",)), ("workflow", ("key", "workflow")),
         ("candidate", ("key", "candidate")))),
        (tables.parts, (*STRATUM, *OF_PART), grouped.parts, (("", ()), ("candidate", ("candidate",)))),
        (tables.answers, ("candidate", *OF_ANSWERS), grouped.answers, (("", ("key",)), ("workflow", ("key", "workflow")))),
    ):  # fmt: skip
        for name, by in apart:
            found = sums(told, [day, *(told.c[one] for one in by)]).subquery("found").c
            columns = list(dict.fromkeys(["day", *by, *names]))
            chosen = select(sa.literal(name), *(found[one] for one in columns))
            inserts.append(table.insert().from_select(["apart", *columns], chosen))
    return [*inserts, _cells(told, tables.cells, loose)]


def _cells(told: FromClause, cells: Table, loose: ColumnElement[bool]) -> sa.Insert:
    """Of what has something that is squared, or is called as a decision's id may be."""
    by = [told.c[name] for name in _OF_LINK]
    summed = grouped.cell(told)
    some = or_(summed["judged"] > 0, summed["rest_usd"] > 0, summed["answers"] > 0)
    some = or_(some, func.length(told.c.conversation) == ID_DIGITS)
    found = select(told.c.line, name_of(told.c.key, told.c.conversation), *by, *summed.values())
    found = found.where(loose).group_by(told.c.line, told.c.conversation, *by).having(some)
    return cells.insert().from_select(["day", "conversation", *_OF_LINK, *OF_CELL], found)


class Days:
    """The sums of days that an account takes, and the conversations that are on several of them or on others too."""

    def __init__(self, summed: Summed, window: Window, linked: Table) -> None:
        self._tables, self._days, self._window, self.linked = summed.tables, summed.days, window, linked

    def of(self, what: str) -> Any:
        """Columns of the values that decisions are counted by."""
        if what == "line":
            table, (line,) = self.sums(by_line=True)
            return select(line, table.c.decisions).subquery().c
        return self._of(self._tables.sums, "workflow").c

    def sums(self, *, by_line: bool) -> tuple[Subquery, list[ColumnElement[Any]]]:
        by = self._window.by if by_line else None
        table = self._of(self._tables.sums, by.value if by in (By.WORKFLOW, By.CANDIDATE) else "")
        return table, [self._line(table, by)]

    def parts(self, *, by_line: bool) -> tuple[Subquery, list[ColumnElement[Any]]]:
        by = self._window.by if by_line else None
        table = self._of(self._tables.parts, by.value if by is By.CANDIDATE else "")
        return table, [self._line(table, by), *(table.c[name] for name in STRATUM)]

    def answers(self, *, apart: bool) -> Subquery:
        return self._of(self._tables.answers, "workflow" if apart else "")

    def _of(self, table: Table, apart: str) -> Subquery:
        chosen = _inside(select(table).where(table.c.apart == apart), table, self._days, self._window)
        return chosen.subquery("of_days")

    def _line(self, table: FromClause, by: By | None) -> ColumnElement[Any]:
        if by is None:
            return nothing(_line_of(table, self._window.by).type).label("line")
        return _line_of(table, by).label("line")


def linked(connection: Connection, summed: Summed, window: Window, told: FromClause) -> Days:
    """Finds the conversations that are on several days, of which some are summed, in a table that is gone afterwards."""
    cells, hashed = summed.tables.cells, name_of(told.c.key, told.c.conversation)
    of_days = select(
        cells.c.day.label("part"),
        _line_of(cells, window.by).label("line"),
        cells.c.conversation,
        *(cells.c[name] for name in (*_OF_LINK, *OF_CELL)),
    )
    by = [told.c[name] for name in _OF_LINK]
    of_rest = select(
        sa.literal(_REST).label("part"),
        told.c.line,
        hashed.label("conversation"),
        *by,
        *grouped.cell(told).values(),
    ).group_by(told.c.line, hashed, *by)
    everything = sa.union_all(_inside(of_days, cells, summed.days, window), of_rest).subquery("everything")
    days = _inside(select(cells.c.conversation, cells.c.day), cells, summed.days, window)
    seen = sa.union_all(days, select(hashed, sa.literal(_REST)).distinct()).subquery("seen").c
    several = select(seen.conversation).group_by(seen.conversation).having(func.min(seen.day) < func.max(seen.day))
    found = CreateTableAs(select(everything).where(everything.c.conversation.in_(several)), _LINKED, temporary=True)
    connection.execute(found)
    return Days(summed, window, found.table)


def on_days(cells: Table, summed: Summed, name: ColumnElement[bytes]) -> ColumnElement[bool]:
    """Whether a conversation of this name is on one of the days."""
    return select(cells.c.day).where(cells.c.conversation == name, cells.c.day.in_(summed.days)).exists()


def _line_of(table: FromClause, by: By) -> ColumnElement[Any]:
    line: ColumnElement[Any] = table.c[by.value]
    return line


def _inside(chosen: Select[Any], table: Table, days: Sequence[int], window: Window) -> Select[Any]:
    chosen = chosen.where(table.c.day.in_(days))
    return chosen if window.key is None else chosen.where(table.c.key == window.key)
