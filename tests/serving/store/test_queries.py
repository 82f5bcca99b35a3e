"""What is asked of the store."""

from __future__ import annotations

from serving.store.queries import spent_since
from serving.store.writer import DecisionStore
from tests.serving.store.rows import acknowledged, decision, feedback


def test_spending_counts_actual_over_expected_and_open_apart(url: str, store: DecisionStore) -> None:
    store.decided(decision("old", at=10.0))
    store.decided(decision("said", key="k"))
    store.decided(decision("unsaid", key="k"))
    store.decided(decision("open", key="k", workflow="w", at=150.0))
    store.decided(decision("lapsed", key="k", workflow="w", at=101.0))
    acknowledged(store, feedback("said", cost_usd=2.0), feedback("unsaid"), feedback("old", cost_usd=9.0))
    store.close()
    spent = spent_since(store.engine, since=50.0, reserved_since=140.0)
    assert sorted(spent, key=str) == [("k", "w", 0.0, 0.5), ("k", None, 2.5, 0.0)]
    store.engine.dispose()
