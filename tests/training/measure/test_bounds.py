"""Upper bounds of a failure rate: closed forms, then coverage by simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bundle.arrays import Columns, Floats
from training.measure.bounds import clopper_pearson_upper, rate_upper

DELTA = 0.1
Draw = tuple[Floats, Floats, Columns]


def ones(n: int) -> Floats:
    return np.ones(n)


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
    one = np.zeros(1, dtype=np.intp)
    with pytest.raises(ValueError, match="between 0 and 3 failures, got 4"):
        clopper_pearson_upper(4, 3, 0.05)
    with pytest.raises(ValueError, match="delta between 0 and 1, got 1"):
        clopper_pearson_upper(1, 3, 1.0)
    with pytest.raises(ValueError, match=r"losses in \[0, 1\], got 2"):
        rate_upper(np.array([2.0]), ones(1), one, 0.05)
    with pytest.raises(ValueError, match="weights >= 0, got -1"):
        rate_upper(np.array([0.5]), -ones(1), one, 0.05)
    with pytest.raises(ValueError, match="shares >= 0, got -1"):
        rate_upper(np.array([0.5]), ones(1), one, 0.05, -ones(1))
    with pytest.raises(ValueError, match="a loss, a weight, a group and a share"):
        rate_upper(np.array([0.5]), ones(2), one, 0.05)


def test_conversations_that_never_fail_count_once_each() -> None:
    # 20 conversations of 5: one that fails whole is supposed, so the mean is 5/105 and the variance that of 21 draws.
    groups = np.repeat(np.arange(20), 5)
    found = rate_upper(np.zeros(100), ones(100), groups, 0.1)
    assert found.rate == 0.0
    assert found.effective == pytest.approx(20)
    assert found.upper == pytest.approx(clopper_pearson_upper(0, 20, 0.1))


def test_what_was_seen_with_probability_a_half_says_half_as_much() -> None:
    # 100 of 200 were seen, none failed: one more failure weighs 2 of 202. Its variance is nearly that of 1 in 101.
    weights = np.where(np.arange(200) % 2 == 0, 2.0, 0.0)
    found = rate_upper(np.zeros(200), weights, np.arange(200), 0.1)
    assert found.effective == pytest.approx(100, abs=1)
    assert found.upper == pytest.approx(clopper_pearson_upper(0, 100, 0.1), rel=0.01)


def test_the_estimate_is_horvitz_and_thompson_s() -> None:
    found = rate_upper(np.array([1.0, np.nan, 0.0, 1.0]), np.array([2.0, 0.0, 1.0, 1.0]), np.arange(4), 0.1)
    assert found.rate == pytest.approx(3 / 4)


def test_shares_say_how_many_requests_one_stands_for() -> None:
    losses, shares = np.array([1.0, 0.0, 0.0]), np.array([0.5, 2.0, 0.5])
    assert rate_upper(losses, ones(3), np.arange(3), 0.1, shares).rate == pytest.approx(0.5 / 3)
    same = rate_upper(losses, ones(3), np.arange(3), 0.1, 7 * ones(3))
    assert same.upper == pytest.approx(rate_upper(losses, ones(3), np.arange(3), 0.1).upper)


@pytest.mark.parametrize(("never", "failed"), [(1, 0), (3, 0), (5, 4)])
def test_requests_that_were_never_tried_bound_as_so_many_failures_do(never: int, failed: int) -> None:
    weights, losses = np.ones(90), np.zeros(90)
    weights[:never], losses[never : never + failed] = 0.0, 1.0
    found = rate_upper(losses, weights, np.arange(90), 0.1)
    assert found.rate == pytest.approx((never + failed) / 90)
    assert found.upper == pytest.approx(clopper_pearson_upper(never + failed, 90, 0.1))
    assert found.effective == pytest.approx(90)


def test_what_was_never_tried_counts_as_failed() -> None:
    # A log that claims certainty has an outcome for a fifth of the requests: the rest is no matter of chance.
    weights = (np.arange(100) < 20).astype(np.float64)
    found = rate_upper(np.zeros(100), weights, np.arange(100), 0.1)
    assert found.rate == pytest.approx(0.8)
    assert found.upper > 0.8


def test_without_anything_seen_nothing_is_known() -> None:
    for n in (0, 3):
        found = rate_upper(np.zeros(n), np.zeros(n), np.arange(n), 0.05)
        assert (found.upper, found.effective) == (1.0, 0.0)
        assert np.isnan(found.rate)


def test_losses_that_were_not_seen_are_not_read() -> None:
    weights = np.array([2.0, 2.0, 0.0, 0.0])
    unread = rate_upper(np.array([1.0, 0.0, np.nan, 5.0]), weights, np.arange(4), 0.1)
    assert unread == rate_upper(np.array([1.0, 0.0, 0.0, 0.0]), weights, np.arange(4), 0.1)


@pytest.mark.parametrize(("n", "rate"), [(30, 0.02), (30, 0.3), (300, 0.02), (300, 0.3)])
def test_clopper_pearson_covers(n: int, rate: float) -> None:
    bounds = np.array([clopper_pearson_upper(k, n, DELTA) for k in range(n + 1)])
    failures = np.random.default_rng(0).binomial(n, rate, size=20_000)
    assert (bounds[failures] >= rate).mean() >= 0.9 - 0.007  # three standard errors of 20,000 draws


def independent(generator: np.random.Generator, n: int, rate: float) -> Draw:
    return (generator.random(n) < rate).astype(np.float64), ones(n), np.arange(n)


def conversations(generator: np.random.Generator, n: int, rate: float, turns: int = 5, icc: float = 0.3) -> Draw:
    """Beta-binomial: each conversation has a rate of its own, so that two of its turns correlate by `icc`."""
    spread = (1 - icc) / icc
    own = generator.beta(rate * spread, (1 - rate) * spread, n // turns).repeat(turns)
    return (generator.random(len(own)) < own).astype(np.float64), ones(len(own)), np.arange(len(own)) // turns


def long_ones_fail(generator: np.random.Generator, n: int, rate: float) -> Draw:
    """Conversations of geometric length, mean 5, whose rate of failures grows with it; `rate` is that of all requests."""
    turns = generator.geometric(0.2, n // 5)
    # A request is in a conversation of E[turns^2] / E[turns] = 9 turns on average.
    own_rate = np.minimum(rate * turns / 9, 0.9)
    own = generator.beta(own_rate * 7 / 3, (1 - own_rate) * 7 / 3).repeat(turns)
    groups = np.arange(len(turns)).repeat(turns)
    return (generator.random(len(own)) < own).astype(np.float64), ones(len(own)), groups


def seen_by_chance(draw: Draw, generator: np.random.Generator, propensity: Floats) -> Draw:
    losses, _, groups = draw
    seen = generator.random(len(losses)) < propensity
    return losses, np.where(seen, 1.0 / propensity, 0.0), groups


def halves(generator: np.random.Generator, n: int, rate: float) -> Draw:
    """Logged with propensities of .5 and .01, half of the requests each."""
    propensity = np.where(generator.random(n) < 0.5, 0.5, 0.01)
    return seen_by_chance(independent(generator, n, rate), generator, propensity)


def rarely_seen_fail(generator: np.random.Generator, n: int, rate: float) -> Draw:
    """As `halves`, but only what was logged with .01 ever fails."""
    rare = generator.random(n) < 0.5
    losses = ((generator.random(n) < 2 * rate) & rare).astype(np.float64)
    return seen_by_chance((losses, ones(n), np.arange(n)), generator, np.where(rare, 0.01, 0.5))


def turns_seen_by_chance(generator: np.random.Generator, n: int, rate: float) -> Draw:
    return seen_by_chance(conversations(generator, n, rate), generator, np.full(n, 0.5))


def some_complete(generator: np.random.Generator, n: int, rate: float) -> Draw:
    propensity = np.where(generator.random(n) < 0.2, 1.0, 0.1)
    return seen_by_chance(independent(generator, n, rate), generator, propensity)


@pytest.mark.parametrize(
    ("draw", "n", "rate"),
    [
        (independent, 600, 0.04),
        (conversations, 1_000, 0.04),
        (conversations, 300, 0.04),
        (long_ones_fail, 1_000, 0.04),
        (halves, 2_000, 0.05),
        (halves, 10_000, 0.05),
        (rarely_seen_fail, 2_000, 0.02),
        (rarely_seen_fail, 10_000, 0.05),
        (turns_seen_by_chance, 1_000, 0.04),
        (some_complete, 2_000, 0.04),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_bound_is_exceeded_no_more_often_than_it_says(
    draw: Callable[[np.random.Generator, int, float], Draw], n: int, rate: float
) -> None:
    generator, draws = np.random.default_rng(1), 1_000 if n < 5_000 else 400
    bounds = np.array([rate_upper(*draw(generator, n, rate), DELTA).upper for _ in range(draws)])
    allowed = DELTA + 2.33 * (DELTA * (1 - DELTA) / draws) ** 0.5  # one in a hundred of draws that are exactly tight
    assert (bounds < rate).mean() <= allowed


def test_taking_turns_as_independent_is_exceeded_more_often_than_it_says() -> None:
    generator, exceeded = np.random.default_rng(1), []
    for _ in range(1_000):
        losses, _, _ = conversations(generator, 1_000, 0.04)
        exceeded.append(clopper_pearson_upper(int(losses.sum()), len(losses), DELTA) < 0.04)
    assert np.mean(exceeded) > DELTA + 3 * (DELTA * (1 - DELTA) / 1_000) ** 0.5


@pytest.mark.parametrize(
    ("draw", "n", "widest"),
    [(conversations, 1_000, 0.06), (turns_seen_by_chance, 1_000, 0.066), (some_complete, 2_000, 0.07)],
)
def test_the_bound_is_not_so_wide_that_it_certifies_nothing(
    draw: Callable[[np.random.Generator, int, float], Draw], n: int, widest: float
) -> None:
    """Its mean over draws of a log whose rate is .04."""
    generator = np.random.default_rng(2)
    bounds = [rate_upper(*draw(generator, n, 0.04), DELTA).upper for _ in range(100)]
    assert 0.04 < np.mean(bounds) < widest


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
def test_independent_complete_requests_give_the_exact_bound(n: int, share: float, data: st.DataObject) -> None:
    failures = data.draw(st.integers(0, n))
    losses = (np.arange(n) < failures).astype(np.float64)
    found = rate_upper(losses, ones(n), np.arange(n), 0.05, np.full(n, share))
    assert found.upper == pytest.approx(clopper_pearson_upper(failures, n, 0.05), abs=1e-9)
    assert found.effective == pytest.approx(n if failures < n else 0)
    assert found.rate == pytest.approx(failures / n)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_the_bound_is_above_the_rate_and_a_coarser_grouping_never_has_more_effective_requests(seed: int) -> None:
    generator = np.random.default_rng(seed)
    losses, weights, groups = turns_seen_by_chance(generator, 100, 0.1)
    found = rate_upper(losses, weights, groups, 0.1)
    assert np.isnan(found.rate) or found.rate <= found.upper <= 1
    assert 0 <= found.effective <= 101
    shuffled = generator.permutation(100)
    again = rate_upper(losses[shuffled], weights[shuffled], groups[shuffled], 0.1)
    assert again.upper == pytest.approx(found.upper)
