"""Exploration: a logged propensity that is the true one, within the rules and the share a certificate has paid for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bundle.manifest import Bundle, open_bundle
from serving.bundle.request import RouteRequest
from serving.decide.decision import Decision, Reason, Situation
from serving.decide.endpoints import Preferences
from serving.decide.exploration import explored, rate_of
from serving.decide.policy import Policy
from serving.decide.router import Router
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL

DRAWS = 400
ALPHA = {"q0.8": 0.2, "q0.9": 0.1}


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Router:
    """q0.8 is certified with a share of 0.05 set aside to explore, q0.9 has a target and no certificate."""
    opened = open_bundle(fake_bundle.build(tmp_path_factory.mktemp("models")))
    points = tuple(
        point.model_copy(update={"certificate": fake_bundle.certificate(alpha=0.2, bound=0.12), "explore": 0.05})
        if point.name == "q0.8"
        else point
        for point in opened.manifest.operating_points
    )
    return Router(Bundle(opened.folder, opened.manifest.model_copy(update={"operating_points": points})))


def over_draws(router: Router, policy: Policy, explore: float, request: str | RouteRequest = "hello") -> list[Decision]:
    """The decisions at evenly spaced draws: their shares are the true propensities, to 1 / DRAWS a candidate."""
    draws = (np.arange(DRAWS) + 0.5) / DRAWS
    return [router.route(request, policy, Situation(explore=explore, draw=float(draw))) for draw in draws]


def propensities(decisions: list[Decision]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in decisions:
        assert found.setdefault(one.candidate, one.propensity) == one.propensity
    return found


# --- facts ---


def test_the_draw_decides_by_hand() -> None:
    order = [2, 0, 1]
    chosen = [explored(order, Reason.BEST_VALUE, 0.2, draw) for draw in (0.0, 0.0999, 0.1, 0.1999, 0.2, 0.999)]
    assert [one.order[0] for one in chosen] == [0, 0, 1, 1, 2, 2]
    assert [one.propensity for one in chosen] == [0.1, 0.1, 0.1, 0.1, 0.8, 0.8]
    assert [one.reason for one in chosen] == [Reason.EXPLORE] * 4 + [Reason.BEST_VALUE] * 2
    assert [one.order for one in chosen[::2]] == [[0, 2, 1], [1, 2, 0], [2, 0, 1]]


@pytest.mark.parametrize(
    ("policy", "rate"),
    [
        (Policy(), 0.1),
        (Policy(cost_quality=5), 0.1),
        (Policy(knob=30.0), 0.1),
        (Policy(quality_target=0.8), 0.05),
        (Policy(quality_target=0.9), 0.0),
        (Policy(quality_target=0.99), 0.0),
        (Policy(allow=(("acme/small",),)), 0.0),
    ],
    ids=["default point", "cost_quality", "knob", "certified", "target, not certified", "always reference", "only one"],
)
def test_the_share_that_explores(router: Router, policy: Policy, rate: float) -> None:
    explored = [one for one in over_draws(router, policy, 0.1) if one.reason is Reason.EXPLORE]
    assert len(explored) / DRAWS == pytest.approx(rate)


def test_what_overrules_the_choice_is_not_explored(router: Router) -> None:
    spent = router.route("hello", Policy(), Situation(most_usd=0.0, explore=0.2, draw=0.0))
    assert (spent.reason, spent.propensity) == (Reason.BUDGET, 1.0)
    unsure = router.route("hello", Policy(knob=200.0, abstain_below=0.9), Situation(explore=0.2, draw=0.0))
    assert (unsure.reason, unsure.candidate, unsure.propensity) == (Reason.LOW_CONFIDENCE, LARGE, 1.0)


def test_what_is_explored_has_no_certificate_and_what_is_not_keeps_it(router: Router) -> None:
    policy = Policy(quality_target=0.8)
    exploring = router.route("hello", policy, Situation(explore=0.2, draw=0.0))
    assert (exploring.reason, exploring.certificate) == (Reason.EXPLORE, None)
    kept = router.route("hello", policy, Situation(explore=0.2, draw=0.9))
    assert (kept.reason, kept.certificate) == (Reason.BEST_VALUE, fake_bundle.certificate(alpha=0.2, bound=0.12))
    forced = router.route("hello", policy, Situation(explore=0.2, draw=0.0, pace=1e6))
    assert (forced.reason, forced.certificate) == (Reason.BUDGET, None), (
        "a choice that a budget changed is not explored"
    )


@pytest.mark.parametrize("preferences", [None, Preferences(models=(SMALL, LARGE, OPEN)), Preferences(fallbacks=False)])
def test_an_explored_decision_says_who_would_have_been_chosen_whatever_order_fallbacks_are_in(
    router: Router, preferences: Preferences | None
) -> None:
    policy = Policy(knob=30.0, preferences=preferences)
    plain = router.route("hello", policy)
    assert (plain.candidate, plain.instead) == (OPEN, None)
    for draw, tried in ((0.0, LARGE), (0.15, SMALL)):
        decision = router.route("hello", policy, Situation(explore=0.2, draw=draw))
        assert (decision.reason, decision.candidate, decision.instead) == (Reason.EXPLORE, tried, OPEN)
    kept = router.route("hello", policy, Situation(explore=0.2, draw=0.9))
    held = router.route("hello", policy, Situation(explore=0.2, draw=0.0, share=0.5, hold=1.0))
    assert (kept.instead, held.reason, held.instead) == (None, Reason.HELD_BACK, None)


def test_nothing_is_explored_where_the_reference_always_answers(router: Router) -> None:
    for situation in (Situation(explore=0.2, pace=1e4), Situation(explore=0.2)):
        for policy in (Policy(quality_target=0.99), Policy(quality_target=0.99, deny=(LARGE,))):
            reasons = {
                router.route("hello", policy, replace(situation, draw=draw)).reason for draw in (0.0, 0.05, 0.19)
            }
            assert Reason.EXPLORE not in reasons


# --- properties ---


@given(
    order=st.permutations(range(5)).flatmap(lambda all_: st.integers(2, 5).map(lambda m: list(all_)[:m])),
    rate=st.floats(0, 0.2),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_propensities_sum_to_one_whatever_is_drawn(order: list[int], rate: float, draw: float) -> None:
    chosen = explored(order, Reason.BEST_VALUE, rate, draw)
    assert sorted(chosen.order) == sorted(order)
    others = len(order) - 1
    greedy, other = (chosen.propensity, rate / others) if chosen.order == order else (1 - rate, chosen.propensity)
    assert greedy + others * other == pytest.approx(1.0)
    assert 0 < chosen.propensity <= 1


@settings(deadline=None, max_examples=40)
@given(
    explore=st.floats(0.01, 0.2),
    knob=st.sampled_from([0.0, 1.0, 30.0, 200.0, float("inf")]),
    deny=st.sets(st.sampled_from([SMALL, OPEN, LARGE]), max_size=2),
    tools=st.booleans(),
    session=st.sampled_from([None, SMALL, OPEN, LARGE, "unknown"]),
)
def test_the_propensity_is_how_often_a_candidate_is_chosen_and_none_is_ineligible(
    router: Router, explore: float, knob: float, deny: set[str], tools: bool, session: str | None
) -> None:
    request = RouteRequest("hello", tools=tools)
    policy = Policy(knob=knob, deny=tuple(deny))
    eligible = {SMALL, OPEN, LARGE} - deny - ({SMALL} if tools else set())
    if not eligible:
        return
    decisions = [
        router.route(request, policy, Situation(session=session, explore=explore, draw=(k + 0.5) / DRAWS))
        for k in range(DRAWS)
    ]
    found = propensities(decisions)
    assert found.keys() <= eligible
    assert sum(found.values()) <= 1 + 1e-9
    for candidate, propensity in found.items():
        share = sum(one.candidate == candidate for one in decisions) / DRAWS
        assert share == pytest.approx(propensity, abs=1.5 / DRAWS)
    if len(found) == len(eligible):
        assert sum(found.values()) == pytest.approx(1.0)


@given(explore=st.floats(0, 0.2), share=st.floats(0, 1), room=st.floats(0, 0.5))
def test_no_more_is_explored_than_was_set_aside_however_much_room_the_bound_leaves(
    router: Router, explore: float, share: float, room: float
) -> None:
    known = {"certificate": fake_bundle.certificate(alpha=0.5, bound=0.5 - room), "explore": share}
    assert rate_of(explore, router.manifest.operating_points[1].model_copy(update=known)) == min(explore, share)
