"""Texts that wait to be embedded, taken together.

Several threads take what waits; each takes its share of it, so that none has a long batch while another has nothing, and a
text that nobody waits for any more is left out.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from serving.bundle.arrays import Floats32

MOST_TOGETHER = 16
# A longer text keeps a core busy by itself: with others in its batch it would gain nothing, and they would be padded.
LONGEST_TOGETHER = 400


class Embedder(Protocol):
    """What embeds: (n, dim) for n texts."""

    def embed_many(self, texts: Sequence[str]) -> Floats32: ...


class BusyError(RuntimeError):
    """As many texts wait as may wait."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    embedder: Embedder
    text: str
    done: Future[Floats32]


class Batching:
    """Embeds in `threads` threads of its own until `close`; at most `most_waiting` texts wait."""

    def __init__(self, threads: int, most_waiting: int = 1024) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._most = most_waiting
        self._there = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"encode-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def embed(self, embedder: Embedder, text: str) -> Future[Floats32]:
        """The text's embedding (1, dim), to come; raises BusyError. Cancelled before it is its turn, it is left out."""
        done: Future[Floats32] = Future()
        with self._there:
            if self._closed or len(self._waiting) >= self._most:
                raise BusyError(f"{len(self._waiting)} texts wait to be embedded")
            self._waiting.append(_Waiting(embedder, text, done))
            self._there.notify()
        return done

    def close(self) -> None:
        """Ends the threads; what still waits is cancelled."""
        with self._there:
            self._closed = True
            for one in self._waiting:
                one.done.cancel()
            self._waiting.clear()
            self._there.notify_all()

    def _work(self) -> None:
        while (batch := self._take()) is not None:
            if batch:
                _embed(batch)

    def _take(self) -> list[_Waiting] | None:
        """This thread's share of what waits for one and the same embedder; None at the end."""
        with self._there:
            while not self._waiting:
                if self._closed:
                    return None
                self._there.wait()
            share = min(-(-len(self._waiting) // len(self._threads)), MOST_TOGETHER)
            embedder = self._waiting[0].embedder
            batch: list[_Waiting] = []
            while self._waiting and len(batch) < share and self._waiting[0].embedder is embedder:
                if batch and len(self._waiting[0].text) > LONGEST_TOGETHER:
                    break
                one = self._waiting.popleft()
                if one.done.set_running_or_notify_cancel():
                    batch.append(one)
                if len(one.text) > LONGEST_TOGETHER:
                    break
            return batch


def _embed(batch: Sequence[_Waiting]) -> None:
    try:
        embeddings = batch[0].embedder.embed_many([one.text for one in batch])
    except Exception as error:  # noqa: BLE001 - whoever waits is told, and the thread lives on
        for one in batch:
            one.done.set_exception(error)
        return
    for row, one in enumerate(batch):
        one.done.set_result(embeddings[row : row + 1])
