"""What is remembered of a decision, and of the feedback on it: session, store, shadow, drift, metrics, debug log.

A decision was made when it comes here: whatever fails is counted and logged, and the answer is given all the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Literal

from serving.bundle.arrays import Floats32
from serving.bundle.request import ReadRequest, RouteRequest
from serving.decide.decision import Decision, Reason
from serving.decide.policy import Policy
from serving.runtime.live import Live, Serving
from serving.runtime.metrics import Metrics
from serving.runtime.shadow import Shadow, ShadowAnswer
from serving.settings import Settings
from serving.state.also import Drawn
from serving.state.conversations import Conversations
from serving.state.drift import Drift
from serving.state.replays import Named
from serving.store.feedback import ConflictError, Feedback, UnknownDecisionError
from serving.store.rows import Reference, decision_row, shadow_columns
from serving.store.transaction import Told
from serving.store.writer import DecisionStore

logger = logging.getLogger(__name__)

_SAY_AGAIN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Case:
    """One request to decide under the rules: `policy` is what it asks itself (`asked`), tightened by them.

    `key` is the name of the caller's API key, `scopes` are the names of the rules that it is under, and
    `no_candidate` is who answers by these when nobody is eligible. `session` is the id of its conversation, a keyed
    hash, and `also` is there where another candidate may be asked too. `hold` is the number in (0, 1] that says
    whether its decision is held back, `draw` the one in [0, 1) that says whether it is explored. `conversation` is the id
    that it is remembered by where its session is, another one where all of its decisions are held back: what the router would
    have decided of a turn depends on what it would have decided of those before. `name` is its decision's id and
    time, where the call has named itself.
    """

    request: ReadRequest
    policy: Policy
    asked: Policy
    key: str | None
    scopes: Sequence[str]
    no_candidate: str | None
    session: str | None = None
    also: Drawn | None = None
    hold: float = 0.0
    draw: float = 0.0
    conversation: str | None = None
    name: Named | None = None

    def id_or(self, drawn: str) -> str:
        """The id of its decision: one that is drawn, where the call has not named it."""
        return drawn if self.name is None else self.name.id

    @property
    def private(self) -> bool:
        """Whether nothing of its text may be written anywhere."""
        return self.policy.private


def _lasting(case: Case, decision: Decision) -> str | None:
    """The candidate that a decision moves a conversation to; None where it moves none.

    One decision made in haste does not take a conversation away from its candidate's cache, nor does one that was explored:
    what a certificate has set aside for exploring is for one request, not for all that follow it. Of what was held back the
    router's own choice is remembered, where that is kept apart, and no other.
    """
    if decision.reason is not Reason.HELD_BACK:
        return decision.candidate if decision.confidence is not None and decision.reason is not Reason.EXPLORE else None
    own = decision.held_back
    if own is None or own.explored or own.confidence is None or case.conversation == case.session:
        return None
    return own.candidate


class _Part:
    """A part of the record: what fails in its block is counted, logged once a minute, and goes no further."""

    def __init__(self, name: str, metrics: Metrics) -> None:
        self._name, self._failures = name, metrics.failures(name)
        self._said = float("-inf")

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if not isinstance(error, Exception):
            return False
        self._failures.inc()
        now = time.monotonic()
        if now - self._said >= _SAY_AGAIN_SECONDS:
            self._said = now
            logger.error("recording a decision failed: %s", self._name, exc_info=error)
        return True


class Recorder:
    """Remembers decisions and feedback. Its methods may be called from several threads; `clock` gives epoch seconds.

    What fails in a block under `session` or `also` is counted and logged, as everything here is, and goes no further.
    """

    def __init__(
        self,
        settings: Settings,
        live: Live,
        shadow: Shadow | None,
        store: DecisionStore | None,
        conversations: Conversations,
        drift: Drift,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._live, self._shadow, self._store = settings, live, shadow, store
        self._conversations, self._drift, self._metrics = conversations, drift, metrics
        self._clock = clock
        self.session, self.also, self._stored, self._shadowed, self._drifted, self._measured, self._logged = (
            _Part(name, metrics) for name in ("session", "also", "store", "shadow", "drift", "metrics", "log")
        )

    def record(
        self,
        identifier: str,
        case: Case,
        decision: Decision,
        embedding: Floats32 | None,
        serving: Serving,
        started: float,
    ) -> None:
        """Remembers a decision that `serving` made; `started` is when its request came, by `time.perf_counter`.

        `embedding` (1, dim) is None where it was made without estimates. Never raises.
        """
        decided = time.perf_counter()
        with self.session:
            went = _lasting(case, decision)
            if case.conversation is not None and went is not None:
                self._conversations.went(case.conversation, case.request.data, went, private=case.private)
        with self._stored:
            self._store_row(identifier, case, decision, serving)
        with self._shadowed:
            self._ask_shadow(identifier, case, decision, embedding, serving)
        with self._drifted:
            if serving is self._live.current:
                session = None if case.request.request.session_id is None else case.session
                self._drift.decided(identifier, decision, serving.router.manifest, session)
        finished = time.perf_counter()
        with self._measured:
            self._metrics.decided(decision, serving.router.manifest.reference)
            self._metrics.stage("record", finished - decided)
            self._metrics.stage("total", finished - started)
        with self._logged:
            if logger.isEnabledFor(logging.DEBUG):
                self._log(identifier, decision, finished - started)

    def stage(self, name: Literal["encode", "decide", "batch"], seconds: float) -> None:
        """Counts the time that a stage took. Never raises."""
        with self._measured:
            self._metrics.stage(name, seconds)

    @staticmethod
    def _log(identifier: str, decision: Decision, seconds: float) -> None:
        fields = {
            "id": identifier,
            "candidate": decision.label,
            "reason": decision.reason.value,
            "bundle": decision.bundle,
            "ms": round(seconds * 1e3, 3),
        }
        logger.debug("decided", extra={"fields": fields})

    def _ask_shadow(
        self, identifier: str, case: Case, decision: Decision, embedding: Floats32 | None, serving: Serving
    ) -> None:
        """Asks the shadow bundle, where there is one, which the answer does not wait for; what it says is stored then.

        Not where the decision was held back: its row has what the router would have chosen in the same place.
        """
        shadow = self._shadow
        if shadow is None or embedding is None or decision.reason is Reason.HELD_BACK:
            return

        def answered(would: Decision | None, answer: ShadowAnswer) -> None:
            with self._shadowed:
                self._metrics.shadowed(answer)
                if would is not None and self._store is not None:
                    self._store.shadowed({"id": identifier, **shadow_columns(would)})

        usable = serving.same_encoder(shadow.live.current.router)
        shadow.ask(case.request, case.policy, decision, embedding if usable else None, answered)

    def _store_row(self, identifier: str, case: Case, decision: Decision, serving: Serving) -> None:
        if self._store is not None:
            request, keep = case.request.request, self._settings.store_prompts
            if case.private:
                request, keep = self._bared(case), False
            reference = Reference.of(serving.router.manifest, case.request)
            at = self._clock() if case.name is None else case.name.at
            self._store.decided(decision_row(identifier, at, case.key, request, decision, reference, prompt=keep))

    def _bared(self, case: Case) -> RouteRequest:
        """What may be written of a request whose text may not be: its session id is a hash, its tag one that is known here."""
        request = case.request.request
        tag = request.workflow
        known = f"workflow:{tag}" in case.scopes or tag in self._live.current.router.manifest.head.workflows
        return replace(
            request,
            prompt=None,
            messages=None,
            session_id=None if request.session_id is None else case.session,
            workflow=tag if known else None,
        )

    async def feedback(
        self, said: Sequence[Feedback], key: str | None
    ) -> list[Literal["recorded", "repeated"] | UnknownDecisionError | ConflictError]:
        """Stores what a key says of its decisions; what came of each, once all of it is on disk.

        Raises NotStoredError or TimeoutError where that is not known.
        """
        assert self._store is not None
        written = self._store.feedback(said, key)
        for one, done in zip(said, written, strict=True):
            done.add_done_callback(partial(self._counted, one))
        waiting = asyncio.gather(*map(asyncio.wrap_future, written))
        came = await asyncio.wait_for(waiting, self._settings.feedback_seconds)
        return [one if isinstance(one, Exception) else "recorded" if one else "repeated" for one in came]

    def _counted(self, said: Feedback, done: Future[Told]) -> None:
        """Counts what is new once it is on disk, whether or not somebody still waits for that then."""
        new = None if done.exception() is not None else done.result()
        if new is None or isinstance(new, Exception) or not new:
            return
        self._metrics.fed_back(said, new)
        # a failed call says nothing of the answer, and a weak signal is no judgement of it
        if said.quality is not None and "quality" in new and not said.error and not said.weak:
            self._drift.judged(said.decision_id, said.quality, said.candidate)
