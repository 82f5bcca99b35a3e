"""What one request would go to under other policies. Each is asked of the engine itself, on the same estimates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

from serving.bundle.arrays import Floats32
from serving.decide.decision import Decision, Estimates, Reason, Situation
from serving.decide.eligibility import NoEligibleCandidateError, Rule
from serving.decide.policy import Policy
from serving.decide.router import Router
from serving.decide.value import cost_quality_for, crossings, knob_for
from serving.runtime.recording import Case
from serving.state.budgets import Allowance
from serving.state.rulebook import RuleBook

REQUEST = "request"  # the scope of what a request asks or needs itself
_UNLIMITED = Allowance()
_LEAST, _MOST = 0.0, 10.0
_APART = 1e-9  # places that are nearer to each other are one
_MOST_PAIRED = 12  # of so many candidates every pair is looked at, where the order of all of them bears on the choice


class Stretch(NamedTuple):
    """From one `cost_quality` to another the same choice."""

    low: float
    high: float
    model: str
    certified: bool


@dataclass(frozen=True)
class Choices:
    """One request, and what its choice is made by beside what is asked: the rules of its scopes, and what is expected.

    Nothing of the service's state bears on it: no session, no budget, nothing explored, nothing held back.
    """

    router: Router
    case: Case
    estimates: Estimates
    tightening: Mapping[str, Policy]

    @classmethod
    def of(cls, router: Router, case: Case, rules: RuleBook, embedding: Floats32) -> Choices:
        """`embedding` (1, dim) is that of the request's text."""
        scopes = dict(rules.every_scope())
        found = {name: scopes[name].tightening for name in case.scopes if name in scopes}
        tightening = {name: one for name, one in found.items() if one is not None}
        return cls(router, case, router.estimates_of(case.request, embedding), tightening)

    @property
    def own(self) -> Decision:
        """The decision under the request's own policy; raises NoEligibleCandidateError."""
        return self.under(_UNLIMITED)

    def under(self, allowance: Allowance) -> Decision:
        """The same by what the budgets leave."""
        situation = replace(self._situation, pace=allowance.pace, most_usd=allowance.most_usd)
        [decision] = self._decided([self.case.policy], situation)
        if isinstance(decision, NoEligibleCandidateError):
            raise decision
        return decision

    def flips(self) -> list[Stretch]:
        """What is chosen at every `cost_quality` from 0 to 10, in rising order."""
        places = self._places()
        middles = [(low + high) / 2 for low, high in pairwise(places)]
        decided = self._decided([self._at(place) for place in (_LEAST, *middles, _MOST)])
        ranges = [(_LEAST, _LEAST), *pairwise(places), (_MOST, _MOST)]
        stretches: list[Stretch] = []
        for (low, high), one in zip(ranges, decided, strict=True):
            if isinstance(one, NoEligibleCandidateError):
                continue  # the rules are the same at every place: then there is none at any
            last = stretches[-1] if stretches else None
            if last is not None and (last.model, last.certified) == (one.candidate, one.certificate is not None):
                stretches[-1] = last._replace(high=high)
            else:
                stretches.append(Stretch(low, high, one.candidate, one.certificate is not None))
        return stretches

    def points(self) -> Iterator[tuple[str, float | None, Decision]]:
        """The name and the target of each operating point that can be asked for, and what it decides."""
        manifest = self.router.manifest
        points = [
            one
            for one in manifest.operating_points
            if one.quality_target is not None or one.name == manifest.default_point
        ]
        targets = [None if one.name == manifest.default_point else one.quality_target for one in points]
        asked = [self._under(replace(self.case.asked, quality_target=one, cost_quality=None)) for one in targets]
        for point, one in zip(points, self._decided(asked), strict=True):
            if isinstance(one, Decision):
                yield point.name, point.quality_target, one

    def scopes_of(self, ruled_out: Mapping[str, Rule]) -> dict[str, list[str]]:
        """For each candidate that a rule excludes the scopes that do so by themselves."""
        if not ruled_out:
            return {}
        apart = {REQUEST: self.case.asked, **self.tightening}
        bare, *decided = self._decided([Policy(), *apart.values()])
        shape = _rules_of(bare)
        by_scope = dict(zip(apart, map(_rules_of, decided), strict=True))
        return {
            model: [REQUEST]
            if shape.get(model) == rule
            else [scope for scope, rules in by_scope.items() if rules.get(model) == rule]
            for model, rule in ruled_out.items()
        }

    def _places(self) -> list[float]:
        """Where the choice may become another one, with 0 and 10: in rising order, none twice."""
        manifest = self.router.manifest
        objective = self.case.policy.objective or manifest.objective
        value = self.estimates.of(objective)[0].astype(np.float64).tolist()
        cost = self.estimates.cost_usd[0].tolist()
        ruled_out = _rules_of(self._decided([self.case.policy])[0])
        eligible = [column for column, name in enumerate(self.router.candidates) if name not in ruled_out]
        knobs = crossings(value, cost, eligible)
        if self.case.policy.preferences is not None:
            knobs += [knob for pair in every_pair(eligible) for knob in crossings(value, cost, pair)]
        knobs += [point.knob for point in manifest.operating_points]
        floors = [one.cost_quality for one in self.tightening.values() if one.cost_quality is not None]
        found = sorted({cost_quality_for(knob, manifest.knobs) for knob in knobs} | {*floors, _LEAST, _MOST})
        return [one for place, one in enumerate(found) if not place or one == _MOST or one - found[place - 1] > _APART]

    def _at(self, place: float) -> Policy:
        return self._under(replace(self.case.asked, quality_target=None, cost_quality=place))

    def _under(self, asked: Policy) -> Policy:
        """What a request asks, tightened by the rules."""
        policy = asked
        for one in self.tightening.values():
            policy = policy.tightened(one)
        return policy

    @property
    def _situation(self) -> Situation:
        return Situation(no_candidate=self.case.no_candidate, asked=self.case.asked)

    def _decided(
        self, policies: Sequence[Policy], situation: Situation | None = None
    ) -> list[Decision | NoEligibleCandidateError]:
        followed = [replace(policy, share=1.0) for policy in policies]
        return self.router.decide_each(self.case.request, followed, situation or self._situation, self.estimates)


def without_estimates(router: Router, case: Case, reason: Reason, allowance: Allowance) -> Decision:
    """What a request that is not embedded goes to by what the budgets leave; raises NoEligibleCandidateError."""
    situation = Situation(
        no_candidate=case.no_candidate, asked=case.asked, pace=allowance.pace, most_usd=allowance.most_usd
    )
    return router.decide_without_estimates(case.request, replace(case.policy, share=1.0), situation, reason)


def every_pair(columns: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The pairs of so few columns that each can be looked at; none of more, for that would take many times a decision."""
    return combinations(columns, 2) if len(columns) <= _MOST_PAIRED else iter(())


def knobs_of(stretch: Stretch, knobs: Sequence[float]) -> tuple[float, float]:
    """The knobs at the two ends of a stretch, the lower first."""
    return knob_for(stretch.high, knobs), knob_for(stretch.low, knobs)


def _rules_of(decided: Decision | NoEligibleCandidateError) -> Mapping[str, Rule]:
    if isinstance(decided, NoEligibleCandidateError):
        return decided.rules
    return {one.candidate: one.ruled_out for one in decided.alternatives if one.ruled_out is not None}
