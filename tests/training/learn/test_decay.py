"""What age leaves of an outcome's weight: by hand, everywhere that fits, and where candidates change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from serving.bundle.catalogue import Candidate
from training.config import Params, load_params
from training.dataset.inputs import Inputs
from training.learn.learn import learn
from training.learn.prepare import Prepared, prepare
from training.learn.refit import refit
from training.learn.training_data import cell_weights, decay_of, propensities, training_data

DAYS = 100
PRICES = {name: Candidate(name=name, input_usd_per_mtok=1.0, output_usd_per_mtok=2.0) for name in ("a", "b")}


def log(requests: int, *, turns_at: int) -> pd.DataFrame:
    """A full matrix over `DAYS` days: `a` is good 3 times of 4; `b` once in 4, and from the day `turns_at` on always."""
    rows = []
    for number in range(requests):
        day = number * DAYS / requests
        good = {"a": number % 4 != 0, "b": day >= turns_at or number % 4 == 1}
        for name, answered in good.items():
            rows.append(
                {
                    "request_id": f"r{number}",
                    "prompt": f"question {number} of them all, in some more words than eight",
                    "messages": None,
                    "candidate": name,
                    "quality": float(answered),
                    "quality_source": None,
                    "cost_usd": 0.001,
                    "input_tokens": 10,
                    "output_tokens": 20,
                    "latency_ms": 5.0,
                    "timestamp": pd.Timestamp("2026-01-01", tz="UTC") + pd.Timedelta(days=day),
                    "session_id": None,
                    "workflow": "w",
                    "propensity": None,
                    "purpose": None,
                    "status": "success",
                    "split": None,
                }
            )
    return pd.DataFrame(rows).astype({"input_tokens": "Int64", "output_tokens": "Int64"})


def inputs_of(prepared: Prepared) -> Inputs:
    n = len(prepared.matrix)
    noise = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    features = np.hstack([np.zeros((n, 13), dtype=np.float32), np.ones((n, 1), dtype=np.float32)])
    return Inputs(noise, features, 13, np.full(n, 10.0))


def params(half_life: float) -> Params:
    return load_params(
        overrides=(
            f"fit.half_life_days={half_life}", "fit.estimators=workflow-table", "fit.few_outcomes=0",
            "calibrate.method=none", "policy.reference=a",
        )
    )  # fmt: skip


def test_an_outcome_of_one_half_life_counts_half() -> None:
    prepared = prepare(log(200, turns_at=1_000), params(0.0), PRICES)
    stamps = np.array(["2026-03-01", "2026-02-24", "2026-02-19", "NaT"], dtype="datetime64[ns]")
    matrix = replace(prepared.matrix.take(np.arange(4)), timestamp=stamps)
    found = decay_of(matrix, 5.0)
    assert found is not None
    assert found.tolist() == [1.0, 0.5, 0.25, 1.0]
    assert decay_of(matrix, 0.0) is None
    assert decay_of(replace(matrix, timestamp=np.full(4, np.datetime64("NaT", "ns"))), 5.0) is None
    labels, propensity = prepared.labels[:4], np.ones((4, 2))
    plain = cell_weights(matrix, labels, propensity, 10.0)
    assert np.allclose(
        cell_weights(matrix, labels, propensity, 10.0, found), plain * found[:, None], rtol=0, atol=1e-15
    )


def test_every_fit_counts_them_less_and_no_figure_does() -> None:
    frame = log(400, turns_at=1_000)
    plain, decayed = params(0.0), params(20.0)
    prepared = prepare(frame, plain, PRICES)
    inputs = inputs_of(prepared)
    found, _ = propensities(prepared, inputs, plain)
    assert np.array_equal(found, propensities(prepared, inputs, decayed)[0], equal_nan=True)
    before, after = (training_data(prepared, inputs, found, one) for one in (plain, decayed))
    stamps = prepared.matrix.timestamp[prepared.split.train]
    age = (stamps.max() - stamps) / np.timedelta64(1, "D")
    assert np.allclose(after.weights, before.weights * (2.0 ** (-age / 20.0))[:, None])
    assert before.decay is None
    assert np.array_equal(after.labels, before.labels, equal_nan=True)
    # What is refitted counts from its own newest request.
    learned = learn(prepared, inputs, decayed)
    rows = prepared.split.train | prepared.split.test
    again = refit(learned, prepared, inputs, decayed, rows).data
    assert again.decay is not None
    assert again.decay.max() == 1.0
    assert again.decay.min() == pytest.approx(
        2.0 ** (-float(age.max() + (prepared.matrix.timestamp.max() - stamps.max()) / np.timedelta64(1, "D")) / 20.0)
    )


def test_where_a_candidate_became_better_it_is_known_sooner() -> None:
    prepared = prepare(log(1_000, turns_at=50), params(0.0), PRICES)  # training ends at day 60
    inputs = inputs_of(prepared)
    errors = []
    for half_life in (0.0, 5.0):
        learned = learn(prepared, inputs, params(half_life))
        of_b = learned.acceptable.predict(inputs.take(prepared.split.test))[:, 1]
        errors.append(float(np.square(of_b - 1.0).mean()))  # from day 50 on it never fails
    plain, decayed = errors
    assert decayed < plain / 2
