"""The rows of an account gathered once, in tables of the connection's own, so that no sum joins decisions and feedback again.

Most decisions are a conversation of their own: these are summed at once by all that sums are told apart by. The others are kept
a row each, for their sums depend on what they are told apart by.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Connection, CreateTableAs, FromClause, Select, Subquery, and_, func, select

from serving.account.days import ID_DIGITS, Days, Summed, linked, name_of, on_days, rest_of
from serving.account.told import Tables, one, told_rows
from serving.account.window import Window

_KEPT, _ALONE = "savings_told", "savings_alone"
# What sums are told apart by; a conversation belongs to a key.
_APART = ("line", "reference", "workflow", "key", "candidate")
# What those alone have of their answers, in the order of `Answers`.
OF_ALONE = (
    "answer_usd", "answer_expected_usd", "told_squared", "product", "expected_squared",
    "told_squared_expected", "told_expected_squared", "expected_cubed",
)  # fmt: skip
_NOT_SUMMED = frozenset((*_APART, "conversation", "alone"))


# Which decisions are meant, by the column of their time.
When = Callable[[sa.ColumnElement[float]], sa.ColumnElement[bool]]


class Gathered(NamedTuple):
    """`rows` has one for each decision, `alone` sums of those that are a conversation each; without it these are in `rows`.

    `days` are sums of whole days, none of whose decisions are in either.
    """

    rows: FromClause
    alone: FromClause | None = None
    days: Days | None = None


def gathered(connection: Connection, tables: Tables, window: Window, summed: Summed | None = None) -> Gathered:
    """Gathers rows in PostgreSQL, in tables that are gone once the transaction is rolled back; sums of days in their place."""
    for setting in ("jit = off", "work_mem = '128MB'", "max_parallel_workers_per_gather = 4"):
        connection.exec_driver_sql(f"SET LOCAL {setting}")
    when = partial(rest_of, window=window, days=() if summed is None else summed.days)
    d = tables.decisions.c
    named = None if summed is None else on_days(summed.tables.cells, summed, name_of(d.key, d.id))
    which = alone(tables, when, named)
    told = told_rows(tables, window, connection.dialect.name, alone=which, when=when(d.at))
    alone_ = CreateTableAs(_summed(told), _ALONE, temporary=True)
    columns = [column for column in told.c if column.name != "alone"]
    kept = CreateTableAs(select(*columns).where(sa.not_(told.c.alone)), _KEPT, temporary=True)
    for made in (alone_, kept):
        connection.execute(made)
    if summed is None:
        return Gathered(kept.table, alone_.table)
    return Gathered(kept.table, alone_.table, linked(connection, summed, window, kept.table))


def _summed(told: Subquery) -> Select[Any]:
    """The sums of those alone, with the squares and products that others have by conversation."""
    c = told.c
    own, expected = c.answer_usd, c.answer_expected_usd
    both = and_(own.is_not(None), expected.is_not(None))
    sums: dict[str, Any] = {column.name: column for column in c if column.name not in _NOT_SUMMED}
    sums |= {
        "judged_conversations": one(c.judged > 0),
        "quality_squared": c.quality * c.quality,
        "quality_product": c.quality * c.judged,
        "judged_squared": c.judged * c.judged,
        "rest_squared": c.rest_usd * c.rest_usd,
        "answers": one(both),
        "told_squared": own * own,
        "product": own * expected,
        "expected_squared": expected * expected,
        "told_squared_expected": own * own * expected,
        "told_expected_squared": own * expected * expected,
        "expected_cubed": expected * expected * expected,
    }
    apart = [c[name] for name in _APART]
    return (
        select(*apart, *(func.sum(value).label(name) for name, value in sums.items())).where(c.alone).group_by(*apart)
    )


def alone(tables: Tables, when: When, named: sa.ColumnElement[bool] | None = None) -> sa.ColumnElement[bool]:
    """Whether a decision is a conversation of its own: it names none, and none is named by its id.

    `when` is which others are looked at, by their time, `named` whether one is named otherwise.
    """
    d, others = tables.decisions.c, tables.decisions.alias("others").c
    sessions = select(others.session_id).distinct().where(when(others.at))
    # Hashed once: PostgreSQL takes it for few, and would otherwise look through them for every row.
    sessions = sessions.where(func.length(others.session_id) == ID_DIGITS)
    found = and_(d.session_id.is_(None), func.length(d.id) == ID_DIGITS, d.id.not_in(sessions))
    return found if named is None else and_(found, sa.not_(named))
