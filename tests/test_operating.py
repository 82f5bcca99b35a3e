"""Operating points: the cheapest knob that is good enough, and the reference where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle import OperatingPoint
from training.frontier import Floats, Frontier, frontier, knob_grid
from training.operating import choose_points

# Three knobs on two requests: mean cost 6, 3, 1 and mean quality 1, .9, .5. The reference costs 5 at quality 1.
POINTS = Frontier(
    knobs=np.array([0.0, 2.0, 7.0]),
    request_cost=np.array([[7.0, 4.0, 1.0], [5.0, 2.0, 1.0]]),
    request_quality=np.array([[1.0, 0.8, 0.4], [1.0, 1.0, 0.6]]),
)
REFERENCE_QUALITY, REFERENCE_COST = np.array([1.0, 1.0]), np.array([4.0, 6.0])


def chosen(*targets: float, points: Frontier = POINTS, minimum: int = 2) -> tuple[OperatingPoint, ...]:
    return choose_points(points, REFERENCE_QUALITY, REFERENCE_COST, targets, "dear", minimum)


def test_a_point_by_hand() -> None:
    (point,) = chosen(0.85)
    assert (point.name, point.quality_target, point.knob, point.always) == ("quality-0.85", 0.85, 2.0, None)
    assert point.calibration_requests == 2
    assert point.quality == pytest.approx(0.9)
    assert point.cost_usd == pytest.approx(3.0)
    assert point.saving == pytest.approx(0.4)


def test_the_cheapest_knob_that_is_good_enough_is_taken_highest_target_first() -> None:
    points = chosen(0.4, 0.9)
    assert [(point.name, point.knob) for point in points] == [("quality-0.9", 2.0), ("quality-0.4", 7.0)]
    assert [point.saving for point in points] == pytest.approx([0.4, 0.8])


def test_a_target_is_relative_to_the_reference() -> None:
    points = choose_points(POINTS, np.array([0.5, 0.6]), REFERENCE_COST, [0.9], "dear", 2)
    assert points[0].knob == 7.0  # .9 * .55 = .495, which quality .5 reaches


def test_below_the_minimum_everything_goes_to_the_reference() -> None:
    for point in chosen(0.4, 0.9, minimum=3):
        assert point.always == "dear"
        assert (point.knob, point.saving, point.calibration_requests) == (0.0, 0.0, 2)
        assert (point.quality, point.cost_usd) == (1.0, 5.0)


def test_a_target_that_no_knob_reaches_goes_to_the_reference() -> None:
    weak = Frontier(POINTS.knobs, POINTS.request_cost, POINTS.request_quality * 0.8)
    high, low = chosen(0.95, 0.7, points=weak)
    assert (high.always, high.saving, high.quality, high.cost_usd) == ("dear", 0.0, 1.0, 5.0)
    assert (low.always, low.knob) == (None, 2.0)


def test_a_knob_dearer_than_the_reference_itself_is_no_saving() -> None:
    (point,) = chosen(0.95)  # knob 0 reaches it at a cost of 6, the reference at 5
    assert (point.always, point.saving, point.cost_usd) == ("dear", 0.0, 5.0)


def test_without_any_request_nothing_is_known_but_the_reference() -> None:
    nothing = Frontier(POINTS.knobs, np.empty((0, 3)), np.empty((0, 3)))
    (point,) = choose_points(nothing, np.empty(0), np.empty(0), [0.9], "dear", 30)
    assert (point.always, point.calibration_requests, point.quality, point.cost_usd) == ("dear", 0, None, None)


def test_a_free_reference_leaves_nothing_to_save() -> None:
    free = Frontier(POINTS.knobs, POINTS.request_cost * 0, POINTS.request_quality)
    (point,) = choose_points(free, REFERENCE_QUALITY, np.zeros(2), [0.9], "dear", 2)
    assert point.saving == 0.0


@st.composite
def routed(draw: st.DrawFn) -> tuple[Frontier, Floats, Floats]:
    """A frontier of random estimates, and what the candidate of the highest quality gave."""
    n, seed = draw(st.integers(1, 40)), draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    cost = generator.uniform(0.1, 5, (n, 3))
    quality = (generator.uniform(size=(n, 3)) < [0.5, 0.7, 0.9]).astype(np.float64)
    best = int(quality.mean(axis=0).argmax())
    points = frontier(generator.uniform(size=(n, 3)), cost, quality, cost, knob_grid(cost, 20))
    return points, quality[:, best], cost[:, best]


@given(routed(), st.lists(st.floats(0.5, 1.0), min_size=1, max_size=5, unique=True))
def test_a_higher_target_never_saves_more_and_every_point_keeps_its_promise(
    made: tuple[Frontier, Floats, Floats], targets: list[float]
) -> None:
    frontier_points, quality, cost = made
    points = choose_points(frontier_points, quality, cost, targets, "best", minimum=1)
    assert [point.quality_target for point in points] == sorted(targets, reverse=True)
    savings = [point.saving for point in points]
    assert (np.diff(savings) >= -1e-12).all()
    for point in points:
        assert point.saving >= -1e-12
        assert point.quality >= point.quality_target * quality.mean() - 1e-12
        if point.always is None:
            at = frontier_points.knobs.tolist().index(point.knob)
            assert point.cost_usd == pytest.approx(frontier_points.cost[at])
