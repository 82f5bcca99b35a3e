"""Sums over an account's rows, by whatever they are told apart by: of conversations first, whose answers go together.

The squares and products of conversations are what sums of days do not have for those that go on another day. For these
`beyond_…` say what is lacking: the square of the whole, less the squares of its parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, FromClause, Select, case, func, select

from serving.account.told import one

SUMMED = (
    "decisions", "costed", "actual_usd", "expected_usd", "compared", "compared_usd", "failed", "held_back",
    "without_reference", "exploration_usd", "also_usd", "judge_usd", "judged", "quality",
    "uncompared_exploration_usd", "uncompared_also_usd", "uncompared_judge_usd", "held_back_judged", "held_back_quality",
)  # fmt: skip
SQUARES = ("judged_conversations", "quality_squared", "quality_product", "judged_squared")
OF_PART = ("own_usd", "rest_usd", "rest_squared", "prompts_usd")
# In the order of `Answers`.
OF_ANSWERS = (
    "conversations", "decisions", "told", "expected", "told_squared", "product", "expected_squared",
    "told_squared_expected", "told_expected_squared", "expected_cubed",
)  # fmt: skip
# What is kept of one conversation on one day, where it may go on another.
OF_CELL = ("judged", "quality", "rest_usd", "answers", "answer_usd", "answer_expected_usd")
STRATUM = ("reference", "workflow", "key")
_CONVERSATION = ("key", "conversation")


def sums(rows: FromClause, apart: Sequence[ColumnElement[Any]]) -> Select[Any]:
    """`SUMMED` and `SQUARES` after what they are told apart by; `apart` are columns of `rows` under names of their own."""
    each = _each(rows, apart, _CONVERSATION, {name: func.sum(rows.c[name]) for name in SUMMED})
    c = each.c
    squares = (one(c.judged > 0), c.quality * c.quality, c.quality * c.judged, c.judged * c.judged)
    values = [*(func.sum(c[name]).label(name) for name in SUMMED), *_labelled(SQUARES, map(func.sum, squares))]
    return _by(c, apart, values)


def parts(rows: FromClause, apart: Sequence[ColumnElement[Any]]) -> Select[Any]:
    """`STRATUM` and `OF_PART` after what they are told apart by, of rows with a reference."""
    summed = {name: func.sum(rows.c[name]) for name in ("own_usd", "rest_usd", "prompts_usd")}
    each = _each(rows, apart, (*STRATUM, "conversation"), summed, rows.c.reference.is_not(None))
    c = each.c
    values = (c.own_usd, c.rest_usd, c.rest_usd * c.rest_usd, c.prompts_usd)
    return _by(c, apart, _labelled(OF_PART, map(func.sum, values)), STRATUM)


def answers(rows: FromClause, apart: Sequence[ColumnElement[Any]]) -> Select[Any]:
    """The candidate and `OF_ANSWERS` after what they are told apart by, of answers of known cost."""
    told, expected = rows.c.answer_usd, rows.c.answer_expected_usd
    summed = {"decisions": func.count(), "told": func.sum(told), "expected": func.sum(expected)}
    each = _each(rows, apart, ("candidate", *_CONVERSATION), summed, told.is_not(None))
    c = each.c
    counts = [func.count(), sa.cast(func.sum(c.decisions), sa.Integer)]
    values = [*counts, *(func.sum(value) for value in (c.told, c.expected, *_products(c.told, c.expected)))]
    return _by(c, apart, _labelled(OF_ANSWERS, values), ("candidate",))


def beyond_sums(linked: FromClause, apart: Sequence[ColumnElement[Any]]) -> Select[Any]:
    """What `SQUARES` lack of conversations in several parts: rows of `OF_CELL` by `part`, of as many days."""
    each = _each(
        linked, apart, (*_CONVERSATION, "part"), {name: func.sum(linked.c[name]) for name in ("judged", "quality")}
    )
    c = each.c
    judged, quality = func.sum(c.judged), func.sum(c.quality)
    lacking = (
        one(judged > 0) - func.sum(one(c.judged > 0)),
        quality * quality - func.sum(c.quality * c.quality),
        quality * judged - func.sum(c.quality * c.judged),
        judged * judged - func.sum(c.judged * c.judged),
    )
    return _beyond(c, apart, _CONVERSATION, _labelled(SQUARES, lacking))


def beyond_parts(linked: FromClause, apart: Sequence[ColumnElement[Any]]) -> Select[Any]:
    """The same of `rest_squared`, after the stratum."""
    by = (*STRATUM, "conversation")
    summed = {"rest_usd": func.sum(linked.c.rest_usd)}
    each = _each(linked, apart, (*by, "part"), summed, linked.c.reference.is_not(None))
    rest = each.c.rest_usd
    lacking = func.sum(rest) * func.sum(rest) - func.sum(rest * rest)
    return _beyond(each.c, apart, by, [lacking.label("rest_squared")], STRATUM)


def beyond_answers(linked: FromClause, apart: Sequence[ColumnElement[Any]]) -> Select[Any]:
    """The same of `OF_ANSWERS`, after the candidate."""
    told, expected = linked.c.answer_usd, linked.c.answer_expected_usd
    by = ("candidate", *_CONVERSATION)
    summed = {"told": func.sum(told), "expected": func.sum(expected)}
    each = _each(linked, apart, (*by, "part"), summed, linked.c.answers > 0)
    c = each.c
    whole = _products(func.sum(c.told), func.sum(c.expected))
    of_parts = map(func.sum, _products(c.told, c.expected))
    lacking = [
        1 - func.count(),
        sa.literal(0),
        sa.literal(0.0),
        sa.literal(0.0),
        *(all_ - some for all_, some in zip(whole, of_parts, strict=True)),
    ]
    return _beyond(c, apart, by, _labelled(OF_ANSWERS, lacking), ("candidate",))


def _products(told: Any, expected: Any) -> tuple[Any, ...]:
    return (
        told * told,
        told * expected,
        expected * expected,
        told * told * expected,
        told * expected * expected,
        expected * expected * expected,
    )


def _each(
    rows: FromClause,
    apart: Sequence[ColumnElement[Any]],
    by: Sequence[str],
    summed: Mapping[str, ColumnElement[Any]],
    which: ColumnElement[bool] | None = None,
) -> sa.Subquery:
    """Sums by what they are told apart by and by these columns, which have the names of both."""
    more = [rows.c[name] for name in by if name not in {column.key for column in apart}]
    values = [value.label(name) for name, value in summed.items()]
    # A constant under a name of its own is nothing to group by.
    groups = [*(column.element if isinstance(column, sa.Label) else column for column in apart), *more]
    chosen = select(*apart, *more, *values).group_by(*groups)
    return (chosen if which is None else chosen.where(which)).subquery("each")


def _by(c: Any, apart: Sequence[Any], values: Sequence[Any], by: Sequence[str] = ()) -> Select[Any]:
    named = [*(c[column.key] for column in apart), *(c[name] for name in by)]
    return select(*named, *values).group_by(*named)


def _beyond(
    c: Any, apart: Sequence[Any], conversation: Sequence[str], lacking: Sequence[Any], by: Sequence[str] = ()
) -> Select[Any]:
    """The sums of what single conversations lack, and of nothing else."""
    names = list(dict.fromkeys([*(column.key for column in apart), *conversation]))
    found = select(*(c[name] for name in names), *lacking).group_by(*(c[name] for name in names))
    whole = found.having(func.count() > 1).subquery("whole").c
    return _by(whole, apart, [func.sum(whole[one_.name]).label(one_.name) for one_ in lacking], by)


def _labelled(names: Sequence[str], values: Any) -> list[Any]:
    return [value.label(name) for name, value in zip(names, values, strict=True)]


def cell(rows: FromClause) -> dict[str, ColumnElement[Any]]:
    """`OF_CELL` over rows, to be grouped by what they are told apart by."""
    counted = case((rows.c.answer_usd.is_not(None), 1), else_=0)
    return {
        name: func.coalesce(func.sum(counted if name == "answers" else rows.c[name]), 0).label(name) for name in OF_CELL
    }
