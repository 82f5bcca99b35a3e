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
from sqlalchemy import Connection, func, select

from serving.account.gathered import OF_ANSWERS, Gathered, alone, gathered
from serving.account.ratios import Answers, Stratum
from serving.account.savings import Account, Part, Sums, Under, account
from serving.account.told import Tables, nothing, one, told_rows
from serving.account.window import DAY, By, Window

__all__ = ["MOST_LINES", "MOST_STRATA", "Tables", "asked"]

MOST_LINES = 1_000  # anybody may make up tags
MOST_STRATA = 50  # the busiest are told apart
_BATCH = 1_000


def asked(
    connection: Connection, tables: Tables, window: Window, *, judge_usd: float = 0.0, gather: bool = False
) -> Account:
    """The account of a window. What is read has to stay as it is meanwhile, or lines and total are of different rows.

    `judge_usd` is what judging cost beyond what feedback says, and is taken from the total alone. With `gather` decisions and
    feedback are joined once, into tables of the connection's own: in PostgreSQL, in a transaction that may write and is rolled
    back afterwards.
    """
    if gather:
        source = gathered(connection, told_rows(tables, window, connection.dialect.name, alone=alone(tables, window)))
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
    answers = list(_added(Answers(*row) for query in queries for row in connection.execute(query)).values())
    rest = other if other.decisions else None
    return account(window.by.value, window.since, window.until, lines, rest, total, answers, apart, judge_usd=judge_usd)


def _busiest(source: Gathered, names: Sequence[str], most: int) -> sa.Select[Any]:
    """The values that most decisions have, as many as there may be."""
    rows = source.rows.c
    counted = select(*(rows[name] for name in names), rows.decisions)
    if source.alone is not None:
        more = source.alone.c
        counted = sa.union_all(counted, select(*(more[name] for name in names), more.decisions))  # type: ignore[assignment]
    c = counted.subquery("counted").c
    found = [c[name] for name in names]
    return select(*found).group_by(*found).order_by(func.sum(c.decisions).desc(), *found).limit(most)


def _names(connection: Connection, source: Gathered) -> list[str | None]:
    """The lines' names, the busiest first, as many as there may be."""
    return [name for (name,) in connection.execute(_busiest(source, ["line"], MOST_LINES))]


_SUMMED = (
    "decisions", "costed", "actual_usd", "expected_usd", "compared", "compared_usd", "failed", "held_back",
    "without_reference", "exploration_usd", "also_usd", "judge_usd", "judged", "quality",
    "uncompared_exploration_usd", "uncompared_also_usd", "uncompared_judge_usd", "held_back_judged", "held_back_quality",
)  # fmt: skip
_OF_PART = ("own_usd", "rest_usd", "prompts_usd")
_COUNTS = frozenset((
    "decisions", "costed", "compared", "failed", "held_back", "without_reference", "judged", "judged_conversations",
    "held_back_judged",
))  # fmt: skip


_SQUARES = ("judged_conversations", "quality_squared", "quality_product", "judged_squared")


def _strata(connection: Connection, source: Gathered) -> frozenset[Stratum]:
    """The strata that are told apart."""
    return frozenset(Stratum(*row) for row in connection.execute(_busiest(source, ["workflow", "key"], MOST_STRATA)))


def _sums(connection: Connection, source: Gathered, *, by_line: bool) -> Iterator[tuple[Any, Sums]]:
    """The sums of each line or of all decisions, without their parts, in no order; a line may come twice."""
    rows = source.rows
    line = rows.c.line if by_line else nothing(rows.c.line.type)
    conversation = [*([line] if by_line else []), rows.c.key, rows.c.conversation]
    summed = (func.sum(rows.c[name]).label(name) for name in _SUMMED)
    each = select(line.label("line"), *summed).group_by(*conversation).subquery("each")
    c = each.c
    squares = (one(c.judged > 0), c.quality * c.quality, c.quality * c.judged, c.judged * c.judged)
    outer = select(c.line, *(func.sum(c[name]) for name in _SUMMED), *(func.sum(value) for value in squares)).group_by(
        c.line
    )
    asked_for = [outer]
    if source.alone is not None:
        more = source.alone.c
        line = more.line if by_line else nothing(more.line.type)
        summed_up = select(line, *(func.sum(more[name]) for name in (*_SUMMED, *_SQUARES)))
        asked_for.append(summed_up.group_by(more.line) if by_line else summed_up)
    for query in asked_for:
        for name, *values in connection.execute(query, execution_options={"yield_per": _BATCH}):
            named = zip((*_SUMMED, *_SQUARES), values, strict=True)
            told = {field: int(value or 0) if field in _COUNTS else float(value or 0) for field, value in named}
            yield name, Sums(**told)  # type: ignore[arg-type]


