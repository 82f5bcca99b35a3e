"""Texts that wait are embedded together, each gets its own row, and none waits for what is not there."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.runtime.batching import LONGEST_TOGETHER, MOST_TOGETHER, Batching, BusyError
from tests.patience import PATIENCE


class Lengths:
    """Embeds a text as its length; the first batch waits for `go`."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def embed_many(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.batches.append(len(texts))
        self.begun.set()
        assert self.go.wait(PATIENCE)
        if "fail" in texts:
            raise ValueError("no")
        return np.array([[len(text)] for text in texts], dtype=np.float32)


@pytest.fixture
def batching() -> Iterator[Batching]:
    made = Batching(threads=1, most_waiting=20)
    yield made
    made.close()


def held(batching: Batching) -> Lengths:
    """An embedder that is busy with one text, so that what comes next has to wait."""
    lengths = Lengths()
    batching.embed(lengths, "first")
    assert lengths.begun.wait(PATIENCE)
    return lengths


def test_what_waits_goes_together_and_each_gets_its_own(batching: Batching) -> None:
    lengths = held(batching)
    waiting = [batching.embed(lengths, "x" * n) for n in range(20)]
    lengths.go.set()
    assert [float(one.result(PATIENCE)[0, 0]) for one in waiting] == list(range(20))
    assert lengths.batches == [1, MOST_TOGETHER, 4]


def test_a_long_text_goes_alone(batching: Batching) -> None:
    lengths = held(batching)
    waiting = [batching.embed(lengths, text) for text in ("a", "b" * (LONGEST_TOGETHER + 1), "c")]
    lengths.go.set()
    assert [one.result(PATIENCE).shape for one in waiting] == [(1, 1)] * 3
    assert lengths.batches == [1, 1, 1, 1]


def test_two_embedders_are_never_mixed(batching: Batching) -> None:
    lengths, other = held(batching), Lengths()
    other.go.set()
    waiting = [batching.embed(one, "text") for one in (lengths, other, lengths)]
    lengths.go.set()
    assert [one.result(PATIENCE).tolist() for one in waiting] == [[[4.0]]] * 3
    assert other.batches == [1]


def test_what_was_cancelled_is_left_out_and_more_than_the_most_is_refused(batching: Batching) -> None:
    lengths = held(batching)
    waiting = [batching.embed(lengths, "text") for _ in range(20)]
    with pytest.raises(BusyError, match="20 texts wait"):
        batching.embed(lengths, "one more")
    assert waiting[3].cancel()
    lengths.go.set()
    waiting[-1].result(PATIENCE)
    assert sum(lengths.batches) == 20


def test_what_is_wrong_with_one_leaves_the_others_as_they_are(batching: Batching) -> None:
    lengths = held(batching)
    waiting = [batching.embed(lengths, text) for text in ("a", "fail", "abc")]
    lengths.go.set()
    with pytest.raises(ValueError, match="no"):
        waiting[1].result(PATIENCE)
    assert [float(waiting[place].result(PATIENCE)[0, 0]) for place in (0, 2)] == [1.0, 3.0]


def test_what_waits_is_bounded_in_bytes() -> None:
    batching = Batching(threads=1, most_bytes=3_000)
    lengths = held(batching)
    waiting = [batching.embed(lengths, "x" * 1_000) for _ in range(2)]
    with pytest.raises(BusyError, match="2 texts wait"):
        batching.embed(lengths, "y" * 1_000)
    lengths.go.set()
    assert [one.result(PATIENCE).shape for one in waiting] == [(1, 1)] * 2
    batching.embed(lengths, "y" * 1_000).result(PATIENCE)
    batching.close()


def test_an_error_goes_to_those_who_wait_and_the_thread_lives_on(batching: Batching) -> None:
    lengths = held(batching)
    waiting = batching.embed(lengths, "fail")
    lengths.go.set()
    with pytest.raises(ValueError, match="no"):
        waiting.result(PATIENCE)
    assert batching.embed(lengths, "text").result(PATIENCE).tolist() == [[4.0]]


def test_after_the_end_nothing_is_taken(batching: Batching) -> None:
    lengths = held(batching)
    waiting = batching.embed(lengths, "text")
    batching.close()
    with pytest.raises(BusyError, match="stopping"):
        waiting.result(PATIENCE)
    with pytest.raises(BusyError):
        batching.embed(lengths, "text")
    lengths.go.set()
