"""What is asked of a store's tables for an account of savings; of those of an earlier version too, which lack columns.

Everything is summed by the database: first by conversation, whose answers go together, then by line. A conversation is a key's
session, or a decision of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Subquery, Table, and_, case, func, select

from serving.account.ratios import Answers, Stratum
from serving.account.savings import Account, Part, Sums, Under, account
from serving.account.window import DAY, By, Window
from serving.decide.decision import Reason

MOST_LINES = 1_000  # anybody may make up tags
MOST_STRATA = 50  # the busiest are told apart
JUDGEMENTS = ("judged", "thumb")  # where a quality is from that is no mere hint; without a source it was judged
_BATCH = 1_000
_LEAST, _MOST = 1e-12, 1e12  # PostgreSQL refuses products that are too small for a float, as it does those too large


class Tables(NamedTuple):
    """A store's tables, as the code has them or by reflection; `also` None where nobody was asked too."""

    decisions: Table
    feedback: Table
    also: Table | None


def asked(connection: Connection, tables: Tables, window: Window, *, judge_usd: float = 0.0) -> Account:
    """The account of a window. What is read has to stay as it is meanwhile, or lines and total are of different rows.

    `judge_usd` is what judging cost beyond what feedback says, and is taken from the total alone.
    """
    rows = _rows(tables, window, connection.dialect.name)
    lines: dict[Any, Sums] = {name: Sums() for name in _names(connection, rows)}
    strata = _strata(connection, rows)
    other, total = Sums(), Sums()
    for name, sums in chain(_sums(connection, rows, by_line=True), _parts(connection, rows, strata, by_line=True)):
        lines.get(name, other).add(sums)
    for _, sums in chain(_sums(connection, rows, by_line=False), _parts(connection, rows, strata, by_line=False)):
        total.add(sums)
    if window.by is By.DAY:
        lines = {_date(day): lines[day] for day in sorted(lines)}
    answers = [Answers(*row) for row in connection.execute(_answers(rows))]
    apart = _answers_apart(connection, rows, strata)
    rest = other if other.decisions else None
    return account(window.by.value, window.since, window.until, lines, rest, total, answers, apart, judge_usd=judge_usd)


def _rows(tables: Tables, window: Window, dialect: str) -> Subquery:
    """A row for each decision, with what the sums are of; a sum leaves out what is null."""
    d, f = tables.decisions.c, tables.feedback.c
    reference, expected = (
        _of(tables.decisions, "reference", sa.String()),
        _of(tables.decisions, "reference_expected_cost_usd"),
    )
    costed, failed = f.cost_usd.is_not(None), func.coalesce(f.error, sa.false())
    held = d.reason == Reason.HELD_BACK.value
    priced = and_(reference.is_not(None), expected.is_not(None))
    compared = and_(costed, priced, sa.not_(held))
    own = and_(costed, sa.not_(failed), sa.or_(f.candidate.is_(None), f.candidate == d.candidate))
    # Its cost is what was paid: it answered, perhaps for another, or another stood in for it, as it would have anyway.
    by_reference = and_(compared, sa.not_(failed), sa.or_(d.candidate == reference, f.candidate == reference))
    rest = and_(compared, sa.not_(failed), sa.not_(func.coalesce(by_reference, sa.false())))
    told_quality = and_(f.quality.is_not(None), sa.not_(failed), _judged(tables.feedback))
    judged, judged_held = and_(told_quality, sa.not_(held)), and_(told_quality, held)
    joined = tables.decisions.join(tables.feedback, f.decision_id == d.id, isouter=True)
    also_told = judge_also = _nothing(sa.Float())
    if tables.also is not None:
        joined = joined.join(tables.also, tables.also.c.decision_id == d.id, isouter=True)
        also_told, judge_also = tables.also.c.cost_usd, _of(tables.also, "judge_cost_usd")
    judge, instead = _of(tables.feedback, "judge_cost_usd"), _of(tables.decisions, "instead_expected_cost_usd")
    own_costs: dict[str, ColumnElement[Any]] = {
        "exploration_usd": case((d.reason == Reason.EXPLORE.value, _amount(d.expected_cost_usd) - _amount(instead))),
        "also_usd": _amount(func.coalesce(also_told, _of(tables.decisions, "also_expected_cost_usd"))),
        "judge_usd": _amount(func.coalesce(judge, 0.0)) + _amount(func.coalesce(judge_also, 0.0)),
    }
    columns: dict[str, ColumnElement[Any]] = {
        "line": _line(window.by, d, dialect),
        "key": d.key,
        "workflow": d.workflow,
        "conversation": func.coalesce(d.session_id, d.id),
        "candidate": d.candidate,
        "reference": case((priced, reference)),
        "decisions": sa.literal(1),
        "costed": _one(costed),
        "actual_usd": _amount(f.cost_usd),
        "expected_usd": case((costed, _amount(d.expected_cost_usd))),
        "compared": _one(compared),
        "compared_usd": case((compared, _amount(f.cost_usd))),
        "failed": _one(failed),
        "held_back": _one(held),
        "without_reference": _one(sa.not_(priced)),
        **{name: case((compared, usd)) for name, usd in own_costs.items()},
        **{f"uncompared_{name}": case((sa.not_(compared), usd)) for name, usd in own_costs.items()},
        "judged": _one(judged),
        "quality": case((judged, _amount(f.quality))),
        "held_back_judged": _one(judged_held),
        "held_back_quality": case((judged_held, _amount(f.quality))),
        "own_usd": case((by_reference, _amount(f.cost_usd))),
        "rest_usd": case((rest, _amount(expected))),
        "prompts_usd": case((rest, _amount(_of(tables.decisions, "reference_input_usd")))),
        "answer_usd": case((and_(own, d.expected_cost_usd >= _LEAST), _amount(f.cost_usd))),
        "answer_expected_usd": case((and_(own, d.expected_cost_usd >= _LEAST), _amount(d.expected_cost_usd))),
    }
    chosen = select(*(column.label(name) for name, column in columns.items())).select_from(joined)
    chosen = chosen.where(d.at >= window.since, d.at < window.until)
    if window.key is not None:
        chosen = chosen.where(d.key == window.key)
    return chosen.subquery("told")


