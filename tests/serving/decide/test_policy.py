"""The policy: choices worked out by hand, then what must hold whatever the estimates are."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle.catalogue import Candidate, Capability
from serving.bundle.request import RouteRequest, read
from serving.decide.eligibility import Demand, Eligibility, NoEligibleCandidateError, Rule
from serving.decide.policy import Policy
from serving.decide.value import Setting, choose, cost_quality_for, crossings, knob_for, rank

# Eighths and 64ths add and multiply exactly, so that a tie is a tie whatever the order of the sums.
values = st.integers(0, 64).map(lambda n: n / 64)
costs = st.integers(0, 64).map(lambda n: n / 8)
knobs = st.sampled_from([0.0, 0.125, 0.25, 1.0, 8.0, inf])
names = st.lists(st.text("ab/-", min_size=1, max_size=4), min_size=1, max_size=5, unique=True)
globs = st.lists(st.text("ab/-*?", min_size=1, max_size=3), max_size=3).map(tuple)


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """value, cost and eligible, each (1, m); at least one is eligible."""
    m = draw(st.integers(1, 6))
    eligible = draw(st.lists(st.booleans(), min_size=m, max_size=m).filter(any))
    value = draw(st.lists(values, min_size=m, max_size=m))
    cost = draw(st.lists(costs, min_size=m, max_size=m))
    return np.array([value]), np.array([cost]), np.array([eligible])


@pytest.mark.parametrize(
    ("knob", "chosen"),
    [
        (0.0, 2),  # scores .6 .8 .9: quality alone
        (0.5, 1),  # .575 .75 .7
        (1.0, 1),  # .55 .7 .5
        (5.0, 0),  # .35 .3 -1.1
        (inf, 0),
    ],
)
def test_choice_by_hand(knob: float, chosen: int) -> None:
    value, cost = np.array([[0.6, 0.8, 0.9]]), np.array([[0.05, 0.1, 0.4]])
    assert choose(value, cost, knob).tolist() == [chosen]
    assert rank(value[0], cost[0], knob, [0, 1, 2])[0] == chosen


def test_equal_scores_go_to_the_cheaper_then_to_the_first() -> None:
    assert choose(np.array([[0.75, 0.5, 0.5]]), np.array([[0.5, 0.25, 0.25]]), 1.0).tolist() == [1]
    assert rank(np.array([0.75, 0.5, 0.5]), np.array([0.5, 0.25, 0.25]), 1.0, [0, 1, 2]) == [1, 2, 0]


@given(rows(), knobs)
def test_an_ineligible_candidate_is_never_chosen(row: tuple[np.ndarray, np.ndarray, np.ndarray], knob: float) -> None:
    value, cost, eligible = row
    assert eligible[0, choose(value, cost, knob, eligible)[0]]


@given(rows(), knobs)
def test_rank_begins_with_what_choose_chooses(row: tuple[np.ndarray, np.ndarray, np.ndarray], knob: float) -> None:
    value, cost, eligible = row
    columns = np.flatnonzero(eligible[0]).tolist()
    ranked = rank(value[0], cost[0], knob, columns)
    assert ranked[0] == choose(value, cost, knob, eligible)[0]
    assert sorted(ranked) == columns


@given(rows(), knobs, st.data())
def test_a_higher_price_never_wins_a_request(
    row: tuple[np.ndarray, np.ndarray, np.ndarray], knob: float, data: st.DataObject
) -> None:
    value, cost, eligible = row
    raised = data.draw(st.integers(0, value.shape[1] - 1))
    dearer = cost.copy()
    dearer[0, raised] += data.draw(costs)
    before, after = choose(value, cost, knob, eligible)[0], choose(value, dearer, knob, eligible)[0]
    assert after != raised or before == raised


@given(rows(), knobs, st.randoms(use_true_random=False))
def test_the_order_of_candidates_decides_exact_ties_only(
    row: tuple[np.ndarray, np.ndarray, np.ndarray], knob: float, random: object
) -> None:
    value, cost, eligible = row
    order = np.arange(value.shape[1])
    random.shuffle(order)  # type: ignore[attr-defined]
    straight = choose(value, cost, knob, eligible)[0]
    shuffled = order[choose(value[:, order], cost[:, order], knob, eligible[:, order])[0]]
    assert cost[0, straight] == cost[0, shuffled]
    assert value[0, straight] == value[0, shuffled] or np.isinf(knob)


@given(rows())
def test_an_infinite_knob_takes_the_cheapest(row: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    value, cost, eligible = row
    assert cost[0, choose(value, cost, inf, eligible)[0]] == cost[eligible].min()


limits = st.one_of(st.none(), st.sampled_from([0.5, 1.0, 2.0]))
region_sets = st.frozensets(st.sampled_from(["eu", "us"]), min_size=1)
policies = st.builds(
    Policy,
    allow=st.lists(
        st.lists(st.text("ab/-*?", min_size=1, max_size=3), min_size=1, max_size=2).map(tuple), max_size=2
    ).map(tuple),
    deny=globs,
    requires=st.frozensets(st.sampled_from(list(Capability))),
    zero_retention=st.booleans(),
    self_hosted=st.booleans(),
    no_training=st.booleans(),
    regions=st.lists(region_sets, max_size=2).map(tuple),
    max_cost_usd=limits,
    max_latency_ms=limits,
)
known_or_not = st.sampled_from([None, True, False])
described = st.builds(
    Candidate,
    name=st.text("ab/-", min_size=1, max_size=4),
    tools=known_or_not,
    vision=known_or_not,
    json_schema=known_or_not,
    zero_retention=known_or_not,
    trains_on_data=known_or_not,
    hosting=st.sampled_from([None, "self", "external"]),
    regions=st.lists(st.sampled_from(["eu", "us"]), max_size=2, unique=True).map(tuple),
)


@given(st.lists(described, min_size=1, max_size=4), policies, policies, st.data())
def test_what_two_policies_admit_together_is_what_each_of_them_admits(
    candidates: list[Candidate], one: Policy, other: Policy, data: st.DataObject
) -> None:
    amounts = st.lists(
        st.sampled_from([0.25, 1.0, 4.0, float("nan")]), min_size=len(candidates), max_size=len(candidates)
    )
    demand = Demand(data.draw(amounts), data.draw(amounts))

    def admitted(policy: Policy) -> set[int]:
        rules = Eligibility(candidates).rules(read(""), policy, demand)
        return {column for column, rule in enumerate(rules) if rule is None}

    assert admitted(one.tightened(other)) == admitted(one) & admitted(other)
    assert admitted(other.tightened(one)) == admitted(one) & admitted(other)


@pytest.mark.parametrize(
    ("candidate", "request_", "policy", "image", "rule"),
    [
        (Candidate(name="a/b"), RouteRequest(""), Policy(allow=(("a/*",),)), False, None),
        (Candidate(name="a/b"), RouteRequest(""), Policy(allow=(("b/*",),)), False, Rule.NOT_ALLOWED),
        (Candidate(name="a/b"), RouteRequest(""), Policy(allow=(("a/*",),), deny=("*/b",)), False, Rule.DENIED),
        (Candidate(name="a", context_window=110), RouteRequest("", max_output_tokens=10), Policy(), False, None),
        (
            Candidate(name="a", context_window=110),
            RouteRequest("", max_output_tokens=11),
            Policy(),
            False,
            Rule.CONTEXT_WINDOW,
        ),
        (Candidate(name="a", tools=False), RouteRequest("", tools=True), Policy(), False, Rule.TOOLS),
        (Candidate(name="a", vision=False), RouteRequest(""), Policy(), True, Rule.VISION),
        (Candidate(name="a", json_schema=False), RouteRequest("", json_schema=True), Policy(), False, Rule.JSON_SCHEMA),
        (Candidate(name="a"), RouteRequest("", tools=True, json_schema=True), Policy(), True, None),
    ],
)
def test_hard_rules(
    candidate: Candidate, request_: RouteRequest, policy: Policy, image: bool, rule: Rule | None
) -> None:
    needs = read(request_).needs | ({Capability.VISION} if image else set())
    seen = replace(read(request_), counted=100, needs=needs)
    assert Eligibility([candidate]).rules(seen, policy, Demand([0.01], [500.0])) == [rule]


def test_what_a_policy_excludes_is_worked_out_once_and_the_request_s_own_length_each_time() -> None:
    eligibility = Eligibility([Candidate(name="a", context_window=100), Candidate(name="b")])
    demand = Demand([0.01, 0.5], [1.0, 1.0])
    for counted, first in ((100, None), (101, Rule.CONTEXT_WINDOW), (100, None)):
        prompt = replace(read(""), counted=counted)
        assert eligibility.rules(prompt, Policy(max_cost_usd=0.1), demand) == [first, Rule.MAX_COST]
        assert eligibility.rules(prompt, Policy(deny=("b",)), demand) == [first, Rule.DENIED]
    assert eligibility._fixed.cache_info().misses == 2
    for number in range(2_000):
        eligibility.rules(read(""), Policy(deny=(f"noise-{number}",)), demand)
    assert eligibility._fixed.cache_info().currsize <= 512


def test_a_name_that_the_caller_misspelt_is_told_and_no_rule_of_the_server() -> None:
    eligibility = Eligibility([Candidate(name="acme/small"), Candidate(name="acme/large")])
    asked = Policy(allow=(("swift-minni", "acme/*"),))
    rules = [Rule.NOT_ALLOWED, Rule.NOT_ALLOWED]
    assert (
        eligibility.why(rules, asked.tightened(Policy(allow=(("its-own",),))), asked)
        == "swift-minni matches no candidate"
    )
    assert eligibility.why(rules, asked) == ""
    many = Policy(allow=(tuple(f"no-{number}" for number in range(30)),))
    assert eligibility.why(rules, many, many).endswith("no-19 and 10 more match no candidate")


def test_no_eligible_candidate_says_what_excludes_each() -> None:
    error = NoEligibleCandidateError(["a", "b"], [Rule.DENIED, Rule.TOOLS])
    assert error.rules == {"a": Rule.DENIED, "b": Rule.TOOLS}
    assert str(error) == "no candidate is eligible: a (denied), b (tools)"


@pytest.mark.parametrize(
    ("candidate", "policy", "rule"),
    [
        (Candidate(name="a"), Policy(requires=frozenset({Capability.TOOLS})), Rule.TOOLS),
        (Candidate(name="a", tools=True), Policy(requires=frozenset({Capability.TOOLS})), None),
        (Candidate(name="a"), Policy(zero_retention=True), Rule.ZERO_RETENTION),
        (Candidate(name="a", zero_retention=True), Policy(zero_retention=True), None),
        (Candidate(name="a", hosting="external"), Policy(self_hosted=True), Rule.SELF_HOSTED),
        (Candidate(name="a"), Policy(no_training=True), Rule.NO_TRAINING),
        (Candidate(name="a", trains_on_data=False), Policy(no_training=True), None),
        (Candidate(name="a"), Policy(regions=(frozenset({"eu"}),)), Rule.REGION),
        (Candidate(name="a", regions=("eu", "us")), Policy(regions=(frozenset({"eu"}),)), Rule.REGION),
        (Candidate(name="a", regions=("eu",)), Policy(regions=(frozenset({"eu", "uk"}),)), None),
        (Candidate(name="a"), Policy(max_cost_usd=0.009), Rule.MAX_COST),
        (Candidate(name="a"), Policy(max_cost_usd=0.01), None),
        (Candidate(name="a"), Policy(max_latency_ms=499.0), Rule.MAX_LATENCY),
        (Candidate(name="a"), Policy(max_latency_ms=500.0), None),
    ],
)
def test_what_a_policy_demands(candidate: Candidate, policy: Policy, rule: Rule | None) -> None:
    assert Eligibility([candidate]).rules(read(""), policy, Demand([0.01], [500.0])) == [rule]


def test_a_limit_is_not_kept_by_what_is_not_known() -> None:
    demand = Demand([0.01], [float("nan")])
    assert Eligibility([Candidate(name="a")]).rules(read(""), Policy(max_latency_ms=1e9), demand) == [Rule.MAX_LATENCY]


def test_the_prompt_has_to_fit_with_the_margin() -> None:
    demand, tight = Demand([0.0], [0.0]), Candidate(name="a", context_window=100)
    prompt = replace(read(""), counted=95)
    assert Eligibility([tight]).rules(prompt, Policy(), demand) == [None]
    assert Eligibility([tight], 1.1).rules(prompt, Policy(), demand) == [Rule.CONTEXT_WINDOW]


def test_from_cheap_to_good_by_hand() -> None:
    knobs = [0.0, 1.0, 10.0, 100.0, 1e9]
    assert knob_for(0, knobs) == inf
    assert knob_for(10, knobs) == 0.0
    # In between the logarithm of 1 … 1e9 at 5 tenths: the middle one of four, between 10 and 100.
    assert knob_for(5, knobs) == pytest.approx(10**1.5)
    assert [knob_for(place, knobs) for place in range(11)] == sorted(
        (knob_for(p, knobs) for p in range(11)), reverse=True
    )


@given(st.floats(0.001, 9.999), st.lists(st.floats(1e-3, 1e9), min_size=2, max_size=62, unique=True))
def test_a_knob_has_the_place_that_gives_it(place: float, inside: list[float]) -> None:
    knobs = [0.0, *sorted(inside), inf]
    found = cost_quality_for(knob_for(place, knobs), knobs)
    # Where knobs are close to each other many places give nearly the same one.
    assert knob_for(found, knobs) == pytest.approx(knob_for(place, knobs), rel=1e-9)


def test_a_knob_outside_of_the_sweep_is_at_its_end() -> None:
    knobs = [0.0, 1.0, 10.0, 100.0, inf]
    assert [cost_quality_for(knob, knobs) for knob in (inf, 100.0, 10.0, 1.0, 0.5, 0.0)] == [0, 0, 5, 10, 10, 10]
    assert cost_quality_for(3.0, [0.0]) == 10.0


def test_crossings_by_hand() -> None:
    worth, cost = [0.6, 0.8, 0.9], [0.05, 0.1, 0.4]
    # From the dearest to the middle one at .1 / .3, from that to the cheapest at .2 / .05.
    assert crossings(worth, cost, [0, 1, 2]) == pytest.approx([1 / 3, 4.0])
    assert crossings(worth, cost, [0, 2]) == pytest.approx([0.3 / 0.35])
    assert crossings(worth, cost, [1]) == []
    assert crossings(worth, cost, []) == []
    # One that is dearer and no better is never the best; one of which nothing is known is in no choice.
    assert crossings([0.6, 0.5, float("nan")], [0.05, 0.1, 0.2], [0, 1, 2]) == []


@given(rows())
def test_between_two_crossings_the_best_stays_and_at_each_it_changes(
    row: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    value, cost, eligible = row
    columns = np.flatnonzero(eligible[0]).tolist()
    found = crossings(value[0], cost[0], columns)
    assert found == sorted(found)
    apart = [0.0, *dict.fromkeys(knob for knob in found if knob > 0), max([*found, 0.0]) + 1.0]
    best = []
    for low, high in pairwise(apart):
        inside = {rank(value[0], cost[0], low + (high - low) * part, columns)[0] for part in (0.1, 0.5, 0.9)}
        assert len(inside) == 1
        best.append(inside.pop())
    assert len(set(best)) == len(best)
    assert cost[0][best[-1]] == min(cost[0][columns])


def test_a_guarded_setting_at_knob_0_is_the_reference_and_then_gives_up_the_least_first() -> None:
    value, cost = np.array([[0.95, 0.9], [0.5, 0.9]]), np.array([[1.0, 5.0], [1.0, 5.0]])
    violation = np.array([[0.045, 0.0], [0.45, 0.0]])
    assert choose(value, cost, 0.0).tolist() == [0, 1]
    assert Setting(0.0, guarded=True).choose(value, violation, cost).tolist() == [1, 1]
    # Either cheap answer saves 4.
    assert Setting(0.02, guarded=True).choose(value, violation, cost).tolist() == [0, 1]
    assert Setting(0.2, guarded=True).choose(value, violation, cost).tolist() == [0, 0]
    assert Setting(0.2, guarded=True, always=1).choose(value, violation, cost).tolist() == [1, 1]


@given(rows(), knobs, st.data())
def test_raising_a_price_never_wins_a_guarded_choice(
    row: tuple[np.ndarray, np.ndarray, np.ndarray], knob: float, data: st.DataObject
) -> None:
    value, cost, _ = row
    column, guard = (data.draw(st.integers(0, value.shape[1] - 1)) for _ in range(2))
    violation = 1.0 - value
    violation[:, guard] = 0.0
    dearer = cost.copy()
    dearer[0, column] += data.draw(costs)
    setting = Setting(knob, guarded=True)
    if setting.choose(value, violation, dearer)[0] == column:
        assert setting.choose(value, violation, cost)[0] == column


def test_a_candidate_of_which_nothing_is_known_is_never_chosen_by_accident() -> None:
    value, cost = np.array([[0.9, float("nan")], [0.9, 0.8]]), np.array([[1.0, 2.0], [1.0, 2.0]])
    for knob in (0.0, 0.5):
        with pytest.raises(ValueError, match="NaN in row 0"):
            choose(value, cost, knob)
    with pytest.raises(ValueError, match="NaN"):
        choose(np.ones((1, 2)), np.array([[1.0, float("nan")]]), inf)
    # What the rules leave out need not be known.
    assert choose(value, cost, 0.5, np.array([[True, False], [True, True]])).tolist() == [0, 0]
