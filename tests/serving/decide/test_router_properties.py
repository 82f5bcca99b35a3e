"""What must hold of the router's decisions whatever is asked of it, and in whatever situation."""

from __future__ import annotations

from math import inf
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from serving.bundle.catalogue import Capability
from serving.bundle.manifest import Bundle, Novelty, Objective
from serving.bundle.request import RouteRequest
from serving.decide.decision import Reason, Situation
from serving.decide.eligibility import NoEligibleCandidateError
from serving.decide.policy import Policy
from serving.decide.router import Router
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL


def permuted(folder: Path, order: list[int]) -> None:
    """Reorders the candidates in the fake bundle's head."""
    model = onnx.load(folder / "head.onnx")
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.shape and array.shape[-1] == 3:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array[..., order]), tensor.name))
    onnx.save(model, folder / "head.onnx")


def with_novelty(router: Router, threshold: float, order: list[int] | None = None) -> Router:
    manifest = router.manifest
    candidates = manifest.candidates if order is None else tuple(manifest.candidates[column] for column in order)
    novelty = Novelty(threshold=threshold, shares=manifest.novelty.shares)
    return Router(
        Bundle(router.bundle.folder, manifest.model_copy(update={"candidates": candidates, "novelty": novelty}))
    )


@pytest.fixture(scope="module")
def routers(tmp_path_factory: pytest.TempPathFactory) -> list[Router]:
    """The same bundle with its candidates in each of three orders."""
    found = []
    for place, order in enumerate(([0, 1, 2], [2, 0, 1], [1, 0, 2])):
        folder = fake_bundle.build(tmp_path_factory.mktemp(f"order{place}"))
        loaded = Router.load(folder)
        permuted(folder, order)
        found.append(with_novelty(loaded, 0.4, order))
    return found


globs = st.sampled_from(["acme/*", "open/*", "*", SMALL, OPEN, LARGE, "none"])
limits = st.one_of(st.none(), st.floats(1e-5, 0.02))
requests = st.builds(
    RouteRequest,
    prompt=st.sampled_from(["", "hello", "prove the theorem", "hello world sum two", "hello " * 800]),
    workflow=st.sampled_from([None, "easy", "hard", "unknown"]),
    tools=st.booleans(),
    json_schema=st.booleans(),
    max_output_tokens=st.one_of(st.none(), st.integers(1, 10_000)),
)
policies = st.builds(
    Policy,
    allow=st.lists(st.lists(globs, min_size=1, max_size=2).map(tuple), max_size=1).map(tuple),
    deny=st.lists(globs, max_size=1).map(tuple),
    requires=st.frozensets(st.sampled_from(list(Capability)), max_size=1),
    self_hosted=st.booleans(),
    max_cost_usd=limits,
    max_latency_ms=st.one_of(st.none(), st.floats(100, 4000)),
    quality_target=st.sampled_from([None, 0.8, 0.9, 0.99]),
    cost_quality=st.one_of(st.none(), st.floats(0, 10)),
    knob=st.sampled_from([None, 0.0, 20.0, 1e4, inf]),
    objective=st.sampled_from([None, *Objective]),
    abstain_below=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
)
situations = st.builds(
    Situation,
    session=st.sampled_from([None, SMALL, OPEN, LARGE, "gone"]),
    cached=st.dictionaries(st.sampled_from([SMALL, OPEN, LARGE, "gone"]), st.floats(0, 5_000)),
    session_margin=st.sampled_from([0.0, 0.03, 1.0]),
    pace=st.sampled_from([0.0, 1.0, 100.0, 1e6]),
    most_usd=st.sampled_from([inf, 0.0, 1e-4, 0.002]),
    explore=st.sampled_from([0.0, 0.2]),
    draw=st.floats(0, 1, exclude_max=True),
)


