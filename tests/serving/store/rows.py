"""Rows of a store under test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from serving.store.engine import open_engine
from serving.store.feedback import Feedback
from serving.store.tables import DECISIONS
from serving.store.transaction import Told
from serving.store.writer import DecisionStore
from tests.patience import PATIENCE


def decision(identifier: str = "d1", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(column.name for column in DECISIONS.columns)
    row |= {"id": identifier, "at": 100.0, "prompt": "hello", "candidate": "acme/small", "reason": "best_value"}
    return row | {"propensity": 1.0, "expected_cost_usd": 0.5} | changes


def feedback(identifier: str = "d1", **changes: Any) -> Feedback:
    return Feedback(**{"decision_id": identifier, "quality": 1.0, **changes})


def stored(url: str, table: sa.Table) -> list[Any]:
    engine = open_engine(url)
    with engine.connect() as connection:
        rows = list(connection.execute(sa.select(table).order_by(*table.primary_key.columns)).mappings())
    engine.dispose()
    return rows


def told(store: DecisionStore, *said: Feedback, key: str | None = None) -> list[Told]:
    """What came of each, once it is on disk."""
    return [done.result(PATIENCE) for done in store.feedback(said, key)]


def acknowledged(store: DecisionStore, *said: Feedback) -> list[bool]:
    """Whether each said something new of a decision that is there."""
    came = told(store, *said)
    assert not any(isinstance(one, Exception) for one in came), came
    return [bool(one) for one in came]


@contextmanager
def locked(path: Path) -> Iterator[sa.Connection]:
    """A connection that holds the database's only write lock, until it is rolled back."""
    with sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool).connect() as connection:
        connection.exec_driver_sql("begin immediate")
        yield connection
