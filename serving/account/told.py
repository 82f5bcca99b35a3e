"""A row for each decision of a window, with what an account of savings sums; an earlier version's tables lack columns."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Subquery, Table, and_, case, func, select

from serving.account.window import DAY, By, Window
from serving.decide.decision import Reason

JUDGEMENTS = ("judged", "thumb")  # where a quality is from that is no mere hint; without a source it was judged
_LEAST, _MOST = 1e-12, 1e12  # PostgreSQL refuses products that are too small for a float, as it does those too large


class Tables(NamedTuple):
    """A store's tables, as the code has them or by reflection; `also` None where nobody was asked too."""

    decisions: Table
    feedback: Table
    also: Table | None


def told_rows(
    tables: Tables,
    window: Window,
    dialect: str,
    *,
    alone: ColumnElement[bool] | None = None,
    when: ColumnElement[bool] | None = None,
) -> Subquery:
    """A row for each decision, with what the sums are of; a sum leaves out what is null.

    `when` is which decisions of the window, if not all.
    """
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
    also_told = judge_also = nothing(sa.Float())
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
        "costed": one(costed),
        "actual_usd": _amount(f.cost_usd),
        "expected_usd": case((costed, _amount(d.expected_cost_usd))),
        "compared": one(compared),
        "compared_usd": case((compared, _amount(f.cost_usd))),
        "failed": one(failed),
        "held_back": one(held),
        "without_reference": one(sa.not_(priced)),
        **{name: case((compared, usd)) for name, usd in own_costs.items()},
        **{f"uncompared_{name}": case((sa.not_(compared), usd)) for name, usd in own_costs.items()},
        "judged": one(judged),
        "quality": case((judged, _amount(f.quality))),
        "held_back_judged": one(judged_held),
        "held_back_quality": case((judged_held, _amount(f.quality))),
        "own_usd": case((by_reference, _amount(f.cost_usd))),
        "rest_usd": case((rest, _amount(expected))),
        "prompts_usd": case((rest, _amount(_of(tables.decisions, "reference_input_usd")))),
        "answer_usd": case((and_(own, d.expected_cost_usd >= _LEAST), _amount(f.cost_usd))),
        "answer_expected_usd": case((and_(own, d.expected_cost_usd >= _LEAST), _amount(d.expected_cost_usd))),
    }
    if alone is not None:
        columns["alone"] = alone
    chosen = select(*(column.label(name) for name, column in columns.items())).select_from(joined)
    chosen = chosen.where(*((d.at >= window.since, d.at < window.until) if when is None else (when,)))
    if window.key is not None:
        chosen = chosen.where(d.key == window.key)
    return chosen.subquery("told")


def _line(by: By, decision: Any, dialect: str) -> ColumnElement[Any]:
    """What a decision is put under; a day is the number of it since 1970, in UTC."""
    if by is not By.DAY:
        line: ColumnElement[Any] = decision[by.value]
        return line
    days = decision.at / DAY
    # PostgreSQL's cast rounds, and not every SQLite has a floor; its own cast cuts off.
    return sa.cast(days if dialect == "sqlite" else func.floor(days), sa.Integer)


def _of(table: Table, name: str, kind: sa.types.TypeEngine[Any] | None = None) -> ColumnElement[Any]:
    """A column; null where the store was written before there was one."""
    return table.c[name] if name in table.c else nothing(kind or sa.Float())


def nothing(kind: sa.types.TypeEngine[Any]) -> ColumnElement[Any]:
    return sa.cast(sa.null(), kind)


def _amount(value: ColumnElement[Any]) -> ColumnElement[Any]:
    """An amount: 0 where it is next to nothing, and no more than there is."""
    small, most = func.abs(value) < _LEAST, sa.literal(_MOST)
    return case((small, 0.0), (value > most, most), (value < -most, -most), else_=value)


def one(when: ColumnElement[bool]) -> ColumnElement[int]:
    return case((when, 1), else_=0)


def _judged(feedback: Table) -> ColumnElement[bool]:
    if "quality_source" not in feedback.c:
        return sa.true()
    source = feedback.c.quality_source
    return sa.or_(source.is_(None), source.in_(JUDGEMENTS))
