"""Who may be asked too, who is, and that the probability written down is the true one, for every candidate a positive one."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle.request import RouteRequest
from serving.decide.also import drawn, may_be_asked
from serving.decide.decision import Alternative, Decision, Reason, Situation
from serving.decide.policy import Policy
from serving.decide.router import Router
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL

DRAWS = 1200


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Router:
    return Router.load(fake_bundle.build(tmp_path_factory.mktemp("models")))


def named(decision: Decision, *globs: str) -> list[str]:
    return [one.candidate for one in may_be_asked(decision, globs)]


def over_places(decision: Decision, share: float) -> dict[str, float]:
    """The propensity of each candidate, which its frequency at evenly spaced places is held against."""
    among = may_be_asked(decision)
    found = [drawn(among, LARGE, share, (n + 0.5) / DRAWS) for n in range(DRAWS)]
    propensity = {one.candidate: one.propensity for one in found}
    counts = Counter(one.candidate for one in found)
    assert {name: share * count / DRAWS for name, count in counts.items()} == pytest.approx(propensity)
    assert set(propensity) == {one.candidate for one in among}
    return propensity


# --- facts ---


def test_the_reference_has_half_where_another_answers(router: Router) -> None:
    decision = router.route("hello", Policy(cost_quality=0))
    assert decision.candidate == SMALL
    assert over_places(decision, 0.2) == pytest.approx({LARGE: 0.1, OPEN: 0.1})
    [alone] = {drawn(may_be_asked(decision, [LARGE]), LARGE, 0.2, place) for place in (0.0, 0.4, 0.9999)}
    assert alone == (LARGE, 0.2, decision.alternatives[2].expected_cost_usd)


def test_the_others_have_equal_parts_where_the_reference_answers(router: Router) -> None:
    decision = router.route("hello", Policy(quality_target=0.999))
    assert (decision.candidate, decision.reason) == (LARGE, Reason.REFERENCE)
    assert over_places(decision, 0.2) == pytest.approx({SMALL: 0.1, OPEN: 0.1})


def test_of_many_the_reference_has_half_and_each_other_an_equal_part_of_the_rest() -> None:
    among = [Alternative(name, 0.5, 0.001, 0.5, None, None, None) for name in ("a", LARGE, "b", "c")]
    found = [drawn(among, LARGE, 0.3, (n + 0.5) / DRAWS) for n in range(DRAWS)]
    assert Counter(one.candidate for one in found) == {LARGE: DRAWS // 2, **dict.fromkeys("abc", DRAWS // 6)}
    assert {one.candidate: one.propensity for one in found} == pytest.approx(
        {LARGE: 0.15, **dict.fromkeys("abc", 0.05)}
    )


@pytest.mark.parametrize(
    ("policy", "others"),
    [
        (Policy(cost_quality=0), [OPEN, LARGE]),
        (Policy(cost_quality=0, allow=(("acme/*",),)), [LARGE]),
        (Policy(cost_quality=0, deny=(LARGE,)), [OPEN]),
        (Policy(cost_quality=0, max_cost_usd=0.002), [OPEN]),
        (Policy(cost_quality=0, max_latency_ms=1_000), []),
        (Policy(self_hosted=True), []),
    ],
)
def test_only_who_may_decide_it_may_be_asked_too(router: Router, policy: Policy, others: list[str]) -> None:
    assert named(router.route("hello", policy)) == others


def test_what_a_request_needs_is_needed_of_who_is_asked_too(router: Router) -> None:
    long = RouteRequest("hello " * 1_500)  # more than the window of the small one
    assert named(router.route(long)) == [name for name in (OPEN, LARGE) if name != router.route(long).candidate]
    tools = RouteRequest(messages=[{"role": "user", "content": "hello"}], tools=True)
    assert SMALL not in named(router.route(tools))


def test_globs_name_who_may_be_asked(router: Router) -> None:
    decision = router.route("hello", Policy(cost_quality=0))
    assert named(decision, "open/*") == [OPEN]
    assert named(decision, "acme/*", "open/*") == [OPEN, LARGE]
    assert named(decision, "gpt-*", SMALL) == []


def test_nobody_is_asked_beside_a_decision_without_estimates_or_without_a_cost(router: Router) -> None:
    decision = router.route("hello", Policy(cost_quality=0))
    assert named(replace(decision, confidence=None)) == []
    priceless = tuple(one._replace(expected_cost_usd=None) for one in decision.alternatives)
    assert named(replace(decision, alternatives=priceless)) == []
    nobody = router.route("hello", Policy(deny=("*",)), Situation(no_candidate=LARGE))
    assert (nobody.reason, named(nobody)) == (Reason.NO_CANDIDATE, [])


# --- properties ---


@given(
    names=st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=1, unique=True),
    reference=st.sampled_from(["a", "z"]),
    share=st.floats(1e-6, 1.0),
    place=st.floats(0.0, 1.0, exclude_max=True),
)
def test_whoever_is_drawn_is_one_of_them_with_a_positive_propensity_and_all_add_up(
    names: list[str], reference: str, share: float, place: float
) -> None:
    among = [Alternative(name, 0.5, 0.001, 0.5, None, None, None) for name in names]
    one = drawn(among, reference, share, place)
    assert one.candidate in names
    assert 0 < one.propensity <= share
    everyone = {drawn(among, reference, share, (n + 0.5) / 240) for n in range(240)}
    assert sorted(other.candidate for other in everyone) == sorted(names)
    assert sum(other.propensity for other in everyone) == pytest.approx(share)
