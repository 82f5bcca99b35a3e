"""Calibrators: the same in numpy and in ONNX, ordered, bounded, and better than nothing where something is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bundle.arrays import Floats
from tests.onnx_run import of_embedding
from training.learn.estimators.base import sigmoid
from training.learn.heads.calibrate import FLOOR, METHODS, Calibrator, Isotonic, Sigmoid, fit_calibrator
from training.learn.onnx_graph import logit
from training.measure.metrics import brier

NAN = float("nan")
LEARNED = ("sigmoid", "isotonic")


def overconfident(n: int = 600, m: int = 2, seed: int = 0, slope: float = 0.35) -> tuple[Floats, Floats, Floats]:
    """Estimates, labels and weights: the true log-odds are `slope` times those of the estimate, less 0.5."""
    generator = np.random.default_rng(seed)
    p = np.round(generator.beta(0.7, 0.7, (n, m)), 3).astype(np.float32).astype(np.float64)
    labels = (generator.uniform(size=(n, m)) < sigmoid(slope * logit(np.clip(p, 0.01, 0.99)) - 0.5)).astype(np.float64)
    return p, labels, np.ones((n, m))


def well_calibrated(n: int = 600, m: int = 2, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    generator = np.random.default_rng(seed)
    p = generator.uniform(0.05, 0.95, (n, m))
    return p, (generator.uniform(size=(n, m)) < p).astype(np.float64), np.ones((n, m))


def fitted(method: str, **options: int) -> Calibrator:
    return METHODS[method]().fit(*overconfident(**options))


def column(calibrator: Calibrator, p: Floats, candidates: int = 2) -> Floats:
    """The calibrated values of `p` (k,) for each candidate, (k, m)."""
    return calibrator.predict(np.repeat(p[:, None], candidates, axis=1))


def test_platt_scaling_by_hand() -> None:
    # At p = 1/4 a third came true, at p = 3/4 two thirds: slope log 2 / log 3, intercept 0.
    p = np.repeat([0.25, 0.75], 300)[:, None]
    labels = np.concatenate([np.arange(300) < 100, np.arange(300) < 200]).astype(np.float64)[:, None]
    calibrator = Sigmoid().fit(p, labels, np.ones((600, 1)))
    assert column(calibrator, np.array([0.25, 0.5, 0.75]), 1)[:, 0] == pytest.approx([1 / 3, 0.5, 2 / 3], abs=2e-3)
    assert calibrator.slope[0] == pytest.approx(np.log(2) / np.log(3), abs=5e-3)


def test_isotonic_regression_by_hand() -> None:
    # At .2 half came true, at .4 only a quarter: pooled they are 3/8. At .8 all did.
    p = np.repeat([0.2, 0.4, 0.8], 80)[:, None]
    labels = np.concatenate([np.arange(80) < 40, np.arange(80) < 20, np.ones(80)]).astype(np.float64)[:, None]
    calibrator = Isotonic().fit(p, labels, np.ones((240, 1)))
    made = column(calibrator, np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]), 1)[:, 0]
    assert made == pytest.approx([0.375, 0.375, 0.375, (0.375 + 1) / 2, 1 - FLOOR, 1 - FLOOR])


def test_weights_count() -> None:
    p, labels = np.full((200, 1), 0.5), (np.arange(200) % 2.0)[:, None]
    for method in LEARNED:
        calibrator = METHODS[method]().fit(p, labels, np.where(labels == 1, 3.0, 1.0))
        assert column(calibrator, np.array([0.5]), 1)[0, 0] == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_the_graph_gives_what_numpy_gives(method: str, seed: int) -> None:
    calibrator = fitted(method, seed=seed)
    generator = np.random.default_rng(seed)
    p = np.vstack([generator.uniform(size=(500, 2)), np.tile(np.linspace(0, 1, 201)[:, None], 2), overconfident()[0]])
    p = p.astype(np.float32).astype(np.float64)
    made = of_embedding(calibrator.to_onnx, p, 2)
    assert np.abs(made - calibrator.predict(p)).max() < 1e-5


@pytest.mark.parametrize("method", LEARNED)
def test_the_brier_score_of_overconfident_estimates_improves(method: str) -> None:
    p, labels, weights = overconfident()
    calibrated = METHODS[method]().fit(p, labels, weights).predict(p)
    for candidate in range(2):
        assert (
            brier(calibrated[:, candidate], labels[:, candidate]) < brier(p[:, candidate], labels[:, candidate]) - 0.03
        )


@pytest.mark.parametrize("method", METHODS)
def test_it_does_little_harm_to_estimates_that_were_right(method: str) -> None:
    p, labels, weights = well_calibrated()
    assert brier(METHODS[method]().fit(p, labels, weights).predict(p), labels) < brier(p, labels) + 1e-3


@pytest.mark.parametrize("method", METHODS)
def test_only_what_was_judged_counts(method: str) -> None:
    p, labels, weights = overconfident()
    hidden = np.random.default_rng(1).uniform(size=labels.shape) < 0.5
    other = np.where(hidden, 0.987, p)
    calibrators = [METHODS[method]().fit(x, np.where(hidden, NAN, labels), weights) for x in (p, other)]
    unweighted = METHODS[method]().fit(other, labels, np.where(hidden, 0.0, weights))
    expected = calibrators[0].predict(p)
    assert np.isfinite(expected).all()
    assert calibrators[1].predict(p) == pytest.approx(expected)
    assert unweighted.predict(p) == pytest.approx(expected)


@pytest.mark.parametrize("method", LEARNED)
@pytest.mark.parametrize("kept", [0, 1, 29])
def test_a_candidate_with_few_outcomes_gets_the_map_of_all(method: str, kept: int) -> None:
    p, labels, weights = overconfident(m=3)
    successes = np.flatnonzero(labels[:, 2] == 1)
    labels[successes[kept:], 2] = NAN
    grid = np.linspace(0.02, 0.98, 30)
    made = column(METHODS[method]().fit(p, labels, weights), grid, 3)
    seen = np.isfinite(labels)
    pooled = METHODS[method]().fit(p[seen][:, None], labels[seen][:, None], weights[seen][:, None])
    assert made[:, 2] == pytest.approx(column(pooled, grid, 1)[:, 0])
    assert made[:, 0] != pytest.approx(made[:, 2])  # the first has outcomes enough for its own


@pytest.mark.parametrize("method", LEARNED)
def test_with_enough_outcomes_each_candidate_gets_its_own_map(method: str) -> None:
    p, labels, weights = overconfident()
    labels[:, 1] = overconfident(seed=7, slope=-0.1)[1][:, 0] * (p[:, 1] > 0.5)
    made = column(METHODS[method]().fit(p, labels, weights), np.array([0.3]))
    alone = METHODS[method]().fit(p[:, :1], labels[:, :1], weights[:, :1])
    assert made[0, 0] == pytest.approx(column(alone, np.array([0.3]), 1)[0, 0])
    assert abs(made[0, 0] - made[0, 1]) > 0.1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_outcomes_of_one_kind_alone_do_not_crash_it(method: str, label: float) -> None:
    p, labels, weights = overconfident(n=80)
    made = METHODS[method]().fit(p, np.full_like(labels, label), weights).predict(p)
    assert np.isfinite(made).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_higher_estimate_is_never_calibrated_to_less_even_where_it_was_wrong(method: str) -> None:
    # Out of fold, a mean is lowest where the held-out outcomes were best: the outcomes run against the estimates.
    p, labels, weights = overconfident(slope=-1.0)
    calibrator = METHODS[method]().fit(p, labels, weights)
    made = column(calibrator, np.linspace(0, 1, 101))
    assert (np.diff(made, axis=0) >= -1e-12).all()
    if method in LEARNED:  # such an estimate tells nothing: what is left is the mean
        assert made[50] == pytest.approx(labels.mean(axis=0), abs=0.02)


def test_auto_picks_what_is_better_out_of_fold() -> None:
    folds = np.arange(600) % 5
    assert fit_calibrator("auto", *overconfident(), folds).name in LEARNED
    # Never, then half of the time, then always: no sigmoid of the log-odds can follow such steps.
    p = np.random.default_rng(0).uniform(0.05, 0.95, (600, 1))
    middle = (np.arange(600) // 5 % 2 == 0)[:, None]
    labels = np.where(p < 0.2, 0.0, np.where(p > 0.8, 1.0, middle))
    assert fit_calibrator("auto", p, labels, np.ones((600, 1)), folds).name == "isotonic"


def test_auto_improves_fresh_outcomes_too() -> None:
    calibrator = fit_calibrator("auto", *overconfident(n=1_000), np.arange(1_000) % 5)
    p, labels, _ = overconfident(n=5_000, seed=11)
    assert brier(calibrator.predict(p), labels) < brier(p, labels) - 0.03


@pytest.mark.parametrize("method", METHODS)
def test_a_named_method_is_the_one_that_is_made(method: str) -> None:
    assert fit_calibrator(method, *overconfident(n=100), np.zeros(100, dtype=np.intp)).name == method


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), slope=st.floats(-1, 2), n=st.integers(20, 300))
def test_it_is_ordered_and_never_certain(method: str, seed: int, slope: float, n: int) -> None:
    made = column(METHODS[method]().fit(*overconfident(n=n, seed=seed, slope=slope)), np.linspace(0, 1, 101))
    assert (np.diff(made, axis=0) >= -1e-12).all()
    assert (made >= FLOOR).all()
    assert (made <= 1 - FLOOR).all()
