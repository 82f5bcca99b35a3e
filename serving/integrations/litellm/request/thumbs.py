"""How good earlier answers were, told by a client that only reaches LiteLLM: in the metadata of its next request.

`metadata: {"outcome_router_feedback": {"decision_id": "...", "accepted": true}}`, or a list of such, `quality` instead of
`accepted`; the decision's id is in the header `x-router-decision-id` of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

FIELD = "outcome_router_feedback"
MOST = 50
_BUCKETS = ("litellm_metadata", "metadata")
_DECISION = re.compile(r"[0-9a-f]{32}")  # as the router makes them


def thumbs_in(data: MutableMapping[str, Any]) -> tuple[list[Mapping[str, Any]], int]:
    """Feedback documents from a request's metadata, which is left without them, and how many were refused as not valid."""
    found: list[Mapping[str, Any]] = []
    refused = 0
    for name in _BUCKETS:
        bucket = data.get(name)
        if not isinstance(bucket, MutableMapping) or FIELD not in bucket:
            continue
        said = bucket.pop(FIELD)
        each = said if isinstance(said, list) else [said]
        for one in each[:MOST]:
            document = _document(one)
            if document is None:
                refused += 1
            else:
                found.append(document)
        refused += max(len(each) - MOST, 0)
    return found, refused


def _document(said: object) -> Mapping[str, Any] | None:
    """One thumb as feedback, None where it is not valid: a decision's id, and either a quality from 0 to 1 or `accepted`."""
    if not isinstance(said, Mapping) or not said.keys() <= {"decision_id", "quality", "accepted"}:
        return None
    decision, quality, accepted = said.get("decision_id"), said.get("quality"), said.get("accepted")
    if not isinstance(decision, str) or not _DECISION.fullmatch(decision) or (quality is None) is (accepted is None):
        return None
    if accepted is not None:
        return _thumb(decision, float(accepted)) if isinstance(accepted, bool) else None
    if isinstance(quality, bool) or not isinstance(quality, int | float) or not 0 <= quality <= 1:
        return None
    return _thumb(decision, float(quality))


def _thumb(decision: str, quality: float) -> Mapping[str, Any]:
    return {"decision_id": decision, "quality": quality, "source": "thumb"}
