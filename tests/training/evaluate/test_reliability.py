"""Bins with intervals, and risk against coverage."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from serving.account.intervals import wilson
from training.evaluate.reliability import (
    LEAST_IN_BIN,
    MOST_BINS,
    beyond_chance,
    bins,
    chance_of,
    interval,
    reliability,
    risk_coverage,
)


def test_wilsons_interval_as_published() -> None:
    """Newcombe 1998, table I: 81 of 263, and 0 of 20."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


def test_few_outcomes_are_one_bin_with_a_wide_interval() -> None:
    (only,) = bins(np.linspace(0.2, 0.8, 10), np.array([0, 1] * 5, dtype=np.float64))
    assert (only.n, only.y, only.low, only.high) == (10, 0.5, 0.2, 0.8)
    assert only.y_high - only.y_low > 0.4
    assert bins(np.array([]), np.array([])) == ()


@given(st.integers(1, 2000), st.integers(0, 2**32 - 1), st.booleans())
def test_bins_are_large_enough_rise_and_hold_everything(n: int, seed: int, few_levels: bool) -> None:
    draw = np.random.default_rng(seed)
    p = draw.random(n)
    if few_levels:
        p = np.round(p * 3) / 3
    y = (draw.random(n) < p).astype(np.float64)
    found = bins(p, y)
    assert sum(one.n for one in found) == n
    assert 1 <= len(found) <= MOST_BINS
    assert len(found) == 1 or all(one.n >= LEAST_IN_BIN for one in found)
    for one in found:
        assert one.low <= one.p + 1e-12
        assert one.p <= one.high + 1e-12
        assert one.y_low - 1e-12 <= one.y <= one.y_high + 1e-12
    for before, after in pairwise(found):
        assert before.high < after.low
        assert before.y <= after.y


def test_a_calibrated_chance_lies_in_its_intervals() -> None:
    draw = np.random.default_rng(0)
    p = draw.random(4000)
    found = bins(p, (draw.random(4000) < p).astype(np.float64))
    assert len(found) > 10
    assert sum(one.y_low <= one.p <= one.y_high for one in found) >= len(found) - 2


def test_reliability_is_told_of_all_of_the_chosen_and_by_candidate() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    labels = np.array([[1.0, np.nan], [0.0, 0.0], [np.nan, np.nan]])
    found = reliability(p, labels, np.array([0, 1, 0]), ("a", "b"))
    assert [one.n for one in found.all] == [3]
    assert [one.n for one in found.chosen] == [2]
    assert {name: sum(one.n for one in parts) for name, parts in found.by_candidate.items()} == {"a": 2, "b": 1}


def test_the_most_confident_are_risked_first() -> None:
    n = 200
    p = np.column_stack([np.linspace(1, 0, n), np.zeros(n)])
    labels = np.column_stack([(np.arange(n) < 100).astype(np.float64), np.full(n, np.nan)])
    found = risk_coverage(p, labels, np.zeros(n, dtype=np.intp))
    assert [one.coverage for one in found] == pytest.approx([step / 20 for step in range(1, 21)])
    assert [one.risk for one in found[:10]] == [0.0] * 10
    assert found[-1].risk == pytest.approx(0.5)
    assert all(one.low - 1e-12 <= one.risk <= one.high for one in found)
    assert risk_coverage(p[:10], labels[:10], np.zeros(10, dtype=np.intp)) == ()


