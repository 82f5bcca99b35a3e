"""The router on a bundle whose estimates can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from math import exp, inf, isnan
from pathlib import Path

import numpy as np
import pytest

from serving.bundle.catalogue import Capability
from serving.bundle.manifest import Bundle, OperatingPoint, open_bundle
from serving.bundle.request import RouteRequest
from serving.decide.decision import Reason, Situation
from serving.decide.eligibility import NoEligibleCandidateError, Rule
from serving.decide.policy import Policy
from serving.decide.router import Router
from serving.decide.value import Setting
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL

IMAGE = ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},)


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Router:
    return Router.load(fake_bundle.build(tmp_path_factory.mktemp("models")))


def sigmoid(logit: float) -> float:
    return 1 / (1 + exp(-logit))


def test_estimates_by_hand(router: Router) -> None:
    estimates = router.estimate(["hello", RouteRequest("prove", workflow="hard")])
    assert estimates.acceptable == pytest.approx(
        np.array([[sigmoid(1), sigmoid(2), sigmoid(4)], [sigmoid(-4), sigmoid(-0.5), sigmoid(3.5)]]), abs=1e-6
    )
    # 2 tokens; small: at 0.1 and 100 at 0.4 USD per million; the one without a price costs what was logged.
    assert estimates.cost_usd[0] == pytest.approx([40.2e-6, 0.001, 6010e-6], rel=1e-5)
    assert isnan(estimates.latency_ms[0, 1])


@pytest.mark.parametrize("n", [0, 1, 2, 7])
def test_every_array_has_a_row_per_request_and_a_column_per_candidate(router: Router, n: int) -> None:
    estimates = router.estimate(["hello world"] * n)
    assert router.candidates == [SMALL, OPEN, LARGE]
    for name, array in vars(estimates).items():
        assert array.shape == (n, {"nearness": fake_bundle.DIM, "novelty": 1}.get(name, 3))
        assert array.dtype == (np.float64 if name == "cost_usd" else np.float32)


@pytest.mark.parametrize(
    ("knob", "order"),
    [
        (0.0, (LARGE, OPEN, SMALL)),
        (30.0, (OPEN, LARGE, SMALL)),  # .7299, .8508, .8018
        (200.0, (SMALL, OPEN, LARGE)),  # .7230, .6808, -.2192
        (inf, (SMALL, OPEN, LARGE)),
    ],
)
def test_fallbacks_are_the_other_candidates_best_first(router: Router, knob: float, order: tuple[str, ...]) -> None:
    decision = router.route("hello", Policy(knob=knob))
    assert (decision.candidate, *decision.fallbacks) == order
    assert decision.operating_point is None
    assert decision.quality_target is None
    assert decision.knob == knob
    assert decision.reason is Reason.BEST_VALUE


def test_the_decision_repeats_the_chosen_candidates_estimates(router: Router) -> None:
    decision = router.route("hello")
    chosen = next(seen for seen in decision.alternatives if seen.candidate == decision.candidate)
    assert decision.candidate == LARGE
    assert (decision.confidence, decision.expected_cost_usd) == (chosen.confidence, chosen.expected_cost_usd)
    assert [seen.expected_latency_ms for seen in decision.alternatives] == [200.0, None, 900.0]
    assert decision.bundle == fake_bundle.VERSION


@pytest.mark.parametrize(
    ("target", "point", "points_target"),
    [
        (None, "balanced", None),
        (0.1, "q0.8", 0.8),
        (0.8, "q0.8", 0.8),
        (0.81, "q0.9", 0.9),
        (0.9, "q0.9", 0.9),
    ],
)
def test_the_lowest_target_that_is_high_enough_is_used(
    router: Router, target: float | None, point: str, points_target: float | None
) -> None:
    decision = router.route("hello", Policy(quality_target=target))
    assert (decision.operating_point, decision.quality_target) == (point, points_target)


def test_above_the_highest_target_the_reference_is_used(router: Router) -> None:
    decision = router.route("hello", Policy(quality_target=0.99))
    assert decision.candidate == LARGE
    assert decision.reason is Reason.REFERENCE
    assert decision.operating_point == "always-reference"
    assert decision.fallbacks == (OPEN, SMALL)
    without = router.route("hello", Policy(quality_target=0.99, deny=(LARGE,)))
    assert without.candidate == OPEN
    assert without.reason is Reason.BEST_VALUE


def test_a_point_that_routes_without_a_certificate_says_so(router: Router) -> None:
    manifest = router.manifest
    guessed = manifest.default.model_copy(update={"name": "guess", "quality_target": 0.7, "guard": manifest.reference})
    points = (*manifest.operating_points, guessed)
    changed = manifest.model_copy(update={"operating_points": points, "default_point": "guess"})
    decision = Router(replace(router.bundle, manifest=changed)).route("hello")
    assert decision.reason is Reason.UNCERTIFIED
    assert decision.certificate is None
    assert decision.operating_point == "guess"


@pytest.mark.parametrize(
    ("request_", "policy", "ruled_out"),
    [
        ("hello", Policy(), [None, None, None]),
        ("hello", Policy(allow=(("acme/*",),)), [None, Rule.NOT_ALLOWED, None]),
        ("hello", Policy(deny=("acme/*",)), [Rule.DENIED, None, Rule.DENIED]),
        ("hello " * 2_000, Policy(), [Rule.CONTEXT_WINDOW, None, None]),
        ("hello " * 5_000, Policy(), [Rule.CONTEXT_WINDOW, Rule.CONTEXT_WINDOW, None]),
        (RouteRequest("hello", max_output_tokens=2_000), Policy(), [Rule.CONTEXT_WINDOW, None, None]),
        (RouteRequest("hello", tools=True), Policy(), [Rule.TOOLS, None, None]),
        (RouteRequest(messages=IMAGE), Policy(), [Rule.VISION, Rule.VISION, None]),
        (RouteRequest("hello", json_schema=True), Policy(), [Rule.JSON_SCHEMA, None, None]),
    ],
)
def test_ruled_out_candidates_are_reported_and_no_fallback(
    router: Router, request_: str | RouteRequest, policy: Policy, ruled_out: list[Rule | None]
) -> None:
    decision = router.route(request_, policy)
    assert [seen.ruled_out for seen in decision.alternatives] == ruled_out
    eligible = {name for name, rule in zip(router.candidates, ruled_out, strict=True) if rule is None}
    assert {decision.candidate, *decision.fallbacks} == eligible
    assert decision.reason is (Reason.BEST_VALUE if len(eligible) > 1 else Reason.ONLY_ELIGIBLE)


def test_no_eligible_candidate_is_an_error_with_every_rule(router: Router) -> None:
    with pytest.raises(NoEligibleCandidateError) as caught:
        router.route(RouteRequest(messages=IMAGE), Policy(deny=(LARGE,)))
    assert caught.value.rules == {SMALL: Rule.VISION, OPEN: Rule.VISION, LARGE: Rule.DENIED}


def test_one_by_one_and_together_give_the_same(router: Router) -> None:
    requests = ["", "hello", "prove the theorem", RouteRequest("sum of two", workflow="hard"), "the " * 40]
    together = router.route_many(requests)
    each = router.route_each([(request, Policy(), Situation()) for request in requests])
    for request, one, two in zip(requests, together, each, strict=True):
        alone = router.route(request)
        for other in (one, two):
            assert not isinstance(other, NoEligibleCandidateError)
            assert (other.candidate, other.fallbacks) == (alone.candidate, alone.fallbacks)
            assert other.confidence == pytest.approx(alone.confidence, abs=1e-6)
            assert other.expected_cost_usd == pytest.approx(alone.expected_cost_usd, rel=1e-5)


def test_each_request_has_its_own_policy_and_its_own_error(router: Router) -> None:
    first, second, third = router.route_each(
        [
            ("hello", Policy(knob=inf), Situation()),
            ("hello", Policy(allow=(("none",),)), Situation()),
            ("hello", Policy(quality_target=0.9), Situation()),
        ]
    )
    assert not isinstance(first, NoEligibleCandidateError)
    assert first.candidate == SMALL
    assert isinstance(second, NoEligibleCandidateError)
    assert set(second.rules.values()) == {Rule.NOT_ALLOWED}
    assert not isinstance(third, NoEligibleCandidateError)
    assert third.operating_point == "q0.9"


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Router:
    """Every point has a certificate, made on requests with the tag "easy" and without a tag."""
    proof = fake_bundle.certificate()
    opened = open_bundle(fake_bundle.build(tmp_path_factory.mktemp("certified")))
    points = tuple(point.model_copy(update={"certificate": proof}) for point in opened.manifest.operating_points)
    return Router(Bundle(opened.folder, opened.manifest.model_copy(update={"operating_points": points})))


def test_a_certificate_is_not_given_for_a_choice_that_a_rule_changed(tmp_path: Path) -> None:
    proof = fake_bundle.certificate()
    opened = open_bundle(fake_bundle.build(tmp_path))
    points = tuple(point.model_copy(update={"certificate": proof}) for point in opened.manifest.operating_points)
    router = Router(Bundle(opened.folder, opened.manifest.model_copy(update={"operating_points": points})))
    free = router.route("prove it")
    assert free.certificate == proof
    assert router.route("prove it", Policy(deny=(free.fallbacks[-1],))).certificate == proof
    assert router.route("prove it", Policy(deny=(free.candidate,))).certificate is None


def test_a_point_without_a_candidate_decides_as_if_there_were_none_and_keeps_its_certificate(tmp_path: Path) -> None:
    """A rule that leaves only that candidate gets it, and no certificate; a knob of one's own knows of no such thing."""
    proof = fake_bundle.certificate()
    opened = open_bundle(fake_bundle.build(tmp_path))
    certified = [point.model_copy(update={"certificate": proof}) for point in opened.manifest.operating_points]

    def made(points: list[OperatingPoint]) -> Router:
        return Router(Bundle(opened.folder, opened.manifest.model_copy(update={"operating_points": tuple(points)})))

    whole = made(certified)
    cheap = Policy(quality_target=0.8)
    chosen = whole.route("hello", cheap).candidate
    assert chosen != LARGE
    router = made([point.model_copy(update={"without": (chosen,)}) for point in certified])
    decision = router.route("hello", cheap)
    assert decision.candidate != chosen
    assert chosen not in decision.fallbacks
    assert decision.certificate == proof
    estimates = router.estimate(["hello"])
    setting = Setting.of(router.manifest, next(p for p in router.manifest.operating_points if p.quality_target == 0.8))
    value = estimates.acceptable.astype(np.float64)
    column = int(setting.choose(value, estimates.violation, estimates.cost_usd)[0])
    assert router.candidates[column] == decision.candidate
    only = router.route("hello", Policy(quality_target=0.8, allow=((chosen,),)))
    assert (only.candidate, only.certificate) == (chosen, None)
    curious = made([p.model_copy(update={"without": (chosen,), "explore": 0.02}) for p in certified])
    tried = [curious.route("hello", cheap, Situation(explore=0.02, draw=draw)) for draw in (0.001, 0.019, 0.5)]
    assert tried[1].candidate == chosen, "it is explored: the point has set that much aside"
    assert [one.reason for one in tried] == [Reason.EXPLORE, Reason.EXPLORE, Reason.BEST_VALUE]
    assert tried[1].certificate is None
    assert router.route("hello", Policy(knob=100.0)).candidate == whole.route("hello", Policy(knob=100.0)).candidate


