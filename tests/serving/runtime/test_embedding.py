"""Texts that wait are embedded one after the other, and none waits for what is not there."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.runtime.embedding import BusyError, EmbeddingThreads
from tests.patience import PATIENCE


class Lengths:
    """Embeds a text as its length; the first one waits for `go`."""

    def __init__(self) -> None:
        self.embedded: list[str] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def embed(self, text: str) -> NDArray[np.float32]:
        self.embedded.append(text)
        self.begun.set()
        assert self.go.wait(PATIENCE)
        if text == "fail":
            raise ValueError("no")
        return np.array([[len(text)]], dtype=np.float32)


@pytest.fixture
def threads() -> Iterator[EmbeddingThreads]:
    made = EmbeddingThreads(threads=1, most_waiting=20)
    yield made
    made.close()


def held(threads: EmbeddingThreads) -> Lengths:
    """An embedder that is busy with one text, so that what comes next has to wait."""
    lengths = Lengths()
    threads.embed(lengths, "first")
    assert lengths.begun.wait(PATIENCE)
    return lengths


def test_each_gets_its_own_in_the_order_in_which_they_came(threads: EmbeddingThreads) -> None:
    lengths = held(threads)
    waiting = [threads.embed(lengths, "x" * n) for n in range(20)]
    lengths.go.set()
    assert [float(one.result(PATIENCE)[0, 0]) for one in waiting] == list(range(20))
    assert lengths.embedded == ["first", *("x" * n for n in range(20))]


def test_each_is_embedded_by_the_one_that_was_asked(threads: EmbeddingThreads) -> None:
    lengths, other = held(threads), Lengths()
    other.go.set()
    waiting = [threads.embed(one, "text") for one in (lengths, other, lengths)]
    lengths.go.set()
    assert [one.result(PATIENCE).tolist() for one in waiting] == [[[4.0]]] * 3
    assert other.embedded == ["text"]


def test_what_was_cancelled_is_left_out_and_more_than_the_most_is_refused(threads: EmbeddingThreads) -> None:
    lengths = held(threads)
    waiting = [threads.embed(lengths, "text") for _ in range(20)]
    with pytest.raises(BusyError, match="20 texts wait"):
        threads.embed(lengths, "one more")
    assert waiting[3].cancel()
    lengths.go.set()
    waiting[-1].result(PATIENCE)
    assert len(lengths.embedded) == 20


def test_what_is_wrong_with_one_leaves_the_others_as_they_are(threads: EmbeddingThreads) -> None:
    lengths = held(threads)
    waiting = [threads.embed(lengths, text) for text in ("a", "fail", "abc")]
    lengths.go.set()
    with pytest.raises(ValueError, match="no"):
        waiting[1].result(PATIENCE)
    assert [float(waiting[place].result(PATIENCE)[0, 0]) for place in (0, 2)] == [1.0, 3.0]


def test_what_waits_is_bounded_in_bytes() -> None:
    threads = EmbeddingThreads(threads=1, most_bytes=3_000)
    lengths = held(threads)
    waiting = [threads.embed(lengths, "x" * 1_000) for _ in range(2)]
    with pytest.raises(BusyError, match="2 texts wait"):
        threads.embed(lengths, "y" * 1_000)
    lengths.go.set()
    assert [one.result(PATIENCE).shape for one in waiting] == [(1, 1)] * 2
    threads.embed(lengths, "y" * 1_000).result(PATIENCE)
    threads.close()


def test_an_error_goes_to_those_who_wait_and_the_thread_lives_on(threads: EmbeddingThreads) -> None:
    lengths = held(threads)
    waiting = threads.embed(lengths, "fail")
    lengths.go.set()
    with pytest.raises(ValueError, match="no"):
        waiting.result(PATIENCE)
    assert threads.embed(lengths, "text").result(PATIENCE).tolist() == [[4.0]]


def test_after_the_end_nothing_is_taken(threads: EmbeddingThreads) -> None:
    lengths = held(threads)
    waiting = threads.embed(lengths, "text")
    threads.close()
    with pytest.raises(BusyError, match="stopping"):
        waiting.result(PATIENCE)
    with pytest.raises(BusyError):
        threads.embed(lengths, "text")
    lengths.go.set()
