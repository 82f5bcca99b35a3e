"""What holds of every way to a decision: a normal request, a time-out, a fault, and one that nobody is eligible for."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle.catalogue import Capability
from serving.bundle.manifest import Manifest
from serving.bundle.request import RouteRequest, read
from serving.decide.decision import Alternative, Decision, Estimates, Reason, Situation
from serving.decide.eligibility import Demand, Eligibility, NoEligibleCandidateError, Rule
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
        violation=each(chances),
        cost_usd=each(st.sampled_from([0.0, 5e-5, 0.001, 0.006, 0.02])),
        latency_ms=each(latency),
        latency_p95_ms=each(latency),
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


def shape_rule(request: RouteRequest, name: str) -> Rule | None:
    """The rule by which the request's shape alone excludes a candidate."""
    candidate = MANIFEST.candidates[NAMES.index(name)]
    return Eligibility([candidate], 1.1).rules(read(request), Policy(), Demand([0.0], [0.0]))[0]


def held_against(request: RouteRequest, one: Alternative) -> float:
    """What the budgets hold against a candidate."""
    price = MANIFEST.candidates[NAMES.index(one.candidate)].input_usd_per_mtok or 0.0
    assert one.expected_cost_usd is not None
    return max(one.expected_cost_usd, read(request).counted * price / 1e6)


def eligible_of(decision: Decision) -> dict[str, Alternative]:
    return {one.candidate: one for one in decision.alternatives if one.ruled_out is None}


class Asked(NamedTuple):
    """What `decided` takes."""

    request: RouteRequest
    policy: Policy
    situation: Situation
    known: Estimates
    way: Reason | None


defaulted = st.builds(lambda situation, name: replace(situation, no_candidate=name), situations, named)
asked = st.builds(Asked, requests, policies, defaulted, estimates(), ways)


@given(asked)
def test_the_chosen_one_and_the_fallbacks_are_eligible_and_each_is_there_once(case: Asked) -> None:
    found, default = decided(*case), case.situation.no_candidate
    if isinstance(found, NoEligibleCandidateError):
        assert found.rules.keys() == set(NAMES)
        assert default not in NAMES or shape_rule(case.request, default) is not None
        return
    assert [one.candidate for one in found.alternatives] == NAMES
    eligible = eligible_of(found)
    if found.reason is Reason.NO_CANDIDATE:
        assert (found.candidate, found.fallbacks, eligible) == (default, (), {})
        assert shape_rule(case.request, found.candidate) is None
        return
    returned = [found.candidate, *found.fallbacks]
    assert set(returned) <= eligible.keys()
    assert len(set(returned)) == len(returned)
    assert case.way in (None, found.reason)
    assert 0 < found.propensity <= 1


@given(asked)
def test_nothing_dearer_than_the_budgets_hold_while_anything_is_not(case: Asked) -> None:
    found = decided(*case)
    if isinstance(found, NoEligibleCandidateError) or found.reason is Reason.NO_CANDIDATE:
        return
    eligible = eligible_of(found)
    affordable = {name for name, one in eligible.items() if held_against(case.request, one) <= case.situation.most_usd}
    if affordable:
        assert {found.candidate, *found.fallbacks} == affordable
    else:
        assert found.expected_cost_usd == min(one.expected_cost_usd or 0.0 for one in eligible.values())


@given(asked)
def test_the_same_comes_of_the_same(case: Asked) -> None:
    one, other = (repr(decided(*case)) for _ in range(2))
    assert one == other


@given(requests, policies, situations, st.sampled_from(WITHOUT))
def test_without_estimates_every_hard_rule_holds_on_what_is_usual(
    request: RouteRequest, policy: Policy, situation: Situation, way: Reason
) -> None:
    found = decided(request, policy, situation, ENGINE.unknown(read(request)), way)
    if isinstance(found, NoEligibleCandidateError):
        return
    eligible = eligible_of(found)
    for one in eligible.values():
        assert one.expected_cost_usd is not None
        if policy.max_cost_usd is not None:
            assert held_against(request, one) <= policy.max_cost_usd
        if policy.max_latency_ms is not None:
            assert (one.expected_latency_p95_ms or inf) <= policy.max_latency_ms
    affordable = {
        name: one.expected_cost_usd or 0.0
        for name, one in eligible.items()
        if held_against(request, one) <= situation.most_usd
    }
    rest = [name for name in (found.candidate, *found.fallbacks) if name != LARGE]
    if affordable:
        assert found.candidate == (LARGE if LARGE in affordable else min(affordable, key=affordable.__getitem__))
        assert [affordable[name] for name in rest] == sorted(affordable[name] for name in rest)


