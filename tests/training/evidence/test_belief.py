"""The belief: the prior without outcomes, the truth with many, and draws that are as wide as what is not known."""

from __future__ import annotations

import numpy as np
import pytest

from training.evidence.belief import Belief, Shape, correlated


def shape(n: int, seed: int = 0) -> Shape:
    draw = np.random.default_rng(seed)
    text = draw.standard_normal((n, 4)) / 2.0
    return Shape(text, draw.integers(-1, 3, n), 3, np.array([-1.2, 0.0, 1.2]))


def truth(seen: Shape) -> np.ndarray:
    """Chances that rise with the price, differ by workflow, and follow the text's first column."""
    logits = 0.5 + seen.price + np.where(seen.workflow == 1, -1.5, 0.3)[:, None] + 1.5 * seen.text[:, :1]
    return np.asarray(1 / (1 + np.exp(-logits)))


def test_without_an_outcome_the_dearer_candidate_is_expected_to_be_better_and_little_is_sure() -> None:
    seen = shape(50)
    belief = Belief(seen).given(seen, np.full((50, 3), np.nan))
    expected = belief.chances(seen).mean(axis=0)
    assert (np.diff(expected) > 0).all()
    drawn = np.array([belief.chances(seen, belief.drawn(np.random.default_rng(k))).mean(axis=0) for k in range(200)])
    assert (drawn.std(axis=0) > 0.1).all()
    assert 0.6 < (drawn[:, 2] > drawn[:, 0]).mean() < 0.99


def test_many_outcomes_make_it_the_truth_and_sure_of_it() -> None:
    seen = shape(4_000)
    labels = (np.random.default_rng(1).random((4_000, 3)) < truth(seen)).astype(float)
    belief = Belief(seen).given(seen, labels)
    assert np.abs(belief.chances(seen) - truth(seen)).mean() < 0.02
    drawn = np.array([belief.chances(seen, belief.drawn(np.random.default_rng(k))).mean(axis=0) for k in range(50)])
    assert (drawn.std(axis=0) < 0.02).all()


def test_what_is_learned_in_two_steps_is_what_is_learned_in_one() -> None:
    seen = shape(600)
    labels = (np.random.default_rng(1).random((600, 3)) < truth(seen)).astype(float)
    first, second = np.arange(300), np.arange(300, 600)
    once = Belief(seen).given(seen, labels)
    twice = Belief(seen).given(seen.take(first), labels[first]).given(seen.take(second), labels[second])
    assert np.abs(once.chances(seen) - twice.chances(seen)).max() < 0.02


def test_draws_hold_the_truth_about_as_often_as_they_should() -> None:
    inside = []
    for seed in range(30):
        seen = shape(200, seed)
        before = Belief(seen)
        theta = before.drawn(np.random.default_rng(1_000 + seed))
        real = before.chances(seen, theta)
        labels = (np.random.default_rng(seed).random((200, 3)) < real).astype(float)
        labels[np.random.default_rng(2_000 + seed).random((200, 3)) < 0.8] = np.nan
        after = before.given(seen, labels)
        draws = np.array([after.chances(seen, after.drawn(np.random.default_rng(k))).mean() for k in range(100)])
        inside.append(np.quantile(draws, 0.1) <= real.mean() <= np.quantile(draws, 0.9))
    assert 16 <= sum(inside) <= 29  # of 30 at 80%


@pytest.mark.parametrize("together", [0.0, 0.6])
def test_outcomes_have_their_chances_and_fail_together_as_told(together: float) -> None:
    chances = np.tile([0.9, 0.7], (40_000, 1))
    made = correlated(chances, together, np.random.default_rng(0))
    assert made.mean(axis=0) == pytest.approx([0.9, 0.7], abs=0.01)
    both = ((1 - made[:, 0]) * (1 - made[:, 1])).mean()
    assert both == pytest.approx(0.03, abs=0.003) if together == 0.0 else both > 0.05
