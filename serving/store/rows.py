"""A decision as a row of the store."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isinf
from typing import Any, NamedTuple, Self

import orjson

from serving.bundle.manifest import Manifest
from serving.bundle.request import ReadRequest, RouteRequest
from serving.decide.decision import Alternative, Decision, HeldBack


class Reference(NamedTuple):
    """The bundle's reference, and what a request's prompt alone costs there at the least, in USD; None where that has no price.

    At the least, for it may be read from a cache.
    """

    name: str
    input_usd: float | None

    @classmethod
    def of(cls, manifest: Manifest, request: ReadRequest) -> Self:
        name = manifest.reference
        candidate = next(one for one in manifest.candidates if one.name == name)
        price, cached = candidate.input_usd_per_mtok, candidate.cache_read_usd_per_mtok
        if price is None or manifest.cost_from[name] != "tokens":
            return cls(name, None)
        tokens = request.said * manifest.usual[name].input_ratio
        return cls(name, tokens * (price if cached is None else min(price, cached)) / 1e6)


def decision_row(
    identifier: str,
    at: float,
    key: str | None,
    request: RouteRequest,
    decision: Decision,
    reference: Reference,
    shadow: Decision | None = None,
    *,
    prompt: bool = True,
) -> Mapping[str, Any]:
    """What `tables.DECISIONS` keeps, by column; `at` in epoch seconds, `prompt` whether the request's text is kept.

    `reference` is that of the bundle that decided. `shadow` is what the shadow bundle would have decided; where the decision
    was held back, what the router itself would have stands there.
    """
    seen = {one.candidate: one for one in decision.alternatives}
    chosen = seen.get(decision.candidate)
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
        "reference": reference.name,
        "reference_expected_cost_usd": _expected(seen.get(reference.name)),
        "reference_input_usd": reference.input_usd,
        "instead_candidate": decision.instead,
        "instead_expected_cost_usd": _expected(seen.get(decision.instead or "")),
    }


def _expected(one: Alternative | None) -> float | None:
    return None if one is None else one.expected_cost_usd


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