def _names(connection: Connection, rows: Subquery) -> list[str | None]:
    """The lines' names, the busiest first, as many as there may be."""
    busiest = select(rows.c.line).group_by(rows.c.line).order_by(func.count().desc(), rows.c.line).limit(MOST_LINES)
    return [name for (name,) in connection.execute(busiest)]


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


def _strata(connection: Connection, rows: Subquery) -> frozenset[Stratum]:
    """The strata that are told apart."""
    c = rows.c
    busiest = select(c.workflow, c.key).group_by(c.workflow, c.key).order_by(func.count().desc(), c.workflow, c.key)
    return frozenset(Stratum(*row) for row in connection.execute(busiest.limit(MOST_STRATA)))


def _sums(connection: Connection, rows: Subquery, *, by_line: bool) -> Iterator[tuple[Any, Sums]]:
    """The sums of each line or of all decisions, without their parts, in no order."""
    line = rows.c.line if by_line else _nothing(rows.c.line.type)
    conversation = [*([line] if by_line else []), rows.c.key, rows.c.conversation]
    summed = (func.sum(rows.c[name]).label(name) for name in _SUMMED)
    each = select(line.label("line"), *summed).group_by(*conversation).subquery("each")
    c = each.c
    squares = {
        "judged_conversations": _one(c.judged > 0),
        "quality_squared": c.quality * c.quality,
        "quality_product": c.quality * c.judged,
        "judged_squared": c.judged * c.judged,
    }
    outer = select(
        c.line,
        *(func.sum(c[name]).label(name) for name in _SUMMED),
        *(func.sum(value).label(name) for name, value in squares.items()),
    ).group_by(c.line)
    names = (*_SUMMED, *squares)
    for row in connection.execute(outer, execution_options={"yield_per": _BATCH}).mappings():
        told = {name: int(row[name] or 0) if name in _COUNTS else float(row[name] or 0) for name in names}
        yield row["line"], Sums(**told)  # type: ignore[arg-type]


