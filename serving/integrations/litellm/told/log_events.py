"""LiteLLM's log events and hooks, read as outcomes of decisions. No text of a prompt, answer or error is taken from them.

What was decided is taken from a `Decided` alone, which LiteLLM hands on as the object that it is, through retries, fallbacks
and streams. What is a mere mapping in its place may be a client's own writing: LiteLLM calls the hook of failures for a
request without a valid key too, with the body as it came, before any other hook.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from serving.integrations.langfuse import call_ids
from serving.integrations.litellm.decided import KEY, LOGGED, Decided, found
from serving.integrations.outcome import MOST, Attempt, ToldOutcome

_MOST_ATTEMPTS = 20
_MOST_LISTED = 32
_LONGEST_NAME = 256
# A deployment's candidate by its id in LiteLLM, None where it is nobody's.
CandidateOf = Callable[[str], str | None]


class NotOursError(LookupError):
    """An event that is no outcome of a decision; the message says why, in a word that is counted."""


def outcome_of_log(
    kwargs: Mapping[str, Any], response: object, *, failed: bool, candidate_of: CandidateOf
) -> ToldOutcome:
    """The outcome that a log event's `kwargs` tell; raises NotOursError.

    Its cost is LiteLLM's `response_cost`, unknown where that is zero beside tokens; its latency is that of the attempt which
    answered, in full, for a stream too.
    """
    said = _mapping(kwargs.get("standard_logging_object"))
    bucket = bucket_of(_mapping(kwargs.get("litellm_params")))
    decision = _decision(decided_of(kwargs))
    if said.get("cache_hit") or kwargs.get("cache_hit"):
        raise NotOursError("cache_hits")
    for mark, counted in _NOT_THE_CALL.items():
        if bucket.get(mark):
            raise NotOursError(counted)
    started, ended = _time(said.get("startTime")), _time(said.get("endTime"))
    got, sent = _count(said.get("completion_tokens")), _count(said.get("prompt_tokens"))
    deployment = _name(said.get("model_id")) or _name(_mapping(bucket.get("model_info")).get("id"))
    group = _name(said.get("model_group"))
    ids = call_ids(kwargs, response)
    return ToldOutcome(
        decision_id=decision["decision_id"],
        trace_id=ids.trace_id,
        observation_id=ids.observation_id,
        call_id=_name(said.get("litellm_call_id")) or _name(kwargs.get("litellm_call_id")),
        model=served_by(decision, deployment, group or _name(said.get("model")), candidate_of),
        started=started,
        ended=ended,
        cost_usd=cost_of(said.get("response_cost"), sent, got),
        input_tokens=sent or None,
        output_tokens=got if sent or got else None,
        latency_ms=max(ended - started, 0.0) * 1e3,
        error=failed,
        attempts=_attempts(bucket, candidate_of, decision),
        decision=decision,
    )


def outcome_of_answer(data: Mapping[str, Any], response: object, *, candidate_of: CandidateOf) -> ToldOutcome:
    """The outcome that an answer's hidden parameters tell, before the client has it; raises NotOursError.

    Its latency has LiteLLM's own time in it, which the log event tells apart later.
    """
    decision = _decision(found(data))
    bucket = bucket_of(data)
    hidden = _mapping(getattr(response, "_hidden_params", None))
    if hidden.get("cache_hit"):
        raise NotOursError("cache_hits")
    usage = getattr(response, "usage", None)
    sent, got = (_count(_first(usage, names)) for names in (("prompt_tokens", "input_tokens"), _GOT))
    taken = _number(hidden.get("_response_ms"))
    latency = taken if taken is not None and taken >= 0 else None
    ended = time.time()
    deployment = _name(hidden.get("model_id")) or _name(_mapping(bucket.get("model_info")).get("id"))
    return ToldOutcome(
        decision_id=decision["decision_id"],
        trace_id=None,
        observation_id=None,
        call_id=_name(hidden.get("litellm_call_id")) or _name(data.get("litellm_call_id")),
        model=served_by(decision, deployment, _name(bucket.get("model_group")), candidate_of),
        started=ended - (latency or 0.0) / 1e3,
        ended=ended,
        cost_usd=cost_of(hidden.get("response_cost"), sent, got),
        input_tokens=sent or None,
        output_tokens=got if sent or got else None,
        latency_ms=latency,
        error=False,
        attempts=_attempts(bucket, candidate_of, decision),
        decision=decision,
    )


def outcome_of_failure(data: Mapping[str, Any], *, candidate_of: CandidateOf) -> ToldOutcome:
    """The outcome of a request that LiteLLM gives up, its retries and fallbacks spent; raises NotOursError."""
    decision = _decision(found(data))
    bucket = bucket_of(data)
    ended = time.time()
    received = bucket.get("litellm_received_at")
    began = received if isinstance(received, int | float) and 0 < received <= ended else ended
    return ToldOutcome(
        decision_id=decision["decision_id"],
        trace_id=None,
        observation_id=None,
        call_id=_name(data.get("litellm_call_id")),
        model=None,
        started=float(began),
        ended=ended,
        cost_usd=None,
        input_tokens=None,
        output_tokens=None,
        latency_ms=None,
        error=True,
        attempts=_attempts(bucket, candidate_of, decision),
        decision=decision,
    )


def bucket_of(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """LiteLLM's own metadata of a request: `litellm_metadata` on the routes where `metadata` is the provider's."""
    own, other = _mapping(data.get("litellm_metadata")), _mapping(data.get("metadata"))
    if isinstance(_mapping(own.get(LOGGED)).get(KEY), Decided) or (own and "user_api_key_hash" in own):
        return own
    return other or own


def decided_of(kwargs: Mapping[str, Any]) -> Decided | None:
    """The record that the plug-in left with the call of a log event; LiteLLM may be set to log none, but it still has it."""
    left = found(_mapping(kwargs.get("litellm_params")))
    if left is not None:
        return left
    return found(_mapping(kwargs.get("standard_logging_object")))


def served_by(
    decision: Mapping[str, Any], deployment: str | None, group: str | None, candidate_of: CandidateOf
) -> str | None:
    """The candidate that answered: whom the deployment is of, or the group it was reached by; None if that is not known."""
    if decision.get("stays") is True and group is not None and group == decision.get("group"):
        return str(
            decision.get("model")
        )  # an existing group that answered itself: whoever of it did is what was recorded
    candidate = candidate_of(deployment) if deployment else None
    ranks = decision.get("ranks")
    known = {decision.get("model"), *(ranks if isinstance(ranks, list | tuple) else ())}
    if candidate in known or group is None:
        return candidate
    return candidate or group[:_LONGEST_NAME]


def cost_of(said: object, sent: int | None, got: int | None) -> float | None:
    """LiteLLM's cost in USD; None where it is none, or zero beside tokens: a model without a price is not a free one."""
    cost = _number(said)
    if cost is None or cost < 0:
        return None
    return None if cost == 0 and (sent or got) else cost


