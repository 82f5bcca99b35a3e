"""Metrics: values worked out by hand, then what must hold of any points."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from serving.bundle.arrays import Floats
from training.measure.metrics import (
    aiq,
    brier,
    cost_save,
    equal_mass_bins,
    expected_calibration_error,
    headroom_captured,
    non_decreasing_hull,
    performance_gain,
    qnc,
    quality_at,
)

# Whole numbers, so that a point on an edge of the hull is on it exactly.
points = st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 1_000)), min_size=1, max_size=25)


def floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def split(pairs: list[tuple[int, int]]) -> tuple[Floats, Floats]:
    array = floats(pairs)
    return array[:, 0], array[:, 1]


def hull(cost: ArrayLike, quality: ArrayLike) -> list[tuple[float, float]]:
    columns = non_decreasing_hull(floats(cost), floats(quality))
    return list(zip(columns[0].tolist(), columns[1].tolist(), strict=True))


# Four points: (2, .4) is under the line from (1, .4) to (3, .8), (4, .6) is dearer and worse than (3, .8).
COST, QUALITY = floats([3, 1, 2, 4]), floats([0.8, 0.4, 0.4, 0.6])


def test_the_hull_by_hand() -> None:
    assert hull(COST, QUALITY) == [(1.0, 0.4), (3.0, 0.8)]
    assert hull([1, 2, 3], [0.0, 0.9, 1.0]) == [(1.0, 0.0), (2.0, 0.9), (3.0, 1.0)]
    assert hull([5], [0.2]) == [(5.0, 0.2)]


def test_of_equal_costs_the_hull_keeps_the_best_and_of_equal_qualities_the_cheapest() -> None:
    assert hull([1, 1, 1], [0.2, 0.6, 0.4]) == [(1.0, 0.6)]
    assert hull([2, 1, 3], [0.5, 0.5, 0.5]) == [(1.0, 0.5)]


def test_points_on_one_line_leave_its_ends() -> None:
    assert hull([0, 1, 2, 3], [0, 1, 2, 3]) == [(0.0, 0.0), (3.0, 3.0)]


def test_quality_at_mixes_between_points_and_is_flat_after_the_last() -> None:
    at = quality_at(floats([0.5, 1.0, 2.0, 3.0, 9.0]), floats([1, 3]), floats([0.4, 0.8]))
    assert at.tolist() == pytest.approx([-np.inf, 0.4, 0.6, 0.8, 0.8])


def test_aiq_by_hand() -> None:
    # From 1 to 3 the hull rises from .4 to .8, from 3 to 5 it stays: (2 * .6 + 2 * .8) / 4.
    assert aiq(COST, QUALITY, 1.0, 3.0) == pytest.approx(0.6)
    assert aiq(COST, QUALITY, 1.0, 5.0) == pytest.approx(0.7)
    assert aiq(COST, QUALITY, 2.0, 3.0) == pytest.approx(0.7)


def test_aiq_where_the_best_is_the_cheapest_is_its_quality() -> None:
    assert aiq(floats([1, 2]), floats([0.9, 0.5]), 1.0, 1.0) == pytest.approx(0.9)


def test_aiq_without_a_point_at_the_left_end_is_minus_infinity() -> None:
    assert aiq(floats([2.0]), floats([0.9]), 1.0, 3.0) == -np.inf


def test_headroom_by_hand() -> None:
    assert headroom_captured(0.85, zero=0.8, oracle=0.9) == pytest.approx(0.5)
    assert headroom_captured(0.75, zero=0.8, oracle=0.9) == pytest.approx(-0.5)
    assert np.isnan(headroom_captured(0.8, zero=0.8, oracle=0.8))


def test_qnc_and_cost_save_by_hand() -> None:
    # The best single reaches .7 at cost 5; the hull reaches .7 halfway from (2, .6) to (4, .8), at 3.
    cost, quality = floats([1, 2, 4]), floats([0.2, 0.6, 0.8])
    assert qnc(cost, quality, best_quality=0.7, best_cost=5.0) == pytest.approx(0.6)
    assert cost_save(cost, quality, best_quality=0.7, best_cost=5.0) == pytest.approx(0.4)
    assert cost_save(cost, quality, best_quality=0.7, best_cost=2.0) == pytest.approx(-0.5)


def test_a_quality_below_the_hull_costs_its_first_point_and_one_above_cannot_be_had() -> None:
    cost, quality = floats([1, 2]), floats([0.5, 0.9])
    assert qnc(cost, quality, best_quality=0.3, best_cost=2.0) == pytest.approx(0.5)
    assert np.isnan(qnc(cost, quality, best_quality=0.95, best_cost=2.0))
    assert np.isnan(cost_save(cost, quality, best_quality=0.95, best_cost=2.0))
    assert np.isnan(qnc(cost, quality, best_quality=0.9, best_cost=0.0))


def test_performance_gain_by_hand() -> None:
    assert performance_gain(floats([0.7, 0.88]), 0.8) == pytest.approx(0.1)
    assert performance_gain(floats([0.6]), 0.8) == pytest.approx(-0.25)
    assert np.isnan(performance_gain(floats([0.6]), 0.0))


def test_bins_hold_equal_numbers_in_the_order_of_the_probability() -> None:
    mean_p, mean_y, count = equal_mass_bins(floats([0.9, 0.1, 0.3, 0.7, 0.8]), floats([1, 0, 0, 1, 0]), bins=2)
    assert count.tolist() == [3, 2]
    assert mean_p.tolist() == pytest.approx([1.1 / 3, 0.85])
    assert mean_y.tolist() == pytest.approx([1 / 3, 0.5])


def test_ece_by_hand() -> None:
    # Two bins of two: |.2 - .5| and |.9 - 1|.
    error = expected_calibration_error(floats([0.1, 0.3, 0.8, 1.0]), floats([0, 1, 1, 1]), bins=2)
    assert error == pytest.approx(0.2)
    assert np.isnan(expected_calibration_error(floats([]), floats([])))


def test_ece_weighs_bins_by_their_points() -> None:
    error = expected_calibration_error(floats([0.2, 0.2, 0.6]), floats([0, 0, 1]), bins=2)
    assert error == pytest.approx((2 * 0.2 + 0.4) / 3)


def test_brier_by_hand() -> None:
    assert brier(floats([0.9, 0.2]), floats([1, 0])) == pytest.approx(0.025)
    assert np.isnan(brier(floats([]), floats([])))


@settings(deadline=None)
@given(points)
def test_the_hull_never_falls_is_concave_and_has_no_point_above_it(pairs: list[tuple[int, int]]) -> None:
    cost, quality = split(pairs)
    hull_cost, hull_quality = non_decreasing_hull(cost, quality)
    assert (np.diff(hull_cost) > 0).all()
    assert (np.diff(hull_quality) > 0).all()
    slopes = np.diff(hull_quality) / np.diff(hull_cost)
    assert (np.diff(slopes) < 0).all()
    assert hull_cost[0] == cost.min()
    assert hull_quality[-1] == quality.max()
    assert (quality <= quality_at(cost, hull_cost, hull_quality) + 1e-9).all()


@settings(deadline=None)
@given(points, st.randoms(use_true_random=False))
def test_the_hull_is_made_of_given_points_in_whatever_order(pairs: list[tuple[int, int]], random: object) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    corners = hull(*split(pairs))
    assert hull(*split(shuffled)) == corners
    assert set(corners) <= {(float(c), float(q)) for c, q in pairs}


@settings(deadline=None)
@given(points, st.data())
def test_dominated_points_and_repeats_change_nothing(pairs: list[tuple[int, int]], data: st.DataObject) -> None:
    dearer = st.tuples(st.sampled_from(pairs), st.integers(0, 50), st.integers(0, 50))
    worse = [(c + more, q - less) for (c, q), more, less in data.draw(st.lists(dearer, max_size=8))]
    assert hull(*split(pairs + worse)) == hull(*split(pairs))


@settings(deadline=None)
@given(points, st.floats(0.01, 100), st.integers(1, 500))
def test_aiq_does_not_depend_on_the_currency(pairs: list[tuple[int, int]], scale: float, width: int) -> None:
    cost, quality = split(pairs)
    low = float(cost.min())
    value = aiq(cost, quality, low, low + width)
    assert aiq(cost * scale, quality, low * scale, (low + width) * scale) == pytest.approx(value, rel=1e-6, abs=1e-6)


@settings(deadline=None)
@given(points, points)
def test_aiq_lies_between_the_hull_s_ends_and_more_points_never_lower_it(
    pairs: list[tuple[int, int]], more: list[tuple[int, int]]
) -> None:
    cost, quality = split(pairs)
    low = float(cost.min())
    value = aiq(cost, quality, low, low + 300)
    assert hull(cost, quality)[0][1] - 1e-9 <= value <= quality.max() + 1e-9
    assert aiq(*split(pairs + more), low, low + 300) >= value - 1e-9


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10), st.integers(1, 10)), min_size=1, max_size=15))
def test_ece_of_a_perfectly_calibrated_set_is_zero(groups: list[tuple[int, int]]) -> None:
    # Each bin is ten points of one probability k/10 of which k are 1, so its outcomes have the very mean foretold.
    ordered = sorted(k for k, _ in groups)
    probability = np.repeat(floats(ordered) / 10, 10)
    outcome = np.concatenate([np.arange(10) < k for k in ordered]).astype(np.float64)
    assert expected_calibration_error(probability, outcome, bins=len(ordered)) == pytest.approx(0.0, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_ece_and_brier_lie_in_the_unit_interval_and_bins_lose_no_point(
    pairs: list[tuple[float, bool]], bins: int
) -> None:
    probability, outcome = floats([p for p, _ in pairs]), floats([y for _, y in pairs])
    assert 0 <= expected_calibration_error(probability, outcome, bins) <= 1
    assert 0 <= brier(probability, outcome) <= 1
    assert equal_mass_bins(probability, outcome, bins)[2].sum() == len(pairs)