def test_intervals_are_of_conversations() -> None:
    """Eight candidates find the same requests hard: by rows far more than one of 20 intervals misses."""
    n, m, turns = 500, 8, 5
    missed, by_rows, bins_seen = 0, 0, 0
    for seed in range(20):
        draw = np.random.default_rng(seed)
        p = np.clip(draw.beta(4, 2, size=(n, m)), 0.02, 0.98)
        hard = np.repeat(draw.standard_normal((n // turns, 1)), turns, axis=0)
        labels = (norm.cdf(np.sqrt(0.5) * hard + np.sqrt(0.5) * draw.standard_normal((n, m))) < p).astype(np.float64)
        groups = np.repeat(np.arange(n // turns), turns)
        found = reliability(p, labels, p.argmax(axis=1), [str(k) for k in range(m)], groups)
        rows = bins(p.ravel(), labels.ravel())
        missed += sum(not one.y_low <= one.p <= one.y_high for one in found.all)
        by_rows += sum(not one.y_low <= one.p <= one.y_high for one in rows)
        bins_seen += len(rows)
        assert [one.y for one in found.all] == [one.y for one in rows]
    assert by_rows / bins_seen > 0.15
    assert missed / bins_seen < 0.12


def test_copies_of_an_outcome_tell_no_more_than_it_does() -> None:
    draw = np.random.default_rng(1)
    p = draw.random(40)
    y = (draw.random(40) < 0.5).astype(np.float64)
    columns = np.zeros(400, dtype=np.intp)
    groups = np.repeat(np.arange(40), 10)
    once = risk_coverage(p[:, None], y[:, None], columns[:40])[-1]
    often = risk_coverage(np.repeat(p, 10)[:, None], np.repeat(y, 10)[:, None], columns, groups)[-1]
    assert often.risk == pytest.approx(once.risk)
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=0.01)
    (few,) = bins(np.full(100, 0.5), np.repeat([1.0, 0.0], 50), np.repeat(np.arange(4), 25))
    assert few.y_high - few.y_low > 0.6, "four conversations"


def test_equal_chances_are_risked_together_whatever_the_logs_order() -> None:
    p = np.full((300, 1), 0.7)
    labels = np.r_[np.ones(200), np.zeros(100)][:, None]
    columns = np.zeros(300, dtype=np.intp)
    (only,) = risk_coverage(p, labels, columns)
    assert (only.coverage, only.risk) == (1.0, pytest.approx(1 / 3))
    two = risk_coverage(np.where(np.arange(300) % 2 == 0, 0.9, 0.7)[:, None], labels, columns)
    assert [one.coverage for one in two] == [0.5, 1.0]
    assert two[0].risk == pytest.approx(1 / 3, abs=0.01)


def test_holm_names_no_more_than_the_smallest_in_a_row() -> None:
    assert beyond_chance([0.02, 0.001, 0.9, 0.04]) == [False, True, False, False]
    assert beyond_chance([0.01, 0.001, 0.03, 0.02]) == [True, True, True, True]
    assert beyond_chance([]) == []


def test_a_share_is_beyond_chance_where_its_interval_says_so() -> None:
    y, groups = np.repeat([1.0, 0.0], [60, 40]), np.arange(100)
    low, high = interval(y, groups)
    assert chance_of(y, groups, low) == pytest.approx(0.05, abs=1e-4)
    assert chance_of(y, groups, high) == pytest.approx(0.05, abs=1e-4)
    assert chance_of(y, groups, 0.6) == pytest.approx(1.0)
    assert chance_of(np.repeat(y, 5), np.repeat(groups, 5), low) == pytest.approx(0.05, abs=0.01), "copies tell no more"


def test_outcomes_that_stand_for_several_count_as_often_and_are_no_surer() -> None:
    draw = np.random.default_rng(3)
    p, groups = draw.random(600), np.arange(600) // 2
    y = (draw.random(600) < p).astype(np.float64)
    standing = np.where(np.arange(600) % 4 < 2, 3.0, 1.0)
    y[standing == 1.0] = 0.0  # what was kept whole fails
    (low, high), (plain_low, plain_high) = interval(y, groups, standing), interval(y, groups)
    often = np.repeat(np.arange(600), standing.astype(int))
    assert low < y[often].mean() < high
    assert not low < y.mean() < high
    assert high - low > 0.9 * (plain_high - plain_low)
    same = interval(y, groups, np.full(600, 3.0))
    assert same == pytest.approx((plain_low, plain_high))
    risks = risk_coverage(p[:, None], y[:, None], np.zeros(600, dtype=np.intp), groups, standing)
    assert risks[-1].coverage == 1.0
    assert risks[-1].risk == pytest.approx(1.0 - y[often].mean())
    (one,) = bins(np.full(600, 0.5), y, groups, standing)
    assert one.y == pytest.approx(y[often].mean())
