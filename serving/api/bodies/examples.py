"""Documents as the documentation shows them."""

from __future__ import annotations

from typing import Any

from pydantic.config import JsonDict

DECISION: JsonDict = {
    "id": "0b0f5a3c9f1e4a6d8c7b2a1908f7e6d5",
    "model": "acme/small",
    "confidence": 0.93,
    "expected_cost_usd": 0.00021,
    "fallbacks": ["acme/large"],
    "reason": "best_value",
    "operating_point": "balanced",
    "quality_target": 0.9,
    "certificate": {"alpha": 0.1, "delta": 0.1, "bound": 0.086, "requests": 412},
    "knob": 12.5,
    "propensity": 1.0,
    "novelty": 0.87,
    "bundle": "2026-01-31-1",
    "warnings": [],
    "also": {"model": "acme/large", "propensity": 0.05, "expected_cost_usd": 0.0043},
    "held_back": None,
    "candidates": [
        {
            "model": "acme/small",
            "confidence": 0.93,
            "expected_cost_usd": 0.00021,
            "expected_quality": 0.9,
            "expected_latency_ms": 480.0,
            "expected_latency_p95_ms": 1310.0,
            "ruled_out": None,
        },
        {
            "model": "acme/large",
            "confidence": 0.97,
            "expected_cost_usd": 0.0043,
            "expected_quality": 0.95,
            "expected_latency_ms": None,
            "expected_latency_p95_ms": None,
            "ruled_out": None,
        },
    ],
}
PROBLEM: JsonDict = {
    "type": "urn:outcome-router:invalid-request",
    "title": "Invalid request",
    "status": 422,
    "detail": "messages.0.content: content must be a string, a list of parts or null",
    "instance": "/v1/route",
    "errors": [{"field": "messages.0.content", "message": "content must be a string, a list of parts or null"}],
}


def decision_example(candidates: int) -> dict[str, Any]:
    """A decision's document as the documentation shows it, with so many candidates."""
    rows = DECISION["candidates"]
    assert isinstance(rows, list)
    return {**DECISION, "candidates": (rows * candidates)[:candidates]}
