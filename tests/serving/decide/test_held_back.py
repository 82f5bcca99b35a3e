"""Decisions that are held back: who answers obeys rules and budgets, and the logged propensity is the true one."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import product
from math import sqrt
from pathlib import Path

import pytest

from serving.bundle.manifest import Bundle, open_bundle
from serving.bundle.request import RouteRequest, read
from serving.decide.decision import OTHER, Decision, Reason, Situation
from serving.decide.eligibility import NoEligibleCandidateError
from serving.decide.endpoints import Endpoints, Preferences
from serving.decide.policy import Policy
from serving.decide.router import Router
from serving.runtime.pipeline import Service
from serving.settings import Settings
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL

DRAWS = 40
EXISTING = "gpt-4o-prod"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def router(folder: Path) -> Router:
    """Every point has a certificate, made on requests with the tag "easy" and without a tag, and 0.05 to explore."""
    opened = open_bundle(folder)
    points = tuple(
        one.model_copy(update={"certificate": fake_bundle.certificate(), "explore": 0.05})
        for one in opened.manifest.operating_points
    )
    return Router(Bundle(opened.folder, opened.manifest.model_copy(update={"operating_points": points})))


def over_draws(router: Router, policy: Policy, *, explore: float = 0.0, share: float = 1.0) -> list[Decision]:
    """The decisions at every pair of evenly spaced draws: their frequencies are the true propensities."""
    places = [(k + 0.5) / DRAWS for k in range(DRAWS)]
    return [
        router.route("hello", policy, Situation(explore=explore, draw=draw, share=share, hold=1.0 - hold))
        for draw, hold in product(places, places)
    ]


def held(router: Router, policy: Policy, request: str | RouteRequest = "hello", **situation: float) -> Decision:
    return router.route(request, policy, Situation(hold=1.0, **situation))


@pytest.mark.parametrize("otherwise", [None, LARGE, OPEN, SMALL, EXISTING])
@pytest.mark.parametrize(("explore", "target"), [(0.0, None), (0.2, None), (0.2, 0.8)])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_the_propensity_is_the_frequency(
    router: Router, otherwise: str | None, explore: float, target: float | None, share: float
) -> None:
    aim = Policy(quality_target=target) if target else Policy(knob=30.0)
    policy = aim.tightened(Policy(share=share, otherwise=otherwise))
    decisions = over_draws(router, policy, explore=explore)
    frequency = Counter(one.candidate for one in decisions)
    told: dict[str, float] = {}
    for one in decisions:
        assert told.setdefault(one.candidate, one.propensity) == pytest.approx(one.propensity, abs=1e-12)
    assert sum(told.values()) == pytest.approx(1.0)
    for name, propensity in told.items():
        assert frequency[name] / len(decisions) == pytest.approx(propensity, abs=1e-9)
    answered = otherwise or LARGE
    assert {one.candidate for one in decisions if one.reason is Reason.HELD_BACK} == {answered}
    assert sum(one.reason is Reason.HELD_BACK for one in decisions) == round((1 - share) * len(decisions))


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_propensity_is_the_frequency_of_later_turns_too(folder: Path, share: float) -> None:
    """600 conversations of two turns that keep their side; of the second turn each stays by its first one's candidate."""
    policy = Policy(knob=46.0).tightened(Policy(share=share, otherwise=LARGE))
    service = Service(Settings(bundle=str(folder), embed_wait_ms=60_000, hash_secret="sides"))
    service._random.seed(1)

    async def turns(session: str) -> list[Decision]:
        asked = [RouteRequest(text, None, None, session) for text in ("hello", "prove")]
        found = []
        for one in asked:
            found.append((await service.route(service.case(one, policy, None)))[1])
            await asyncio.sleep(0)  # the turn is remembered behind its answer
        return found

    async def conversations() -> list[list[Decision]]:
        return [await turns(f"s{number}") for number in range(600)]

    for turn in zip(*asyncio.run(conversations()), strict=True):
        told: dict[str, float] = {}
        for one in turn:
            assert told.setdefault(one.candidate, one.propensity) == pytest.approx(one.propensity, abs=1e-12)
        assert sum(told.values()) == pytest.approx(1.0)
        for name, count in Counter(one.candidate for one in turn).items():
            error = sqrt(told[name] * (1.0 - told[name]) / len(turn))
            assert count / len(turn) == pytest.approx(told[name], abs=4 * error)
    assert {one.reason for one in turn} >= {Reason.SESSION, Reason.HELD_BACK}
    service.close()


