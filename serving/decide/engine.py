"""The one way to a decision: hard rules first, value second. Pure: no clock, no lock, no I/O, and the draw is given.

A request that took too long or failed is decided in the same way, on estimates that are not known.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from math import inf, isinf, isnan

import numpy as np

from serving.bundle.manifest import ALWAYS_REFERENCE, Certificate, Manifest, OperatingPoint
from serving.bundle.request import ReadRequest
from serving.decide.decision import Alternative, Decision, Estimates, Reason, Situation
from serving.decide.eligibility import Demand, NoEligibleCandidateError, Rule, rule_out
from serving.decide.exploration import Choice, explored, first, rate_of
from serving.decide.policy import Policy
from serving.decide.value import Setting, knob_for, rank

# What is chosen for another reason has to be: the others are there for a rule's sake.
_EXPLORABLE = frozenset({Reason.BEST_VALUE, Reason.SESSION})
_DEAREST = sys.float_info.max


@dataclass(frozen=True, slots=True)
class _Row:
    """The estimates of one request: (m,) by candidate; NaN, or for the cluster None, where it is not known."""

    confidence: list[float]
    quality: list[float]
    cost: list[float]
    latency: list[float]
    latency_p95: list[float]
    tokens: list[float]
    cluster: int | None
    novelty: float

    @classmethod
    def of(cls, estimates: Estimates, row: int) -> _Row:
        novelty = float(estimates.novelty[row, 0])
        return cls(
            estimates.acceptable[row].tolist(),
            estimates.quality[row].tolist(),
            estimates.cost_usd[row].tolist(),
            estimates.latency_ms[row].tolist(),
            estimates.latency_p95_ms[row].tolist(),
            estimates.input_tokens[row].tolist(),
            None if isnan(novelty) else int(estimates.nearness[row].argmax()),
            novelty,
        )


@dataclass(frozen=True, slots=True)
class _Weighed:
    """What a choice is made by: `worth` and `cost` (m,) in the units of the setting's knob, `pace` added to that."""

    policy: Policy
    situation: Situation
    setting: Setting
    worth: list[float]
    cost: list[float]
    confidence: list[float]
    novelty: float


