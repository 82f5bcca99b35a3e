"""What is remembered of a decision, and of the feedback on it: session, store, shadow, drift, metrics, debug log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass

from serving.bundle.arrays import Floats32
from serving.bundle.request import ReadRequest
from serving.decide.decision import Decision
from serving.decide.policy import Policy
from serving.runtime.live import Live
from serving.runtime.metrics import Metrics
from serving.runtime.shadow import Shadow, ShadowAnswer
from serving.settings import Settings
from serving.state.budgets import Budgets
from serving.state.drift import Drift
from serving.state.sessions import OnCandidate, Sessions
from serving.store.feedback import Feedback
from serving.store.rows import decision_row
from serving.store.writer import DecisionStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Case:
    """One request to decide under the rules: `policy` is what it asks itself, tightened by them.

    `key` is the name of the caller's API key, `scopes` are the names of the rules that it is under, and `no_candidate` is
    who answers by these when nobody is eligible.
    """

    request: ReadRequest
    policy: Policy
    key: str | None
    scopes: Sequence[str]
    no_candidate: str | None


class Recorder:
    """Remembers decisions and feedback. Its methods may be called from several threads; `clock` gives epoch seconds."""

    def __init__(
        self,
        settings: Settings,
        live: Live,
        shadow: Shadow | None,
        store: DecisionStore | None,
        budgets: Budgets,
        sessions: Sessions,
        drift: Drift,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._live, self._shadow, self._store = settings, live, shadow, store
        self._budgets, self._sessions, self._drift, self._metrics = budgets, sessions, drift, metrics
        self._clock = clock

    def record(
        self, identifier: str, case: Case, decision: Decision, embedding: Floats32 | None, started: float
    ) -> None:
        """Remembers a decision; `started` is when its request came, by `time.perf_counter`."""
        decided = time.perf_counter()
        session = case.request.request.session_id
        # One decision made in haste does not take a conversation away from its candidate's cache.
        if session is not None and decision.confidence is not None:
            self._sessions.put(session, OnCandidate(decision.candidate, case.request.tokens))
        self._compare_and_store(identifier, case, decision, embedding)
        self._drift.decided(identifier, decision, self._live.current.router.manifest)
        self._metrics.decided(decision)
        finished = time.perf_counter()
        self._metrics.stage("record", finished - decided)
        self._metrics.stage("total", finished - started)
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug(
                "decided",
                extra={
                    "fields": {
                        "id": identifier,
                        "candidate": decision.candidate,
                        "reason": decision.reason.value,
                        "bundle": decision.bundle,
                        "ms": round((finished - started) * 1e3, 3),
                    }
                },
            )

    def _compare_and_store(self, identifier: str, case: Case, decision: Decision, embedding: Floats32 | None) -> None:
        """Stores the decision; where there is a shadow bundle, once that was asked too, which the answer does not wait for."""
        shadow = self._shadow
        if shadow is None or embedding is None:
            self._store_row(identifier, case, decision, None)
            return

        def answered(would: Decision | None, answer: ShadowAnswer) -> None:
            self._metrics.shadowed(answer)
            self._store_row(identifier, case, decision, would)

        serving = self._live.current
        usable = serving.router.manifest.version == decision.bundle
        usable = usable and serving.same_encoder(shadow.live.current.router)
        shadow.ask(case.request, case.policy, decision, embedding if usable else None, answered)

    def _store_row(self, identifier: str, case: Case, decision: Decision, shadow: Decision | None) -> None:
        if self._store is not None:
            request, keep = case.request.request, self._settings.store_prompts
            self._store.decided(
                decision_row(identifier, self._clock(), case.key, request, decision, shadow, prompt=keep)
            )

    async def feedback(self, said: Sequence[Feedback]) -> tuple[int, int]:
        """Stores feedback; (new, repeated) once all of it is on disk. Raises NotStoredError or TimeoutError."""
        assert self._store is not None
        written = self._store.feedback([asdict(one) for one in said])
        waiting = [asyncio.wrap_future(self._counted(*one)) for one in zip(said, written, strict=True)]
        new = await asyncio.wait_for(asyncio.gather(*waiting), self._settings.feedback_seconds)
        return sum(new), len(new) - sum(new)

    def _counted(self, said: Feedback, written: Future[bool]) -> Future[bool]:
        """Settles the budgets once it is on disk, whether or not somebody still waits for that then."""

        def count(done: Future[bool]) -> None:
            if done.exception() is None and done.result():
                self._budgets.settle(said.decision_id, said.cost_usd)
                self._metrics.fed_back(said)
                if said.quality is not None and not said.error:  # a failed call says nothing of the answer
                    self._drift.judged(said.decision_id, said.quality, said.candidate)

        written.add_done_callback(count)
        return written