def test_a_certificate_is_not_given_for_a_workflow_that_it_was_not_made_on(certified: Router) -> None:
    """At knob 20 LARGE, the reference, is best for "hello"; at 30 and without it OPEN is."""
    for workflow, known in ((None, True), ("easy", True), ("hard", False), ("unheard of", False)):
        request = RouteRequest("hello", workflow=workflow)
        tight = certified.route(request, Policy(quality_target=0.8))
        assert tight.candidate != LARGE
        assert (tight.certificate is not None) is known
        assert certified.route(request, Policy(quality_target=0.9)).candidate == LARGE
        assert (
            certified.route(request, Policy(quality_target=0.9)).certificate is not None
        )  # the reference violates nothing


def test_a_certificate_is_not_given_for_a_choice_that_a_cache_made(certified: Router) -> None:
    candidates = tuple(
        c.model_copy(update={"cache_read_usd_per_mtok": 0.0}) if c.name == SMALL else c
        for c in certified.manifest.candidates
    )
    router = Router(Bundle(certified.bundle.folder, certified.manifest.model_copy(update={"candidates": candidates})))
    prompt, policy = "hello " * 500, Policy(quality_target=0.8)
    plain = router.route(prompt, policy)
    cached = router.route(prompt, policy, Situation(cached={SMALL: 1e6}))
    assert plain.certificate is not None
    assert cached.alternatives[0].expected_cost_usd == pytest.approx(100 * 0.4e-6)
    assert (cached.certificate is not None) is (cached.candidate == plain.candidate)


