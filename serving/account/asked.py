"""What is asked of a store's tables for an account of savings; of those of an earlier version too, which lack columns.

Everything is summed by the database: first by conversation, whose answers go together, then by line. A conversation is a key's
session, or a decision of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Connection, Subquery, Table, and_, case, func, select

from serving.account.savings import Account, Answers, Part, Sums, account
from serving.account.window import DAY, By, Window
from serving.decide.decision import Reason

MOST_LINES = 1_000  # anybody may make up tags
JUDGEMENTS = ("judged", "thumb")  # where a quality is from that is no mere hint; without a source it was judged
_BATCH = 1_000


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
    other, total = Sums(), Sums()
    for name, sums in _sums(connection, rows, by_line=True):
        lines.get(name, other).add(sums)
    for _, sums in _sums(connection, rows, by_line=False):
        total.add(sums)
    if window.by is By.DAY:
        lines = {_date(day): lines[day] for day in sorted(lines)}
    answers = [Answers(*row) for row in connection.execute(_answers(rows))]
    rest = other if other.decisions else None
    return account(window.by.value, window.since, window.until, lines, rest, total, answers, judge_usd=judge_usd)


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
    by_reference = and_(compared, own, d.candidate == reference)
    rest = and_(compared, sa.not_(failed), sa.not_(func.coalesce(by_reference, sa.false())))
    judged = and_(f.quality.is_not(None), sa.not_(failed), _judged(tables.feedback))
    joined = tables.decisions.join(tables.feedback, f.decision_id == d.id, isouter=True)
    also_told = judge_also = _nothing(sa.Float())
    if tables.also is not None:
        joined = joined.join(tables.also, tables.also.c.decision_id == d.id, isouter=True)
        also_told, judge_also = tables.also.c.cost_usd, _of(tables.also, "judge_cost_usd")
    judge, instead = _of(tables.feedback, "judge_cost_usd"), _of(tables.decisions, "instead_expected_cost_usd")
    columns: dict[str, ColumnElement[Any]] = {
        "line": _line(window.by, d, dialect),
        "key": d.key,
        "conversation": func.coalesce(d.session_id, d.id),
        "candidate": d.candidate,
        "reference": case((priced, reference)),
        "decisions": sa.literal(1),
        "costed": _one(costed),
        "actual_usd": f.cost_usd,
        "expected_usd": case((costed, d.expected_cost_usd)),
        "compared": _one(compared),
        "compared_usd": case((compared, f.cost_usd)),
        "failed": _one(failed),
        "held_back": _one(held),
        "without_reference": _one(sa.not_(priced)),
        "exploration_usd": case((d.reason == Reason.EXPLORE.value, d.expected_cost_usd - instead)),
        "also_usd": func.coalesce(also_told, _of(tables.decisions, "also_expected_cost_usd")),
        "judge_usd": func.coalesce(judge, 0.0) + func.coalesce(judge_also, 0.0),
        "judged": _one(judged),
        "quality": case((judged, f.quality)),
        "own_usd": case((by_reference, f.cost_usd)),
        "rest_usd": case((rest, expected)),
        "prompts_usd": case((rest, _of(tables.decisions, "reference_input_usd"))),
        "answer_usd": case((and_(own, d.expected_cost_usd > 0), f.cost_usd)),
        "answer_expected_usd": case((and_(own, d.expected_cost_usd > 0), d.expected_cost_usd)),
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
)  # fmt: skip
_OF_PART = ("own_usd", "rest_usd", "prompts_usd")
_COUNTS = frozenset(
    {"decisions", "costed", "compared", "failed", "held_back", "without_reference", "judged", "judged_conversations"}
)


def _sums(connection: Connection, rows: Subquery, *, by_line: bool) -> Iterator[tuple[Any, Sums]]:
    """The sums under each reference, of each line or of all decisions, in no order."""
    line = rows.c.line if by_line else _nothing(rows.c.line.type)
    summed = (func.sum(rows.c[name]).label(name) for name in (*_SUMMED, *_OF_PART))
    conversation = [*([line] if by_line else []), rows.c.reference, rows.c.key, rows.c.conversation]
    each = select(line.label("line"), rows.c.reference, *summed).group_by(*conversation).subquery("each")
    c = each.c
    squares = {
        "judged_conversations": _one(c.judged > 0),
        "quality_squared": c.quality * c.quality,
        "quality_product": c.quality * c.judged,
        "judged_squared": c.judged * c.judged,
        "squared": c.rest_usd * c.rest_usd,
    }
    outer = select(
        c.line,
        c.reference,
        *(func.sum(c[name]).label(name) for name in (*_SUMMED, *_OF_PART)),
        *(func.sum(value).label(name) for name, value in squares.items()),
    )
    outer = outer.group_by(c.line, c.reference)
    found = connection.execute(outer, execution_options={"yield_per": _BATCH})
    for row in found.mappings():
        yield row["line"], _read(row)


def _read(row: Mapping[Any, Any]) -> Sums:
    names = (*_SUMMED, "judged_conversations", "quality_squared", "quality_product", "judged_squared")
    told = {name: int(row[name] or 0) if name in _COUNTS else float(row[name] or 0) for name in names}
    sums = Sums(**told)  # type: ignore[arg-type]
    if row["reference"] is not None:
        part = (float(row[name] or 0) for name in ("own_usd", "rest_usd", "squared", "prompts_usd"))
        sums.parts[row["reference"]] = Part(*part)
    return sums


def _answers(rows: Subquery) -> sa.Select[Any]:
    """What each candidate's own answers of known cost came to, as `Answers` has it."""
    told, expected = rows.c.answer_usd, rows.c.answer_expected_usd
    each = (
        select(
            rows.c.candidate,
            func.count().label("decisions"),
            func.sum(told).label("told"),
            func.sum(expected).label("expected"),
        )
        .where(told.is_not(None))
        .group_by(rows.c.candidate, rows.c.key, rows.c.conversation)
        .subquery("answered")
    )
    c = each.c
    return select(
        c.candidate,
        func.count(),
        sa.cast(func.sum(c.decisions), sa.Integer),
        func.sum(c.told),
        func.sum(c.expected),
        func.sum(c.told * c.told),
        func.sum(c.told * c.expected),
        func.sum(c.expected * c.expected),
    ).group_by(c.candidate)


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


def _one(when: ColumnElement[bool]) -> ColumnElement[int]:
    return case((when, 1), else_=0)


def _judged(feedback: Table) -> ColumnElement[bool]:
    if "quality_source" not in feedback.c:
        return sa.true()
    source = feedback.c.quality_source
    return sa.or_(source.is_(None), source.in_(JUDGEMENTS))
