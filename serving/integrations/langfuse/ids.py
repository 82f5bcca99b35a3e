"""Which trace and which generation of Langfuse a call of LiteLLM is, and the identifiers of what is added to them.

LiteLLM's `langfuse` callback takes the first of metadata.existing_trace_id, metadata.trace_id, the trace of its standard
logging object, litellm_trace_id and litellm_call_id, headers `langfuse_*` before the body's metadata; the call's id where the
trace's is a session's. Its `langfuse_otel` callback takes the trace of the proxy's own span, else of a traceparent header.
Langfuse wants 32 and 16 hexadecimal digits: other words are hashed, as LiteLLM's `resolve_trace_id` hashes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, NamedTuple

_TRACE, _SPAN = re.compile(r"(?!0+$)[0-9a-f]{32}"), re.compile(r"(?!0+$)[0-9a-f]{16}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}.*")
_SESSION_HEADER = re.compile(r"x-session-id|x-.+-session-id")
_CODEX_HEADERS = frozenset({"session-id", "session_id", "thread-id", "conversation_id"})
_LONG_ENOUGH = re.compile(r"[a-zA-Z0-9_\-]{8,}")


class CallIds(NamedTuple):
    """A call's trace and its generation there; None where they cannot be known."""

    trace_id: str | None
    observation_id: str | None


def hex_trace(identifier: str) -> str:
    """The trace that Langfuse has for an identifier: 32 hexadecimal digits as they are, else the hash."""
    plain = identifier.lower().replace("-", "")
    return plain if _TRACE.fullmatch(plain) else sha256(identifier.encode(errors="replace")).hexdigest()[:32]


def hex_observation(identifier: str) -> str:
    """The observation that Langfuse has for an identifier: 16 hexadecimal digits as they are, else the hash."""
    plain = identifier.lower().replace("-", "")
    return plain if _SPAN.fullmatch(plain) else sha256(identifier.encode(errors="replace")).hexdigest()[:16]


def span_of(decision_id: str) -> str:
    """The identifier of a decision's own span: the same however often it is sent."""
    return sha256(f"outcome-router span {decision_id}".encode()).hexdigest()[:16]


def parent_of(decision_id: str) -> str:
    """A parent that nobody sends: a span without one would claim to be the root of a trace that is not ours."""
    return sha256(f"outcome-router parent {decision_id}".encode()).hexdigest()[:16]


def call_ids(kwargs: Mapping[str, Any], response: Any = None, *, otel: bool = False) -> CallIds:
    """The trace and generation of a call, from what LiteLLM hands its log events.

    `otel`: whether the proxy logs by `langfuse_otel`, whose generation has an identifier that is drawn.
    """
    parameters = _mapping(kwargs.get("litellm_params"))
    metadata = _mapping(parameters.get("metadata"))
    request = _mapping(parameters.get("proxy_server_request"))
    headers = {str(name).lower(): value for name, value in _mapping(request.get("headers")).items()}
    if otel:
        return CallIds(_otel_trace(metadata, _mapping(parameters.get("litellm_metadata")), headers), None)
    said = {**metadata, **{name[9:]: value for name, value in headers.items() if name.startswith("langfuse_")}}
    trace = _trace(said, kwargs, headers)
    generation = said.get("generation_id") or _generation(kwargs.get("start_time"), response)
    return CallIds(hex_trace(str(trace)) if trace else None, hex_observation(str(generation)) if generation else None)


def _trace(said: Mapping[str, Any], kwargs: Mapping[str, Any], headers: Mapping[str, Any]) -> Any:
    if said.get("existing_trace_id") is not None:
        return said["existing_trace_id"]
    logged = _mapping(kwargs.get("standard_logging_object")).get("trace_id")
    call = kwargs.get("litellm_call_id")
    others = (said.get("trace_id"), logged, kwargs.get("litellm_trace_id") or call)
    trace = next((one for one in others if one is not None), None)
    return (call or trace) if _is_session(trace, said.get("session_id"), headers) else trace


def _is_session(trace: Any, session: Any, headers: Mapping[str, Any]) -> bool:
    """Whether LiteLLM takes a trace's identifier for a session's, and gives each of its calls a trace of its own."""
    if not isinstance(trace, str) or not isinstance(session, str) or not headers:
        return False
    if headers.get("x-litellm-trace-id") or headers.get("langfuse_trace_id") is not None:
        return False
    if trace != session and headers.get("langfuse_session_id") != session:
        return False
    if headers.get("x-litellm-session-id") == trace:
        return True
    if not _LONG_ENOUGH.fullmatch(trace):
        return False
    agent = headers.get("user-agent")
    codex = isinstance(agent, str) and re.match(r"codex[-_ /]", agent, re.IGNORECASE) is not None
    named = (name for name, value in headers.items() if value == trace)
    return any(_SESSION_HEADER.fullmatch(name) or (codex and name in _CODEX_HEADERS) for name in named)


def _generation(started: Any, response: Any) -> str | None:
    """LiteLLM's `get_logging_id`: the time of the day and the response's identifier."""
    identifier = response.get("id") if hasattr(response, "get") else None
    if not isinstance(started, datetime) or not isinstance(identifier, str):
        return None
    return f"time-{started.strftime('%H-%M-%S-%f')}_{identifier}"


def _otel_trace(metadata: Mapping[str, Any], other: Mapping[str, Any], headers: Mapping[str, Any]) -> str | None:
    span = metadata.get("litellm_parent_otel_span") or other.get("litellm_parent_otel_span")
    if span is not None and hasattr(span, "get_span_context"):
        number = getattr(span.get_span_context(), "trace_id", 0)
        return format(number, "032x") if isinstance(number, int) and number else None
    found = _TRACEPARENT.fullmatch(str(headers.get("traceparent", "")).strip().lower())
    return found.group(1) if found else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
