"""Which trace and generation of Langfuse a call of LiteLLM is: held against LiteLLM's own functions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from litellm.integrations.langfuse.langfuse import langfuse_trace_id, langfuse_trace_metadata
from litellm.utils import get_logging_id

from serving.integrations.langfuse.ids import CallIds, call_ids, hex_observation, hex_trace
from tests.examples import examples

STARTED = datetime(2026, 9, 1, 13, 46, 19, 963000)


def call(metadata: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None, **cells: Any) -> Any:
    parameters = {"metadata": metadata or {}, "proxy_server_request": {"headers": dict(headers or {})}}
    return {"litellm_call_id": "call-1", "litellm_params": parameters, "start_time": STARTED, **cells}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("0AF7651916CD43DD8448EB211C80319C", "0af7651916cd43dd8448eb211c80319c"),
        ("0af76519-16cd-43dd-8448-eb211c80319c", "0af7651916cd43dd8448eb211c80319c"),
        ("my trace", "59a35532f7322d301500ce91cbbdb56b"),
        ("0" * 32, "84e0c0eafaa95a34c293f278ac52e45c"),
    ],
)
def test_a_trace_of_another_kind_is_hashed_as_litellm_hashes_it(word: str, expected: str) -> None:
    assert hex_trace(word) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("B7AD6B7169203331", "b7ad6b7169203331"),
        ("time-13-46-19-963000_chatcmpl-1", "e44d558cde487c8b"),
        ("0" * 16, "fcdb4b423f4e5283"),
    ],
)
def test_an_observation_of_another_kind_is_hashed_as_litellm_hashes_it(word: str, expected: str) -> None:
    assert hex_observation(word) == expected


def test_the_generation_is_the_time_and_the_responses_id_unless_one_was_given() -> None:
    response = {"id": "chatcmpl-1"}
    assert call_ids(call(), response).observation_id == hex_observation(str(get_logging_id(STARTED, response)))
    assert call_ids(call({"generation_id": "b7ad6b7169203331"}), response).observation_id == "b7ad6b7169203331"
    assert call_ids(call({}, {"langfuse_generation_id": "g"}), response).observation_id == hex_observation("g")
    assert call_ids(call(), None).observation_id is None


words = st.none() | st.sampled_from(["session-0001", "trace-0001", "0af7651916cd43dd8448eb211c80319c", "s"])
names = ["x-litellm-trace-id", "langfuse_trace_id", "langfuse_session_id", "x-litellm-session-id", "x-claude-code-session-id",
         "session-id", "User-Agent", "langfuse_existing_trace_id"]  # fmt: skip


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("trace_id", "session_id", "existing_trace_id"), words)),
    st.dictionaries(st.sampled_from(names), st.sampled_from(["session-0001", "trace-0001", "s", "codex_cli/1"])),
    words,
    words,
)
@examples(300)
def test_the_trace_is_the_one_that_litellm_takes(
    metadata: dict[str, Any], headers: dict[str, str], logged: str | None, of_call: str | None
) -> None:
    kwargs = call(metadata, headers, litellm_trace_id=of_call, standard_logging_object={"trace_id": logged})
    request = kwargs["litellm_params"]["proxy_server_request"]
    said = langfuse_trace_metadata(metadata, request)
    taken = langfuse_trace_id(said, logged, of_call, "call-1", request)
    assert call_ids(kwargs).trace_id == hex_trace(str(taken))


def test_over_otel_the_trace_is_the_proxys_own_else_that_of_the_header() -> None:
    span = SimpleNamespace(get_span_context=lambda: SimpleNamespace(trace_id=255))
    header = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    assert call_ids(call({"litellm_parent_otel_span": span}, header), otel=True) == CallIds(f"{255:032x}", None)
    assert call_ids(call({}, header), otel=True) == CallIds("0af7651916cd43dd8448eb211c80319c", None)
    assert call_ids(call({"trace_id": "t"}), otel=True) == CallIds(None, None)


@pytest.mark.parametrize(
    "kwargs", [{}, {"litellm_params": None}, {"litellm_params": {"metadata": [], "proxy_server_request": 1}}]
)
def test_a_call_that_says_nothing_is_of_no_trace(kwargs: dict[str, Any]) -> None:
    assert call_ids(kwargs, object()) == CallIds(None, None)