# What LiteLLM marks calls with that are not the client's own, and what they are counted as.
_NOT_THE_CALL = {
    "internal_call_origin": "internal_calls",
    "is_silent_experiment": "silent_experiments",
    "billed_retry_attempt": "billed_retries",
}
_GOT = ("completion_tokens", "output_tokens")


# What is kept of a record, and handed on.
_FIELDS = (
    "decision_id", "model", "ranks", "confidence", "reason", "bundle", "expected_cost_usd", "reference",
    "reference_cost_usd", "propensity", "held_back", "held_back_cost_usd", "session", "group", "picked", "stays",
)  # fmt: skip


def _decision(left: Decided | None) -> Mapping[str, Any]:
    """The record's fields, of bounded length."""
    if left is None or _name(left.get("decision_id")) is None:
        raise NotOursError("others")
    return {name: _bounded(left[name]) for name in _FIELDS if name in left}


def _bounded(value: object) -> object:
    """A text, a number, a truth value or a list of texts, no longer than is handed on; None for all else."""
    if isinstance(value, str):
        return _name(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, list | tuple):
        return [name for one in value[:_MOST_LISTED] if (name := _name(one)) is not None]
    return _number(value)


def _attempts(bucket: Mapping[str, Any], candidate_of: CandidateOf, decision: Mapping[str, Any]) -> tuple[Attempt, ...]:
    """The attempts that failed before, the first one first."""
    earlier = bucket.get("previous_models")
    found = []
    for one in earlier[-_MOST_ATTEMPTS:] if isinstance(earlier, Sequence) and not isinstance(earlier, str) else ():
        said = _mapping(one)
        group = _name(said.get("model_group")) or _name(said.get("model"))
        model = served_by(decision, _name(said.get("deployment_id")), group, candidate_of)
        found.append(Attempt(model=model or "unknown", error=_name(said.get("exception_type")) or "error"))
    return tuple(found)


def _first(usage: object, names: Sequence[str]) -> object:
    for name in names:
        value = usage.get(name) if isinstance(usage, Mapping) else getattr(usage, name, None)
        if value is not None:
            return value
    return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _name(value: object) -> str | None:
    """A name or an identifier, as text that can be written down: half a surrogate pair cannot."""
    return value[:_LONGEST_NAME].encode("utf-8", "replace").decode() if isinstance(value, str) and value else None


def _count(value: object) -> int | None:
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST
    return value if good and isinstance(value, int) else None


def _number(value: object) -> float | None:
    """A finite number; one that no float holds, an integer of 400 digits, is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _time(value: object) -> float:
    """Epoch seconds; now, where none is given."""
    given = _number(value)
    return time.time() if given is None else given
