"""The prior: what the known candidates have in common, worked out by hand where it can be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.extend.amounts import Amount, shrunk_factor
from training.extend.column import CAUTION, fit_column, posterior, prior
from training.extend.structure import structure_of
from training.learn.estimators.base import sigmoid
from training.learn.onnx_graph import logit

COST = np.array([1.0, 2.0, 4.0, 8.0])


def chances(levels: list[float], n: int = 200, seed: int = 0) -> np.ndarray:
    """Candidates of these levels that mind one difficulty alike."""
    hard = np.random.default_rng(seed).normal(size=n)
    return np.asarray(sigmoid(np.array(levels) + (hard - hard.mean())[:, None]))


def test_candidates_that_differ_by_level_alone_have_no_contrast_and_slope_one() -> None:
    acceptable = chances([-1.0, 0.0, 1.0, 2.0])
    structure = structure_of(acceptable, COST, 16.0)
    features = structure.features(acceptable)
    assert features.shape == (200, 2)
    np.testing.assert_allclose(features[:, 0], 1.0)
    np.testing.assert_allclose(features[:, 1], logit(acceptable).mean(axis=1) - 0.5, atol=1e-9)
    # One logit per doubling of the price: the next doubling is expected to add another.
    np.testing.assert_allclose(structure.mean, [3.0, 1.0], atol=1e-9)
    assert structure.variance[0] == pytest.approx(0.25), "they lie on the line: what is left is the least variance"


def test_with_few_candidates_the_line_is_level() -> None:
    structure = structure_of(chances([-1.0, 1.0]), COST[:2], 100.0)
    assert structure.mean[0] == pytest.approx(0.0, abs=1e-9)
    assert structure.variance[0] == pytest.approx(2.0 * 1.5, rel=1e-6)


def test_contrasts_tell_known_candidates_apart_with_coefficients_of_mean_square_one() -> None:
    draw = np.random.default_rng(1)
    acceptable = sigmoid(draw.normal(size=(500, 4)))
    structure = structure_of(acceptable, COST, 4.0)
    features = structure.features(acceptable)
    levels = logit(acceptable)
    rest = levels - features[:, 1:2]
    found = np.linalg.lstsq(features[:, [0, *range(2, features.shape[1])]], rest, rcond=None)[0]
    np.testing.assert_allclose(features[:, [0, *range(2, features.shape[1])]] @ found, rest, atol=1e-8)
    np.testing.assert_allclose((found[1:] ** 2).mean(axis=1), 1.0, rtol=1e-6)


def test_one_candidate_has_a_structure_too() -> None:
    structure = structure_of(chances([0.5]), COST[:1], 3.0)
    assert len(structure.mean) == 2
    assert np.isfinite(structure.variance).all()


def test_without_answers_the_posterior_is_the_prior() -> None:
    mean, variance = np.array([0.3, 1.0]), np.array([0.5, 0.1])
    found = posterior(np.zeros((0, 2)), np.zeros(0), mean, variance)
    np.testing.assert_allclose(found.coefficients, mean)
    np.testing.assert_allclose(found.covariance, np.diag(variance))


def test_the_posterior_is_where_its_slope_is_zero() -> None:
    draw = np.random.default_rng(0)
    features, target = draw.normal(size=(80, 3)), (draw.random(80) < 0.4).astype(float)
    mean, variance = np.array([0.0, 1.0, -1.0]), np.array([1.0, 0.5, 4.0])
    at = posterior(features, target, mean, variance).coefficients
    slope = features.T @ (target - sigmoid(features @ at)) - (at - mean) / variance
    np.testing.assert_allclose(slope, 0.0, atol=1e-4)


def test_answers_move_the_column_and_doubt_holds_it_back() -> None:
    acceptable, tags = chances([-1.0, 0.0, 1.0, 2.0]), np.zeros((200, 0))
    structure = structure_of(acceptable, COST, 2.0)
    good = fit_column(structure, acceptable, tags, np.ones(200)).predict(acceptable, tags)
    bad = fit_column(structure, acceptable, tags, np.zeros(200)).predict(acceptable, tags)
    assert (good > bad).all()
    few = fit_column(structure, acceptable[:5], tags[:5], np.ones(5))
    features = structure.features(acceptable)
    assert (few.predict(acceptable, tags) < sigmoid(features @ few.coefficients)).all()
    assert CAUTION > 0


def test_each_workflow_has_a_coefficient_around_zero() -> None:
    structure = structure_of(chances([0.0, 1.0]), COST[:2], 2.0)
    mean, variance = prior(structure, 3)
    assert len(mean) == len(variance) == len(structure.mean) + 3
    np.testing.assert_array_equal(mean[-3:], 0.0)
    assert (variance[-3:] == structure.workflow).all()


@given(st.lists(st.floats(0.2, 5.0), min_size=1, max_size=30), st.floats(0.0, 2.0))
def test_a_factor_lies_between_one_and_what_was_seen(ratios: list[float], between: float) -> None:
    seen = np.array(ratios)
    raw = seen.mean()
    found = shrunk_factor(seen, np.ones(len(seen)), between)
    assert min(raw, 1.0) - 1e-9 <= found <= max(raw, 1.0) + 1e-9


def test_a_factor_of_nothing_is_one_and_unknown_answers_do_not_count() -> None:
    assert shrunk_factor(np.array([np.nan]), np.ones(1), 1.0) == 1.0
    seen, expected = np.array([2.0, 2.0, np.nan]), np.array([1.0, 1.0, 5.0])
    assert shrunk_factor(seen, expected, 1.0) == pytest.approx(2.0), "alike, they leave no doubt"


def test_an_amount_is_a_multiple_of_the_geometric_mean() -> None:
    known = np.array([[1.0, np.nan, 4.0], [9.0, 0.0, 1.0]])
    np.testing.assert_allclose(Amount((0, 2), 2.0).predict(known), [4.0, 6.0])
    np.testing.assert_allclose(Amount((), 7.0).predict(known), [7.0, 7.0])
