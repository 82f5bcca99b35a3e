"""Off-policy evaluation: values worked out by hand, then what must hold against a log whose truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from serving.bundle.arrays import Bools, Columns, Floats
from training.measure.offpolicy import (
    Estimate,
    doubly_robust,
    effective_sample_size,
    importance_weights,
    ips,
    mask_to_one,
    pseudo_outcomes,
    snips,
)
from training.measure.propensity import estimate_propensities, judged_propensity

NAN = np.nan
# Four requests, two candidates; the target chooses 0, 1, 0, 1, of which the log has the first three.
OUTCOME = np.array([[1.0, NAN], [NAN, 0.5], [0.0, NAN], [1.0, NAN]])
PROPENSITY = np.array([[0.5, NAN], [NAN, 0.25], [0.5, NAN], [0.8, NAN]])
COLUMNS = np.array([0, 1, 0, 1])


def floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def world(n: int, seed: int, candidates: int = 4) -> tuple[Floats, Floats, Floats, Columns]:
    """Features (n, 3), P(acceptable) and the log's propensities (n, m), and a target that prefers where the log does not."""
    x = np.random.default_rng(seed).normal(size=(n, 3))
    taste, habit = np.random.default_rng(1).normal(size=(2, 3, candidates))
    probability = 1 / (1 + np.exp(-(x @ taste + np.linspace(-0.5, 1.0, candidates))))
    choice = np.exp(x @ habit)
    propensity = 0.8 * choice / choice.sum(axis=1, keepdims=True) + 0.2 / candidates
    return x, probability, propensity, (probability - np.linspace(0, 0.3, candidates)).argmax(axis=1)


def outcomes(probability: Floats, seed: int) -> Floats:
    return (np.random.default_rng(seed).random(probability.shape) < probability).astype(np.float64)


def value_of(quality: Floats, columns: Columns) -> float:
    return float(quality[np.arange(len(columns)), columns].mean())


def test_weights_by_hand() -> None:
    observed = np.isfinite(OUTCOME)
    assert importance_weights(observed, PROPENSITY, COLUMNS, clip=100).tolist() == [2.0, 4.0, 2.0, 0.0]
    assert importance_weights(observed, PROPENSITY, COLUMNS, clip=3).tolist() == pytest.approx([2.0, 3.0, 2.0, 0.0])


def test_a_shadow_request_weighs_one_whatever_is_chosen() -> None:
    ones = np.ones((3, 2))
    assert importance_weights(ones == 1, ones, np.array([0, 1, 0]), clip=100).tolist() == [1.0, 1.0, 1.0]


def test_the_effective_sample_by_hand() -> None:
    assert effective_sample_size(floats([2, 4, 2, 0])) == pytest.approx(64 / 24)
    assert effective_sample_size(floats([0.7] * 5)) == pytest.approx(5.0)
    assert effective_sample_size(floats([0, 0])) == 0.0


def test_ips_by_hand() -> None:
    # Terms 2, 2, 0, 0: mean 1, deviation sqrt(4/3), error sqrt(1/3).
    estimate = ips(OUTCOME, PROPENSITY, COLUMNS, minimum_effective=2)
    assert (estimate.value, estimate.n, estimate.method, estimate.refused) == (1.0, 4, "ips", None)
    assert estimate.effective_sample == pytest.approx(64 / 24)
    assert (estimate.low, estimate.high) == pytest.approx((1 - 1.959964 / np.sqrt(3), 1 + 1.959964 / np.sqrt(3)))


def test_snips_by_hand() -> None:
    # 4 / 8, and the terms .5 + w (y - .5) / 2 = 1, .5, 0, .5, whose error is sqrt(1/6) / 2.
    estimate = snips(OUTCOME, PROPENSITY, COLUMNS, minimum_effective=2)
    assert estimate.value == pytest.approx(0.5)
    assert estimate.high - estimate.value == pytest.approx(1.959964 * np.sqrt(1 / 6) / 2)


