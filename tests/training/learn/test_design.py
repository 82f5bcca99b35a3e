"""The hierarchical ridge, against least squares on augmented rows."""

from __future__ import annotations

import numpy as np
import pytest

from serving.bundle.arrays import Floats
from training.dataset.inputs import Inputs
from training.learn.estimators.design import Design
from training.learn.estimators.linear import HierarchicalRidge


def by_least_squares(columns: Floats, target: Floats, weight: Floats, penalty: float) -> Floats:
    """The same minimiser without normal equations: the penalty as further rows of sqrt(penalty) b = 0."""
    d = columns.shape[1]
    root = np.sqrt(weight)[:, None]
    rows = np.vstack([columns * root, np.sqrt(penalty) * np.eye(d)])
    return np.asarray(np.linalg.lstsq(rows, np.append(target * root[:, 0], np.zeros(d)), rcond=None)[0])


@pytest.mark.parametrize("seed", range(3))
def test_the_hierarchical_ridge_minimises_both_levels_at_once(seed: int) -> None:
    """The eliminated solution equals that of one large ridge over (b, d_1, ..., d_m), built row by row."""
    generator = np.random.default_rng(seed)
    n, m, shared, own = 50, 3, 4.0, 9.0
    inputs = Inputs(generator.normal(size=(n, 4)).astype(np.float32), np.zeros((n, 1), np.float32), 1, np.ones(n))
    labels = np.where(generator.random((n, m)) < 0.6, generator.random((n, m)), np.nan)
    weights = generator.gamma(2.0, size=(n, m))
    model = HierarchicalRidge(np.ones(m), shared, own).fit(inputs, labels, weights)
    design = Design.learn(inputs)
    columns = design.columns(inputs)
    d = columns.shape[1]
    mean = model.bias + design.mean @ model.weight
    rows, target, weight = [], [], []
    for i, c in zip(*np.nonzero(np.isfinite(labels)), strict=True):
        row = np.zeros((m + 1, d))
        row[0] = columns[i] / np.sqrt(shared)
        row[c + 1] = columns[i] / np.sqrt(own)
        rows.append(row.ravel())
        target.append(labels[i, c] - mean[c])
        weight.append(weights[i, c])
    found = by_least_squares(np.array(rows), np.array(target), np.array(weight), 1.0).reshape(m + 1, d)
    coefficients = found[0] / np.sqrt(shared) + found[1:] / np.sqrt(own)
    np.testing.assert_allclose(model.predict(inputs), columns @ coefficients.T + mean, atol=1e-9)
