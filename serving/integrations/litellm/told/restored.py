"""Decisions that a killed process had not stored yet, stored from what their outcomes carry: everything but the text.

An outcome's `decision` was copied from a `Decided` of the plug-in's own (`log_events`), never from what a client wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serving.integrations.outcome import ToldOutcome
from serving.store.tables import DECISIONS
from serving.store.writer import DecisionStore


def restore(store: DecisionStore, missing: Sequence[ToldOutcome], key: str | None) -> int:
    """Has the store write the decisions, unless it has them; how many it took. What the outcomes' `decision` lacks is null."""
    rows = [row for row in (_row(told, key) for told in missing) if row is not None]
    return sum(store.decided(row) for row in rows)


def _row(told: ToldOutcome, key: str | None) -> Mapping[str, Any] | None:
    """The row of a decision; None where nothing says who was chosen, or how likely that was."""
    left = told.decision
    candidate, propensity = left.get("model"), left.get("propensity")
    if not isinstance(candidate, str) or not isinstance(propensity, int | float):
        return None
    empty = {column.name: None for column in DECISIONS.columns if column.nullable}
    return {
        **empty,
        "id": told.decision_id,
        "at": told.started,
        "key": key,
        "candidate": candidate,
        "reason": str(left.get("reason") or "unknown")[:32],
        "propensity": float(propensity),
        "confidence": _number(left.get("confidence")),
        "expected_cost_usd": _number(left.get("expected_cost_usd")),
        "bundle": _text(left.get("bundle")),
    }


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value[:256] if isinstance(value, str) else None