def test_doubly_robust_by_hand() -> None:
    # Of the chosen, predictions .5, .5, .5, .9 and corrections 2 * .5, 4 * 0, 2 * -.5, 0.
    model = floats([[0.5, 0.1], [0.1, 0.5], [0.5, 0.1], [0.1, 0.9]])
    estimate = doubly_robust(OUTCOME, PROPENSITY, COLUMNS, model, minimum_effective=2)
    assert estimate.value == pytest.approx((1.5 + 0.5 - 0.5 + 0.9) / 4)


@pytest.mark.parametrize("estimator", [ips, snips])
def test_below_the_effective_sample_there_is_no_value_but_a_reason(estimator: Callable[..., Estimate]) -> None:
    estimate = estimator(OUTCOME, PROPENSITY, COLUMNS, minimum_effective=30)
    assert np.isnan([estimate.value, estimate.low, estimate.high]).all()
    assert estimate.refused == ("4 requests hold an effective sample of 2.7 for these choices, at least 30 are needed")
    nothing = estimator(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, dtype=np.intp), minimum_effective=0)
    assert (nothing.n, nothing.effective_sample) == (0, 0.0)
    assert nothing.refused is not None


def test_a_target_of_a_candidate_the_log_hardly_has_is_refused() -> None:
    # Candidate 1 is only in the shadow quarter: its weights sum to a quarter of the requests, and so would its quality.
    quality, shadow = np.ones((400, 2)), np.arange(400) % 4 == 0
    masked = np.where(shadow[:, None] | [True, False], quality, NAN)
    propensity = np.where(np.isfinite(masked), 1.0, NAN)
    estimate = ips(masked, propensity, np.ones(400, dtype=np.intp))
    assert estimate.effective_sample == pytest.approx(100)
    assert estimate.refused is not None
    assert "average 0.25 instead of 1" in estimate.refused
    assert ips(masked, propensity, np.zeros(400, dtype=np.intp)).value == 1.0


def test_a_row_counts_only_where_its_propensities_are_known() -> None:
    unknown = np.array([[1.0, NAN], [NAN, NAN]])  # an outcome without a propensity, and neither
    unjudged = np.array([[NAN, NAN]])  # tried with a known propensity, but nobody judged it: counts, with weight 0
    outcome = np.vstack([OUTCOME, unknown, unjudged])
    propensity = np.vstack([PROPENSITY, np.full((2, 2), NAN), [[0.5, NAN]]])
    estimate = ips(outcome, propensity, np.append(COLUMNS, [0, 0, 0]), minimum_effective=2)
    assert estimate.n == 5
    assert estimate.value == pytest.approx(4 / 5)


def test_what_cannot_be_weighted_is_said() -> None:
    with pytest.raises(ValueError, match=r"propensities of shape \(4, 2\) and columns of shape \(4,\), got .*\(3,\)"):
        ips(OUTCOME, PROPENSITY, COLUMNS[:3])
    with pytest.raises(ValueError, match="columns from 0 to 1, got 0 to 2"):
        ips(OUTCOME, PROPENSITY, np.array([0, 1, 0, 2]))
    with pytest.raises(ValueError, match=r"no propensity in \[0, 1\], the first 5"):
        ips(OUTCOME, PROPENSITY * 10, COLUMNS)
    with pytest.raises(ValueError, match=r"at least 1, got 0\.5"):
        ips(OUTCOME, PROPENSITY, COLUMNS, clip=0.5)
    with pytest.raises(ValueError, match=r"predictions of shape \(4, 2\)"):
        doubly_robust(OUTCOME, PROPENSITY, COLUMNS, np.zeros((4, 3)))


