"""What is asked of a store's tables for an account of savings; of those of an earlier version too, which lack columns.

Everything is summed by the database: first by conversation, whose answers go together, then by line. A conversation is a key's
session, or a decision of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, FromClause, func, select

from serving.account import grouped
from serving.account.days import Summed
from serving.account.gathered import OF_ALONE, Gathered, gathered
from serving.account.grouped import OF_ANSWERS, OF_PART, SQUARES, STRATUM, SUMMED
from serving.account.ratios import Answers, Stratum
from serving.account.savings import Account, Part, Sums, Under, account
from serving.account.told import Tables, nothing, told_rows
from serving.account.window import DAY, By, Window

__all__ = ["MOST_LINES", "MOST_STRATA", "Tables", "asked"]

MOST_LINES = 1_000  # anybody may make up tags
MOST_STRATA = 50  # the busiest are told apart
_BATCH = 1_000


def asked(
    connection: Connection,
    tables: Tables,
    window: Window,
    *,
    judge_usd: float = 0.0,
    gather: bool = False,
    summed: Summed | None = None,
) -> Account:
    """The account of a window. What is read has to stay as it is meanwhile, or lines and total are of different rows.

    `judge_usd` is what judging cost beyond what feedback says, and is taken from the total alone. With `gather` decisions and
    feedback are joined once, into tables of the connection's own: in PostgreSQL, in a transaction that may write and is rolled
    back afterwards. What is `summed` of days in the window is then taken for their rows.
    """
    if gather:
        source = gathered(connection, tables, window, summed)
    else:
        source = Gathered(told_rows(tables, window, connection.dialect.name))
    lines: dict[Any, Sums] = {name: Sums() for name in _names(connection, source)}
    strata = _strata(connection, source)
    other, total = Sums(), Sums()
    for name, sums in chain(_sums(connection, source, by_line=True), _parts(connection, source, strata, by_line=True)):
        lines.get(name, other).add(sums)
    for _, sums in chain(_sums(connection, source, by_line=False), _parts(connection, source, strata, by_line=False)):
        total.add(sums)
    if window.by is By.DAY:
        lines = {_date(day): lines[day] for day in sorted(lines)}
    apart = _answers_apart(connection, source, strata)
    queries = _answers(source)
    answers = list(_added(_answer(*row) for query in queries for row in connection.execute(query)).values())
    rest = other if other.decisions else None
    return account(window.by.value, window.since, window.until, lines, rest, total, answers, apart, judge_usd=judge_usd)


def _busiest(source: Gathered, names: Sequence[str], most: int) -> sa.Select[Any]:
    """The values that most decisions have, as many as there may be."""
    rows = source.rows.c
    counted = [select(*(rows[name] for name in names), rows.decisions)]
    if source.alone is not None:
        more = source.alone.c
        counted.append(select(*(more[name] for name in names), more.decisions))
    if source.days is not None:
        sums = source.days.of("line" if names == ["line"] else "workflow")
        counted.append(select(*(sums[name] for name in names), sums.decisions))
    c = (sa.union_all(*counted) if len(counted) > 1 else counted[0]).subquery("counted").c
    found = [c[name] for name in names]
    return select(*found).group_by(*found).order_by(func.sum(c.decisions).desc(), *found).limit(most)


def _names(connection: Connection, source: Gathered) -> list[str | None]:
    """The lines' names, the busiest first, as many as there may be."""
    return [name for (name,) in connection.execute(_busiest(source, ["line"], MOST_LINES))]


_COUNTS = frozenset((
    "decisions", "costed", "compared", "failed", "held_back", "without_reference", "judged", "judged_conversations",
    "held_back_judged",
))  # fmt: skip


def _strata(connection: Connection, source: Gathered) -> frozenset[Stratum]:
    """The strata that are told apart."""
    return frozenset(Stratum(*row) for row in connection.execute(_busiest(source, ["workflow", "key"], MOST_STRATA)))


def _line(rows: FromClause, *, by_line: bool) -> ColumnElement[Any]:
    line: ColumnElement[Any] = rows.c.line
    return (line if by_line else nothing(line.type)).label("line")


def _again(table: FromClause, by: Sequence[ColumnElement[Any]], names: Sequence[str]) -> sa.Select[Any]:
    """Sums of sums."""
    groups = [one.element if isinstance(one, sa.Label) else one for one in by]
    return select(*by, *(func.sum(table.c[name]).label(name) for name in names)).group_by(*groups)


