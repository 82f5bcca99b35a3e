"""What happens to one request to route: rules, budgets, session, embedding, decision, record. HTTP is `app`'s."""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import isinf
from typing import Any

import orjson
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from serving.bundle.arrays import Floats32
from serving.bundle.request import RouteRequest, estimated_tokens, has_image, text_of
from serving.decide.policy import Demand, NoEligibleCandidateError, Policy, Reason, rule_out
from serving.decide.router import Alternative, Decision, Situation
from serving.runtime.batching import Batching, BusyError
from serving.runtime.live import Live, Serving
from serving.runtime.metrics import Metrics
from serving.runtime.shadow import Shadow, ShadowAnswer
from serving.runtime.telemetry import snapshot_of
from serving.runtime.upkeep import Periodic, refresh_budgets, restore_budgets
from serving.settings import Settings
from serving.state.budgets import Allowance, Budgets, BudgetSpentError
from serving.state.drift import Drift, Thresholds
from serving.state.rulebook import RuleBook, Rules, RulesError, load_rules
from serving.state.sessions import OnCandidate, Sessions
from serving.store.engine import open_engine
from serving.store.feedback import Feedback
from serving.store.writer import DecisionStore

logger = logging.getLogger(__name__)

# Texts shorter than this are embedded in the event loop by a static encoder: handing them to a thread costs more.
_INLINE_CHARS = 32 * 1024
_FREE = Allowance()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request with what is asked of it, by whom: `key` is the API key's name, `scopes` the rules it is under."""

    request: RouteRequest
    policy: Policy
    key: str | None
    scopes: Sequence[tuple[str, Rules]]

    @property
    def scope_names(self) -> list[str]:
        return [name for name, _ in self.scopes]


Answer = tuple[str, Decision] | NoEligibleCandidateError | BudgetSpentError


