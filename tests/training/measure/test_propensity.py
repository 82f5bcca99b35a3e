"""Propensities: as logged, or estimated; certain on shadow requests; and what an outcome counts for in fitting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from serving.bundle.arrays import Columns, Floats
from training.dataset.inputs import Inputs
from training.dataset.matrix import OutcomeMatrix, build_matrix
from training.learn.estimators.base import observed_mean
from training.learn.estimators.tables import WorkflowTable
from training.logs.validate import validate
from training.measure.offpolicy import snips
from training.measure.propensity import fitting_weights, judged_share, observation_propensity

NAN = float("nan")


def matrix_of(rows: list[dict[str, object]]) -> OutcomeMatrix:
    frame = pd.DataFrame(rows).assign(prompt=lambda f: f["request_id"])
    return build_matrix(validate(frame, source="test", format="test").frame)


def propensity_of(matrix: OutcomeMatrix, folds: Columns) -> tuple[Floats, str]:
    features = np.zeros((len(matrix), 1), np.float32)
    return observation_propensity(
        matrix.attempted, matrix.error, matrix.propensity, matrix.quality, features, lambda: folds
    )


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
    # The last request has none. Of the two that were sent to one candidate the other is in another fold, and it went to x:
    # y has (0 + 1) / (1 + 2).
    np.testing.assert_allclose(propensity, [[0.25, NAN], [1.0, 1.0], [NAN, 1 / 3]])
    assert note == (
        "logged for 1 of 2 requests with some candidates only; for 1 tried on one it is estimated by out-of-fold "
        "logistic regression"
    )


def test_one_logged_propensity_does_not_void_a_thousand_others() -> None:
    generator = np.random.default_rng(1)
    rows: list[dict[str, object]] = [
        {"request_id": str(i), "candidate": "x" if generator.random() < 0.8 else "y", "quality": 1, "cost_usd": 1}
        for i in range(1000)
    ]
    rows[0]["propensity"] = 0.25
    matrix = matrix_of(rows)
    propensity, note = propensity_of(matrix, np.arange(1000) % 5)
    assert np.nansum(propensity[0]) == 0.25
    assert np.isfinite(propensity[1:]).sum() == 999
    assert propensity[1:, 0][matrix.attempted[1:, 0]].mean() == pytest.approx(0.8, abs=0.05)
    assert note.startswith("logged for 1 of 1000 requests")
    assert "for 999 tried on one it is estimated" in note


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
    weights = fitting_weights(propensity, np.where(np.isfinite(propensity), 1.0, NAN), clip=10.0)
    np.testing.assert_allclose(weights, [[2 / 3, 0], [4 / 3, 0], [0, 10 / 6], [0, 2 / 6]])


def test_a_share_judged_is_not_clipped_and_an_unknown_choice_counts_as_the_average_one() -> None:
    judged = np.array([[1.0], [0.02], [0.02], [NAN]])  # an error, two answers of which 2% are judged, nothing
    weights = fitting_weights(np.array([[0.5], [0.5 * 0.02], [NAN], [NAN]]), judged, clip=10.0)
    np.testing.assert_allclose(weights[:, 0] / weights[0, 0], [1, 50, 50, 0])
    assert weights[:3].mean() == pytest.approx(1)


@dataclass(frozen=True)
class World:
    """n requests, each sent to one of two candidates with probability one half: how good they are, and how often they fail."""

    share_judged: float
    error: tuple[float, float] = (0.04, 0.01)
    acceptable: tuple[float, float] = (0.912, 0.842)

    def log(self, n: int, seed: int) -> OutcomeMatrix:
        generator = np.random.default_rng(seed)
        rows = []
        for i in range(n):
            c = int(generator.random() < 0.5)
            failed = generator.random() < self.error[c]
            good = generator.random() < self.acceptable[c] / (1 - self.error[c])
            judged = generator.random() < self.share_judged
            rows.append(
                {
                    "request_id": f"r{i}",
                    "candidate": "xy"[c],
                    "status": "error" if failed else "success",
                    "quality": float(good) if judged and not failed else None,
                    "propensity": 0.5,
                    "workflow": "one",
                }
            )
        return matrix_of(rows)


def test_errors_that_are_always_known_do_not_turn_candidates_round() -> None:
    """Some 480 answers of each are judged: a standard error of .011, and .025 between the two of them."""
    matrix = World(share_judged=0.05).log(20_000, seed=3)
    blind = np.nanmean(matrix.quality, axis=0)
    assert blind[0] < blind[1] - 0.1  # what the rows seem to say
    propensity, _ = propensity_of(matrix, np.arange(len(matrix)) % 5)
    judged = judged_share(matrix.attempted, matrix.error, matrix.quality)
    weights = fitting_weights(propensity, judged, clip=10.0)
    inputs = Inputs(
        embedding=np.zeros((len(matrix), 1), np.float32),
        features=np.ones((len(matrix), 1), np.float32),
        surface=0,
        counted=np.ones(len(matrix)),
    )
    estimates = [
        observed_mean(matrix.quality, weights),
        WorkflowTable().fit(inputs, matrix.quality, weights).predict(inputs)[0],
        [snips(matrix.quality, propensity, np.full(len(matrix), c, dtype=np.intp)).value for c in (0, 1)],
    ]
    for estimate in estimates:
        assert estimate == pytest.approx([0.912, 0.842], abs=0.03)
        assert estimate[0] > estimate[1]
    # As many as they are worth, not as many rows: some 480 answers and the errors at a twentieth each.
    assert np.where(np.isfinite(matrix.quality), weights, 0).sum(axis=0) == pytest.approx([500, 500], rel=0.1)


def test_errors_where_no_answer_was_judged_say_nothing() -> None:
    rows: list[dict[str, object]] = [
        {"request_id": f"j{i}", "candidate": "x", "quality": 1, "propensity": 0.5} for i in range(4)
    ]
    rows += [
        {"request_id": f"s{i}", "candidate": name, "status": "error", "propensity": 1.0}
        for i in range(2)
        for name in "xy"
    ]
    rows += [{"request_id": "u", "candidate": name} for name in "xy"]  # tried on both, and nobody judged
    matrix = matrix_of(rows)
    judged = judged_share(matrix.attempted, matrix.error, np.where(matrix.error, 0.0, matrix.quality))
    assert judged[:4, 0].tolist() == [1.0] * 4
    assert np.isnan(judged[4:6]).all()
    assert (fitting_weights(judged, judged, clip=10.0)[4:] == 0).all()
