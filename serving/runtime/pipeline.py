"""What happens to one request to route: rules, budgets, session, embedding, decision. `recording` remembers it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from serving.bundle.arrays import Floats32
from serving.bundle.request import RouteRequest, read
from serving.decide.decision import Decision, Reason, Situation
from serving.decide.eligibility import NoEligibleCandidateError
from serving.decide.policy import Policy
from serving.runtime.batching import Batching, BusyError
from serving.runtime.live import Live, Serving
from serving.runtime.metrics import Metrics
from serving.runtime.recording import Case, Recorder
from serving.runtime.shadow import Shadow
from serving.runtime.telemetry import snapshot_of
from serving.runtime.upkeep import Periodic, refresh_budgets, restore_budgets
from serving.settings import Settings
from serving.state.budgets import Allowance, Budgets, BudgetSpentError
from serving.state.drift import Drift, Thresholds
from serving.state.rates import Rates
from serving.state.rulebook import RuleBook, RulesError, load_rules
from serving.state.sessions import Sessions
from serving.store.engine import open_engine
from serving.store.writer import DecisionStore

logger = logging.getLogger(__name__)

# Texts shorter than this are embedded in the event loop by a static encoder: handing them to a thread costs more.
_INLINE_CHARS = 32 * 1024
_FREE = Allowance()


Answer = tuple[str, Decision] | NoEligibleCandidateError | BudgetSpentError


class Service:
    """Decides and remembers. One per process; its methods may be called from several threads.

    `clock` gives epoch seconds: it says which day and month a decision belongs to.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self._clock = clock
        self.rules: RuleBook = load_rules(settings.policies)
        self.live = self._load(settings.bundle)
        self._check_rules()
        self.shadow = Shadow(self._load(settings.shadow)) if settings.shadow else None
        self.store: DecisionStore | None = None
        if settings.store:
            self.store = DecisionStore(open_engine(settings.store), settings.store_queue)
        self.budgets = Budgets(self.rules, clock, settings.reserve_seconds)
        self.rates = Rates(self.rules.keys)
        self.sessions = Sessions(settings.sessions, settings.session_seconds)
        self.drift = Drift(settings.drift_window, Thresholds.of(settings))
        self.metrics = Metrics(lambda: snapshot_of(self.live, self.store, self.budgets, self.drift))
        self.recorder = Recorder(
            settings, self.live, self.shadow, self.store, self.budgets, self.sessions, self.drift, self.metrics, clock
        )
        self._random = random.Random()
        self._batching = Batching(settings.encoders)
        self._upkeep: Periodic | None = None
        if self.store is not None and self.budgets.any:
            restore_budgets(self.budgets, self.store.engine)

    def _load(self, source: str) -> Live:
        options = self.settings
        return Live(
            source, threads=options.threads, context_margin=options.context_margin, cache=options.embedding_cache
        )

    def _check_rules(self) -> None:
        """Raises RulesError where a rule names a candidate to answer that the bundle does not have."""
        known = self.live.current.router.candidates
        for scope, rules in self.rules.every_scope():
            if rules.no_candidate is not None and rules.no_candidate not in known:
                raise RulesError(
                    f"{self.settings.policies}: {scope}: no_candidate is {rules.no_candidate!r}; expected one of the "
                    f"bundle's candidates: {', '.join(known)}"
                )

    # --- one request ---

    def case(self, request: RouteRequest, policy: Policy, key: str | None) -> Case:
        """The request, read, under the server's rules, which only tighten what it asks itself."""
        scopes, no_candidate = [], None
        for name, rules in self.rules.scopes(key, request.workflow):
            scopes.append(name)
            no_candidate = rules.no_candidate or no_candidate  # the key's before the workflow's
            if rules.tightening is not None:
                policy = policy.tightened(rules.tightening)
        return Case(read(request), policy, key, scopes, no_candidate)

    async def route(self, case: Case) -> tuple[str, Decision]:
        """The decision's id and the decision; raises NoEligibleCandidateError or BudgetSpentError.

        An embedding that takes longer than its time is not waited for, and a decision that fails is logged: the reference
        answers then, reason `timeout` or `fault`. A call to an LLM must not fail because of the router.
        """
        started = time.perf_counter()
        if self.budgets.any:
            self.budgets.allowance(case.scopes)  # a spent budget that rejects is not worth embedding for
        serving = self.live.current
        try:
            embedding = await self._embedded(serving, case.request.text)
            self.metrics.stage("encode", time.perf_counter() - started)
            return self.decide(case, serving, embedding, started)
        except (NoEligibleCandidateError, BudgetSpentError):
            raise
        except TimeoutError:
            reason = Reason.TIMEOUT
        except Exception:  # whatever it is, the caller still needs to know where to send the request
            logger.exception("a decision failed, the reference answers")
            reason = Reason.FAULT
        return self._without_estimates(case, serving, reason, started)

    def _without_estimates(self, case: Case, serving: Serving, reason: Reason, started: float) -> tuple[str, Decision]:
        identifier, decision = self._reserved(
            case,
            lambda situation: serving.router.decide_without_estimates(case.request, case.policy, situation, reason),
        )
        return self._finished(identifier, case, decision, None, started)

    async def _embedded(self, serving: Serving, text: str) -> Floats32:
        """(1, dim); raises TimeoutError."""
        known = serving.embeddings.get(text)
        if known is not None:
            return known
        if serving.inline and len(text) <= _INLINE_CHARS:
            return serving.embed(text)
        try:
            embedding = self._batching.embed(serving, text)
        except BusyError as error:
            raise TimeoutError from error
        return await asyncio.wait_for(asyncio.wrap_future(embedding), self.settings.embed_wait_ms / 1e3)

    def decide(self, case: Case, serving: Serving, embedding: Floats32, started: float) -> tuple[str, Decision]:
        """As `route`, once the text is embedded, as (1, dim)."""
        embedded = time.perf_counter()
        identifier, decision = self._reserved(
            case, lambda situation: serving.router.decide(case.request, case.policy, situation, embedding)
        )
        self.metrics.stage("decide", time.perf_counter() - embedded)
        return self._finished(identifier, case, decision, embedding, started)

    def _reserved(self, case: Case, decide: Callable[[Situation], Decision]) -> tuple[str, Decision]:
        """A decision whose cost its budgets hold, and its id.

        Where another thread took the money in between it is decided once more, on what is left; raises BudgetSpentError.
        """
        identifier = uuid.uuid4().hex
        if not self.budgets.any:
            return identifier, decide(self._situation(case, _FREE))
        for last in (False, True):
            allowance = self.budgets.allowance(case.scopes)
            decision = decide(self._situation(case, allowance))
            try:
                self.budgets.reserve(identifier, case.scopes, decision.expected_cost_usd or 0.0)
                break
            except BudgetSpentError:
                if last:
                    raise
        return identifier, replace(decision, warnings=allowance.warned) if allowance.warned else decision

    def route_batch(self, cases: Sequence[Case]) -> list[Answer]:
        """As `route` for several requests with one forward pass, each with its error in its place; no time limit holds."""
        started = time.perf_counter()
        serving = self.live.current
        try:
            embeddings: Floats32 | None = serving.router.encoder.encode([one.request.text for one in cases])
            came: Sequence[Decision | NoEligibleCandidateError | None] = [None] * len(cases)
            if not self.budgets.any:  # with budgets, what one decision takes the next one cannot have
                situated = [(one.request, one.policy, self._situation(one, _FREE)) for one in cases]
                came = serving.router.route_each(situated, embeddings)
        except Exception:  # as in `route`: nobody's call may fail because of this
            logger.exception("a batch of decisions failed, the reference answers")
            embeddings, came = None, [None] * len(cases)
        answers = [
            self._answer(one, serving, None if embeddings is None else embeddings[row : row + 1], started, came[row])
            for row, one in enumerate(cases)
        ]
        self.metrics.stage("batch", time.perf_counter() - started)
        return answers

    def _answer(
        self,
        case: Case,
        serving: Serving,
        embedding: Floats32 | None,
        started: float,
        came: Decision | NoEligibleCandidateError | None,
    ) -> Answer:
        """One of a batch: its decision, or what came instead; decided here where nothing `came` yet.

        Without an embedding there are no estimates, and the reference answers.
        """
        try:
            if embedding is None:
                return self._without_estimates(case, serving, Reason.FAULT, started)
            if came is None:
                return self.decide(case, serving, embedding, started)
            if isinstance(came, NoEligibleCandidateError):
                return came
            return self._finished(uuid.uuid4().hex, case, came, embedding, started)
        except (NoEligibleCandidateError, BudgetSpentError) as error:
            return error

    def _situation(self, case: Case, allowance: Allowance) -> Situation:
        session = case.request.request.session_id
        on = self.sessions.get(session) if session is not None else None
        return Situation(
            session=None if on is None else on.candidate,
            cached_tokens=0.0 if on is None else on.tokens,
            session_margin=self.settings.session_margin,
            pace=allowance.pace,
            most_usd=allowance.most_usd,
            explore=self.settings.explore,
            draw=self._random.random() if self.settings.explore else 0.0,
            no_candidate=case.no_candidate,
        )

    def _finished(
        self, identifier: str, case: Case, decision: Decision, embedding: Floats32 | None, started: float
    ) -> tuple[str, Decision]:
        self.recorder.record(identifier, case, decision, embedding, started)
        return identifier, decision

    def may_see(self, key: str | None, scope: str) -> bool:
        """Whether the caller may see a scope's budget: another key's only where its own may administer."""
        return key is None or not scope.startswith("key:") or scope == f"key:{key}" or self.rules.keys[key].admin

    # --- upkeep ---

    def start(self) -> None:
        """Begins to watch for new bundles, and what else is done again and again."""
        seconds = self.settings.watch_seconds
        self.live.watch(seconds)
        if self.shadow is not None:
            self.shadow.live.watch(seconds)
        tasks: list[Callable[[], object]] = [self.drift.check, self.metrics.share]
        if self.store is not None and self.budgets.any and self.settings.workers > 1:
            tasks.append(partial(refresh_budgets, self.budgets, self.store.engine))
        self.metrics.share()
        self._upkeep = Periodic("upkeep", seconds, *tasks)

    def close(self) -> None:
        """Stops what `start` began, and writes what waits to be written."""
        self.live.stop()
        if self._upkeep is not None:
            self._upkeep.stop()
        if self.shadow is not None:
            self.shadow.close()
        self._batching.close()
        if self.store is not None:
            self.store.close()
