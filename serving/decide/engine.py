"""The one way to a decision: hard rules first, value second. Pure: no clock, no lock, no I/O, and the draw is given.

A request that took too long or failed is decided in the same way, on what is usual of each candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf, isinf, isnan

import numpy as np

from serving.bundle.arrays import Floats32
from serving.bundle.manifest import ALWAYS_REFERENCE, NO_WORKFLOW, Certificate, Manifest, Objective, OperatingPoint
from serving.bundle.request import ReadRequest
from serving.decide.decision import Alternative, Decision, Estimates, Reason, Row, Situation, known_or_none
from serving.decide.eligibility import Demand, Eligibility, NoEligibleCandidateError, Rule
from serving.decide.exploration import Choice, Made, Otherwise, explored, first, rate_of, shared
from serving.decide.policy import Policy
from serving.decide.pricing import Pricing
from serving.decide.value import Setting, Weighed, dominating, knob_for, rank

# What is chosen for another reason has to be: the others are there for a rule's sake.
_EXPLORABLE = frozenset({Reason.BEST_VALUE, Reason.UNCERTIFIED, Reason.SESSION})
# Chosen for its worth, it may as well be another provider's of the same LLM.
_BY_WORTH = frozenset({Reason.BEST_VALUE, Reason.UNCERTIFIED})
_NOTHING_ASKED = Policy()


class Engine:
    """Decides by one bundle's manifest. Immutable and safe to share between threads.

    A counted prompt has to fit a context window `context_margin` times over.
    """

    def __init__(self, manifest: Manifest, context_margin: float = 1.1) -> None:
        self.manifest = manifest
        self.candidates = [candidate.name for candidate in manifest.candidates]
        self._columns = {name: column for column, name in enumerate(self.candidates)}
        self._reference = self._columns[manifest.reference]
        self._eligibility = Eligibility(manifest.candidates, context_margin)
        self._pricing = Pricing(manifest.candidates, manifest.cost_from, manifest.usual)
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
        there is, every request goes to the reference candidate. Where a policy has a target and a place between cheap and
        good, one from the caller and one from a rule, that of the lower knob counts: it gives away less.
        """
        if policy.knob is not None:
            return None
        if policy.quality_target is None:
            return None if policy.cost_quality is not None else self._points[self.manifest.default_point]
        point = self._point_for(policy.quality_target)
        sheds = policy.cost_quality is not None and self._knob(policy) < point.knob
        return None if sheds else point

    def _point_for(self, target: float) -> OperatingPoint:
        points = [point for point in self._points.values() if (point.quality_target or 0.0) >= target]
        return min(points, key=lambda point: point.quality_target or 0.0) if points else self._always

    def unknown(self, request: ReadRequest) -> Estimates:
        """What is known of one request without its embedding: what is usual of each candidate, at this prompt's length.

        No more is written than `max_output_tokens`. Chances, quality and novelty are NaN.
        """
        usual = [self.manifest.usual[name] for name in self.candidates]
        nan = np.full((1, len(usual)), np.nan, dtype=np.float32)
        room = request.request.max_output_tokens
        output = [one.output_tokens if room is None else min(one.output_tokens, room) for one in usual]
        p95 = [np.nan if one.latency_p95_ms is None else one.latency_p95_ms for one in usual]
        return Estimates(
            acceptable=nan,
            quality=nan,
            violation=nan,
            cost_usd=self._pricing.usual(request.said, output)[None],
            latency_ms=nan,
            latency_p95_ms=np.array([p95], dtype=np.float32),
            output_tokens=np.array([output], dtype=np.float32),
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
        the cheapest that the rules admit, if the budgets hold it.
        """
        made = self._own(request, policy, situation, estimates, row, without)
        if policy.share < 1.0 or situation.share < 1.0:
            return self._shared(made, policy, situation)
        if made.refused is not None:
            raise made.refused
        return made.decision

    def _shared(self, made: Made, policy: Policy, situation: Situation) -> Decision:
        named = policy.otherwise or self.manifest.reference
        apart = named not in self._columns
        column = self._columns.get((policy.otherwise_candidate or "") if apart else named)
        barred = apart and not self._eligibility.admits(named, policy, situation.asked, column)
        return shared(made, policy, situation, Otherwise(column, apart=apart, barred=barred))

    def _own(
        self,
        request: ReadRequest,
        policy: Policy,
        situation: Situation,
        estimates: Estimates,
        row: int,
        without: Reason | None,
    ) -> Made:
        seen = Row.of(estimates, row)
        plain, limit = seen.cost, self._pricing.at_least(request.counted, seen.cost)
        demand = Demand(limit, seen.latency_p95)
        if without is None and (situation.session is not None or situation.cached):
            # A cache may make a request cheaper, and writing to it dearer: the rules hold for the dearer of the two.
            seen = replace(seen, cost=self._pricing.with_cache(plain, request.said, situation.cached))
            dearer = self._pricing.at_least(request.counted, seen.cost)
            demand = Demand([max(pair) for pair in zip(limit, dearer, strict=True)], seen.latency_p95)
            limit = dearer
        rules = self._eligibility.rules(request, policy, demand)
        eligible = [column for column, rule in enumerate(rules) if rule is None]
        if not eligible:
            # Nobody was chosen by the estimates: the decision carries what is usual, and has to keep the demands by that too.
            usual = seen if without is not None else Row.of(self.unknown(request), 0)
            limit = self._pricing.at_least(request.counted, usual.cost)
            default = self._default(request, situation, (demand, Demand(limit, usual.latency_p95)))
            choice = Choice([self._reference if default is None else default], Reason.NO_CANDIDATE, 1.0)
            made = self._decision(usual, limit, rules, choice, 0.0, None, _uncertified)
            if default is not None:
                return made
            refused = NoEligibleCandidateError(self.candidates, rules, self._eligibility.why(rules, policy))
            return made._replace(refused=refused)
        # One that is left for want of knowledge looks like a choice, and is none.
        missing = self._eligibility.unknown(rules) if len(eligible) == 1 else ""
        if without is not None:
            weighed = self._unestimated(seen, policy, situation, demand)
            choice = self._arranged(self._choose(weighed, None, eligible), policy)._replace(reason=without)
            return self._decision(seen, limit, rules, choice, 0.0, None, _uncertified, missing)
        point = self.operating_point(policy)
        left_out = self._settings[point.name].without if point is not None else ()
        # Where the rules leave no other, one that is left out is used after all, and has no certificate.
        within = [column for column in eligible if column not in left_out] or eligible
        estimated = estimates.of(self._objective(policy))[row], estimates.violation[row]
        weighed = self._weighed(seen, policy, situation, point, estimated, limit)
        apart, late = [column for column in eligible if column not in within], weighed.late(within)
        if late:
            within, apart = [column for column in within if column not in late], []
        choice = self._arranged(self._choose(weighed, point, within, apart), policy, late)

        def certified(choice: Choice) -> Certificate | None:
            return self._certificate(choice, weighed, plain, point, request.request.workflow)

        knob = weighed.setting.knob + situation.pace
        return self._decision(seen, limit, rules, choice, knob, point, certified, missing)

    def _arranged(self, choice: Choice, policy: Policy, late: Sequence[int] = ()) -> Choice:
        """The choice with its fallbacks, and who is `late` behind them, in the order that is preferred."""
        if policy.preferences is None:
            return choice
        order = [*choice.order, *late]
        return choice._replace(order=self._eligibility.directory.arranged(order, policy.preferences, late))

    def _default(self, request: ReadRequest, situation: Situation, demands: Sequence[Demand]) -> int | None:
        """Who answers where the rules leave nobody: only one that the request's shape and its own demands admit."""
        column = self._columns.get(situation.no_candidate or "")
        if column is None:
            return None
        asked = _NOTHING_ASKED if situation.asked is None else situation.asked
        admitted = all(self._eligibility.rules(request, asked, demand)[column] is None for demand in demands)
        return column if admitted else None

    def _objective(self, policy: Policy) -> Objective:
        return policy.objective or self.manifest.objective

    def _weighed(
        self,
        seen: Row,
        policy: Policy,
        situation: Situation,
        point: OperatingPoint | None,
        estimated: tuple[Floats32, Floats32],
        limit: list[float],
    ) -> Weighed:
        setting = self._settings[point.name] if point is not None else Setting(self._knob(policy))
        if setting.always is not None:
            # what a budget's pace weighs cost against is the harm to that candidate's answers
            setting = replace(setting, guarded=True)
        value, violation = (one.astype(np.float64) for one in estimated)
        worth: list[float] = setting.worth(value, violation).tolist()
        return Weighed(policy, situation, setting, value.tolist(), worth, seen.cost, limit, seen)

    def _unestimated(self, seen: Row, policy: Policy, situation: Situation, demand: Demand) -> Weighed:
        """Without estimates the reference is used, else the cheapest: nothing tells how good the others would be."""
        bare = Situation(most_usd=situation.most_usd)
        none, always = [0.0] * len(seen.cost), self._settings[ALWAYS_REFERENCE]
        return Weighed(policy, bare, always, none, none, seen.cost, list(demand.cost_usd), seen)

    def _choose(
        self, weighed: Weighed, point: OperatingPoint | None, eligible: list[int], apart: Sequence[int] = ()
    ) -> Choice:
        """Who is chosen, and why: never anyone who is not eligible, and, while anyone is, nobody a budget cannot hold.

        Those `apart` are explored alone: the certificate has paid for that, whoever it is.
        """
        situation = weighed.situation
        affordable = [column for column in eligible if weighed.limit[column] <= situation.most_usd]
        if not affordable:
            return Choice(rank(weighed.worth, weighed.cost, inf, eligible), Reason.BUDGET, 1.0)
        order, reason = self._ordered(weighed, situation.pace, affordable)
        if reason is Reason.BEST_VALUE and point is not None and point.certificate is None and point.guard is not None:
            reason = Reason.UNCERTIFIED
        if situation.pace > 0 or len(affordable) < len(eligible):
            free, _ = self._ordered(weighed, 0.0, eligible)
            if free[0] != order[0]:
                reason = Reason.BUDGET
        preferences = weighed.policy.preferences
        if preferences is not None and preferences.providers and reason in _BY_WORTH:
            order = first(order, self._eligibility.directory.earliest(order, preferences.providers))
        if situation.explore > 0 and reason in _EXPLORABLE:
            order += [column for column in apart if weighed.limit[column] <= situation.most_usd]
            return explored(order, reason, rate_of(situation.explore, point), situation.draw)
        return Choice(order, reason, 1.0)

    def _ordered(self, weighed: Weighed, pace: float, eligible: list[int]) -> tuple[list[int], Reason]:
        """The eligible columns, best first, and why that one is: each step may overrule the one before."""
        setting, confidence, reference = weighed.setting, weighed.seen.confidence, self._reference
        knob = setting.knob + pace
        order = rank(weighed.worth, weighed.cost, knob, eligible)
        if len(eligible) == 1:
            return order, Reason.ONLY_ELIGIBLE
        if pace == 0 and setting.always in eligible:
            return first(order, setting.always), Reason.REFERENCE
        if pace > 0 and (better := dominating(weighed.value, weighed.cost, order[0], order)):
            # only the guard can be: its worth is 0 by definition, whatever its chances are
            order = first(order, better[0])
        if reference in eligible and order[0] != reference:
            if weighed.seen.novelty > self.manifest.novelty.threshold:
                return first(order, reference), Reason.NOVEL
            if confidence[order[0]] < min(weighed.policy.abstain_below, confidence[reference]):
                return first(order, reference), Reason.LOW_CONFIDENCE
        kept = self._columns.get(weighed.situation.session or "")
        if kept in eligible and kept != order[0] and not self._moves(weighed, knob, order, kept):
            return first(order, kept), Reason.SESSION
        return order, Reason.BEST_VALUE

    @staticmethod
    def _moves(weighed: Weighed, knob: float, order: list[int], kept: int) -> bool:
        """Whether a session's gain from moving to the best candidate is clear enough, or another is surer and cheaper."""
        best = order[0]
        if dominating(weighed.value, weighed.cost, kept, order):
            return True
        saved = weighed.cost[kept] - weighed.cost[best]
        if isinf(knob):
            return saved > 0
        return weighed.worth[best] - weighed.worth[kept] + knob * saved > weighed.situation.session_margin

    def _knob(self, policy: Policy) -> float:
        if policy.knob is not None:
            return policy.knob
        return 0.0 if policy.cost_quality is None else knob_for(policy.cost_quality, self.manifest.knobs)

    def _certificate(
        self,
        choice: Choice,
        weighed: Weighed,
        plain: list[float],
        point: OperatingPoint | None,
        workflow: str | None,
    ) -> Certificate | None:
        """The point's certificate where it reaches this choice.

        It is for the choice among all the point's candidates with its own knob, by `plain` costs without a cache's discount,
        for requests like those it was made on: where anything changed that choice it says nothing. Only what goes to the
        reference instead cannot break it. What is explored has no certificate of its own.
        """
        if point is None or point.certificate is None or choice.reason is Reason.EXPLORE:
            return None
        if self._objective(weighed.policy) is not self.manifest.objective:
            return None
        if weighed.situation.pace > 0:  # it takes the reference's share away, and what is left is not what was tested
            return None
        if choice.order[0] == self._reference:
            return point.certificate
        # A bundle that knows no workflow is made on requests of all of them.
        if self.manifest.head.workflows and (workflow or NO_WORKFLOW) not in point.certificate.workflows:
            return None
        everyone = [column for column in range(len(self.candidates)) if column not in weighed.setting.without]
        best = rank(weighed.worth, plain, weighed.setting.knob, everyone)[0]
        return point.certificate if choice.order[0] == best else None

    def _decision(
        self,
        seen: Row,
        limit: list[float],
        rules: list[Rule | None],
        choice: Choice,
        knob: float,
        point: OperatingPoint | None,
        certified: Callable[[Choice], Certificate | None],
        missing: str = "",
    ) -> Made:
        known = [
            [None if isnan(value) else value for value in values]
            for values in (seen.confidence, seen.cost, seen.quality, seen.latency, seen.latency_p95)
        ]
        alternatives = tuple(map(Alternative._make, zip(self.candidates, *known, rules, strict=True)))
        chosen = alternatives[choice.order[0]]
        decision = Decision(
            candidate=chosen.candidate,
            confidence=chosen.confidence,
            expected_cost_usd=chosen.expected_cost_usd,
            fallbacks=tuple(self.candidates[column] for column in choice.order[1:]),
            reason=choice.reason,
            operating_point=None if point is None else point.name,
            quality_target=None if point is None else point.quality_target,
            certificate=certified(choice),
            knob=knob,
            propensity=choice.propensity,
            novelty=known_or_none(seen.novelty),
            cluster=seen.cluster,
            alternatives=alternatives,
            bundle=self.manifest.version,
            warnings=(missing,) if missing else (),
            held_usd=known_or_none(limit[choice.order[0]]),
            instead=None if choice.instead is None else self.candidates[choice.instead],
        )
        return Made(decision, choice, limit, certified)


def _uncertified(_choice: Choice) -> None:
    return None
