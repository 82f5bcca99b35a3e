"""A decision as Langfuse takes it: a small span on the call's trace (OTLP as JSON), and numbers as scores.

Neither has text of a prompt or an answer: only the fields named here are sent, whatever else the decision holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any

import orjson

from serving.integrations.langfuse.ids import hex_observation, hex_trace, parent_of, span_of
from serving.integrations.outcome import ToldOutcome

SPAN = "outcome-router"
SCORES = (
    "router_confidence",
    "router_expected_cost_usd",
    "router_cost_usd",
    "router_reference_cost_usd",
    "router_saved_usd",
)
_DECIDED = (
    "model", "reason", "bundle", "confidence", "expected_cost_usd", "reference", "reference_cost_usd", "propensity",
    "held_back", "ranks",
)  # fmt: skip
_LONGEST = 500
_SAID = {
    "router_confidence": "the chance that the chosen model's answer is good enough",
    "router_expected_cost_usd": "what the chosen model was expected to cost",
    "router_cost_usd": "what the call did cost",
    "router_reference_cost_usd": "what the reference model was expected to cost for this request",
    "router_saved_usd": "the cost of the reference model less that of the call",
}


def span(told: ToldOutcome, environment: str | None) -> dict[str, Any]:
    """The decision's span, a child of the call's generation, or the root of a trace of its own; raises ValueError."""
    trace = told.trace_id
    metadata = _metadata(told)
    attributes = {
        "langfuse.observation.type": "span",
        **{f"langfuse.observation.metadata.{name}": text for name, text in metadata.items()},
        **{f"langfuse.trace.metadata.{name}": text for name, text in metadata.items()},
        **({"langfuse.environment": environment} if environment else {}),
    }
    when = str(_nanoseconds(told.started))
    found: dict[str, Any] = {
        "traceId": trace_of(told),
        "spanId": span_of(told.decision_id),
        "name": SPAN,
        "kind": 1,
        "startTimeUnixNano": when,
        "endTimeUnixNano": when,
        "attributes": [{"key": name, "value": {"stringValue": text}} for name, text in attributes.items()],
        "status": {},
    }
    if trace is not None:
        parent = told.observation_id
        found["parentSpanId"] = hex_observation(parent) if parent else parent_of(told.decision_id)
    return found


def export_request(spans: Iterable[Mapping[str, Any]]) -> bytes:
    """OTLP's ExportTraceServiceRequest as JSON."""
    service = [{"key": "service.name", "value": {"stringValue": SPAN}}]
    scoped = [{"scope": {"name": SPAN}, "spans": list(spans)}]
    return orjson.dumps({"resourceSpans": [{"resource": {"attributes": service}, "scopeSpans": scoped}]})


def scores(told: ToldOutcome, environment: str | None) -> list[dict[str, Any]]:
    """The decision's numbers as scores of the call's generation, else of the decision's own span; raises ValueError.

    Langfuse overwrites a score whose id, name and day are the same: all three follow from the outcome.
    """
    reference, cost = _number(told.decision.get("reference_cost_usd")), _number(told.cost_usd)
    saved = None if told.error or reference is None or cost is None else reference - cost
    expected, confidence = (_number(told.decision.get(name)) for name in ("expected_cost_usd", "confidence"))
    numbers = dict(zip(SCORES, (confidence, expected, cost, reference, saved), strict=True))
    shared = {
        "traceId": trace_of(told),
        "observationId": hex_observation(told.observation_id) if told.observation_id else span_of(told.decision_id),
        "dataType": "NUMERIC",
        "timestamp": datetime.fromtimestamp(_nanoseconds(told.ended) / 1e9, UTC).isoformat(timespec="milliseconds"),
        "metadata": _metadata(told),
        **({"environment": environment} if environment else {}),
    }
    return [
        {"id": f"{told.decision_id}-{name}", "name": name, "value": value, "comment": _SAID[name], **shared}
        for name, value in numbers.items()
        if value is not None
    ]


def trace_of(told: ToldOutcome) -> str:
    """The call's trace, or where the gateway has none, one of the decision's own."""
    return hex_trace(told.trace_id if told.trace_id is not None else f"outcome-router trace {told.decision_id}")


def _metadata(told: ToldOutcome) -> dict[str, str]:
    """Names and numbers as text, which is how Langfuse filters metadata."""
    cells = {
        "decision_id": told.decision_id,
        **{name: told.decision.get(name) for name in _DECIDED},
        "answered": told.model,
        "cost_usd": told.cost_usd,
        "attempts": len(told.attempts) or None,
        "error": told.error,
    }
    return {f"router_{name}": _text(cell) for name, cell in cells.items() if cell is not None}


def _text(cell: Any) -> str:
    text = cell if isinstance(cell, str) else orjson.dumps(cell, default=lambda _: None).decode()
    return text[:_LONGEST]


def _number(cell: Any) -> float | None:
    return float(cell) if isinstance(cell, int | float) and not isinstance(cell, bool) and isfinite(cell) else None


def _nanoseconds(seconds: float) -> int:
    """Epoch nanoseconds; raises ValueError for a time that no calendar has."""
    if not 0 <= seconds < 253_402_300_800:  # year 10000
        raise ValueError(f"expected seconds since 1970, before the year 10000; arrived: {seconds}")
    return round(seconds * 1e6) * 1000
