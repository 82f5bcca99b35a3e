"""Propensities: as logged, or estimated; certain on shadow requests; and what an outcome counts for in fitting."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from serving.bundle.arrays import Columns, Floats
from training.dataset.matrix import OutcomeMatrix, build_matrix
from training.logs.validate import validate
from training.measure.propensity import fitting_weights, observation_propensity

NAN = float("nan")


def matrix_of(rows: list[dict[str, object]]) -> OutcomeMatrix:
    frame = pd.DataFrame(rows).assign(prompt=lambda f: f["request_id"])
    return build_matrix(validate(frame, source="test", format="test").frame)


def propensity_of(matrix: OutcomeMatrix, folds: Columns) -> tuple[Floats, str]:
    features = np.zeros((len(matrix), 1), np.float32)
    return observation_propensity(matrix.attempted, matrix.propensity, matrix.quality, features, lambda: folds)


def test_logged_propensities_are_used_and_shadow_requests_are_certain() -> None:
    matrix = matrix_of(
        [
            {"request_id": "a", "candidate": "x", "quality": 1, "cost_usd": 1, "propensity": 0.25},
            {"request_id": "b", "candidate": "x", "quality": 1, "cost_usd": 1, "propensity": 0.9},
            {"request_id": "b", "candidate": "y", "quality": 0, "cost_usd": 1},
            {"request_id": "c", "candidate": "y", "quality": 1, "cost_usd": 1},
        ]
    )
    propensity, note = propensity_of(matrix, np.array([0, 1, 2]))
    np.testing.assert_allclose(propensity, [[0.25, NAN], [1.0, 1.0], [NAN, NAN]])
    assert note == "logged for 1 of 2 requests with some candidates only"


def test_without_logged_propensities_they_are_estimated_and_the_note_says_so() -> None:
    generator = np.random.default_rng(0)
    rows = [
        {"request_id": str(i), "candidate": "x" if generator.random() < 0.8 else "y", "quality": 1, "cost_usd": 1}
        for i in range(400)
    ]
    matrix = matrix_of(rows)
    propensity, note = propensity_of(matrix, np.arange(400) % 5)
    assert "estimated" in note
    tried_x = matrix.attempted[:, 0]
    assert propensity[tried_x, 0].mean() == pytest.approx(0.8, abs=0.06)
    assert propensity[~tried_x, 1].mean() == pytest.approx(0.2, abs=0.06)


def test_fitting_weights_are_inverse_clipped_and_average_one() -> None:
    propensity = np.array([[0.5, NAN], [0.25, NAN], [NAN, 0.001], [NAN, 0.5]])
    weights = fitting_weights(propensity, clip=10.0)
    np.testing.assert_allclose(weights[:, 0], [2 / 3, 4 / 3, 1, 1])
    np.testing.assert_allclose(weights[:, 1], [1, 1, 10 / 6, 2 / 6])
