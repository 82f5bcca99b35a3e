"""A store with days that are over, whether their sums hold, and whether these give the figures of the rows."""

from __future__ import annotations

import time

import sqlalchemy as sa

from serving.account.asked import asked
from serving.account.shown import document
from serving.account.window import DAY, By, Window
from serving.store.days.kept import kept
from serving.store.savings import savings
from serving.store.tables import DECISIONS, FEEDBACK
from tests.serving.account.test_gathered import KEYS, TABLES, same

# A day is summed two minutes after its end: until five minutes after it, it is the one that is not over.
TODAY = int((time.time() - 300.0) // DAY)
FIRST = TODAY - 9
BASE = FIRST * DAY
ALL = Window(By.DAY, BASE + 0.3 * DAY, BASE + 4.6 * DAY)


def holding(engine: sa.Engine) -> list[int]:
    """The days whose sums hold, since the first."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        return [day - FIRST for day in kept(connection, BASE, TODAY * DAY)]


def agree(engine: sa.Engine, windows: int = 8) -> None:
    """An account with the days' sums has the figures of one that reads every row, however it is told apart."""
    for by, key in [(by, key) for key in (None, KEYS[0]) for by in By][:windows]:
        window = Window(by, ALL.since, ALL.until, key)
        with engine.connect() as connection:
            plain = document(asked(connection, TABLES, window))
        assert same(document(savings(engine, window)), plain), (by, key)


def ids(engine: sa.Engine, day: int, which: sa.ColumnElement[bool] | None = None) -> list[str]:
    """The ids of a day's decisions: of those that something is told of, or of others."""
    d, begins = DECISIONS.c, (FIRST + day) * DAY
    which = d.id.in_(sa.select(FEEDBACK.c.decision_id)) if which is None else which
    with engine.connect() as connection:
        asked_for = sa.select(d.id).where(d.at >= begins, d.at < begins + DAY, which).order_by(d.id)
        return list(connection.scalars(asked_for))