def _parts(
    connection: Connection, source: Gathered, strata: frozenset[Stratum], *, by_line: bool
) -> Iterator[tuple[Any, Sums]]:
    """The parts of each line or of all decisions, in no order; a part may come twice."""
    rows = source.rows
    line = rows.c.line if by_line else nothing(rows.c.line.type)
    summed = (func.sum(rows.c[name]).label(name) for name in _OF_PART)
    stratum = (rows.c.reference, rows.c.workflow, rows.c.key)
    each = (
        select(line.label("line"), *stratum, *summed)
        .where(rows.c.reference.is_not(None))
        .group_by(*([line] if by_line else []), *stratum, rows.c.conversation)
        .subquery("each")
    )
    c = each.c
    asked_for = [_of_parts(c, c.line, c.rest_usd * c.rest_usd).group_by(c.line)]
    if source.alone is not None:
        more = source.alone.c
        query = _of_parts(more, more.line if by_line else nothing(more.line.type), more.rest_squared)
        query = query.where(more.reference.is_not(None))
        asked_for.append(query.group_by(more.line) if by_line else query)
    for query in asked_for:
        found = connection.execute(query, execution_options={"yield_per": _BATCH})
        for name, reference, workflow, key, *sums in found:
            part = Part(*(float(one or 0) for one in sums))
            yield name, Sums(parts={Under(reference, _among(strata, workflow, key)): part})


def _of_parts(c: Any, line: Any, squared: Any) -> sa.Select[Any]:
    summed = (func.sum(value) for value in (c.own_usd, c.rest_usd, squared, c.prompts_usd))
    return select(line, c.reference, c.workflow, c.key, *summed).group_by(c.reference, c.workflow, c.key)


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
            there[:] = _added([*there, Answers(*row)]).values()
    return found


def _added(answers: Iterable[Answers]) -> dict[str, Answers]:
    """Those of each candidate together."""
    found: dict[str, Answers] = {}
    for one_ in answers:
        found[one_.candidate] = found[one_.candidate].plus(one_) if one_.candidate in found else one_
    return found


def _answers(source: Gathered, *by: str) -> list[sa.Select[Any]]:
    """What each candidate's own answers of known cost came to, as `Answers` has it, after what they are told apart by."""
    rows = source.rows.c
    told, expected = rows.answer_usd, rows.answer_expected_usd
    apart = [*(rows[name] for name in by), rows.candidate]
    sums = (func.sum(told).label("told"), func.sum(expected).label("expected"))
    each = (
        select(*apart, func.count().label("decisions"), *sums)
        .where(told.is_not(None))
        .group_by(*apart, rows.key, rows.conversation)
        .subquery("answered")
    )
    c = each.c
    named = [*(c[name] for name in by), c.candidate]
    summed = select(
        *named,
        func.count(),
        sa.cast(func.sum(c.decisions), sa.Integer),
        func.sum(c.told),
        func.sum(c.expected),
        func.sum(c.told * c.told),
        func.sum(c.told * c.expected),
        func.sum(c.expected * c.expected),
        func.sum(c.told * c.told * c.expected),
        func.sum(c.told * c.expected * c.expected),
        func.sum(c.expected * c.expected * c.expected),
    ).group_by(*named)
    if source.alone is None:
        return [summed]
    more = source.alone.c
    named = [*(more[name] for name in by), more.candidate]
    counted = sa.cast(func.sum(more.answers), sa.Integer)
    also = select(*named, counted, counted, *(func.sum(more[name]) for name in OF_ANSWERS))
    return [summed, also.where(more.answers > 0).group_by(*named)]


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY, UTC).date().isoformat()
