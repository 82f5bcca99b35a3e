"""Embedding the texts of requests: from the cache, at once, or in threads that take what waits, one text at a time.

A text that nobody waits for any more is left out. Nothing would be gained by taking several together: a transformer embeds
each text by itself, so that what comes of it does not depend on its neighbours.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from serving.bundle.arrays import Floats32
from serving.decide.decision import Reason
from serving.runtime.live import Serving
from serving.settings import Settings

logger = logging.getLogger(__name__)

# Texts shorter than this are embedded at once by a static encoder: handing them to a thread costs more.
_INLINE_CHARS = 32 * 1024

# What embedding a text came to: (1, dim), or the reason of a decision without it.
Embedded = Floats32 | Reason


class Embedder(Protocol):
    """What embeds a text: (1, dim)."""

    def embed(self, text: str) -> Floats32: ...


class BusyError(RuntimeError):
    """As many texts wait as may wait, or the service is stopping."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    embedder: Embedder
    text: str
    done: Future[Floats32]


class EmbeddingThreads:
    """Embeds in `threads` threads of its own until `close`; at most `most_waiting` texts wait, of `most_bytes` in memory."""

    def __init__(self, threads: int, most_waiting: int = 1024, most_bytes: int = 64 * 1024 * 1024) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._most, self._most_bytes = most_waiting, most_bytes
        self._bytes = 0
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
        size = sys.getsizeof(text)
        with self._there:
            if self._closed or len(self._waiting) >= self._most or self._bytes + size > self._most_bytes:
                raise BusyError(f"{len(self._waiting)} texts wait to be embedded, of {self._bytes} bytes")
            self._bytes += size
            self._waiting.append(_Waiting(embedder, text, done))
            self._there.notify()
        return done

    def close(self) -> None:
        """Ends the threads; who still waits is told so (BusyError), and can answer without an embedding."""
        with self._there:
            self._closed = True
            waiting = [one for one in self._waiting if one.done.set_running_or_notify_cancel()]
            self._waiting.clear()
            self._bytes = 0
            self._there.notify_all()
        for one in waiting:
            one.done.set_exception(BusyError("the service is stopping"))

    def _work(self) -> None:
        while (one := self._take()) is not None:
            if not one.done.set_running_or_notify_cancel():
                continue
            try:
                one.done.set_result(one.embedder.embed(one.text))
            except Exception as error:  # noqa: BLE001 - who waits is told, and the thread lives on
                one.done.set_exception(error)

    def _take(self) -> _Waiting | None:
        """What has waited longest; None at the end."""
        with self._there:
            while not self._waiting:
                if self._closed:
                    return None
                self._there.wait()
            one = self._waiting.popleft()
            self._bytes -= sys.getsizeof(one.text)
            return one


class Embedding:
    """Embeds the texts of requests, within a time. Never raises: what fails is logged, and the reason is given."""

    def __init__(self, settings: Settings) -> None:
        self._threads = EmbeddingThreads(settings.encoders, most_bytes=settings.waiting_bytes)
        self._seconds = settings.embed_wait_ms / 1e3

    async def one(self, serving: Serving, text: str) -> Embedded:
        """A text's embedding."""
        try:
            known = serving.embeddings.get(text)
            if known is not None:
                return known
            if _at_once(serving, text):
                return serving.embed(text)
            waiting = self._threads.embed(serving, text)
            return await asyncio.wait_for(asyncio.wrap_future(waiting), self._seconds)
        except Exception as error:  # noqa: BLE001 - the caller still needs to know where to send the request
            return _without(error)

    def many(self, serving: Serving, texts: Sequence[str]) -> list[Embedded]:
        """The embeddings of texts that came together, each within the time of one; what is wrong with one leaves the others."""
        ends = time.perf_counter() + self._seconds
        found: list[Embedded | Future[Floats32] | None] = [self._known(serving, text) for text in texts]
        now = [row for row, came in enumerate(found) if came is None]
        for row, came in zip(now, _together(serving, [texts[row] for row in now]), strict=True):
            found[row] = came
        return [_result(came, ends) if isinstance(came, Future) else came for came in found if came is not None]

    def _known(self, serving: Serving, text: str) -> Embedded | Future[Floats32] | None:
        """The embedding, or it to come; None where it is to be made now."""
        try:
            known = serving.embeddings.get(text)
            if known is not None:
                return known
            return None if _at_once(serving, text) else self._threads.embed(serving, text)
        except Exception as error:  # noqa: BLE001 - as in `one`
            return _without(error)

    def close(self) -> None:
        """Ends the threads; what waits is answered without an embedding."""
        self._threads.close()


def _at_once(serving: Serving, text: str) -> bool:
    return serving.inline and len(text) <= _INLINE_CHARS


def _together(serving: Serving, texts: Sequence[str]) -> list[Embedded]:
    """The embeddings by one forward pass; one by one where that fails, for it may be about one of them."""
    if not texts:
        return []
    try:
        embeddings = serving.embed_many(texts)
        return [embeddings[row : row + 1] for row in range(len(texts))]
    except Exception as error:  # noqa: BLE001 - as in `one`
        if len(texts) == 1:
            return [_without(error)]
        return [one for text in texts for one in _together(serving, [text])]


def _result(waiting: Future[Floats32], ends: float) -> Embedded:
    try:
        return waiting.result(max(ends - time.perf_counter(), 0.0))
    except Exception as error:  # noqa: BLE001 - as in `one`
        waiting.cancel()
        return _without(error)


def _without(error: Exception) -> Reason:
    """Why there is no embedding."""
    if isinstance(error, TimeoutError | BusyError):
        return Reason.TIMEOUT
    logger.error("a text could not be embedded, the reference answers", exc_info=error)
    return Reason.FAULT
