"""Globs are those of `fnmatch`, and none of them takes long."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.decide import globs
from serving.decide.globs import matches

_LETTERS = "ab-]"


@pytest.mark.parametrize(
    ("glob", "name", "fits"),
    [
        ("acme/*", "acme/large", True),
        ("acme/*", "Acme/large", False),
        ("*-preview", "x-preview", True),
        ("*", "", True),
        ("", "", True),
        ("", "a", False),
        ("gpt-?", "gpt-5", True),
        ("gpt-?", "gpt-50", False),
        ("a*b*a", "aba", True),
        ("a*a", "a", False),
        ("[a-c]x", "bx", True),
        ("[!a-c]x", "bx", False),
        ("[]]", "]", True),
        ("[a", "[a", True),
    ],
)
def test_by_hand(glob: str, name: str, fits: bool) -> None:
    assert matches(name, glob) is fits


@given(glob=st.text(_LETTERS + "[!*?", max_size=10), name=st.text(_LETTERS, max_size=8))
@example(glob="[a-b-]", name="-")
@example(glob="[--b]", name="a")
@example(glob="[b-a]", name="a")
@example(glob="[!]a]", name="]")
def test_they_are_those_of_fnmatch(glob: str, name: str) -> None:
    assert matches(name, glob) is fnmatchcase(name, glob)


def test_only_so_many_are_kept() -> None:
    for number in range(3_000):
        matches("acme/large", f"{number}*")
    kept = globs._segments.cache_info()
    assert kept.currsize == kept.maxsize == globs._MOST_KEPT
