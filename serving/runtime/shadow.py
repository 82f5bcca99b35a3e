"""A shadow bundle: asked about live traffic as well, off the answer's path, and never answering."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
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


class Shadow:
    """Asks the shadow bundle in one thread of its own. Whatever goes wrong there is counted and logged, never raised."""

    def __init__(self, live: Live, most_waiting: int = _MOST_WAITING) -> None:
        self.live = live
        self._room = threading.BoundedSemaphore(most_waiting)
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
        if not self._room.acquire(blocking=False):
            then(None, "dropped")
            return

        def work() -> None:
            try:
                then(*self._compare(request, policy, decision, embedding))
            finally:
                self._room.release()

        try:
            self._pool.submit(work)
        except RuntimeError:  # it is stopping
            self._room.release()
            then(None, "dropped")

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