def test_of_two_shares_the_lower_one_holds(router: Router) -> None:
    for setting, asked in ((0.5, 0.75), (0.75, 0.5), (0.5, 1.0)):
        decisions = over_draws(router, Policy(share=asked, otherwise=SMALL), share=setting)
        assert Counter(one.reason is Reason.HELD_BACK for one in decisions)[True] == len(decisions) / 2
    assert Policy(share=0.5, otherwise=SMALL).tightened(Policy(share=0.2, otherwise=LARGE)) == Policy(
        share=0.2, otherwise=SMALL
    )


def test_a_decision_that_is_held_back_by_hand(router: Router) -> None:
    own = router.route("hello", Policy(knob=30.0))
    found = held(router, Policy(knob=30.0, share=0.0, otherwise=SMALL))
    assert (found.candidate, found.reason, found.propensity) == (SMALL, Reason.HELD_BACK, 1.0)
    assert (own.candidate, own.fallbacks) == (OPEN, (LARGE, SMALL))
    assert found.fallbacks == (OPEN, LARGE)
    assert found.held_back == (OPEN, own.confidence, own.expected_cost_usd, False)
    small = found.alternatives[0]
    assert (found.confidence, found.expected_cost_usd) == (small.confidence, small.expected_cost_usd)
    assert found.held_usd == small.expected_cost_usd
    assert found.alternatives == own.alternatives
    assert router.route("hello", Policy(knob=30.0)).held_back is None
    bare = held(router, Policy(share=0.0, otherwise=SMALL, preferences=Preferences(fallbacks=False)))
    assert (bare.candidate, bare.fallbacks) == (SMALL, ())


def test_the_same_one_may_have_been_chosen(router: Router) -> None:
    found = held(router, Policy(knob=30.0, share=0.3, otherwise=OPEN))
    assert (found.candidate, found.reason, found.propensity) == (OPEN, Reason.HELD_BACK, 1.0)
    assert found.held_back is not None
    assert found.held_back.candidate == OPEN


def test_one_that_is_no_candidate_answers_and_nothing_is_expected_of_it(router: Router) -> None:
    own = router.route("hello", Policy())
    found = held(router, Policy(share=0.25, otherwise=EXISTING))
    assert (found.candidate, found.label, found.propensity) == (EXISTING, OTHER, 0.75)
    assert (found.confidence, found.expected_cost_usd, found.held_usd, found.certificate) == (None, None, None, None)
    assert found.alternatives == own.alternatives
    assert found.fallbacks == (own.candidate, *own.fallbacks)
    assert found.held_back == (own.candidate, own.confidence, own.expected_cost_usd, False)


@pytest.mark.parametrize(
    "rule",
    [Policy(deny=(SMALL,)), Policy(allow=((OPEN, LARGE),)), Policy(endpoints=Endpoints(output_usd_per_mtok=0.1))],
)
def test_whom_a_rule_excludes_never_answers(router: Router, rule: Policy) -> None:
    asked = rule.tightened(Policy(share=0.0, otherwise=SMALL))
    if rule.endpoints is not None:
        with pytest.raises(NoEligibleCandidateError):
            held(router, asked)
        return
    assert held(router, asked) == router.route("hello", rule), "the router's own is followed, whatever was drawn"


def test_whom_the_budgets_do_not_hold_does_not_answer_either(router: Router) -> None:
    found = held(router, Policy(share=0.0, otherwise=LARGE), most_usd=1e-4)
    assert (found.candidate, found.reason, found.propensity, found.held_back) == (SMALL, Reason.BUDGET, 1.0, None)
    assert held(router, Policy(share=0.0, otherwise=EXISTING), most_usd=1e-4).candidate == EXISTING