def _sums(connection: Connection, source: Gathered, *, by_line: bool) -> Iterator[tuple[Any, Sums]]:
    """The sums of each line or of all decisions, without their parts, in no order; a line may come twice."""
    asked_for = [grouped.sums(source.rows, [_line(source.rows, by_line=by_line)])]
    if source.alone is not None:
        asked_for.append(_again(source.alone, [_line(source.alone, by_line=by_line)], (*SUMMED, *SQUARES)))
    if source.days is not None:
        asked_for.append(_again(*source.days.sums(by_line=by_line), (*SUMMED, *SQUARES)))
        linked = source.days.linked
        asked_for.append(grouped.beyond_sums(linked, [_line(linked, by_line=by_line)]))
    for query in asked_for:
        for row in connection.execute(query, execution_options={"yield_per": _BATCH}).mappings():
            named = {name: value or 0 for name, value in row.items() if name != "line"}
            told = {name: int(value) if name in _COUNTS else float(value) for name, value in named.items()}
            yield row["line"], Sums(**told)  # type: ignore[arg-type]


def _parts(
    connection: Connection, source: Gathered, strata: frozenset[Stratum], *, by_line: bool
) -> Iterator[tuple[Any, Sums]]:
    """The parts of each line or of all decisions, in no order; a part may come twice."""
    asked_for = [grouped.parts(source.rows, [_line(source.rows, by_line=by_line)])]
    if source.alone is not None:
        more = source.alone
        by = [_line(more, by_line=by_line), *(more.c[name] for name in STRATUM)]
        asked_for.append(_again(more, by, OF_PART).where(more.c.reference.is_not(None)))
    if source.days is not None:
        asked_for.append(_again(*source.days.parts(by_line=by_line), OF_PART))
        linked = source.days.linked
        asked_for.append(grouped.beyond_parts(linked, [_line(linked, by_line=by_line)]))
    for query in asked_for:
        for row in connection.execute(query, execution_options={"yield_per": _BATCH}).mappings():
            part = Part(*(float(row.get(name) or 0) for name in OF_PART))
            yield (
                row["line"],
                Sums(parts={Under(row["reference"], _among(strata, row["workflow"], row["key"])): part}),
            )


def _among(strata: frozenset[Stratum], workflow: str | None, key: str | None) -> Stratum | None:
    stratum = Stratum(workflow, key)
    return stratum if stratum in strata else None


def _answers_apart(
    connection: Connection, source: Gathered, strata: frozenset[Stratum]
) -> dict[Stratum | None, list[Answers]]:
    """What each candidate's own answers came to in each stratum."""
    found: dict[Stratum | None, list[Answers]] = {}
    for query in _answers(source, "workflow", "key"):
        for workflow, key, *row in connection.execute(query, execution_options={"yield_per": _BATCH}):
            there = found.setdefault(_among(strata, workflow, key), [])
            there[:] = _added([*there, _answer(*row)]).values()
    return found


def _answer(candidate: str, conversations: Any, decisions: Any, *sums: Any) -> Answers:
    return Answers(candidate, int(conversations), int(decisions), *(float(one) for one in sums))


def _added(answers: Iterable[Answers]) -> dict[str, Answers]:
    """Those of each candidate together."""
    found: dict[str, Answers] = {}
    for one_ in answers:
        found[one_.candidate] = found[one_.candidate].plus(one_) if one_.candidate in found else one_
    return found


def _answers(source: Gathered, *by: str) -> list[sa.Select[Any]]:
    """What each candidate's own answers of known cost came to, as `Answers` has it, after what they are told apart by."""
    found = [grouped.answers(source.rows, [source.rows.c[name] for name in by])]
    if source.alone is not None:
        more = source.alone.c
        named = [*(more[name] for name in by), more.candidate]
        counted = sa.cast(func.sum(more.answers), sa.Integer)
        also = select(*named, counted, counted, *(func.sum(more[name]) for name in OF_ALONE))
        found.append(also.where(more.answers > 0).group_by(*named))
    if source.days is not None:
        of_days, linked = source.days.answers(apart=bool(by)), source.days.linked
        found.append(_again(of_days, [*(of_days.c[name] for name in by), of_days.c.candidate], OF_ANSWERS))
        found.append(grouped.beyond_answers(linked, [linked.c[name] for name in by]))
    return found


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY, UTC).date().isoformat()