@pytest.mark.parametrize("pace", [1e-6, 1.0, 1e4])
def test_under_a_pace_nobody_is_chosen_whom_another_beats_in_both(tmp_path: Path, pace: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_bundle, "BASE", (5.0, 2.0, 4.0))  # SMALL is surer than LARGE, the reference, and cheaper
        router = Router.load(fake_bundle.build(tmp_path))
    always = Policy(quality_target=0.99)
    assert router.route("hello", always).candidate == LARGE
    paced = router.route("hello", always, Situation(pace=pace))
    assert (paced.candidate, paced.reason) == (SMALL, Reason.BUDGET)


def test_a_longer_prompt_never_costs_less_and_its_input_alone_is_held_against_it(router: Router) -> None:
    lengths = [2**k for k in range(1, 19)]
    costs = router.estimate(["hello " * n for n in lengths]).cost_usd
    assert (np.diff(costs, axis=0) >= 0).all()
    long = "hello " * 20_000  # 34,000 tokens: .17 USD at LARGE by itself
    with pytest.raises(NoEligibleCandidateError) as caught:
        router.route(long, Policy(max_cost_usd=0.05))
    assert caught.value.rules[LARGE] is Rule.MAX_COST


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        # the small one is known not to; of the open one nothing is known
        (Policy(requires=frozenset({Capability.TOOLS})), f"the catalogue does not say it of {OPEN} (tools)"),
        (Policy(allow=((LARGE,),)), ""),
        (Policy(requires=frozenset({Capability.VISION})), ""),
        (Policy(), ""),
    ],
)
def test_one_that_is_left_for_want_of_knowledge_says_so(router: Router, policy: Policy, said: str) -> None:
    warnings = router.route("hello", policy).warnings
    assert [one.partition(", so nobody")[0] for one in warnings] == ([said] if said else [])
