"""A shadow bundle: asked about live traffic as well, off the answer's path, and never answering."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from serving.bundle.arrays import Floats32
from serving.bundle.request import ReadRequest
from serving.decide.decision import Decision, Situation
from serving.decide.eligibility import NoEligibleCandidateError
from serving.decide.policy import Policy
from serving.runtime.live import Live

logger = logging.getLogger(__name__)

ShadowAnswer = Literal["agrees", "differs", "no_candidate", "failed", "dropped"]
_MOST_WAITING = 1000
# What a request and each of its messages take in memory beside their text, about.
_OVERHEAD, _MESSAGE = 1000, 400


class Shadow:
    """Asks the shadow bundle in one thread of its own. Whatever goes wrong there is counted and logged, never raised."""

    def __init__(self, live: Live, most_waiting: int = _MOST_WAITING, most_bytes: int = 64 * 1024 * 1024) -> None:
        self.live = live
        self._most, self._most_bytes = most_waiting, most_bytes
        self._waiting = self._bytes = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._failing = False

    def ask(
        self,
        request: ReadRequest,
        policy: Policy,
        decision: Decision,
        embedding: Floats32 | None,
        then: Callable[[Decision | None, ShadowAnswer], None],
    ) -> None:
        """Calls `then` with what the shadow would have decided (None if nothing) and how that compares.

        `embedding` (1, dim) is the prompt's by the encoder of `decision.bundle`, where the shadow's is the same; None: it
        embeds itself. Where too many wait, the shadow is not asked.
        """
        size = _size(request)
        if not self._taken(size):
            then(None, "dropped")
            return

        def work() -> None:
            try:
                then(*self._compare(request, policy, decision, embedding))
            finally:
                self._let_go(size)

        try:
            self._pool.submit(work)
        except RuntimeError:  # it is stopping
            self._let_go(size)
            then(None, "dropped")

    def _taken(self, size: int) -> bool:
        """Whether there is room for a request of so many bytes, which then is taken."""
        with self._lock:
            if self._waiting >= self._most or self._bytes + size > self._most_bytes:
                return False
            self._waiting += 1
            self._bytes += size
            return True

    def _let_go(self, size: int) -> None:
        with self._lock:
            self._waiting -= 1
            self._bytes -= size

    def _compare(
        self, request: ReadRequest, policy: Policy, decision: Decision, embedding: Floats32 | None
    ) -> tuple[Decision | None, ShadowAnswer]:
        try:
            serving = self.live.current
            own = serving.embed(request.text) if embedding is None else embedding
            would = serving.router.decide(request, policy, Situation(), own)
        except NoEligibleCandidateError:
            return None, "no_candidate"
        except Exception:  # a shadow is on trial: its faults are a finding, and not the request's
            if not self._failing:
                logger.exception("the shadow bundle fails; further failures are only counted")
            self._failing = True
            return None, "failed"
        self._failing = False
        return would, "agrees" if would.candidate == decision.candidate else "differs"

    def close(self) -> None:
        """Stops watching for other bundles and finishes what waits."""
        self.live.stop()
        self._pool.shutdown(wait=True)


def _size(request: ReadRequest) -> int:
    """Bytes of memory that a request holds while it waits, about: its text, in UTF-8 too, and its messages."""
    messages = request.request.messages or ()
    text = sys.getsizeof(request.text) + len(request.data)
    return _OVERHEAD + text + sum(_MESSAGE + _text_size(one) for one in messages)


def _text_size(value: object) -> int:
    """Characters of all strings in a JSON value."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_text_size(one) for one in value.values())
    return sum(_text_size(one) for one in value) if isinstance(value, list) else 0
