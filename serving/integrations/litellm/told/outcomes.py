"""What becomes of the calls that were decided: taken from LiteLLM's hooks and log events, kept on disk, delivered aside.

A plain answer is on disk before the client has it, so a proxy that is killed then has lost nothing. Of a stream the log event
is what is kept: where a proxy is killed before LiteLLM has logged a stream's end, that outcome is lost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from serving.integrations.litellm import counters
from serving.integrations.litellm.decided import Decided, found, owner_of
from serving.integrations.litellm.deciders import Decider
from serving.integrations.litellm.request.thumbs import thumbs_in
from serving.integrations.litellm.settings import LiteLLMSettings
from serving.integrations.litellm.told.delivery import Delivery, Destination
from serving.integrations.litellm.told.envelopes import Outcome, Said, Sure
from serving.integrations.litellm.told.log_events import (
    CandidateOf,
    NotOursError,
    decided_of,
    outcome_of_answer,
    outcome_of_failure,
    outcome_of_log,
)
from serving.integrations.litellm.told.spool import Spool
from serving.integrations.litellm.told.spool_rows import THUMBS, Kept, Thumb, thumb_row
from serving.integrations.litellm.told.tally import Tally
from serving.integrations.litellm.told.to_router import ROUTER, to_router, to_sink
from serving.integrations.outcome import Sink, ToldOutcome

if TYPE_CHECKING:
    from serving.integrations.litellm.signals.watching import Watching

# For how long what is not sure yet waits for better, in seconds.
_WAIT = {Sure.ATTEMPT_FAILED: 900.0, Sure.ANSWERED: 30.0, Sure.FAILED: 2.0, Sure.LOGGED: 0.0}
# Longest that an answer waits for its outcome to be on disk, in seconds. It takes a tenth of a millisecond.
_LONGEST_WRITE = 0.25


class Outcomes:
    """Takes what hooks and log events tell, and has it delivered to the router and to sinks. Nothing here raises into a call.

    `candidate_of` says whose a deployment is. `counts` has what came: `answered`, `failed`, `unpriced` (a cost of zero beside
    tokens), `cache_hits`, `internal_calls`, `silent_experiments`, `billed_retries`, `others` (no decision of ours), `streams`,
    `thumbs`, `thumbs_refused` (not valid), `nobodys` (thumbs of a request without a key), `signals`, `faults`, and of each
    delivery what `delivery.Delivery` counts.
    """

    def __init__(
        self,
        decider: Decider,
        spool: Spool,
        watching: Watching | None = None,
        sinks: Sequence[Sink] = (),
        *,
        candidate_of: CandidateOf,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.spool, self.counts = spool, Tally()
        self._watching, self._candidate_of, self._clock = watching, candidate_of, clock
        self._destinations = (
            Destination(ROUTER, feedback := to_router(decider, spool, self.counts)),
            Destination(THUMBS, feedback),
            *(Destination(f"sink {type(sink).__name__}", to_sink(sink, self.counts)) for sink in sinks),
        )
        self._delivery: Delivery | None = None
        self._complaints = counters.Complaints()

    # --- hooks ---

    def asked(self, data: MutableMapping[str, Any], key: Any) -> int:
        """Takes the thumbs out of a request's metadata; how many there were. They are about earlier decisions of its `key`."""
        try:
            thumbs, refused = thumbs_in(data)
            owner = owner_of(key) if thumbs else None
            self.counts.add("thumbs_refused", refused)
            self.counts.add("thumbs", len(thumbs))
            if thumbs and owner is None:
                self.counts.add("nobodys", len(thumbs))
            elif owner is not None:
                self._put([self._thumb(one, owner) for one in thumbs])
            return len(thumbs)
        except Exception as error:  # noqa: BLE001 - a call does not fail because of what is said of another
            self._failed("the thumbs of a request", error)
            return 0

    async def answered(self, data: Mapping[str, Any], response: object) -> None:
        """Keeps a plain answer's outcome before the client has it."""
        await self._guarded("an answer", self._answered(data, response))

    async def failed(self, data: Mapping[str, Any]) -> None:
        """Keeps that a request came to nothing, retries and fallbacks included; nothing of one that was not decided.

        Among those are all that were refused for their key: whatever they hold is a stranger's writing.
        """
        await self._guarded("a failure", self._gave_up(data))

    async def told(self, kwargs: Mapping[str, Any], response: object = None, *, failed: bool) -> None:
        """Keeps what a log event tells: of a success the last word, of a failure one attempt's, for a retry may answer yet."""
        await self._guarded("a log event", self._logged(kwargs, response, failed=failed))

    async def close(self) -> None:
        """Delivers what is due, within a few seconds, and stops. What is left is delivered after the next start."""
        if self._delivery is not None:
            await self._delivery.close()
        await asyncio.to_thread(self.spool.close)

    # --- what they do ---

    async def _guarded(self, what: str, taking: Awaitable[None]) -> None:
        """A call that was answered, and billed, does not fail because of what is told of it, whatever goes wrong there."""
        try:
            await taking
        except Exception as error:  # noqa: BLE001 - as it says
            self._failed(what, error)

    async def _answered(self, data: Mapping[str, Any], response: object) -> None:
        try:
            told = outcome_of_answer(data, response, candidate_of=self._candidate_of)
        except NotOursError:
            return  # counted by its log event
        await self._kept(told, Sure.ANSWERED, found(data))

    async def _gave_up(self, data: Mapping[str, Any]) -> None:
        try:
            told = outcome_of_failure(data, candidate_of=self._candidate_of)
        except NotOursError:
            return
        self.counts.add("failed")
        await self._kept(told, Sure.FAILED, found(data))

    async def _logged(self, kwargs: Mapping[str, Any], response: object, *, failed: bool) -> None:
        try:
            told = outcome_of_log(kwargs, response, failed=failed, candidate_of=self._candidate_of)
        except NotOursError as error:
            self.counts.add(str(error))
            if self._watching is not None and str(error) == "others" and not failed:
                self._watch(partial(self._watching.named, kwargs))
            return
        log = kwargs["standard_logging_object"]
        if not failed:
            self.counts.add("answered")
            self.counts.add("streams", bool(log.get("stream")))
            self.counts.add("unpriced", told.cost_usd is None)
            counters.COST_USD.inc(told.cost_usd or 0.0)
            left = told.decision
            counters.count_held_back(told.cost_usd, left.get("held_back_cost_usd"), left.get("reference_cost_usd"))
        await self._kept(told, Sure.ATTEMPT_FAILED if failed else Sure.LOGGED, decided_of(kwargs))
        if self._watching is not None and not failed:
            self._watch(partial(self._watching.answered, told, kwargs))

    async def _kept(self, told: ToldOutcome, sure: Sure, decided: Decided | None) -> None:
        body, due = Outcome(told, sure).to_json(), self._clock() + _WAIT[sure]
        rows = [Kept(one.name, told.decision_id, body, due) for one in self._destinations if one.name != THUMBS]
        owner = None if decided is None else decided.owner
        done = self._put(rows, [] if owner is None else [(told.decision_id, owner)])
        if done.done():
            return
        try:
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(done)), _LONGEST_WRITE)
        except TimeoutError:
            self.counts.add("slow")
            self.spool.wait_no_more()

    def _put(self, rows: Sequence[Kept], owners: Sequence[tuple[str, str]] = ()) -> Future[bool]:
        done = self.spool.put(rows, owners)
        loop = asyncio.get_running_loop()
        if self._delivery is None or not self._delivery.alive_in(loop):
            self._delivery = Delivery(self.spool, self._destinations, self.counts)  # after any fork, in this loop
        self._delivery.begin()
        return done

    def _thumb(self, said: Mapping[str, Any], key: str) -> Kept:
        return thumb_row(Thumb(said["decision_id"], key), Said(said, key).to_json(), self._clock())

    def _watch(self, find: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
        """Keeps the weak signs that a call gives of how good its answer and earlier ones were."""
        try:
            signs = find()
            self.counts.add("signals", len(signs))
            if signs:
                self._put([_row(f"{one['decision_id']} {one['source']}", Said(one), self._clock()) for one in signs])
        except Exception as error:  # noqa: BLE001 - as in `asked`
            self._failed("the signals of a call", error)

    def _failed(self, what: str, error: Exception) -> None:
        self.counts.add("faults")
        self._complaints.say(what, f"{what} could not be taken", error)


def _row(name: str, said: Said, due: float) -> Kept:
    return Kept(ROUTER, name, said.to_json(), due)


def watching_of(settings: LiteLLMSettings, decider: Decider) -> Watching | None:
    """What watches for weak signs, where that is switched on."""
    if not settings.signals:
        return None
    from serving.integrations.litellm.signals.found import Signals
    from serving.integrations.litellm.signals.watching import Watching

    return Watching(Signals(), lambda: decider.catalogue)


def sinks_of() -> Sequence[Sink]:
    """Where outcomes go beside the router, by the environment."""
    from serving.integrations.langfuse import langfuse_sink_of

    sink = langfuse_sink_of()
    return () if sink is None else (sink,)