@given(requests, policies, situations, st.sampled_from(WITHOUT))
def test_a_time_out_differs_only_in_what_estimates_would_have_told(
    request: RouteRequest, policy: Policy, situation: Situation, way: Reason
) -> None:
    """By estimates that say no more than what is usual, the same are eligible, at the same costs."""
    blank = ENGINE.unknown(read(request))
    # A normal decision on chances that tell nobody apart.
    told = replace(
        blank,
        acceptable=row_of([0.5] * 3),
        quality=row_of([0.5] * 3),
        novelty=row_of([0.5]),
        nearness=row_of([1.0]),
    )
    hasty, normal = decided(request, policy, situation, blank, way), decided(request, policy, situation, told, None)
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
    def made(policy: Policy = Policy(), most_usd: float = inf) -> Decision:  # noqa: B008
        found = decided(request, policy, Situation(most_usd=most_usd), ENGINE.unknown(read(request)), Reason.TIMEOUT)
        assert isinstance(found, Decision)
        return found

    def names(policy: Policy = Policy(), most_usd: float = inf) -> list[str]:  # noqa: B008
        found = made(policy, most_usd)
        return [found.candidate, *found.fallbacks]

    request = RouteRequest("hello " * 400, max_output_tokens=150)
    assert read(request).counted == 680
    costs = [one.expected_cost_usd for one in made().alternatives]
    # tokens times price where there is one, with as much written as usual and no more than is allowed; OPEN's prompts cost
    # .001 at the usual 100 tokens
    assert costs == pytest.approx([680e-7 + 100 * 0.4e-6, 0.0068, 680 * 5e-6 + 150 * 20e-6], rel=1e-6)
    assert [one.expected_latency_p95_ms for one in made().alternatives] == [600.0, None, 2700.0]
    assert names() == [LARGE, SMALL, OPEN], "the reference, then the cheapest first"
    assert names(Policy(deny=(LARGE,))) == [SMALL, OPEN]
    assert names(most_usd=0.001) == [SMALL]
    assert names(most_usd=0.0) == [SMALL, LARGE, OPEN], "the cheapest, where the budgets hold none of them"
    assert names(Policy(max_cost_usd=0.001)) == [SMALL]
    assert names(Policy(max_latency_ms=1000.0)) == [SMALL], "a latency that is not known keeps to no limit"
    assert names(Policy(max_latency_ms=5000.0)) == [LARGE, SMALL]


def test_a_default_answers_only_where_the_caller_and_the_request_admit_it_by_hand() -> None:
    nobody = Policy(allow=(("none",),))

    def found(request: RouteRequest, asked: Policy) -> Decision | NoEligibleCandidateError:
        situation = Situation(no_candidate=SMALL, asked=asked)
        return decided(request, asked.tightened(nobody), situation, ENGINE.unknown(read(request)), Reason.TIMEOUT)

    assert isinstance(found(RouteRequest("hello"), Policy()), Decision)
    for asked in (
        Policy(deny=(SMALL,)),
        Policy(allow=((LARGE,),)),
        Policy(self_hosted=True),
        Policy(requires=frozenset({Capability.TOOLS})),
        Policy(max_cost_usd=1e-9),
        Policy(max_latency_ms=1.0),
    ):
        assert isinstance(found(RouteRequest("hello"), asked), NoEligibleCandidateError)
    for request in (RouteRequest("hello " * 2_000), RouteRequest("hello", tools=True)):
        assert isinstance(found(request, Policy()), NoEligibleCandidateError)


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


def test_what_a_default_is_told_to_cost_keeps_the_caller_s_limit_too() -> None:
    """The decision carries what is usual, so a limit between that and the estimates admits nobody."""
    request, asked = RouteRequest("hello"), Policy(max_cost_usd=1e-5)
    known = replace(ENGINE.unknown(read(request)), acceptable=row_of([0.5] * 3), cost_usd=row_of([1e-6] * 3))
    situation = Situation(no_candidate=SMALL, asked=asked)
    found = decided(request, asked.tightened(Policy(allow=(("none",),))), situation, known, None)
    assert isinstance(found, NoEligibleCandidateError)


@given(asked)
def test_no_decision_carries_a_cost_above_its_limit(case: Asked) -> None:
    policy = case.policy
    found = decided(*case._replace(situation=replace(case.situation, asked=policy)))
    if isinstance(found, Decision) and policy.max_cost_usd is not None:
        assert found.held_usd is not None
        assert found.expected_cost_usd is not None
        assert found.expected_cost_usd <= found.held_usd <= policy.max_cost_usd
