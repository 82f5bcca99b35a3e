"""Intervals of paired differences, beside what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.paired import interval


def test_the_interval_of_a_mean_is_about_that_of_its_normal_approximation() -> None:
    gaps = np.random.default_rng(1).normal(0.5, 1.0, 400)
    low, high = interval(gaps, np.mean)
    error = gaps.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((gaps.mean() - 1.96 * error, gaps.mean() + 1.96 * error), abs=0.02)


def test_the_interval_of_a_median_holds_it_and_repeats() -> None:
    gaps = np.random.default_rng(2).exponential(1.0, 301)
    low, high = interval(gaps, np.median)
    assert low < np.median(gaps) < high
    assert interval(gaps, np.median) == (low, high)
    assert interval(np.full(5, 0.25), np.median) == (0.25, 0.25)