def test_judged_propensity_by_hand() -> None:
    attempted = np.array([[True, True], [True, True], [True, False], [True, False], [False, True]])
    labels = np.array([[1, NAN], [0, 1], [1, NAN], [NAN, NAN], [NAN, NAN]])
    propensity = np.where(attempted, np.array([[1, 1], [1, 1], [0.6, 0], [0.4, 0], [0, 0.5]]), NAN)
    # Shadow: candidate 0 judged 2 of 2, candidate 1 judged 1 of 2. Single: 1 of 2, and 0 of 1.
    expected = np.array([[1, 0.5], [1, 0.5], [0.3, NAN], [0.2, NAN], [NAN, 0]])
    error = np.zeros_like(attempted)
    assert judged_propensity(attempted, error, labels, propensity) == pytest.approx(expected, nan_ok=True)
    # The judged single of candidate 0 is an error now: it is known for certain, and the other answer was judged.
    error[2, 0] = True
    labels[3, 0] = 1.0
    expected[2:4, 0] = [0.6, 0.4]
    assert judged_propensity(attempted, error, labels, propensity) == pytest.approx(expected, nan_ok=True)


def test_ips_of_a_log_half_judged_is_right_only_with_the_share_judged() -> None:
    _, probability, logged, columns = world(20_000, seed=5)
    quality = outcomes(probability, seed=6)
    masked, propensity = mask_to_one(quality, logged, seed=7)
    attempted = np.isfinite(masked)
    # The first candidate's answers are judged least.
    masked[np.random.default_rng(8).random(masked.shape) > [0.3, 0.6, 0.6, 0.6]] = NAN
    error = np.zeros_like(attempted)
    estimate = ips(masked, judged_propensity(attempted, error, masked, propensity), columns)
    assert estimate.low < value_of(quality, columns) < estimate.high
    assert ips(masked, propensity, columns).refused is not None


def single_attempts(choice: Columns, candidates: int) -> Bools:
    return np.asarray(np.arange(candidates) == choice[:, None])


def test_propensities_of_shadow_single_and_partial_requests() -> None:
    shadow, partial = np.ones((10, 3), dtype=bool), np.tile([True, True, False], (5, 1))
    single = single_attempts(np.repeat([0, 0, 0, 1], 100), 3)
    attempted = np.vstack([shadow, single, partial])
    propensity, note = estimate_propensities(attempted, np.zeros((415, 2)), np.arange(415) % 5)
    assert (propensity[:10] == 1).all()
    # Features that say nothing leave the shares of each candidate; (80 k + 1) of 323 or so out of fold.
    assert propensity[10:310, 0] == pytest.approx(0.75, abs=0.02)
    assert propensity[310:410, 1] == pytest.approx(0.25, abs=0.02)
    assert np.isnan(propensity[410:]).all()
    assert (np.isfinite(propensity[:410]) == attempted[:410]).all()
    assert note == (
        "propensities were not logged; 10 requests tried on every candidate count with propensity 1, 400 tried on one "
        "with a propensity estimated by out-of-fold logistic regression; 5 tried on some candidates are left out"
    )


def test_estimated_propensities_come_close_to_the_log_s_own() -> None:
    x, probability, logged, _ = world(6_000, seed=2)
    _, propensity = mask_to_one(probability, logged, seed=3)
    estimated, _ = estimate_propensities(np.isfinite(propensity), x, np.arange(6_000) % 5)
    seen = np.isfinite(propensity)
    blind = np.tile(logged.mean(axis=0), (6_000, 1))
    error, blind_error = (np.abs(p[seen] - propensity[seen]).mean() for p in (estimated, blind))
    assert error < 0.04
    assert error < blind_error / 3


def test_a_rare_candidate_gets_its_share_and_none_falls_below_the_floor() -> None:
    choice = np.repeat([0, 1, 2], [600, 400, 4])
    propensity, _ = estimate_propensities(single_attempts(choice, 3), np.zeros((1_004, 1)), np.arange(1_004) % 4)
    # 3 of 753 out of fold and one added to each is 4 / 756, raised to 1 / 60.
    assert propensity[-4:, 2].tolist() == pytest.approx([1 / 60] * 4)


