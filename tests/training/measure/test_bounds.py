"""Upper bounds of a failure rate: closed forms, then coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle.arrays import Floats
from training.measure.bounds import clopper_pearson_upper, weighted_upper


def test_clopper_pearson_in_closed_form() -> None:
    # No failure: 1 - delta^(1/n). All but one of two: the root of 1 - p^2 = delta.
    assert clopper_pearson_upper(0, 59, 0.05) == pytest.approx(1 - 0.05 ** (1 / 59))
    assert clopper_pearson_upper(1, 2, 0.05) == pytest.approx(np.sqrt(0.95))
    assert clopper_pearson_upper(7, 7, 0.05) == 1.0
    assert clopper_pearson_upper(0, 0, 0.05) == 1.0


def test_clopper_pearson_known_value() -> None:
    # The upper end of the two-sided 95% interval of 10 in 100, as printed in every table of it.
    assert clopper_pearson_upper(10, 100, 0.025) == pytest.approx(0.1762, abs=5e-5)


def test_what_is_no_rate_is_said() -> None:
    with pytest.raises(ValueError, match="between 0 and 3 failures, got 4"):
        clopper_pearson_upper(4, 3, 0.05)
    with pytest.raises(ValueError, match="delta between 0 and 1, got 1"):
        clopper_pearson_upper(1, 3, 1.0)
    with pytest.raises(ValueError, match=r"losses in \[0, 1\], got 2"):
        weighted_upper(np.array([2.0]), np.array([1.0]), 0.05)
    with pytest.raises(ValueError, match="weights >= 0, got -1"):
        weighted_upper(np.array([0.5]), np.array([-1.0]), 0.05)
    with pytest.raises(ValueError, match="one weight per loss"):
        weighted_upper(np.array([0.5]), np.array([1.0, 1.0]), 0.05)


def test_weighted_upper_by_hand() -> None:
    # No failures: Kish's (1 + 1 + 2)^2 / 6 rows, and 1 - delta^(1/n').
    bound, effective = weighted_upper(np.zeros(3), np.array([1.0, 1.0, 2.0]), 0.05)
    assert effective == pytest.approx(16 / 6)
    assert bound == pytest.approx(1 - 0.05 ** (6 / 16))


def test_heavy_rows_that_fail_more_often_lower_the_effective_sample() -> None:
    # Rate 5/12; squares 25/144 and 49/144: r (1 - r) is 5040/144^2, its variance 1900/144^2. Kish's is 144/52.
    bound, effective = weighted_upper(np.array([0.0, 0.0, 1.0, 0.0]), np.array([1.0, 1.0, 5.0, 5.0]), 0.05)
    assert effective == pytest.approx(5040 / 1900)
    assert effective < 144 / 52
    assert 5 / 12 < bound < 1


def test_without_weights_nothing_is_known() -> None:
    assert weighted_upper(np.zeros(0), np.zeros(0), 0.05) == (1.0, 0.0)
    assert weighted_upper(np.zeros(3), np.zeros(3), 0.05) == (1.0, 0.0)


def test_rows_of_weight_zero_are_not_read() -> None:
    with_them = weighted_upper(np.array([1.0, 0.0, np.nan]), np.array([1.0, 3.0, 0.0]), 0.1)
    assert with_them == weighted_upper(np.array([1.0, 0.0]), np.array([1.0, 3.0]), 0.1)


@pytest.mark.parametrize(("n", "rate"), [(30, 0.02), (30, 0.3), (300, 0.02), (300, 0.3)])
def test_clopper_pearson_covers(n: int, rate: float) -> None:
    bounds = np.array([clopper_pearson_upper(k, n, 0.1) for k in range(n + 1)])
    failures = np.random.default_rng(0).binomial(n, rate, size=20_000)
    assert (bounds[failures] >= rate).mean() >= 0.9 - 0.007  # three standard errors of 20,000 draws


@pytest.mark.parametrize("lean", [0.0, 0.7])
def test_the_weighted_bound_covers_also_where_heavy_rows_fail_more_often(lean: float) -> None:
    generator = np.random.default_rng(3)

    def rows(n: int) -> tuple[Floats, Floats]:
        weights = 1 / np.clip(generator.beta(1, 3, n), 0.05, 1)
        return weights, 0.06 * weights**lean

    weights, rate = rows(500_000)
    truth = np.average(np.minimum(rate, 1), weights=weights)
    held = []
    for _ in range(600):
        weights, rate = rows(400)
        losses = (generator.random(400) < rate).astype(np.float64)
        held.append(weighted_upper(losses, weights, 0.1)[0] >= truth)
    assert np.mean(held) >= 0.9 - 0.025


@given(st.integers(1, 400), st.floats(0.001, 0.5), st.data())
def test_one_more_failure_raises_the_bound_and_one_more_success_lowers_it(
    n: int, delta: float, data: st.DataObject
) -> None:
    failures = data.draw(st.integers(0, n - 1))
    bound = clopper_pearson_upper(failures, n, delta)
    assert failures / n < bound < clopper_pearson_upper(failures + 1, n, delta)
    assert clopper_pearson_upper(failures, n + 1, delta) < bound
    assert clopper_pearson_upper(failures, n, delta / 2) > bound


@given(st.integers(1, 300), st.floats(0.01, 100), st.data())
def test_equal_weights_give_the_exact_bound(n: int, weight: float, data: st.DataObject) -> None:
    failures = data.draw(st.integers(0, n))
    losses = (np.arange(n) < failures).astype(np.float64)
    bound, effective = weighted_upper(losses, np.full(n, weight), 0.05)
    assert effective == pytest.approx(n)
    assert bound == pytest.approx(clopper_pearson_upper(failures, n, 0.05), abs=1e-9)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.01, 100)), min_size=1, max_size=40),
    st.floats(0.01, 100),
)
def test_the_weighted_bound_is_above_the_rate_and_free_of_scale(pairs: list[tuple[float, float]], scale: float) -> None:
    losses, weights = np.array(pairs).T
    bound, effective = weighted_upper(losses, weights, 0.05)
    assert np.average(losses, weights=weights) - 1e-9 <= bound <= 1
    assert 0 <= effective <= len(losses) + 1e-6
    assert weighted_upper(losses, weights * scale, 0.05) == pytest.approx((bound, effective), rel=1e-4, abs=1e-6)
