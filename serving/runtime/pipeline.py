"""What happens to one request to route: rules, budgets, session, embedding, decision. `recording` remembers it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np

from serving.bundle.arrays import Floats32
from serving.bundle.request import RouteRequest, read
from serving.decide.decision import Decision, Reason, Situation
from serving.decide.eligibility import NoEligibleCandidateError
from serving.decide.policy import Policy
from serving.runtime.embedding import Embedded, Embedding
from serving.runtime.live import Serving
from serving.runtime.metrics import Metrics, snapshot_of
from serving.runtime.recording import Case, Recorder
from serving.runtime.reloading import Reloading
from serving.runtime.shadow import Shadow
from serving.runtime.upkeep import Periodic
from serving.settings import Settings
from serving.state.also import AlsoAsked, Asked
from serving.state.budgets import Allowance, Budgets, BudgetSpentError
from serving.state.conversations import Before, Conversations
from serving.state.drift import Drift, Thresholds
from serving.state.rates import Rates
from serving.state.redis_rates import RedisRates
from serving.state.reloads import Reloaded
from serving.state.replays import Named, Replays
from serving.state.reservations import Reservations, opened
from serving.state.rulebook import RuleBook
from serving.store.months.ids import new_id

logger = logging.getLogger(__name__)

T = TypeVar("T")
_MOST_ASKING = 32  # decisions that wait for the store to hold their budgets
_FREE = Allowance()


class UndecidedError(RuntimeError):
    """A request that could not be decided, not even without estimates; the log says why."""


def _at_once(call: Callable[..., object], *arguments: Any) -> object:
    return call(*arguments)


Later = Callable[..., object]  # calls the function that it is given with the arguments behind it, now or soon
Answer = tuple[str, Decision] | NoEligibleCandidateError | BudgetSpentError | UndecidedError


class Service:
    """Decides and remembers. One per process; its methods may be called from several threads.

    `clock` gives epoch seconds: it says which day and month a decision belongs to.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self._clock = clock
        self._reloading = Reloading(settings, self._follow)
        redis = settings.redis
        self.rates = Rates(self.rules.keys) if redis is None else RedisRates(self.rules.keys, redis.get_secret_value())
        self.live = self._reloading.live
        shadow = self._reloading.shadow
        self.shadow = None if shadow is None else Shadow(shadow, most_bytes=settings.waiting_bytes)
        self.budgets = Budgets(self.rules, clock, shared=bool(settings.store))
        self._random = random.Random()
        self.also = AlsoAsked(
            lambda: self.rules.also,
            lambda: self._random.random(),
            clock,
            stored=bool(settings.store) and settings.store_prompts,
            wait_seconds=settings.reserve_wait_ms / 1e3,
        )
        self.store = opened(settings, self.budgets, self.also, clock)
        self.reservations = Reservations(self.budgets, self.store, settings.reserve_wait_ms / 1e3)
        waits = settings.idempotency_seconds, settings.reserve_wait_ms / 1e3
        self.replays = None if self.store is None else Replays(self.store.engine, *waits, clock)
        self.conversations = Conversations(settings, self.store, clock)
        self.drift = Drift(settings.drift_window, Thresholds.of(settings))
        self.metrics = Metrics(
            lambda: snapshot_of(
                self._reloading,
                self.store,
                self.budgets,
                self.reservations,
                self.drift,
                self.rates,
                self.also.spent_usd,
            )
        )
        self.recorder = Recorder(
            settings, self.live, self.shadow, self.store, self.conversations, self.drift, self.metrics, clock
        )
        self.embedding = Embedding(settings)
        self._asking = ThreadPoolExecutor(_MOST_ASKING, thread_name_prefix="budgets")
        self._upkeep: list[Periodic] = []

    @property
    def rules(self) -> RuleBook:
        """The rules that are in force."""
        return self._reloading.rules

    # --- one request ---

    def case(self, request: RouteRequest, asked: Policy, key: str | None, name: Named | None = None) -> Case:
        """The request, read, under the server's rules, which only tighten what it asks itself; `name` is its decision's."""
        policy, scopes, no_candidate = asked, [], None
        for scope, rules in self._reloading.rules_for(key).scopes(key, request.workflow):
            scopes.append(scope)
            no_candidate = rules.no_candidate or no_candidate  # the key's before the workflow's
            if rules.tightening is not None:
                policy = policy.tightened(rules.tightening)
        session = None
        with self.recorder.session:
            session = self.conversations.id_of(request, key, private=policy.private)
        also = self.also.drawn(request.workflow, private=policy.private)
        # Drawn once, for a request may be decided several times until its budgets hold it.
        draw = self._random.random() if self.settings.explore else 0.0
        given, share = request.session_id is not None, min(policy.share, self.settings.share)
        hold = self._hold(session if given else None) if share < 1.0 else 0.0
        kept = self.conversations.kept(session, aside=given and hold > share)
        return Case(read(request), policy, asked, key, scopes, no_candidate, session, also, hold, draw, kept, name)

    async def route(self, case: Case) -> tuple[str, Decision]:
        """The decision's id and the decision; raises NoEligibleCandidateError or BudgetSpentError.

        An embedding that takes longer than its time is not waited for, and a decision that fails is logged: the reference
        answers then, reason `timeout` or `fault`. A call to an LLM must not fail because of the router.
        """
        started = time.perf_counter()
        serving = self.live.current
        embedded = await self.embedding.one(serving, case.request.text)
        if not isinstance(embedded, Reason):
            self.recorder.stage("encode", time.perf_counter() - started)
        told = self.conversations.tells(case.conversation)
        if case.also is None and not told and not self.reservations.waits(case.scopes):
            # Remembered in the loop's next turn: the answer, which this one sends, does not wait for that.
            return self._decided(case, serving, embedded, started, asyncio.get_running_loop().call_soon)
        # In a thread: the store is asked, and the event loop must not wait for that.
        decided = partial(self._decided, case, serving, embedded, started)
        if told:
            decided = partial(self._told, [case], decided)
        return await asyncio.get_running_loop().run_in_executor(self._asking, decided)

    def _told(self, cases: Sequence[Case], decide: Callable[[], T]) -> T:
        """What `decide` gives, between what other replicas have said of the conversations and their being told."""
        with self.recorder.session:
            self.conversations.look_up([(one.conversation, one.request.request) for one in cases])
        try:
            return decide()
        finally:
            with self.recorder.session:
                self.conversations.settle()

    def _decided(
        self, case: Case, serving: Serving, embedded: Embedded, started: float, after: Later = _at_once
    ) -> tuple[str, Decision]:
        """The decision by an embedding, or without one."""
        if isinstance(embedded, Reason):
            return self._without_estimates(case, serving, embedded, started, after)
        try:
            return self.decide(case, serving, embedded, started, after)
        except (NoEligibleCandidateError, BudgetSpentError):
            raise
        except Exception:  # whatever it is, the caller still needs to know where to send the request
            logger.exception("a decision failed, the reference answers")
        return self._without_estimates(case, serving, Reason.FAULT, started, after)

    def _without_estimates(
        self, case: Case, serving: Serving, reason: Reason, started: float, after: Later = _at_once
    ) -> tuple[str, Decision]:
        identifier, decision = self._reserved(
            case,
            lambda situation: serving.router.decide_without_estimates(case.request, case.policy, situation, reason),
        )
        after(self.recorder.record, identifier, case, decision, None, serving, started)
        return identifier, decision

    def decide(
        self, case: Case, serving: Serving, embedding: Floats32, started: float, after: Later = _at_once
    ) -> tuple[str, Decision]:
        """As `route`, once the text is embedded, as (1, dim); `after` calls what remembers the decision."""
        embedded = time.perf_counter()
        identifier, decision = self._reserved(
            case, lambda situation: serving.router.decide(case.request, case.policy, situation, embedding)
        )
        if case.also is not None:
            [decision] = self._asking_too(serving, [Asked(identifier, decision, case.also)])
        self.recorder.stage("decide", time.perf_counter() - embedded)
        after(self.recorder.record, identifier, case, decision, embedding, serving, started)
        return identifier, decision

    def _reserved(self, case: Case, decide: Callable[[Situation], Decision]) -> tuple[str, Decision]:
        """A decision that its budgets hold, and its id; raises BudgetSpentError."""
        identifier = case.id_or(new_id(self._clock()))
        if not self.budgets.any:
            return identifier, decide(self._situation(case, _FREE))
        return identifier, self.reservations.decided(
            identifier, case.scopes, lambda allowance: decide(self._situation(case, allowance))
        )

    def _asking_too(self, serving: Serving, asked: Sequence[Asked]) -> list[Decision]:
        """The decisions, with who is asked too; as they were where that fails."""
        if self.store is not None and any(one.drawn is not None for one in asked):
            with self.recorder.also:
                return self.also.ask(self.store, serving.router.manifest.reference, asked)
        return [one.decision for one in asked]

    def route_batch(self, cases: Sequence[Case]) -> list[Answer]:
        """As `route` for several requests with one forward pass, each with its error in its place, for a thread that may wait.

        What is wrong with one of them leaves the others as they are.
        """
        started = time.perf_counter()
        serving = self.live.current
        embedded = self.embedding.many(serving, [one.request.text for one in cases])

        def decided() -> list[Answer]:
            came = self._together(cases, serving, embedded)
            return [self._answer(one, serving, embedded[row], started, came.get(row)) for row, one in enumerate(cases)]

        answers = self._told(cases, decided)
        self.recorder.stage("batch", time.perf_counter() - started)
        return answers

    def _together(self, cases: Sequence[Case], serving: Serving, embedded: Sequence[Embedded]) -> dict[int, Answer]:
        """What can be decided by one forward pass, by its row; the rest is decided one by one."""
        if self.budgets.any:  # what one decision takes the next one cannot have
            return {}
        known = {row: one for row, one in enumerate(embedded) if not isinstance(one, Reason)}
        if len(known) < 2:
            return {}
        try:
            situated = [(cases[row].request, cases[row].policy, self._situation(cases[row], _FREE)) for row in known]
            decided = serving.router.route_each(situated, np.concatenate(list(known.values())))
        except Exception:  # it may be about one of them
            logger.exception("a batch could not be decided together, each is decided by itself")
            return {}
        asked = [
            Asked(cases[row].id_or(new_id(self._clock())), one, cases[row].also)
            for row, one in zip(known, decided, strict=True)
            if not isinstance(one, NoEligibleCandidateError)
        ]
        made = iter(zip(asked, self._asking_too(serving, asked), strict=True))
        came: dict[int, Answer] = {}
        for row, one in zip(known, decided, strict=True):
            if isinstance(one, NoEligibleCandidateError):
                came[row] = one
            else:
                first, decision = next(made)
                came[row] = first.identifier, decision
        return came

    def _answer(
        self,
        case: Case,
        serving: Serving,
        embedded: Embedded,
        started: float,
        came: Answer | None,
    ) -> Answer:
        """One of a batch: its decision, or what came instead; decided here where nothing `came` yet."""
        try:
            if came is None or isinstance(embedded, Reason):
                return self._decided(case, serving, embedded, started)
            if isinstance(came, tuple):
                self.recorder.record(came[0], case, came[1], embedded, serving, started)
            return came
        except (NoEligibleCandidateError, BudgetSpentError) as error:
            return error
        except Exception:  # it is what came of this one, and no reason to fail the others
            logger.exception("one request of a batch could not be decided")
            return UndecidedError("the request could not be decided")

    def _situation(self, case: Case, allowance: Allowance) -> Situation:
        before = Before()
        with self.recorder.session:
            before = self.conversations.before(
                case.conversation, case.request, self.live.current.router.manifest.candidates
            )
        return Situation(
            session=before.candidate,
            cached=before.cached,
            session_margin=self.settings.session_margin,
            pace=allowance.pace,
            most_usd=allowance.most_usd,
            explore=self.settings.explore,
            draw=case.draw,
            no_candidate=case.no_candidate,
            asked=case.asked,
            share=self.settings.share,
            hold=case.hold,
        )

    def _hold(self, session: str | None) -> float:
        """The number in (0, 1] that says whether a decision is held back: one for a `session`, which keeps its side, if the
        caller names it: what only begins alike may be many conversations, all of which would be on one side."""
        if session is None:
            return 1.0 - self._random.random()
        return 1.0 - int.from_bytes(blake2b(session.encode(), digest_size=7).digest()) / 2**56

    # --- upkeep ---

    def reload(self) -> list[Reloaded]:
        """Has every worker take over what its bundle, its shadow and the rule file are now; what each has, this one first."""
        return self._reloading.everywhere()

    def _follow(self, coming: RuleBook) -> None:
        """Puts other rules in force; what the store says of a new budget is known after `watch_seconds`."""
        self.rates.follow(coming.keys)
        self.budgets.follow(coming)

    def start(self) -> None:
        """Begins to watch for new bundles, and what else is done again and again: each by itself, under its own name."""
        self.metrics.share()
        tasks = {"drift": self.drift.check, "metrics": self.metrics.share}
        if self.conversations.shared:
            tasks["sessions"] = self.conversations.hear
        if self.replays:
            tasks["replays"] = self.replays.prune
        self._upkeep = [Periodic(name, self.settings.watch_seconds, task) for name, task in tasks.items()]
        self._reloading.start()

    def close(self) -> None:
        """Stops what `start` began, answers what waits to be embedded, and writes what waits to be written."""
        self._reloading.stop()
        for one in self._upkeep:
            one.stop()
        if self.shadow is not None:
            self.shadow.close()
        self.embedding.close()
        self._asking.shutdown(wait=True)
        self.conversations.close()
        self.rates.close()
        if self.replays is not None:
            self.replays.close()
        if self.store is not None:
            self.store.close()