@given(requests, policies, situations)
def test_an_ineligible_candidate_is_never_returned(
    routers: list[Router], request_: RouteRequest, policy: Policy, situation: Situation
) -> None:
    try:
        decision = routers[0].route(request_, policy, situation)
    except NoEligibleCandidateError as error:
        assert set(error.rules) == set(routers[0].candidates)  # noqa: PT017
        return
    eligible = {one.candidate: one.expected_cost_usd or 0.0 for one in decision.alternatives if one.ruled_out is None}
    returned = [decision.candidate, *decision.fallbacks]
    assert set(returned) <= set(eligible)
    assert len(set(returned)) == len(returned)
    assert 0.0 < decision.propensity <= 1.0
    affordable = {name for name, cost in eligible.items() if cost <= situation.most_usd}
    assert set(returned) <= affordable or decision.candidate == min(eligible, key=eligible.__getitem__)
    if decision.certificate is not None:
        assert decision.reason is not Reason.BUDGET


@given(requests, policies, situations)
def test_the_order_of_candidates_changes_nothing(
    routers: list[Router], request_: RouteRequest, policy: Policy, situation: Situation
) -> None:
    def outcome(router: Router) -> object:
        try:
            decision = router.route(request_, policy, situation)
        except NoEligibleCandidateError as error:
            return error.rules
        return decision.candidate, decision.reason, decision.fallbacks, decision.propensity

    straight, *others = map(outcome, routers)
    assert others == [straight, straight]


@given(requests, policies, st.sampled_from([1.0, 50.0, 1e4]))
def test_a_pace_never_makes_a_decision_dearer(
    routers: list[Router], request_: RouteRequest, policy: Policy, pace: float
) -> None:
    # Abstaining may: a cheaper choice that is unsure goes to the reference.
    free = Policy(**{name: getattr(policy, name) for name in Policy.__slots__ if name != "abstain_below"})
    try:
        before, after = (routers[0].route(request_, free, Situation(pace=one)) for one in (0.0, pace))
    except NoEligibleCandidateError:
        return
    if Reason.NOVEL not in (before.reason, after.reason):
        assert (after.expected_cost_usd or 0.0) <= (before.expected_cost_usd or 0.0)


def test_a_pace_moves_requests_away_from_a_reference_that_is_always_used(routers: list[Router]) -> None:
    always = Policy(quality_target=0.99)
    free, paced = (routers[0].route("hello", always, Situation(pace=pace)) for pace in (0.0, 1e4))
    assert (free.candidate, free.reason) == (LARGE, Reason.REFERENCE)
    assert (paced.candidate, paced.reason) == (SMALL, Reason.BUDGET)


def test_a_pace_works_at_knob_0(routers: list[Router]) -> None:
    best = Policy(cost_quality=10)
    assert routers[0].route("hello", best).candidate == LARGE
    # .7311 - .0040, .8808 - .1, .9820 - .6006 at 100 a USD
    paced = routers[0].route("hello", best, Situation(pace=100.0))
    assert (paced.candidate, paced.knob, paced.reason) == (OPEN, 100.0, Reason.BUDGET)


def test_neither_a_target_nor_a_place_sheds_the_other(routers: list[Router]) -> None:
    rule, caller = Policy(cost_quality=10), Policy(quality_target=0.8)  # knobs 0 and 100
    for both in (caller.tightened(rule), rule.tightened(caller)):
        decision = routers[0].route("hello", both)
        assert (decision.knob, decision.operating_point) == (0.0, None)
    strict = Policy(quality_target=0.9).tightened(Policy(cost_quality=0))  # knobs 10 and the sweep's last, infinity
    assert routers[0].route("hello", strict).operating_point == "q0.9"


@given(st.sampled_from([0.05, 0.8, 0.9, 0.99]), st.floats(0, 10))
def test_of_a_target_and_a_place_the_one_that_gives_away_less_counts(
    routers: list[Router], target: float, place: float
) -> None:
    asked, ruled, both = (
        routers[0].route("hello", policy).knob
        for policy in (
            Policy(quality_target=target),
            Policy(cost_quality=place),
            Policy(quality_target=target, cost_quality=place),
        )
    )
    assert both == min(asked, ruled)