def test_a_propensity_is_estimated_without_its_own_fold() -> None:
    # Each fold has one candidate only: without it nothing speaks for that candidate, and the floor of 1 / 40 holds.
    choice = np.repeat([0, 1], 50)
    propensity, _ = estimate_propensities(single_attempts(choice, 2), np.zeros((100, 1)), choice)
    assert propensity[:50, 0] == pytest.approx(1 / 40)
    with pytest.raises(ValueError, match="at least two folds"):
        estimate_propensities(single_attempts(choice, 2), np.zeros((100, 1)), np.zeros(100, dtype=np.intp))
    with pytest.raises(ValueError, match="expected 100 rows of features and folds, got 99 and 100"):
        estimate_propensities(single_attempts(choice, 2), np.zeros((99, 1)), choice)


def test_mask_to_one_draws_with_the_given_probabilities() -> None:
    quality = np.tile([0.1, 0.2, 0.3], (20_000, 1))
    masked, propensity = mask_to_one(quality, np.tile([0.0, 0.3, 0.7], (20_000, 1)), seed=0)
    kept = np.isfinite(masked)
    assert (kept.sum(axis=1) == 1).all()
    assert kept.mean(axis=0).tolist() == pytest.approx([0.0, 0.3, 0.7], abs=0.015)
    assert (masked[kept] == quality[kept]).all()
    assert np.unique(propensity[kept]).tolist() == [0.3, 0.7]
    with pytest.raises(ValueError, match="sum to 1"):
        mask_to_one(quality, np.full(quality.shape, 0.5), seed=0)
    with pytest.raises(ValueError, match="1 of 3 are missing"):
        mask_to_one(floats([[1, NAN, 1]]), np.full((1, 3), 1 / 3), seed=0)
    with pytest.raises(ValueError, match=r"shape \(1, 3\), got \(1, 2\)"):
        mask_to_one(np.ones((1, 3)), np.ones((1, 2)), seed=0)


def test_ips_is_unbiased() -> None:
    _, probability, logged, columns = world(400, seed=11)
    quality = outcomes(probability, seed=12)
    truth = value_of(quality, columns)
    values = floats([ips(*mask_to_one(quality, logged, seed), columns).value for seed in range(400)])
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - truth) < 3.5 * error
    # The mean of what the log happens to have of the chosen is not the truth: its policy prefers where the target does not.
    masked, _ = mask_to_one(np.tile(quality, (20, 1)), np.tile(logged, (20, 1)), seed=0)
    assert abs(np.nanmean(masked[np.arange(8_000), np.tile(columns, 20)]) - truth) > 0.02


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    truth, repeats = value_of(*world(200_000, seed=21)[1::2]), 300
    held = {"ips": 0, "snips": 0, "doubly robust": 0, "doubly robust, bad model": 0}
    for seed in range(repeats):
        _, probability, logged, columns = world(1_000, seed=1_000 + seed)
        masked, propensity = mask_to_one(outcomes(probability, seed), logged, seed + repeats)
        for name, estimate in {
            "ips": ips(masked, propensity, columns),
            "snips": snips(masked, propensity, columns),
            "doubly robust": doubly_robust(masked, propensity, columns, probability),
            "doubly robust, bad model": doubly_robust(masked, propensity, columns, np.full(masked.shape, 0.3)),
        }.items():
            held[name] += estimate.low <= truth <= estimate.high
    assert min(held.values()) >= 0.9 * repeats, held


