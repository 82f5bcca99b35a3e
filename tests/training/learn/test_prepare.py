"""Between the outcome table and the heads: what is refused, the training part alone, encoders compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from serving.bundle.features import SURFACE
from training.config import Params, load_params
from training.dataset.inputs import Inputs
from training.learn.encode import encoder_lead
from training.learn.prepare import Prepared, PrepareError, prepare
from training.learn.training_data import judged_shares, part_propensity, propensities, training_data
from training.logs.validate import validate
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation.simulate import simulate


def no_inputs(n: int) -> Inputs:
    return Inputs(np.zeros((n, 2), np.float32), np.zeros((n, len(SURFACE)), np.float32), len(SURFACE), np.ones(n))


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params()


@pytest.fixture(scope="module")
def prepared(params: Params) -> Prepared:
    catalogue = load_catalogue(SHIPPED)
    log = simulate([catalogue[name] for name in params.simulate.candidates], requests=2500, seed=5)
    return prepare(validate(log.outcomes, source="simulated", format="simulated").frame, params, catalogue)


def test_the_transformer_has_to_earn_its_price(prepared: Prepared, params: Params) -> None:
    generator = np.random.default_rng(2)
    n = len(prepared.matrix)
    features = np.ones((n, 17), np.float32)
    noise = Inputs(generator.normal(size=(n, 8)).astype(np.float32), features, 17, np.ones(n))
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
    propensity, note = propensities(prepared, no_inputs(n), params)
    data = training_data(prepared, no_inputs(n), propensity, params)
    assert len(data.labels) == prepared.split.train.sum()
    np.testing.assert_array_equal(data.judged, judged_shares(prepared)[prepared.split.train])
    assert set(data.groups).isdisjoint(prepared.groups[prepared.split.test])
    assert set(data.groups).isdisjoint(prepared.groups[prepared.split.calibration])
    assert (data.expected_cost > 0).all()
    assert note.startswith("logged for")


def test_propensities_are_found_once_for_each_part_within_it(prepared: Prepared, params: Params) -> None:
    inputs = no_inputs(len(prepared.matrix))
    propensity, _ = propensities(prepared, inputs, params)
    split = prepared.split
    for rows in (split.train, split.calibration, split.test):
        np.testing.assert_array_equal(propensity[rows], part_propensity(prepared, inputs, rows, params)[0])
    assert np.isnan(propensity[split.dropped]).all()
    assert np.isfinite(propensity[np.isfinite(prepared.labels)]).all()


def test_a_candidate_that_nobody_judged_is_named(params: Params) -> None:
    rows = [
        {"request_id": str(i), "prompt": str(i), "candidate": c, "quality": q, "cost_usd": 1}
        for i in range(9)
        for c, q in (("judged", 1), ("unjudged", None))
    ]
    frame = validate(pd.DataFrame(rows), source="test", format="test").frame
    with pytest.raises(PrepareError, match="unjudged"):
        prepare(frame, params, {})


def logged(names: list[str], last: str, n: int = 60) -> pd.DataFrame:
    """One judged outcome per request, a day apart, of the names in turn; the last fifth's are all of `last`."""
    rows = [
        {
            "request_id": str(i),
            "prompt": f"prompt {i}",
            "candidate": last if i >= 0.8 * n else names[i % len(names)],
            "quality": 1.0,
            "cost_usd": 1.0,
            "timestamp": f"2026-01-01T00:{i:02d}:00Z",
        }
        for i in range(n)
    ]
    return validate(pd.DataFrame(rows), source="test", format="test").frame


def test_a_candidate_that_only_the_newest_requests_have_is_left_out_with_a_note(params: Params) -> None:
    found = prepare(logged(["old", "older"], last="new"), params, {})
    assert found.matrix.candidates == ("old", "older")
    assert [candidate.name for candidate in found.candidates] == ["old", "older"]
    assert len(found.matrix) == 48
    assert np.isfinite(found.labels[found.split.train]).any(axis=0).all()
    assert "left out of this bundle: new" in found.split.note
    assert "split.method=random" in found.split.note
    # Where the training part has it, it stays.
    random = replace(params, split=replace(params.split, method="random"))
    assert prepare(logged(["old", "older"], last="new"), random, {}).matrix.candidates == ("new", "old", "older")


def test_with_one_candidate_left_there_is_nothing_to_choose(params: Params) -> None:
    with pytest.raises(PrepareError, match="left out of this bundle: new"):
        prepare(logged(["old"], last="new"), params, {})
