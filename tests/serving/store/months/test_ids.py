"""An id says when its decision was made."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.store.months.ids import EVER, made_around, new_id


@given(st.floats(0.0, 2e11))
def test_an_id_says_when_it_was_made(at: float) -> None:
    identifier = new_id(at)
    assert uuid.UUID(identifier).version == 7
    assert uuid.UUID(identifier).variant == uuid.RFC_4122
    since, until = made_around(identifier)
    assert since < at < until
    assert until - since == pytest.approx(2 * 86_400)


def test_ids_sort_by_their_time_and_differ() -> None:
    ids = [new_id(1e9 + n / 1e3) for n in range(1, 300)]
    assert ids == sorted(ids)
    assert len({new_id(1e9) for _ in range(1_000)}) == 1_000


@pytest.mark.parametrize(
    "other",
    [
        "",
        "d1",
        "5977a4f5bbe94abb8ae523727b09231b",
        "g" * 12 + "7" + "0" * 3 + "8" + "0" * 15,
        "f" * 12 + "7aaa8" + "0" * 15,
    ],
)
def test_of_other_ids_nothing_is_known(other: str) -> None:
    assert made_around(other) == EVER
