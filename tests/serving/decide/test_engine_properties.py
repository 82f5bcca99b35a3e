"""What holds of every way to a decision: a normal request, a time-out, a fault, and one that nobody is eligible for."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle.manifest import Manifest
from serving.bundle.request import ReadRequest, RouteRequest, read
from serving.decide.decision import Alternative, Decision, Estimates, Reason, Situation
from serving.decide.eligibility import Demand, NoEligibleCandidateError, Rule, rule_out
from serving.decide.engine import Engine
from serving.decide.policy import Policy
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.serving.decide.test_router_properties import policies, requests, situations

NAMES = [SMALL, OPEN, LARGE]
MANIFEST: Manifest = fake_bundle.manifest()
ENGINE = Engine(MANIFEST)
WITHOUT = (Reason.TIMEOUT, Reason.FAULT)
ways = st.sampled_from([None, *WITHOUT])
named = st.sampled_from([None, *NAMES, "gone"])


def row_of(values: object) -> np.ndarray:
    return np.array([values], dtype=np.float32)


@st.composite
def estimates(draw: st.DrawFn) -> Estimates:
    """One request's, whatever a head might give."""

    def each(numbers: st.SearchStrategy[float]) -> np.ndarray:
        return row_of(draw(st.lists(numbers, min_size=3, max_size=3)))

    chances, latency = st.floats(0, 1, width=32), st.sampled_from([nan, 200.0, 3000.0])
    return Estimates(
        acceptable=each(chances),
        quality=each(chances),
        cost_usd=each(st.sampled_from([0.0, 5e-5, 0.001, 0.006, 0.02])),
        latency_ms=each(latency),
        latency_p95_ms=each(latency),
        input_tokens=each(st.sampled_from([0.0, 100.0, 1900.0, 1e4])),
        output_tokens=each(st.just(100.0)),
        nearness=row_of(draw(st.permutations([0.1, 0.2, 0.3]))),
        novelty=row_of([draw(st.sampled_from([0.5, 3.0]))]),
    )


def decided(
    request: RouteRequest, policy: Policy, situation: Situation, known: Estimates, way: Reason | None
) -> Decision | NoEligibleCandidateError:
    one = read(request)
    try:
        return ENGINE.decide(one, policy, situation, known if way is None else ENGINE.unknown(one), without=way)
    except NoEligibleCandidateError as error:
        return error


def eligible_of(decision: Decision) -> dict[str, Alternative]:
    return {one.candidate: one for one in decision.alternatives if one.ruled_out is None}


every = (requests, policies, situations, named, estimates(), ways)


@given(*every)
def test_the_chosen_one_and_the_fallbacks_are_eligible_and_each_is_there_once(
    request: RouteRequest,
    policy: Policy,
    situation: Situation,
    default: str | None,
    known: Estimates,
    way: Reason | None,
) -> None:
    found = decided(request, policy, replace(situation, no_candidate=default), known, way)
    if isinstance(found, NoEligibleCandidateError):
        assert found.rules.keys() == set(NAMES)
        assert default not in NAMES
        return
    assert [one.candidate for one in found.alternatives] == NAMES
    eligible = eligible_of(found)
    if found.reason is Reason.NO_CANDIDATE:
        assert (found.candidate, found.fallbacks, eligible) == (default, (), {})
        return
    returned = [found.candidate, *found.fallbacks]
    assert set(returned) <= eligible.keys()
    assert len(set(returned)) == len(returned)
    assert way in (None, found.reason)
    assert 0 < found.propensity <= 1


@given(*every)
def test_nothing_dearer_than_the_budgets_hold_while_anything_is_not(
    request: RouteRequest,
    policy: Policy,
    situation: Situation,
    default: str | None,
    known: Estimates,
    way: Reason | None,
) -> None:
    found = decided(request, policy, replace(situation, no_candidate=default), known, way)
    if isinstance(found, NoEligibleCandidateError) or found.reason is Reason.NO_CANDIDATE:
        return
    cost = {
        name: inf if one.expected_cost_usd is None else one.expected_cost_usd
        for name, one in eligible_of(found).items()
    }
    affordable = {name for name, usd in cost.items() if usd <= situation.most_usd}
    if affordable:
        assert {found.candidate, *found.fallbacks} == affordable
    else:
        assert cost[found.candidate] == min(cost.values())


@given(*every)
def test_the_same_comes_of_the_same(
    request: RouteRequest,
    policy: Policy,
    situation: Situation,
    default: str | None,
    known: Estimates,
    way: Reason | None,
) -> None:
    situation = replace(situation, no_candidate=default)
    one, other = (repr(decided(request, policy, situation, known, way)) for _ in range(2))
    assert one == other