def _parts(
    connection: Connection, rows: Subquery, strata: frozenset[Stratum], *, by_line: bool
) -> Iterator[tuple[Any, Sums]]:
    """The parts of each line or of all decisions, in no order."""
    line = rows.c.line if by_line else _nothing(rows.c.line.type)
    summed = (func.sum(rows.c[name]).label(name) for name in _OF_PART)
    stratum = (rows.c.reference, rows.c.workflow, rows.c.key)
    each = (
        select(line.label("line"), *stratum, *summed)
        .where(rows.c.reference.is_not(None))
        .group_by(*([line] if by_line else []), *stratum, rows.c.conversation)
        .subquery("each")
    )
    c = each.c
    outer = select(
        c.line,
        c.reference,
        c.workflow,
        c.key,
        func.sum(c.own_usd),
        func.sum(c.rest_usd),
        func.sum(c.rest_usd * c.rest_usd),
        func.sum(c.prompts_usd),
    ).group_by(c.line, c.reference, c.workflow, c.key)
    for name, reference, workflow, key, *sums in connection.execute(outer, execution_options={"yield_per": _BATCH}):
        part = Part(*(float(one or 0) for one in sums))
        yield name, Sums(parts={Under(reference, _among(strata, workflow, key)): part})


def _among(strata: frozenset[Stratum], workflow: str | None, key: str | None) -> Stratum | None:
    stratum = Stratum(workflow, key)
    return stratum if stratum in strata else None


def _answers_apart(
    connection: Connection, rows: Subquery, strata: frozenset[Stratum]
) -> dict[Stratum | None, list[Answers]]:
    """What each candidate's own answers came to in each stratum."""
    found: dict[Stratum | None, dict[str, Answers]] = {}
    asked_for = _answers(rows, "workflow", "key")
    for workflow, key, *row in connection.execute(asked_for, execution_options={"yield_per": _BATCH}):
        one = Answers(*row)
        there = found.setdefault(_among(strata, workflow, key), {})
        before = there.get(one.candidate)
        there[one.candidate] = one if before is None else before.plus(one)
    return {stratum: list(there.values()) for stratum, there in found.items()}


def _answers(rows: Subquery, *by: str) -> sa.Select[Any]:
    """What each candidate's own answers of known cost came to, as `Answers` has it, after what they are told apart by."""
    told, expected = rows.c.answer_usd, rows.c.answer_expected_usd
    apart = [rows.c[name] for name in by]
    each = (
        select(
            *apart,
            rows.c.candidate,
            func.count().label("decisions"),
            func.sum(told).label("told"),
            func.sum(expected).label("expected"),
        )
        .where(told.is_not(None))
        .group_by(*apart, rows.c.candidate, rows.c.key, rows.c.conversation)
        .subquery("answered")
    )
    c = each.c
    named = [c[name] for name in by]
    return select(
        *named,
        c.candidate,
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
    ).group_by(*named, c.candidate)


def _line(by: By, decision: Any, dialect: str) -> ColumnElement[Any]:
    """What a decision is put under; a day is the number of it since 1970, in UTC."""
    if by is not By.DAY:
        line: ColumnElement[Any] = decision[by.value]
        return line
    days = decision.at / DAY
    # PostgreSQL's cast rounds, and not every SQLite has a floor; its own cast cuts off.
    return sa.cast(days if dialect == "sqlite" else func.floor(days), sa.Integer)


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY, UTC).date().isoformat()


def _of(table: Table, name: str, kind: sa.types.TypeEngine[Any] | None = None) -> ColumnElement[Any]:
    """A column; null where the store was written before there was one."""
    return table.c[name] if name in table.c else _nothing(kind or sa.Float())


def _nothing(kind: sa.types.TypeEngine[Any]) -> ColumnElement[Any]:
    return sa.cast(sa.null(), kind)


def _amount(value: ColumnElement[Any]) -> ColumnElement[Any]:
    """An amount: 0 where it is next to nothing, and no more than there is."""
    small, most = func.abs(value) < _LEAST, sa.literal(_MOST)
    return case((small, 0.0), (value > most, most), (value < -most, -most), else_=value)


def _one(when: ColumnElement[bool]) -> ColumnElement[int]:
    return case((when, 1), else_=0)


def _judged(feedback: Table) -> ColumnElement[bool]:
    if "quality_source" not in feedback.c:
        return sa.true()
    source = feedback.c.quality_source
    return sa.or_(source.is_(None), source.in_(JUDGEMENTS))