class Engine:
    """Decides by one bundle's manifest. Immutable and safe to share between threads.

    The tokens of a prompt are estimated, so it has to fit a context window `context_margin` times over.
    """

    def __init__(self, manifest: Manifest, context_margin: float = 1.1) -> None:
        self.manifest = manifest
        self.candidates = [candidate.name for candidate in manifest.candidates]
        self._columns = {name: column for column, name in enumerate(self.candidates)}
        self._reference = self._columns[manifest.reference]
        self._margin = context_margin
        self._cache_saves = [
            max((c.input_usd_per_mtok or 0.0) - c.cache_read_usd_per_mtok, 0.0) / 1e6
            if manifest.cost_from[c.name] == "tokens" and c.cache_read_usd_per_mtok is not None
            else 0.0
            for c in manifest.candidates
        ]
        self._always = OperatingPoint(
            name=ALWAYS_REFERENCE, knob=0.0, always=manifest.reference, calibration_requests=0
        )
        self._points = {point.name: point for point in manifest.operating_points}
        self._settings = {
            point.name: Setting.of(manifest, point) for point in (self._always, *manifest.operating_points)
        }

    def operating_point(self, policy: Policy) -> OperatingPoint | None:
        """The operating point a policy asks for; None where it sets the knob itself.

        For a quality target: the point of the lowest target that is at least as high; above the highest target
        there is, every request goes to the reference candidate.
        """
        if policy.knob is not None:
            return None
        if policy.quality_target is None:
            return None if policy.cost_quality is not None else self._points[self.manifest.default_point]
        targets = [p for p in self._points.values() if (p.quality_target or 0.0) >= policy.quality_target]
        if targets:
            return min(targets, key=lambda p: p.quality_target or 0.0)
        return self._always

    def unknown(self, request: ReadRequest) -> Estimates:
        """What is known of one request without its embedding: tokens by its length, and what these cost where there are prices.

        Everything else is NaN, and no more is written than `max_output_tokens`, nothing where that is not said.
        """
        columns = len(self.candidates)
        nan = np.full((1, columns), np.nan, dtype=np.float32)
        output = float(request.request.max_output_tokens or 0)
        cost = [c.cost_usd(request.tokens, output) if c.priced else np.nan for c in self.manifest.candidates]
        return Estimates(
            acceptable=nan,
            quality=nan,
            cost_usd=np.array([cost], dtype=np.float32),
            latency_ms=nan,
            latency_p95_ms=nan,
            input_tokens=np.full((1, columns), request.tokens, dtype=np.float32),
            output_tokens=np.full((1, columns), output, dtype=np.float32),
            nearness=nan[:, :1],
            novelty=nan[:, :1],
        )

    def decide(
        self,
        request: ReadRequest,
        policy: Policy,
        situation: Situation,
        estimates: Estimates,
        row: int = 0,
        without: Reason | None = None,
    ) -> Decision:
        """The decision on one request by its row of the estimates; raises NoEligibleCandidateError.

        `without` is the reason of a decision without estimates, which then are `unknown(request)`: the reference answers, or
        the dearest that the rules admit and the budgets hold.
        """
        seen = _Row.of(estimates, row)
        demand = Demand(seen.tokens, seen.cost, seen.latency_p95)
        rules = rule_out(self.manifest.candidates, request, policy, demand, margin=self._margin)
        eligible = [column for column, rule in enumerate(rules) if rule is None]
        if not eligible:
            default = None if situation.no_candidate is None else self._columns.get(situation.no_candidate)
            if default is None:
                raise NoEligibleCandidateError(self.candidates, rules)
            if without is None:  # nobody was chosen by the estimates, so the decision does not carry them
                seen = _Row.of(self.unknown(request), 0)
            return self._decision(seen, rules, Choice([default], Reason.NO_CANDIDATE, 1.0), 0.0, None, None)
        if without is not None:
            weighed, point = self._unestimated(seen, policy, situation), None
        else:
            if situation.session is not None:
                seen = self._with_cache(seen, situation)
            point = self.operating_point(policy)
            weighed = self._weighed(seen, policy, situation, point, estimates, row)
        choice = self._choose(weighed, point, eligible)
        knob = weighed.setting.knob + weighed.situation.pace
        if without is not None:
            return self._decision(seen, rules, choice._replace(reason=without), knob, None, None)
        return self._decision(seen, rules, choice, knob, point, self._certificate(choice, weighed, point))

    def _weighed(
        self,
        seen: _Row,
        policy: Policy,
        situation: Situation,
        point: OperatingPoint | None,
        estimates: Estimates,
        row: int,
    ) -> _Weighed:
        setting = self._settings[point.name] if point is not None else Setting(self._knob(policy))
        if setting.always is not None:
            # what a budget's pace weighs cost against is the harm to that candidate's answers
            setting = replace(setting, guard=setting.always)
        value = estimates.of(policy.objective or self.manifest.objective)[row : row + 1]
        worth: list[float] = setting.worth(value.astype(np.float64))[0].tolist()
        return _Weighed(policy, situation, setting, worth, seen.cost, seen.confidence, seen.novelty)

    def _unestimated(self, seen: _Row, policy: Policy, situation: Situation) -> _Weighed:
        """Without estimates the reference is always used, else what is dear is taken to be good; no pace can be weighed.

        A cost that is not known counts as worth nothing, and as more than any budget holds.
        """
        worth = [-1.0 if isnan(cost) else cost for cost in seen.cost]
        cost = [_DEAREST if isnan(cost) else cost for cost in seen.cost]
        bare = Situation(most_usd=situation.most_usd)
        return _Weighed(policy, bare, self._settings[ALWAYS_REFERENCE], worth, cost, seen.confidence, seen.novelty)

    def _choose(self, weighed: _Weighed, point: OperatingPoint | None, eligible: list[int]) -> Choice:
        """Who is chosen, and why: never anyone who is not eligible, and, while anyone is, nobody a budget cannot hold."""
        situation = weighed.situation
        affordable = [column for column in eligible if weighed.cost[column] <= situation.most_usd]
        if not affordable:
            return Choice(rank(weighed.worth, weighed.cost, inf, eligible), Reason.BUDGET, 1.0)
        order, reason = self._ordered(weighed, situation.pace, affordable)
        if situation.pace > 0 or len(affordable) < len(eligible):
            free, _ = self._ordered(weighed, 0.0, eligible)
            if free[0] != order[0]:
                reason = Reason.BUDGET
        if situation.explore > 0 and reason in _EXPLORABLE:
            return explored(order, reason, rate_of(situation.explore, point), situation.draw)
        return Choice(order, reason, 1.0)

    def _ordered(self, weighed: _Weighed, pace: float, eligible: list[int]) -> tuple[list[int], Reason]:
        """The eligible columns, best first, and why that one is: each step may overrule the one before."""
        setting, confidence, reference = weighed.setting, weighed.confidence, self._reference
        knob = setting.knob + pace
        order = rank(weighed.worth, weighed.cost, knob, eligible)
        if len(eligible) == 1:
            return order, Reason.ONLY_ELIGIBLE
        if pace == 0 and setting.always in eligible:
            return first(order, setting.always), Reason.REFERENCE
        if reference in eligible and order[0] != reference:
            if weighed.novelty > self.manifest.novelty.threshold:
                return first(order, reference), Reason.NOVEL
            if confidence[order[0]] < min(weighed.policy.abstain_below, confidence[reference]):
                return first(order, reference), Reason.LOW_CONFIDENCE
        kept = self._columns.get(weighed.situation.session or "")
        if kept in eligible and kept != order[0] and not self._moves(weighed, knob, order[0], kept):
            return first(order, kept), Reason.SESSION
        return order, Reason.BEST_VALUE

    @staticmethod
    def _moves(weighed: _Weighed, knob: float, best: int, kept: int) -> bool:
        """Whether a session's gain from moving to the best candidate is clear enough."""
        saved = weighed.cost[kept] - weighed.cost[best]
        if isinf(knob):
            return saved > 0
        return weighed.worth[best] - weighed.worth[kept] + knob * saved > weighed.situation.session_margin

    def _knob(self, policy: Policy) -> float:
        if policy.knob is not None:
            return policy.knob
        return 0.0 if policy.cost_quality is None else knob_for(policy.cost_quality, self.manifest.knobs)

    def _with_cache(self, seen: _Row, situation: Situation) -> _Row:
        """The estimates where the session's candidate reads the part of the prompt that it has cached."""
        column = self._columns.get(situation.session or "")
        if column is None:
            return seen
        cost = list(seen.cost)
        cached = min(situation.cached_tokens, seen.tokens[column])
        cost[column] = max(cost[column] - cached * self._cache_saves[column], 0.0)
        return replace(seen, cost=cost)

    def _certificate(self, choice: Choice, weighed: _Weighed, point: OperatingPoint | None) -> Certificate | None:
        """The point's certificate where it reaches this choice.

        It is for the choice among all candidates with the point's own knob: where anything changed that choice it says
        nothing. Only what goes to the reference instead cannot break it.
        """
        if point is None or point.certificate is None:
            return None
        if weighed.policy.objective not in (None, self.manifest.objective):
            return None
        # What is explored has its own room in the certificate, so what counts then is the choice it stands in for.
        kept = choice.order[1 if choice.reason is Reason.EXPLORE else 0]
        if kept == self._reference:
            return point.certificate
        best = rank(weighed.worth, weighed.cost, weighed.setting.knob, range(len(self.candidates)))[0]
        return point.certificate if kept == best else None

    def _decision(
        self,
        seen: _Row,
        rules: list[Rule | None],
        choice: Choice,
        knob: float,
        point: OperatingPoint | None,
        certificate: Certificate | None,
    ) -> Decision:
        alternatives = tuple(
            Alternative(
                name,
                _known(seen.confidence[column]),
                _known(seen.cost[column]),
                _known(seen.quality[column]),
                _known(seen.latency[column]),
                _known(seen.latency_p95[column]),
                rules[column],
            )
            for column, name in enumerate(self.candidates)
        )
        chosen = alternatives[choice.order[0]]
        return Decision(
            candidate=chosen.candidate,
            confidence=chosen.confidence,
            expected_cost_usd=chosen.expected_cost_usd,
            fallbacks=tuple(self.candidates[column] for column in choice.order[1:]),
            reason=choice.reason,
            operating_point=None if point is None else point.name,
            quality_target=None if point is None else point.quality_target,
            certificate=certificate,
            knob=knob,
            propensity=choice.propensity,
            novelty=_known(seen.novelty),
            cluster=seen.cluster,
            alternatives=alternatives,
            bundle=self.manifest.version,
        )


def _known(value: float) -> float | None:
    return None if isnan(value) else value
