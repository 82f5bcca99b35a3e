"""A decision as a row of the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isinf
from typing import Any

import orjson

from serving.bundle.request import RouteRequest
from serving.decide.decision import Decision, HeldBack


def decision_row(
    identifier: str,
    at: float,
    key: str | None,
    request: RouteRequest,
    decision: Decision,
    shadow: Decision | None = None,
    *,
    prompt: bool = True,
) -> Mapping[str, Any]:
    """What `tables.DECISIONS` keeps, by column; `at` in epoch seconds, `prompt` whether the request's text is kept.

    `shadow` is what the shadow bundle would have decided; where the decision was held back, what the router itself would have
    stands there.
    """
    chosen = next((one for one in decision.alternatives if one.candidate == decision.candidate), None)
    also = decision.also
    return {
        "id": identifier,
        "at": at,
        "key": key,
        "workflow": request.workflow,
        "session_id": request.session_id,
        "prompt": request.prompt if prompt else None,
        "messages": _json(request.messages) if prompt and request.messages is not None else None,
        "candidate": decision.candidate,
        "reason": decision.reason.value,
        "propensity": decision.propensity,
        "knob": None if isinf(decision.knob) else decision.knob,
        "operating_point": decision.operating_point,
        "quality_target": decision.quality_target,
        "confidence": decision.confidence,
        "expected_quality": None if chosen is None else chosen.expected_quality,
        "expected_cost_usd": decision.expected_cost_usd,
        "expected_latency_ms": None if chosen is None else chosen.expected_latency_ms,
        "novelty": decision.novelty,
        "cluster": decision.cluster,
        "tools": request.tools,
        "json_schema": request.json_schema,
        "max_output_tokens": request.max_output_tokens,
        "bundle": decision.bundle,
        **(shadow_columns(shadow) if decision.held_back is None else _own_columns(decision.bundle, decision.held_back)),
        "also_candidate": None if also is None else also.candidate,
        "also_propensity": None if also is None else also.propensity,
        "also_expected_cost_usd": None if also is None else also.expected_cost_usd,
    }


def shadow_columns(shadow: Decision | None) -> dict[str, Any]:
    """What a decision's row says of what the shadow bundle would have decided."""
    return {
        "shadow_bundle": None if shadow is None else shadow.bundle,
        "shadow_candidate": None if shadow is None else shadow.candidate,
        "shadow_confidence": None if shadow is None else shadow.confidence,
        "shadow_expected_cost_usd": None if shadow is None else shadow.expected_cost_usd,
    }


def _own_columns(bundle: str, own: HeldBack) -> dict[str, Any]:
    """The same of what the bundle itself would have decided."""
    return {
        "shadow_bundle": bundle,
        "shadow_candidate": own.candidate,
        "shadow_confidence": own.confidence,
        "shadow_expected_cost_usd": own.expected_cost_usd,
    }


def _json(messages: object) -> str:
    """Messages as JSON; an integer of any length and a lone surrogate, which orjson refuses, are in it as well."""
    try:
        return orjson.dumps(messages).decode()
    except TypeError:
        return json.dumps(messages, default=str)
