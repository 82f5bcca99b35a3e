"""The frontier: the policy swept over its knob, single candidates, and the bootstrap over whole groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bundle.arrays import Floats
from training.measure.frontier import (
    Frontier,
    Resamples,
    Singles,
    bootstrap_aiq,
    bootstrap_weights,
    cross_fitted_cost_save,
    frontier,
    knob_grid,
    singles,
)
from training.measure.metrics import cost_save

# Two requests, three candidates: cheap, middling, dear.
ESTIMATE = np.array([[0.5, 0.8, 0.9], [0.9, 0.9, 0.95]])
COST = np.array([[1.0, 2.0, 6.0], [1.0, 3.0, 5.0]])
QUALITY = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])


@st.composite
def outcomes(draw: st.DrawFn) -> tuple[Floats, Floats, Floats]:
    """Estimates, costs and observed acceptability of n requests by m candidates."""
    n, m = draw(st.integers(1, 12)), draw(st.integers(2, 4))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return generator.uniform(size=(n, m)), generator.uniform(0.1, 5, (n, m)), generator.integers(0, 2, (n, m)) * 1.0


def test_the_frontier_by_hand() -> None:
    points = frontier(ESTIMATE, COST, QUALITY, COST, np.array([0.0, 0.1, 10.0]))
    # Knob 0: the dear one twice. Knob .1: request 1 scores .4, .6, .3, request 2 scores .8, .6, .45. Knob 10: the cheap.
    assert points.request_cost.tolist() == [[6.0, 2.0, 1.0], [5.0, 1.0, 1.0]]
    assert points.request_quality.tolist() == [[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    assert points.cost.tolist() == [5.5, 1.5, 1.0]
    assert points.quality.tolist() == [1.0, 1.0, 0.5]


def test_the_choice_rests_on_expected_cost_and_the_account_on_what_it_came_to() -> None:
    truly = COST * 10
    points = frontier(ESTIMATE, COST, QUALITY, truly, np.array([0.1]))
    assert points.request_cost.tolist() == [[20.0], [10.0]]


def test_singles_by_hand() -> None:
    alone = singles(QUALITY, COST)
    assert alone.cost.tolist() == [1.0, 2.5, 5.5]
    assert alone.quality.tolist() == [0.5, 0.5, 1.0]
    assert (alone.cheapest, alone.best) == (0, 2)
    # From (1, .5) to (5.5, 1): the mean height is .75.
    assert alone.zero_router == pytest.approx(0.75)


def test_of_equally_good_singles_the_best_is_the_cheapest() -> None:
    assert Singles(np.array([3.0, 1.0, 2.0]), np.array([0.9, 0.5, 0.9])).best == 2


def test_aiq_adds_the_cheapest_single_to_a_router_s_points() -> None:
    alone = Singles(np.array([1.0, 3.0]), np.array([0.4, 0.8]))
    # (1, .4), (2, .8), then flat to 3: (.6 + .8) / 2.
    assert alone.aiq(np.array([2.0]), np.array([0.8])) == pytest.approx(0.7)


def test_the_knob_grid_by_hand() -> None:
    # Spreads within a request are 2 and 4; the mean is 3. A candidate without a cost is left out.
    knobs = knob_grid(np.array([[1.0, 3.0], [1.0, 5.0]]), 5)
    assert knobs.tolist() == pytest.approx([0.0, 1e-3 / 3, 1 / 3, 1e3 / 3, 1e9 / 3])
    assert knob_grid(np.array([[1.0, np.nan, 3.0], [1.0, 5.0, np.nan]]), 5).tolist() == knobs.tolist()


def test_without_a_spread_of_costs_there_is_one_knob() -> None:
    assert knob_grid(np.full((3, 2), 0.7), 20).tolist() == [0.0]


def test_bootstrap_weights_draw_groups_with_replacement() -> None:
    weights = bootstrap_weights(np.array([7, 7, 9]), 500, seed=3)
    assert weights.shape == (500, 3)
    # Two groups drawn twice: both once (2 rows + 1 row), the first twice, or the second twice.
    seen = {tuple(np.round(row, 6)) for row in weights}
    assert seen == {(0.333333, 0.333333, 0.333333), (0.5, 0.5, 0.0), (0.0, 0.0, 1.0)}


def test_with_twenty_clusters_a_whole_cluster_comes_and_goes() -> None:
    groups, workflow = np.arange(40), np.array([f"w{number // 2}" for number in range(40)], dtype=object)
    workflow[:2] = None
    weights = bootstrap_weights(groups, 2000, seed=3, clusters=workflow)
    assert weights.sum(axis=1) == pytest.approx(1.0)
    share = weights[:, :2].sum(axis=1)
    # Twenty clusters drawn twenty times: each is left out of (19/20)^20 of the resamples.
    assert np.mean(share == 0) == pytest.approx(0.95**20, abs=0.04)
    assert np.mean(share) == pytest.approx(1 / 20, abs=0.005)


def test_fewer_clusters_are_strata() -> None:
    groups, workflow = np.arange(32), np.array(["a"] * 20 + [None] * 12, dtype=object)
    weights = bootstrap_weights(groups, 500, seed=3, clusters=workflow)
    assert weights[:, :20].sum(axis=1) == pytest.approx(20 / 32)
    assert len({tuple(row) for row in weights.tolist()}) > 50


def test_strata_of_few_groups_are_one() -> None:
    groups, workflow = np.arange(26), np.array(["a"] * 4 + ["b"] * 7 + ["c"] * 15, dtype=object)
    weights = bootstrap_weights(groups, 500, seed=3, clusters=workflow)
    assert weights[:, 11:].sum(axis=1) == pytest.approx(15 / 26), "c has groups enough of its own"
    assert np.ptp(weights[:, :4].sum(axis=1)) > 0.1
    # With two groups a and b would be too few together as well: the smallest other one is with them.
    weights = bootstrap_weights(np.arange(17), 500, seed=3, clusters=workflow[[0, *range(10, 26)]])
    assert np.ptp(weights[:, 2:].sum(axis=1)) > 0.01


@pytest.mark.parametrize("per_stratum", [4, 8, 12])
def test_the_spread_within_strata_is_not_too_small(per_stratum: int) -> None:
    """The variance of the mean of a stratified sample is sum of s_k^2 / n_k with n_k - 1 in s_k (Cochran 1977, 5.3)."""
    workflow = np.repeat(np.array(["a", "b", "c"], dtype=object), per_stratum)
    value = np.random.default_rng(1).normal(size=3 * per_stratum)
    weights = bootstrap_weights(np.arange(len(value)), 20_000, seed=3, clusters=workflow)
    strata = value.reshape(3, per_stratum)
    expected = (strata.var(axis=1, ddof=1) / per_stratum).mean() / 3
    pooled = value.var(ddof=1) / len(value)
    assert np.var(weights @ value) == pytest.approx(pooled if per_stratum < 10 else expected, rel=0.05)


@pytest.mark.parametrize(("strata", "per_stratum"), [(5, 4), (10, 4), (5, 8)])
def test_intervals_of_few_conversations_a_stratum_cover_the_mean(strata: int, per_stratum: int) -> None:
    """Plain resampling within strata covers it in 87, 88 and 91 of 100."""
    draw, mean = np.random.default_rng(0), np.repeat(np.linspace(0.6, 0.95, strata), per_stratum)
    workflow = np.repeat(np.array([f"w{k}" for k in range(strata)], dtype=object), per_stratum)
    weights = bootstrap_weights(np.arange(len(mean)), 400, seed=0, clusters=workflow)
    values = draw.normal(mean, 0.3, size=(1500, len(mean)))
    low, high = np.quantile(values @ weights.T, [0.025, 0.975], axis=1)
    assert np.mean((low <= mean.mean()) & (mean.mean() <= high)) >= 0.925


def test_the_bootstrap_of_equal_weights_is_the_plain_aiq() -> None:
    points = frontier(ESTIMATE, COST, QUALITY, COST, knob_grid(COST, 12))
    value = bootstrap_aiq(points, QUALITY, COST, np.full((1, 2), 0.5))
    assert value.tolist() == pytest.approx([singles(QUALITY, COST).aiq(points.cost, points.quality)])


def test_a_resample_is_the_aiq_of_its_requests() -> None:
    points = frontier(ESTIMATE, COST, QUALITY, COST, np.array([0.0, 0.1, 10.0]))
    # Only request 1: singles (1, 0), (2, 1), (6, 1), of which the best is (2, 1); the router passes through both.
    only_first = bootstrap_aiq(points, QUALITY, COST, np.array([[1.0, 0.0]]))
    assert only_first.tolist() == pytest.approx([0.5])


@settings(deadline=None)
@given(outcomes(), st.integers(4, 40))
def test_the_first_knob_takes_the_highest_estimate_and_the_last_the_cheapest(
    made: tuple[Floats, Floats, Floats], steps: int
) -> None:
    estimate, cost, quality = made
    knobs = knob_grid(cost, steps)
    assert len(knobs) == steps
    assert (np.diff(knobs) > 0).all()
    rows = np.arange(len(cost))
    points = frontier(estimate, cost, quality, cost, knobs)
    assert points.request_cost[:, 0].tolist() == cost[rows, estimate.argmax(axis=1)].tolist()
    assert points.request_cost[:, -1].tolist() == cost.min(axis=1).tolist()


@settings(deadline=None)
@given(outcomes())
def test_turning_the_knob_up_never_costs_more_nor_expects_more(made: tuple[Floats, Floats, Floats]) -> None:
    estimate, cost, _ = made
    points = frontier(estimate, cost, estimate, cost, knob_grid(cost, 30))
    assert (np.diff(points.request_cost, axis=1) <= 1e-12).all()
    assert (np.diff(points.request_quality, axis=1) <= 1e-12).all()


@settings(deadline=None)
@given(outcomes())
def test_no_estimate_beats_the_oracle(made: tuple[Floats, Floats, Floats]) -> None:
    estimate, cost, quality = made
    alone, knobs = singles(quality, cost), knob_grid(cost, 30)
    # The oracle changes its mind where a knob equals 1 / (a difference of costs): one knob between each two of those.
    gaps = (cost[:, :, None] - cost[:, None, :]).ravel()
    turns = np.unique(1 / gaps[gaps > 0])
    between = np.concatenate([[0.0], (turns[1:] + turns[:-1]) / 2, [2 * turns[-1]]])
    oracle = frontier(quality, cost, quality, cost, between)
    router = frontier(estimate, cost, quality, cost, knobs)
    assert alone.aiq(oracle.cost, oracle.quality) >= alone.aiq(router.cost, router.quality) - 1e-9
    assert alone.aiq(oracle.cost, oracle.quality) >= alone.zero_router - 1e-9


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 1000))
def test_bootstrap_weights_sum_to_one_and_treat_a_group_alike(groups: list[int], seed: int) -> None:
    member = np.array(groups)
    weights = bootstrap_weights(member, 20, seed)
    assert weights.sum(axis=1).tolist() == pytest.approx([1.0] * 20)
    assert (weights >= 0).all()
    for group in set(groups):
        inside = weights[:, member == group]
        assert (inside == inside[:, :1]).all()
    assert (weights == bootstrap_weights(member, 20, seed)).all()


@pytest.mark.parametrize("clusters", [0, 3, 40])
def test_resamples_some_rows_at_a_time_are_the_weights(clusters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw, n = np.random.default_rng(2), 900
    groups, values = draw.integers(0, 500, n), draw.random((n, 5))
    workflow = np.array([f"w{k}" for k in draw.integers(0, clusters, n)], dtype=object) if clusters else None
    weights = bootstrap_weights(groups, 500, 3, workflow)
    monkeypatch.setattr("training.measure.frontier._NUMBERS", 50_000)
    resamples = Resamples.draw(groups, 500, 3, workflow)
    blocks = list(resamples.blocks())
    assert len(blocks) > 10
    assert max(block.size for block in blocks) <= 50_000
    assert (np.concatenate(blocks) == weights).all()
    assert (bootstrap_weights(groups, 500, 3, workflow) == weights).all()
    for given_values in (values, values[:, 0]):
        np.testing.assert_allclose(resamples @ given_values, weights @ given_values, rtol=1e-14)
    assert resamples.times.nbytes <= 2 * 500 * 500


def test_resamples_are_drawn_as_ever() -> None:
    weights = bootstrap_weights(np.array([0, 0, 1, 2, 3, 4]), 3, 5)
    generator = np.random.default_rng(5)
    drawn = generator.multinomial(5, np.full(5, 0.2), size=3)[:, [0, 0, 1, 2, 3, 4]].astype(np.float64)
    assert (weights == drawn / drawn.sum(axis=1, keepdims=True)).all()


def test_a_saving_that_is_chosen_by_chance_is_none_on_other_requests() -> None:
    """Forty places that differ by chance alone: the best of them seems to match the dear candidate for less."""
    draw, n, places = np.random.default_rng(0), 100, 40
    quality = np.column_stack([np.zeros(n), np.arange(n) % 5 != 0]).astype(float)
    cost = np.tile([0.5, 1.0], (n, 1))
    dear = draw.random((n, places)) < np.linspace(0.2, 0.9, places)
    points = Frontier(
        np.arange(float(places)),
        np.where(dear, 1.0, 0.5),
        (draw.random((n, places)) < 0.78).astype(float),
    )
    best = singles(quality, cost).best
    in_sample = cost_save(points.cost, points.quality, quality[:, best].mean(), cost[:, best].mean())
    saving, beyond = cross_fitted_cost_save(points, quality, cost, np.arange(n), seed=0)
    assert in_sample > 0.15
    assert saving < in_sample
    assert beyond < 0, "elsewhere it is worse than the candidate that it seemed to match"


def test_a_saving_that_is_real_is_there_on_other_requests() -> None:
    """Half of the requests are easy: the cheap candidate answers them as well as the dear one."""
    easy = np.arange(40) % 2 == 0
    quality, cost = np.column_stack([easy, np.ones(40)]).astype(float), np.tile([0.0, 1.0], (40, 1))
    points = Frontier(
        np.zeros(2), np.column_stack([np.zeros(40), ~easy]).astype(float), np.column_stack([easy, easy | ~easy])
    )
    groups = np.arange(40) // 2
    saving, beyond = cross_fitted_cost_save(points, quality, cost, groups, seed=0)
    assert (saving, beyond) == pytest.approx((0.5, 0.0))
    worse = Frontier(points.knobs, points.request_cost, np.zeros((40, 2)))
    assert np.isnan(cross_fitted_cost_save(worse, quality, cost, groups, seed=0)).all()
    assert np.isnan(cross_fitted_cost_save(points, quality, cost, np.zeros(40, dtype=int), seed=0)).all()


def test_requests_that_stand_for_several_count_as_often() -> None:
    standing, often = np.array([1.0, 3.0]), np.array([0, 1, 1, 1])
    points = frontier(ESTIMATE, COST, QUALITY, COST, np.array([0.0, 0.1, 10.0]), standing)
    repeated = frontier(ESTIMATE[often], COST[often], QUALITY[often], COST[often], points.knobs)
    assert points.cost == pytest.approx(repeated.cost)
    assert points.quality == pytest.approx(repeated.quality)
    alone = singles(QUALITY, COST, standing)
    assert alone.quality == pytest.approx([0.75, 0.25, 1.0])
    weights = bootstrap_weights(np.arange(2), 20, 0, standing=standing)
    plain = bootstrap_weights(np.arange(2), 20, 0)
    assert weights == pytest.approx(plain * standing / (plain * standing).sum(axis=1, keepdims=True))
