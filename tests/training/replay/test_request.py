"""What is sent for a pair, and what it can cost at most, by hand; and what a response becomes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.replay.test_buying import pair
from training.replay.answers import read_reply
from training.replay.request import digest, most_tokens, request_body, roughly_tokens

PICTURE = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}


def test_a_request_is_what_was_logged() -> None:
    tools = {"tools": [{"type": "function"}], "response_format": {"type": "json_object"}, "temperature": 2}
    assert request_body(pair(prompt="hi")) == {"messages": [{"role": "user", "content": "hi"}]}
    assert request_body(pair(prompt="hi", parameters=tools)) == {
        "messages": [{"role": "user", "content": "hi"}],
        "tools": tools["tools"],
        "response_format": tools["response_format"],
    }


def test_the_most_is_a_token_for_every_byte_and_what_is_added() -> None:
    plain = {"messages": [{"content": "é", "role": "user"}]}
    text = len('{"messages": [{"content": "é", "role": "user"}]}'.encode())
    assert most_tokens(plain) == text + 64 + 16
    assert most_tokens({**plain, "tools": []}) == text + len(', "tools": []') + 64 + 16 + 1024
    seen: dict[str, Any] = {"messages": [{"role": "user", "content": [PICTURE, {"type": "text", "text": "what?"}]}]}
    assert most_tokens(seen) == len(json.dumps(seen)) + 64 + 16 + 16_384


@given(st.text(max_size=200))
def test_no_text_has_more_tokens_than_is_reserved(text: str) -> None:
    body = {"messages": [{"role": "user", "content": text}]}
    assert most_tokens(body) >= len(text.encode("utf-8", "replace")) >= roughly_tokens(text)
    assert digest(body) == digest(json.loads(json.dumps(body)))


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": -1, "completion_tokens": 1},
              {"prompt_tokens": True, "completion_tokens": 1}, {"prompt_tokens": "9", "completion_tokens": 1},
              {"prompt_tokens": 2**40, "completion_tokens": 1}, {"prompt_tokens": 9}]
)  # fmt: skip
def test_a_usage_that_cannot_be_is_none(usage: Any) -> None:
    document = {"choices": [{"message": {"content": "yes"}}], "usage": usage}
    reply = read_reply(json.dumps(document).encode())
    assert reply.answer is not None
    assert (reply.answer.text, reply.answer.input_tokens, reply.answer.output_tokens) == ("yes", None, None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "message", "content", "usage", "prompt_tokens", "completion_tokens", "error", "output"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(json_values)
def test_whatever_a_server_answers_is_an_answer_or_in_doubt(document: Any) -> None:
    reply = read_reply(json.dumps(document).encode())
    assert (reply.kind == "answer") == (reply.answer is not None)
    assert reply.kind in ("answer", "doubt")