def sessions(seed: int, turns: tuple[int, int]) -> tuple[Floats, Floats, Columns]:
    """400 conversations that keep their side, the second with probability .3; outcomes correlate within them.

    Conversations on either side have so many `turns`; answers are good with probability .8 and .6. The outcomes and
    their propensities (n, 2), and the conversations (n,).
    """
    generator = np.random.default_rng(seed)
    side = (generator.random(400) < 0.3).astype(np.intp)
    groups = np.repeat(np.arange(400), np.array(turns)[side])
    went = side[groups]
    mood = np.sqrt(0.3) * generator.standard_normal(400)[groups] + np.sqrt(0.7) * generator.standard_normal(len(groups))
    good = mood < np.array([0.8416, 0.2533])[went]
    seen = np.arange(2) == went[:, None]
    return (
        np.where(seen, good[:, None], NAN),
        np.where(seen, np.where(went == 1, 0.3, 0.7)[:, None], NAN),
        np.asarray(groups, dtype=np.intp),
    )


def test_intervals_hold_the_truth_where_conversations_keep_their_side() -> None:
    held, blind, repeats = {"ips": 0, "snips": 0, "doubly robust": 0}, 0, 300
    for seed in range(repeats):
        outcome, propensity, groups = sessions(seed, (5, 5))
        columns, model = np.ones(len(groups), dtype=np.intp), np.full(outcome.shape, 0.7)
        for estimate in (
            ips(outcome, propensity, columns, groups=groups),
            snips(outcome, propensity, columns, groups=groups),
            doubly_robust(outcome, propensity, columns, model, groups=groups),
        ):
            held[estimate.method] += estimate.low <= 0.6 <= estimate.high
            assert estimate.effective_sample <= 400
        alone = ips(outcome, propensity, columns)
        blind += alone.low <= 0.6 <= alone.high
    assert min(held.values()) >= 0.9 * repeats, held
    assert blind < 0.85 * repeats, "as if each request were independent it does not"


def test_where_one_side_s_conversations_are_longer_what_is_normalised_is_right() -> None:
    found = []
    for seed in range(40):
        outcome, propensity, groups = sessions(1_000 + seed, (2, 6))
        columns, model = np.ones(len(groups), dtype=np.intp), np.full(outcome.shape, 0.7)
        found.append(
            (
                snips(outcome, propensity, columns, groups=groups).value,
                doubly_robust(outcome, propensity, columns, model, groups=groups).value,
            )
        )
    assert np.mean(found, axis=0) == pytest.approx([0.6, 0.6], abs=0.02)


@given(st.integers(0, 2**32 - 1))
def test_groups_of_one_change_nothing(seed: int) -> None:
    _, probability, logged, columns = world(300, seed)
    masked, propensity = mask_to_one(outcomes(probability, seed), logged, seed)
    for one, other in zip(
        (ips(masked, propensity, columns), snips(masked, propensity, columns)),
        (estimator(masked, propensity, columns, groups=np.arange(300)[::-1]) for estimator in (ips, snips)),
        strict=True,
    ):
        assert [other.low, other.high, other.effective_sample] == pytest.approx(
            [one.low, one.high, one.effective_sample], nan_ok=True
        )
    with pytest.raises(ValueError, match=r"groups of shape \(300,\), got \(2,\)"):
        ips(masked, propensity, columns, groups=np.arange(2))


def test_a_good_model_narrows_the_interval() -> None:
    _, probability, logged, columns = world(2_000, seed=31)
    masked, propensity = mask_to_one(outcomes(probability, seed=32), logged, seed=33)
    wide, narrow = ips(masked, propensity, columns), doubly_robust(masked, propensity, columns, probability)
    assert narrow.high - narrow.low < 0.7 * (wide.high - wide.low)


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_with_a_perfect_model_doubly_robust_is_the_truth(seed: int, candidates: int) -> None:
    _, probability, logged, columns = world(300, seed, candidates)
    quality = outcomes(probability, seed)
    masked, propensity = mask_to_one(quality, logged, seed)
    estimate = doubly_robust(masked, propensity, columns, quality, minimum_effective=5)
    if estimate.refused is None:
        assert estimate.value == pytest.approx(value_of(quality, columns), abs=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_on_complete_outcomes_every_estimate_is_the_plain_mean(seed: int) -> None:
    _, probability, _, columns = world(60, seed)
    quality, ones = outcomes(probability, seed), np.ones((60, 4))
    truth = pytest.approx(value_of(quality, columns))
    for estimate in (ips(quality, ones, columns), snips(quality, ones, columns)):
        assert estimate.value == truth
        assert estimate.effective_sample == pytest.approx(60)
    assert doubly_robust(quality, ones, columns, probability).value == truth


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1.0))
def test_snips_does_not_depend_on_the_scale_of_the_weights(seed: int, scale: float) -> None:
    _, probability, logged, columns = world(400, seed)
    masked, propensity = mask_to_one(outcomes(probability, seed), logged, seed)
    one = snips(masked, propensity, columns, clip=1e9)
    other = snips(masked, propensity * scale, columns, clip=1e9)
    if one.refused is None:
        assert (other.value, other.low, other.high) == pytest.approx((one.value, one.low, one.high))
        assert other.effective_sample == pytest.approx(one.effective_sample)


