"""Labels: the threshold, and when the cheapest acceptable candidate can be known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.dataset.label import acceptable, cheapest_acceptable

NAN = float("nan")
cells = st.sampled_from([0.0, 1.0, NAN])


def test_acceptable_by_hand() -> None:
    quality = np.array([[0.75, 0.7499, 1.0], [NAN, 0.0, 0.8]])
    labels = acceptable(quality, 0.75)
    assert labels[0].tolist() == [1.0, 0.0, 1.0]
    assert np.isnan(labels[1, 0])
    assert labels[1, 1:].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ([1, 1, 1], 1),  # the cheapest of all is acceptable
        ([1, 0, 1], 0),  # the next one up
        ([0, 0, 1], 2),
        ([0, 0, 0], -1),  # none was acceptable
        ([1, NAN, 1], -1),  # the cheapest was not judged: it might have been acceptable
        ([1, 0, NAN], 0),  # a dearer one that was not judged does not matter
        ([NAN, 0, 1], -1),
        ([NAN, NAN, NAN], -1),
        ([0, 0, NAN], -1),
        ([NAN, 1, NAN], 1),
    ],
)
def test_the_cheapest_acceptable_by_hand(row: list[float], column: int) -> None:
    assert cheapest_acceptable(np.array([row]), np.array([2.0, 1.0, 3.0])).tolist() == [column]


def test_costs_of_each_request_order_its_candidates() -> None:
    cost = np.array([[1.0, 2.0], [2.0, 1.0]])
    assert cheapest_acceptable(np.ones((2, 2)), cost).tolist() == [0, 1]


def test_equal_costs_go_to_the_first_column_and_unknown_ones_come_last() -> None:
    assert cheapest_acceptable(np.ones((1, 3)), np.array([2.0, 1.0, 1.0])).tolist() == [1]
    assert cheapest_acceptable(np.ones((1, 2)), np.array([NAN, 5.0])).tolist() == [1]


def test_no_requests_are_no_labels() -> None:
    assert cheapest_acceptable(np.empty((0, 3)), np.ones(3)).tolist() == []


@settings(deadline=None)
@given(st.lists(st.lists(cells, min_size=3, max_size=3), min_size=1, max_size=10), st.permutations([1.0, 2.0, 3.0]))
def test_what_is_named_is_acceptable_and_everything_cheaper_was_judged_and_failed(
    rows: list[list[float]], cost: list[float]
) -> None:
    labels, price = np.array(rows), np.array(cost)
    for row, column in zip(labels, cheapest_acceptable(labels, price), strict=True):
        failed_below = [
            column for column in range(3) if row[column] == 1.0 and (row[price < price[column]] == 0.0).all()
        ]
        assert [column] == (failed_below or [-1])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_never_accepts_more(quality: list[float], one: float, other: float) -> None:
    values = np.array([quality])
    assert (acceptable(values, max(one, other)) <= acceptable(values, min(one, other))).all()