@given(requests, policies, situations, st.sampled_from(WITHOUT))
def test_without_estimates_the_hard_rules_hold_on_what_prices_and_length_give(
    request: RouteRequest, policy: Policy, situation: Situation, way: Reason
) -> None:
    one: ReadRequest = read(request)
    output = float(request.max_output_tokens or 0)
    cost = [float(np.float32(c.cost_usd(one.tokens, output))) if c.priced else nan for c in MANIFEST.candidates]
    demand = Demand([one.tokens] * 3, cost, [nan] * 3)
    rules = rule_out(MANIFEST.candidates, one, policy, demand, margin=1.1)
    found = decided(request, policy, situation, ENGINE.unknown(one), way)
    if isinstance(found, NoEligibleCandidateError):
        assert list(found.rules.values()) == rules
        return
    assert [alternative.ruled_out for alternative in found.alternatives] == rules
    dear = [usd for usd, rule in zip(cost, rules, strict=True) if rule is None and usd <= situation.most_usd]
    if rules[2] is None and cost[2] <= situation.most_usd:
        assert found.candidate == LARGE  # the reference
    elif dear:
        assert found.expected_cost_usd == max(dear)


@given(requests, policies, situations, st.sampled_from(WITHOUT))
def test_a_time_out_differs_only_in_what_estimates_would_have_told(
    request: RouteRequest, policy: Policy, situation: Situation, way: Reason
) -> None:
    """By estimates that say no more than prices and length do, the same are eligible, at the same costs."""
    blank = ENGINE.unknown(read(request))
    # A normal decision on costs that are all known, and chances that tell nobody apart.
    told = replace(
        blank,
        acceptable=row_of([0.5] * 3),
        quality=row_of([0.5] * 3),
        cost_usd=np.nan_to_num(blank.cost_usd, nan=0.001),
        novelty=row_of([0.5]),
        nearness=row_of([1.0]),
    )
    free = replace(policy, max_cost_usd=None)
    hasty, normal = decided(request, free, situation, blank, way), decided(request, free, situation, told, None)
    if isinstance(hasty, NoEligibleCandidateError):
        assert isinstance(normal, NoEligibleCandidateError)
        assert hasty.rules == normal.rules
        return
    assert isinstance(normal, Decision)
    assert eligible_of(hasty).keys() == eligible_of(normal).keys()
    assert (hasty.bundle, hasty.reason) == (normal.bundle, way)
    told_nothing = (hasty.confidence, hasty.novelty, hasty.cluster, hasty.certificate, hasty.operating_point)
    assert told_nothing == (None,) * 5
    assert (hasty.knob, hasty.propensity) == (0.0, 1.0)


def test_without_estimates_by_hand() -> None:
    def names(policy: Policy = Policy(), most_usd: float = inf) -> list[str]:  # noqa: B008
        found = decided(request, policy, Situation(most_usd=most_usd), ENGINE.unknown(read(request)), Reason.TIMEOUT)
        assert isinstance(found, Decision)
        return [found.candidate, *found.fallbacks]

    request = RouteRequest("hello " * 400, max_output_tokens=100)  # 600 tokens: $0.0001 SMALL, $0.005 LARGE
    assert names() == [LARGE, SMALL, OPEN], "the reference, then the dearest; what costs nobody knows how much is last"
    assert names(Policy(deny=(LARGE,))) == [SMALL, OPEN]
    assert names(most_usd=0.001) == [SMALL], "a cost that is not known is more than a budget holds"
    assert names(most_usd=0.0) == [SMALL, LARGE, OPEN], "the cheapest, where the budgets hold none of them"
    assert names(Policy(max_cost_usd=0.001)) == [SMALL]


def test_who_answers_when_nobody_is_eligible_by_hand() -> None:
    request, nobody = RouteRequest("hello"), Policy(allow=(("none",),))
    known = replace(ENGINE.unknown(read(request)), acceptable=row_of([0.5] * 3), novelty=row_of([1.0]))
    for way in (None, *WITHOUT):
        found = decided(request, nobody, Situation(no_candidate=SMALL), known, way)
        assert isinstance(found, Decision)
        assert (found.candidate, found.fallbacks, found.reason) == (SMALL, (), Reason.NO_CANDIDATE)
        assert (found.confidence, found.novelty) == (None, None)
        assert {one.ruled_out for one in found.alternatives} == {Rule.NOT_ALLOWED}
        assert isinstance(
            decided(request, nobody, Situation(no_candidate="gone"), known, way), NoEligibleCandidateError
        )