@given(st.integers(0, 2**32 - 1), st.floats(1.0, 50.0))
def test_weights_lie_between_one_and_the_clip_and_snips_within_the_outcomes(seed: int, clip: float) -> None:
    _, probability, logged, columns = world(100, seed)
    masked, propensity = mask_to_one(probability, logged, seed)
    weights = importance_weights(np.isfinite(masked), propensity, columns, clip)
    used = weights > 0
    assert (used == np.isfinite(masked[np.arange(100), columns])).all()
    assert ((weights[used] >= 1) & (weights[used] <= clip * (1 + 1e-9))).all()
    assert effective_sample_size(weights) <= used.sum() + 1e-9
    estimate = snips(masked, propensity, columns, clip=clip, minimum_effective=2)
    if estimate.refused is None:
        assert np.nanmin(masked) - 1e-12 <= estimate.value <= np.nanmax(masked) + 1e-12


def test_pseudo_outcomes_average_to_the_truth_whatever_the_model_says() -> None:
    generator = np.random.default_rng(1)
    truth = (generator.random((20_000, 2)) < [0.8, 0.4]).astype(float)
    tried = (generator.random(20_000) < 0.25).astype(int)
    outcome = np.where(np.arange(2) == tried[:, None], truth, NAN)
    propensity = np.where(np.isfinite(outcome), np.where(np.arange(2) == 1, 0.25, 0.75), NAN)
    wrong = np.full(truth.shape, 0.1)
    complete = pseudo_outcomes(outcome, propensity, wrong)
    assert np.isfinite(complete).all()
    np.testing.assert_allclose(complete.mean(axis=0), truth.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(pseudo_outcomes(np.full((3, 2), NAN), np.full((3, 2), NAN), wrong[:3]), wrong[:3])


@pytest.mark.parametrize("estimator", [ips, snips, doubly_robust])
def test_rows_that_stand_for_several_count_as_often(estimator: Callable[..., Estimate]) -> None:
    """The even rows, kept in full, are the easy ones; of the odd ones a third is there, and stands for the rest."""
    _, probability, propensity, columns = world(6_000, seed=4)
    even = np.arange(6_000) % 2 == 0
    quality = outcomes(np.where(even[:, None], probability, 0.3 * probability), seed=5)
    outcome, known = mask_to_one(quality, propensity, seed=6)
    model = (probability,) if estimator is doubly_robust else ()
    kept = even | (np.arange(6_000) % 3 == 0)
    standing = np.where(even, 1.0, 3.0)[kept]
    rows = [part[kept] for part in (outcome, known, columns, *model)]
    found, plain = estimator(*rows, standing=standing), estimator(*rows)
    truth = value_of(quality, columns)
    assert found.low < truth < found.high
    assert plain.value > found.value + 0.05
    assert found.effective_sample < plain.effective_sample
    same = estimator(*rows, standing=np.full(len(standing), 3.0))
    assert (same.value, same.low) == pytest.approx((plain.value, plain.low), abs=1e-12)