@pytest.mark.parametrize(
    ("rule", "admitted"),
    [
        (Policy(deny=("gpt-*",)), False),
        (Policy(zero_retention=True), False),
        (Policy(regions=(frozenset({"eu"}),)), False),
        (Policy(self_hosted=True), False),
        (Policy(endpoints=Endpoints(ignore=("azure",))), True),
        (Policy(max_cost_usd=1.0), True),
        (Policy(deny=(LARGE,)), True),
    ],
)
def test_the_rules_for_one_of_which_nothing_is_known(router: Router, rule: Policy, *, admitted: bool) -> None:
    asked = rule.tightened(Policy(share=0.0, otherwise=EXISTING))
    if rule.zero_retention or rule.regions:
        with pytest.raises(NoEligibleCandidateError):
            held(router, asked)
        return
    assert (held(router, asked).candidate == EXISTING) is admitted


def test_what_the_server_allows_holds_for_it_and_what_the_caller_does_is_about_candidates(router: Router) -> None:
    asked = Policy(allow=((OPEN, LARGE),), share=0.0, otherwise=EXISTING)
    server = Policy(allow=(("acme/*", "open/*"),))
    mine = router.route("hello", asked, Situation(hold=1.0, asked=asked))
    assert mine.candidate == EXISTING
    both = router.route("hello", asked.tightened(server), Situation(hold=1.0, asked=asked))
    assert both.candidate in (OPEN, LARGE)
    prefixed = router.route(
        "hello",
        Policy(share=0.0, otherwise="azure/gpt-4o", endpoints=Endpoints(ignore=("azure",))),
        Situation(hold=1.0),
    )
    assert prefixed.candidate == LARGE


def test_where_the_rules_leave_nobody_it_answers_alone(router: Router) -> None:
    nobody = Policy(allow=(("none",),), share=0.4, otherwise=EXISTING)
    found = router.route("hello", nobody, Situation(hold=1.0, asked=nobody))
    assert (found.candidate, found.reason, found.fallbacks, found.held_back) == (EXISTING, Reason.HELD_BACK, (), None)
    assert found.propensity == pytest.approx(0.6)
    with pytest.raises(NoEligibleCandidateError):
        router.route("hello", nobody, Situation(hold=0.4, asked=nobody))


@pytest.mark.parametrize("reason", [Reason.TIMEOUT, Reason.FAULT])
def test_without_estimates_it_is_held_back_as_well(router: Router, reason: Reason) -> None:
    found = router.decide_without_estimates(
        read("hello"), Policy(share=0.0, otherwise=SMALL), Situation(hold=1.0), reason
    )
    assert (found.candidate, found.reason, found.confidence) == (SMALL, Reason.HELD_BACK, None)
    assert found.held_back is not None
    assert (found.held_back.candidate, found.held_back.confidence) == (LARGE, None)
    followed = router.decide_without_estimates(read("hello"), Policy(share=0.5), Situation(hold=0.5), reason)
    assert (followed.candidate, followed.reason, followed.propensity) == (LARGE, reason, 1.0)


def test_a_certificate_is_only_given_for_whom_it_covers(router: Router) -> None:
    cheap = Policy(quality_target=0.8)
    own = router.route("hello", cheap)
    assert own.certificate is not None
    assert own.candidate != LARGE

    def certified(otherwise: str, request: str | RouteRequest = "hello", **situation: float) -> bool:
        asked = cheap.tightened(Policy(share=0.0, otherwise=otherwise))
        return held(router, asked, request, **situation).certificate is not None

    assert certified(LARGE), "the reference violates nothing"
    assert certified(own.candidate), "it is what was certified"
    assert certified(own.candidate, explore=0.05), "and what was drawn beside it changes nothing"
    assert not certified(next(name for name in own.fallbacks if name != LARGE))
    assert not certified(EXISTING)
    assert not certified(own.candidate, RouteRequest("hello", workflow="hard"))
    assert not certified(LARGE, pace=1.0)
