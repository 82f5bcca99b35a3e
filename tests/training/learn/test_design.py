"""Ridge regression: against least squares on augmented rows, whatever the weights, and one solve where rows are shared."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle.arrays import Floats
from training.dataset.inputs import Inputs
from training.learn.estimators.design import Equations
from training.learn.estimators.linear import HierarchicalRidge


def by_least_squares(columns: Floats, target: Floats, weight: Floats, penalty: float) -> Floats:
    """The same minimiser without normal equations: the penalty as further rows of sqrt(penalty) b = 0."""
    d = columns.shape[1]
    root = np.sqrt(weight)[:, None]
    rows = np.vstack([columns * root, np.sqrt(penalty) * np.eye(d)])
    return np.asarray(np.linalg.lstsq(rows, np.append(target * root[:, 0], np.zeros(d)), rcond=None)[0])


@given(st.integers(0, 10_000), st.floats(0.5, 1000.0))
def test_ridge_is_penalised_least_squares(seed: int, penalty: float) -> None:
    generator = np.random.default_rng(seed)
    columns, target = generator.normal(size=(60, 7)), generator.normal(size=(60, 3))
    weight = generator.gamma(1.0, size=(60, 3)) * (generator.random((60, 3)) < 0.7)
    expected = np.column_stack([by_least_squares(columns, target[:, c], weight[:, c], penalty) for c in range(3)])
    np.testing.assert_allclose(Equations(columns).ridge(target, weight, penalty), expected, atol=1e-9)
    shared = np.repeat(weight[:, :1], 3, axis=1)
    alone = np.column_stack([by_least_squares(columns, target[:, c], weight[:, 0], penalty) for c in range(3)])
    np.testing.assert_allclose(Equations(columns).ridge(target, shared, penalty), alone, atol=1e-9)


def test_fits_on_the_same_columns_share_their_gram_matrices_and_no_others_do() -> None:
    generator = np.random.default_rng(0)
    columns, weight = generator.normal(size=(30, 4)), generator.random((30, 2))
    first = Equations(columns).gram(weight[:, 0])
    assert Equations(columns.copy()).gram(weight[:, 0].copy()) is first
    np.testing.assert_allclose(Equations(columns).gram(weight[:, 1]), columns.T * weight[:, 1] @ columns)
    np.testing.assert_allclose(Equations(columns[:, :3]).gram(weight[:, 0]), first[:3, :3])
    np.testing.assert_allclose(Equations(2 * columns).gram(weight[:, 0]), 4 * first)
    with pytest.raises(ValueError, match="read-only"):
        first += 1


def test_a_candidate_without_outcomes_has_no_coefficients() -> None:
    columns = np.random.default_rng(0).normal(size=(20, 4))
    weight = np.column_stack([np.ones(20), np.zeros(20)])
    assert not Equations(columns).ridge(np.ones((20, 2)), weight, 1.0)[:, 1].any()


@pytest.mark.parametrize("seed", range(3))
def test_the_hierarchical_ridge_minimises_both_levels_at_once(seed: int) -> None:
    """The eliminated solution equals that of one large ridge over (b, d_1, ..., d_m), built row by row."""
    generator = np.random.default_rng(seed)
    n, m, shared, own = 50, 3, 4.0, 9.0
    inputs = Inputs(generator.normal(size=(n, 4)).astype(np.float32), np.zeros((n, 1), np.float32), 1, np.ones(n))
    labels = np.where(generator.random((n, m)) < 0.6, generator.random((n, m)), np.nan)
    weights = generator.gamma(2.0, size=(n, m))
    model = HierarchicalRidge(np.ones(m), shared, own).fit(inputs, labels, weights)
    columns = model.design.columns(inputs)
    d = columns.shape[1]
    mean = model.bias + model.design.mean @ model.weight
    rows, target, weight = [], [], []
    for i, c in zip(*np.nonzero(np.isfinite(labels)), strict=True):
        row = np.zeros((m + 1, d))
        row[0] = columns[i] / np.sqrt(shared)
        row[c + 1] = columns[i] / np.sqrt(own)
        rows.append(row.ravel())
        target.append(labels[i, c] - mean[c])
        weight.append(weights[i, c])
    column = [np.array(values)[:, None] for values in (target, weight)]
    found = Equations(np.array(rows)).ridge(*column, 1.0).reshape(m + 1, d)
    coefficients = found[0] / np.sqrt(shared) + found[1:] / np.sqrt(own)
    np.testing.assert_allclose(model.predict(inputs), columns @ coefficients.T + mean, atol=1e-9)
