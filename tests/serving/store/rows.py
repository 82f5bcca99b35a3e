"""Rows of a store under test."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from serving.store.engine import open_engine
from serving.store.tables import DECISIONS, FEEDBACK
from serving.store.writer import DecisionStore
from tests.patience import PATIENCE


def decision(identifier: str = "d1", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(column.name for column in DECISIONS.columns)
    row |= {"id": identifier, "at": 100.0, "prompt": "hello", "candidate": "acme/small", "reason": "best_value"}
    return row | {"propensity": 1.0, "expected_cost_usd": 0.5} | changes


def feedback(identifier: str = "d1", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(column.name for column in FEEDBACK.columns if column.name != "at")
    return row | {"decision_id": identifier, "quality": 1.0, "error": False} | changes


def stored(url: str, table: sa.Table) -> list[Any]:
    engine = open_engine(url)
    with engine.connect() as connection:
        rows = list(connection.execute(sa.select(table).order_by(*table.primary_key.columns)).mappings())
    engine.dispose()
    return rows


def acknowledged(store: DecisionStore, *rows: dict[str, Any]) -> list[bool]:
    return [done.result(PATIENCE) for done in store.feedback(rows)]
