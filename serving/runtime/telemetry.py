"""What is told of the state of a process: the values of its gauges."""

from __future__ import annotations

from serving.runtime.live import Live
from serving.runtime.metrics import Snapshot
from serving.state.budgets import Budgets
from serving.state.drift import Drift
from serving.state.reservations import Reservations
from serving.store.writer import DecisionStore


def snapshot_of(
    live: Live, store: DecisionStore | None, budgets: Budgets, reservations: Reservations, drift: Drift
) -> Snapshot:
    """Every gauge's value now; 0 where there is nothing to measure."""
    cache = live.current.embeddings
    asked = cache.hits + cache.misses
    measured = drift.measure()
    lines = budgets.lines()
    plain = {
        "router_store_queue_rows": 0 if store is None else store.waiting,
        "router_store_queue_bytes": 0 if store is None else store.waiting_bytes,
        "router_budget_unconfirmed": reservations.unconfirmed,
        "router_store_dropped_decisions": 0 if store is None else store.dropped,
        "router_store_retries": 0 if store is None else store.retries,
        "router_bundle_reloads": live.reloads,
        "router_bundle_refusals": live.refusals,
        "router_embedding_cache_hit_share": cache.hits / asked if asked else 0.0,
        "router_drift_psi": measured.psi or 0.0,
        "router_novel_share": measured.novel_share or 0.0,
        "router_feedback_calibration_error": measured.calibration_error or 0.0,
    }
    shown: dict[str, dict[tuple[str, ...], float]] = {name: {(): value} for name, value in plain.items()}
    shown["router_budget_left_usd"] = {(line.scope, line.period): line.left for line in lines}
    shown["router_budget_pace"] = {(line.scope, line.period): line.pace for line in lines}
    shown["router_bundle_info"] = {(live.version,): 1.0}
    return shown
