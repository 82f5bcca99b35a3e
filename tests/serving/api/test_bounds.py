"""The size of a document by its bytes is the size of the parsed document."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.api import bounds
from serving.api.bounds import DEEPEST, is_small, too_large

DOCUMENTS = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('a"\\,[{}]12'), max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\,', max_size=3), inner, max_size=4),
    max_leaves=30,
)


def entries(value: Any) -> int:
    """What separates values: an opening bracket for each object or list, and a comma between any two entries."""
    if not isinstance(value, dict | list):
        return 0
    inner = list(value.values()) if isinstance(value, dict) else value
    return 1 + max(len(inner) - 1, 0) + sum(map(entries, inner))


def depth_of(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value), default=0)


def digits(document: str) -> int:
    """Of the longest number outside strings."""
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', document)
    return max(map(len, re.findall(r"\d+", outside)), default=0)


@pytest.mark.parametrize("block", [1, 2, 3, 64])
@given(document=DOCUMENTS)
def test_it_is_measured_as_it_is_parsed_wherever_a_block_ends(block: int, document: Any) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bounds, "_BLOCK", block)
        body = json.dumps(document).encode()
        assert bounds._measured(body, 10_000) == (entries(document), depth_of(document), digits(body.decode()))


def test_what_stands_in_strings_does_not_count() -> None:
    assert too_large(json.dumps({"prompt": '[{,"\\' * 50_000}).encode(), 10) is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"a": [' + b"1," * 98 + b"1]}", None),
        (b'{"a": [' + b"1," * 99 + b"1]}", "more than 100 JSON values"),
        (b"[" * DEEPEST, None),
        (b"[" * (DEEPEST + 1), f"deeper than {DEEPEST} levels"),
        (b"[]," * 200, "more than 100 JSON values"),
        (b"\\" * 1_000 + b"[" * 1_000, "more than 100 JSON values"),
        (b"", None),
        (b'{"a": ' + b"1" * 399 + b"}", None),
        (b'{"a": ' + b"1" * 400 + b"}", "a number of 400 digits or more"),
        (b'{"a": "' + b"1" * 100_000 + b'"}', None),
        (b'{"a": "' + b"1" * 100_000 + b'", "b": -' + b"1" * 70_000 + b"}", "a number of 400 digits"),
    ],
)
def test_what_is_too_much_is_said(body: bytes, said: str | None) -> None:
    found = too_large(body, 100 if b"[[" not in body or b"\\" in body else 1_000)
    assert (found is None) == (said is None)
    assert said is None or said in str(found)


def test_the_event_loop_gets_what_is_short_and_has_few_objects() -> None:
    assert is_small(b'{"prompt": "' + b"a" * 30_000 + b'"}')
    assert not is_small(b'{"prompt": "' + b"a" * 40_000 + b'"}')
    assert not is_small(b'{"messages": [' + b"{}," * 2_000 + b"{}]}")
