"""Between the outcome table and the heads: propensities, fitting weights, doubly robust ground, encoders compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from training.learn.pipeline import (
    PipelineError,
    Prepared,
    encoder_lead,
    fitting_weights,
    observation_propensity,
    prepare,
    training_data,
)

from tests.conftest import ROOT
from training.config import Params, load_params
from training.dataset.matrix import OutcomeMatrix, build_matrix
from training.learn.estimators.base import Inputs
from training.logs.validate import validate
from training.measure.offpolicy import pseudo_outcomes
from training.prices.catalogue import load_catalogue
from training.simulation.simulate import simulate

NAN = float("nan")


def matrix_of(rows: list[dict[str, object]]) -> OutcomeMatrix:
    frame = pd.DataFrame(rows).assign(prompt=lambda f: f["request_id"])
    return build_matrix(validate(frame, source="test", format="test").frame)


def no_inputs(n: int) -> Inputs:
    return Inputs(np.zeros((n, 2), np.float32), np.zeros((n, 1), np.float32), 1)


def test_logged_propensities_are_used_and_shadow_requests_are_certain() -> None:
    matrix = matrix_of(
        [
            {"request_id": "a", "candidate": "x", "quality": 1, "cost_usd": 1, "propensity": 0.25},
            {"request_id": "b", "candidate": "x", "quality": 1, "cost_usd": 1, "propensity": 0.9},
            {"request_id": "b", "candidate": "y", "quality": 0, "cost_usd": 1},
            {"request_id": "c", "candidate": "y", "quality": 1, "cost_usd": 1},
        ]
    )
    propensity, note = observation_propensity(matrix, matrix.quality, no_inputs(3), np.array([0, 1, 2]))
    np.testing.assert_allclose(propensity, [[0.25, NAN], [1.0, 1.0], [NAN, NAN]])
    assert note == "logged for 1 of 2 requests with some candidates only"


def test_without_logged_propensities_they_are_estimated_and_the_note_says_so() -> None:
    generator = np.random.default_rng(0)
    rows = [
        {"request_id": str(i), "candidate": "x" if generator.random() < 0.8 else "y", "quality": 1, "cost_usd": 1}
        for i in range(400)
    ]
    matrix = matrix_of(rows)
    propensity, note = observation_propensity(matrix, matrix.quality, no_inputs(400), np.arange(400) % 5)
    assert "estimated" in note
    tried_x = matrix.attempted[:, 0]
    assert propensity[tried_x, 0].mean() == pytest.approx(0.8, abs=0.06)
    assert propensity[~tried_x, 1].mean() == pytest.approx(0.2, abs=0.06)


def test_fitting_weights_are_inverse_clipped_and_average_one() -> None:
    propensity = np.array([[0.5, NAN], [0.25, NAN], [NAN, 0.001], [NAN, 0.5]])
    weights = fitting_weights(propensity, clip=10.0)
    np.testing.assert_allclose(weights[:, 0], [2 / 3, 4 / 3, 1, 1])
    np.testing.assert_allclose(weights[:, 1], [1, 1, 10 / 6, 2 / 6])


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


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params()


@pytest.fixture(scope="module")
def prepared(params: Params) -> Prepared:
    catalogue = load_catalogue(ROOT / "data" / "candidates.toml")
    log = simulate([catalogue[name] for name in params.simulate.candidates], requests=2500, seed=5)
    return prepare(validate(log.outcomes, source="simulated", format="simulated").frame, params, catalogue)


def test_the_transformer_has_to_earn_its_price(prepared: Prepared, params: Params) -> None:
    generator = np.random.default_rng(2)
    n = len(prepared.matrix)
    features = np.ones((n, 17), np.float32)
    noise = Inputs(generator.normal(size=(n, 8)).astype(np.float32), features, 17)
    labels = np.where(np.isfinite(prepared.labels), prepared.labels, np.nanmean(prepared.labels, axis=0))
    telling = replace(noise, embedding=np.hstack([labels, noise.embedding[:, 6:]]).astype(np.float32))
    quick = replace(params, fit=replace(params.fit, low_rank=(6,), low_rank_penalty=(10.0,)))
    same = encoder_lead(prepared, noise, noise, quick)
    better = encoder_lead(prepared, noise, telling, quick)
    assert same is not None
    assert better is not None
    assert not same[0] > same[1]
    assert better[0] > better[1] > 0


def test_training_data_is_the_training_part_alone(prepared: Prepared, params: Params) -> None:
    n = len(prepared.matrix)
    data, note = training_data(prepared, no_inputs(n), params)
    assert len(data.labels) == prepared.split.train.sum()
    assert set(data.groups).isdisjoint(prepared.groups[prepared.split.test])
    assert set(data.groups).isdisjoint(prepared.groups[prepared.split.calibration])
    assert (data.expected_cost > 0).all()
    assert note.startswith("logged for")


def test_a_candidate_that_nobody_judged_is_named(params: Params) -> None:
    rows = [
        {"request_id": str(i), "prompt": str(i), "candidate": c, "quality": q, "cost_usd": 1}
        for i in range(9)
        for c, q in (("judged", 1), ("unjudged", None))
    ]
    frame = validate(pd.DataFrame(rows), source="test", format="test").frame
    with pytest.raises(PipelineError, match="unjudged"):
        prepare(frame, params, {})