class Service:
    """Decides and remembers. One per process; its methods may be called from several threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.rules: RuleBook = load_rules(settings.policies)
        self.live = self._load(settings.bundle)
        self._check_rules()
        self.shadow = Shadow(self._load(settings.shadow)) if settings.shadow else None
        self.store: DecisionStore | None = None
        if settings.store:
            self.store = DecisionStore(open_engine(settings.store), settings.store_queue)
        self.budgets = Budgets(self.rules, time.time, settings.reserve_seconds)
        self.sessions = Sessions(settings.sessions, settings.session_seconds)
        self.drift = Drift(settings.drift_window, _thresholds(settings))
        self.metrics = Metrics(lambda: snapshot_of(self.live, self.store, self.budgets, self.drift))
        self._random = random.Random()
        self._rates = {name: key.limit for name, key in self.rules.keys.items()}
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
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

    # --- asking ---

    def ask(self, request: RouteRequest, policy: Policy, key: str | None) -> Asked:
        """The request under the server's rules, which only tighten what it asks itself."""
        scopes = self.rules.scopes(key, request.workflow)
        for _, rules in scopes:
            if rules.tightening is not None:
                policy = policy.tightened(rules.tightening)
        return Asked(request, policy, key, scopes)

    async def route(self, asked: Asked) -> tuple[str, Decision]:
        """The decision's id and the decision; raises NoEligibleCandidateError or BudgetSpentError.

        A decision that takes longer than the time limit is not waited for, and one that fails is logged: the reference
        answers then, reason `timeout` or `fault`. A call to an LLM must not fail because of the router.
        """
        started = time.perf_counter()
        if self.budgets.any:
            self.budgets.allowance(asked.scope_names)  # a spent budget that rejects is not worth embedding for
        serving = self.live.current
        try:
            embedding = await self._embedded(serving, text_of(asked.request))
            self.metrics.stage("encode", time.perf_counter() - started)
            return self.decide(asked, serving, embedding, started)
        except (NoEligibleCandidateError, BudgetSpentError):
            raise
        except TimeoutError:
            reason = Reason.TIMEOUT
        except Exception:  # whatever it is, the caller still needs to know where to send the request
            logger.exception("a decision failed, the reference answers")
            reason = Reason.FAULT
        return self._without_estimates(asked, serving, reason, started)

    def _without_estimates(
        self, asked: Asked, serving: Serving, reason: Reason, started: float
    ) -> tuple[str, Decision]:
        identifier, decision = self._reserved(asked, lambda _: self.fallback(asked, serving, reason))
        return self._finish(identifier, asked, decision, None, started)

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
        return await asyncio.wait_for(asyncio.wrap_future(embedding), self.settings.time_limit_ms / 1e3)

    def decide(self, asked: Asked, serving: Serving, embedding: Floats32, started: float) -> tuple[str, Decision]:
        """As `route`, once the text is embedded, as (1, dim)."""

        def decided(situation: Situation) -> Decision:
            try:
                return serving.router.decide(asked.request, asked.policy, situation, embedding)
            except NoEligibleCandidateError as error:
                return self._default(asked, serving, error)

        embedded = time.perf_counter()
        identifier, decision = self._reserved(asked, decided)
        self.metrics.stage("decide", time.perf_counter() - embedded)
        return self._finish(identifier, asked, decision, embedding, started)

    def _reserved(self, asked: Asked, decide: Callable[[Situation], Decision]) -> tuple[str, Decision]:
        """A decision whose cost its budgets hold, and its id.

        Where another thread took the money in between it is decided once more, on what is left; raises BudgetSpentError.
        """
        identifier = uuid.uuid4().hex
        if not self.budgets.any:
            return identifier, decide(self._situation(asked, _FREE))
        for last in (False, True):
            allowance = self.budgets.allowance(asked.scope_names)
            decision = decide(self._situation(asked, allowance))
            try:
                self.budgets.reserve(identifier, asked.scope_names, decision.expected_cost_usd or 0.0)
                break
            except BudgetSpentError:
                if last:
                    raise
        return identifier, replace(decision, warnings=allowance.warned) if allowance.warned else decision

    def _default(self, asked: Asked, serving: Serving, error: NoEligibleCandidateError) -> Decision:
        """Who answers when nobody is eligible, if a rule names one, the key's before the workflow's; raises the error."""
        default = next((rules.no_candidate for _, rules in reversed(asked.scopes) if rules.no_candidate), None)
        if default is None or default not in serving.router.candidates:
            raise error
        return self.fallback(asked, serving, Reason.NO_CANDIDATE, default)

    def route_batch(self, asked: Sequence[Asked]) -> list[Answer]:
        """As `route` for several requests with one forward pass, each with its error in its place; no time limit holds."""
        started = time.perf_counter()
        serving = self.live.current
        try:
            embeddings: Floats32 | None = serving.router.encoder.encode([text_of(one.request) for one in asked])
            came: Sequence[Decision | NoEligibleCandidateError | None] = [None] * len(asked)
            if not self.budgets.any:  # with budgets, what one decision takes the next one cannot have
                situated = [(one.request, one.policy, self._situation(one, _FREE)) for one in asked]
                came = serving.router.route_each(situated, embeddings)
        except Exception:  # as in `route`: nobody's call may fail because of this
            logger.exception("a batch of decisions failed, the reference answers")
            embeddings, came = None, [None] * len(asked)
        answers = [
            self._answer(one, serving, None if embeddings is None else embeddings[row : row + 1], started, came[row])
            for row, one in enumerate(asked)
        ]
        self.metrics.stage("batch", time.perf_counter() - started)
        return answers

    def _answer(
        self,
        asked: Asked,
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
                return self._without_estimates(asked, serving, Reason.FAULT, started)
            if came is None:
                return self.decide(asked, serving, embedding, started)
            decision = came if isinstance(came, Decision) else self._default(asked, serving, came)
            return self._finish(uuid.uuid4().hex, asked, decision, embedding, started)
        except (NoEligibleCandidateError, BudgetSpentError) as error:
            return error

    def keep_rate(self, key: str, requests: int = 1) -> float | None:
        """Counts requests against a key's rate; the seconds until it may come again where it is over it, else None."""
        limit = self._rates.get(key)
        if limit is None or self._limiter.hit(limit, key, cost=requests):
            return None
        return float(self._limiter.get_window_stats(limit, key).reset_time - time.time())

    def _situation(self, asked: Asked, allowance: Allowance) -> Situation:
        session = asked.request.session_id
        on = self.sessions.get(session) if session is not None else None
        return Situation(
            session=None if on is None else on.candidate,
            cached_tokens=0.0 if on is None else on.tokens,
            session_margin=self.settings.session_margin,
            pace=allowance.pace,
            most_usd=allowance.most_usd,
            explore=self.settings.explore,
            draw=self._random.random() if self.settings.explore else 0.0,
        )

    def fallback(self, asked: Asked, serving: Serving, reason: Reason, name: str | None = None) -> Decision:
        """A decision without estimates: the named candidate, or the reference, or, where the rules exclude that one, the
        dearest that they admit. Raises NoEligibleCandidateError where they admit none."""
        manifest = serving.router.manifest
        candidates = serving.router.candidates
        tokens = estimated_tokens(text_of(asked.request))
        output = float(asked.request.max_output_tokens or 0)
        cost = [c.cost_usd(tokens, output) if c.priced else float("nan") for c in manifest.candidates]
        m = len(candidates)
        demand = Demand(has_image(asked.request), [tokens] * m, cost, [float("nan")] * m)
        rules = rule_out(manifest.candidates, asked.request, asked.policy, demand, margin=self.settings.context_margin)
        if name is None:
            eligible = [column for column, rule in enumerate(rules) if rule is None]
            if not eligible:
                raise NoEligibleCandidateError(candidates, rules)
            reference = candidates.index(manifest.reference)
            chosen = reference if reference in eligible else max(eligible, key=lambda column: (cost[column], column))
        else:
            chosen = candidates.index(name)
        others = tuple(c for column, c in enumerate(candidates) if column != chosen and rules[column] is None)
        return Decision(
            candidate=candidates[chosen],
            confidence=None,
            expected_cost_usd=None if cost[chosen] != cost[chosen] else cost[chosen],
            fallbacks=others,
            reason=reason,
            operating_point=None,
            quality_target=None,
            certificate=None,
            knob=0.0,
            propensity=1.0,
            novelty=None,
            cluster=None,
            alternatives=tuple(
                Alternative(
                    c, None, None if cost[column] != cost[column] else cost[column], None, None, None, rules[column]
                )
                for column, c in enumerate(candidates)
            ),
            bundle=manifest.version,
        )

    def may_see(self, key: str | None, scope: str) -> bool:
        """Whether the caller may see a scope's budget: another key's only where its own may administer."""
        return key is None or not scope.startswith("key:") or scope == f"key:{key}" or self.rules.keys[key].admin

    # --- remembering ---

    def _finish(
        self, identifier: str, asked: Asked, decision: Decision, embedding: Floats32 | None, started: float
    ) -> tuple[str, Decision]:
        decided = time.perf_counter()
        request = asked.request
        # One decision made in haste does not take a conversation away from its candidate's cache.
        if request.session_id is not None and decision.confidence is not None:
            tokens = estimated_tokens(text_of(request))
            self.sessions.put(request.session_id, OnCandidate(decision.candidate, tokens))
        self._record(identifier, asked, decision, embedding)
        self.drift.decided(identifier, decision, self.live.current.router.manifest)
        self.metrics.decided(decision)
        finished = time.perf_counter()
        self.metrics.stage("record", finished - decided)
        self.metrics.stage("total", finished - started)
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
        return identifier, decision

    def _record(self, identifier: str, asked: Asked, decision: Decision, embedding: Floats32 | None) -> None:
        """Stores the decision; where there is a shadow bundle, once that was asked too, which the answer does not wait for."""
        if self.shadow is None or embedding is None:
            self._store(identifier, asked, decision, None)
            return

        def answered(would: Decision | None, answer: ShadowAnswer) -> None:
            self.metrics.shadowed(answer)
            self._store(identifier, asked, decision, would)

        serving = self.live.current
        usable = serving.router.manifest.version == decision.bundle
        usable = usable and serving.same_encoder(self.shadow.live.current.router)
        self.shadow.ask(asked.request, asked.policy, decision, embedding if usable else None, answered)

    def _store(self, identifier: str, asked: Asked, decision: Decision, shadow: Decision | None) -> None:
        if self.store is not None:
            self.store.decided(self._row(identifier, asked, decision, shadow))

    def _row(self, identifier: str, asked: Asked, decision: Decision, shadow: Decision | None) -> Mapping[str, Any]:
        request = asked.request
        keep = self.settings.store_prompts
        seen = next(one for one in decision.alternatives if one.candidate == decision.candidate)
        return {
            "id": identifier,
            "at": time.time(),
            "key": asked.key,
            "workflow": request.workflow,
            "session_id": request.session_id,
            "prompt": request.prompt if keep else None,
            "messages": orjson.dumps(request.messages).decode() if keep and request.messages is not None else None,
            "candidate": decision.candidate,
            "reason": decision.reason.value,
            "propensity": decision.propensity,
            "knob": None if isinf(decision.knob) else decision.knob,
            "operating_point": decision.operating_point,
            "quality_target": decision.quality_target,
            "confidence": decision.confidence,
            "expected_quality": seen.expected_quality,
            "expected_cost_usd": decision.expected_cost_usd,
            "expected_latency_ms": seen.expected_latency_ms,
            "novelty": decision.novelty,
            "cluster": decision.cluster,
            "tools": request.tools,
            "json_schema": request.json_schema,
            "max_output_tokens": request.max_output_tokens,
            "bundle": decision.bundle,
            "shadow_bundle": None if shadow is None else shadow.bundle,
            "shadow_candidate": None if shadow is None else shadow.candidate,
            "shadow_confidence": None if shadow is None else shadow.confidence,
            "shadow_expected_cost_usd": None if shadow is None else shadow.expected_cost_usd,
        }

    async def feedback(self, said: Sequence[Feedback]) -> tuple[int, int]:
        """Stores feedback; (new, repeated) once all of it is on disk. Raises NotStoredError or TimeoutError."""
        assert self.store is not None
        written = self.store.feedback([asdict(one) for one in said])
        waiting = [asyncio.wrap_future(self._counted(*one)) for one in zip(said, written, strict=True)]
        new = await asyncio.wait_for(asyncio.gather(*waiting), self.settings.feedback_seconds)
        return sum(new), len(new) - sum(new)

    def _counted(self, said: Feedback, written: Future[bool]) -> Future[bool]:
        """Settles the budgets once it is on disk, whether or not somebody still waits for that then."""

        def count(done: Future[bool]) -> None:
            if done.exception() is None and done.result():
                self.budgets.settle(said.decision_id, said.cost_usd)
                self.metrics.fed_back(said)
                if said.quality is not None and not said.error:  # a failed call says nothing of the answer
                    self.drift.judged(said.decision_id, said.quality, said.candidate)

        written.add_done_callback(count)
        return written

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


def _thresholds(settings: Settings) -> Thresholds:
    return Thresholds(
        psi=settings.drift_psi,
        novel_share=settings.drift_novel_share,
        calibration_error=settings.drift_calibration_error,
        prompts=settings.drift_prompts,
        feedback=settings.drift_feedback,
    )
