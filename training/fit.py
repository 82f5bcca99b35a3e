"""Fits every estimator, scores each out of fold, and keeps the one whose decisions are worth most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.calibrate import Calibrator, fit_calibrator
from training.estimators.base import Estimator, Floats, Inputs, NotTrainableError
from training.frontier import bootstrap_aiq, bootstrap_weights, frontier, knob_grid, singles
from training.metrics import brier, expected_calibration_error

Factory = Callable[[], Estimator]
# Below this many complete requests AIQ is noise, and estimators are compared by their Brier score instead.
ENOUGH_COMPLETE = 50
_RESAMPLES = 100


@dataclass(frozen=True)
class Training:
    """The training part of the data. All arrays have n rows; (n, m) ones are NaN where nothing was observed.

    `expected_cost` is out of fold too, so that a score never rests on a cost model that has seen the row.
    """

    inputs: Inputs
    labels: Floats
    weights: Floats
    cost: Floats
    expected_cost: Floats
    complete: NDArray[np.bool_]
    folds: NDArray[np.intp]


@dataclass(frozen=True)
class Score:
    """An estimator's out-of-fold record.

    `aiq` is NaN where too few requests were complete; `shortfall_error` is the bootstrap standard error of the best
    estimator's AIQ minus this one's. `why_not` says why an estimator could not be trained.
    """

    name: str
    complexity: int
    aiq: float = float("nan")
    shortfall_error: float = float("nan")
    brier: float = float("nan")
    ece: float = float("nan")
    why_not: str | None = None


@dataclass(frozen=True)
class Head:
    """A fitted estimator with its calibration, and how it was selected."""

    estimator: Estimator
    calibrator: Calibrator
    scores: tuple[Score, ...]
    selected_by: str

    def predict(self, inputs: Inputs) -> Floats:
        """(n, m) calibrated P(acceptable)."""
        return self.calibrator.predict(self.estimator.predict(inputs))


def fit_head(
    data: Training,
    factories: Mapping[str, Factory],
    *,
    calibration: str,
    knob_steps: int,
    seed: int,
    progress: Callable[[str], None] | None = None,
) -> Head:
    """Scores every estimator out of fold, selects one, calibrates it on those predictions and refits it on all rows.

    Raises NotTrainableError when none could learn.
    """
    predictions: dict[str, Floats] = {}
    reasons: dict[str, str] = {}
    for name, factory in factories.items():
        if progress is not None:
            progress(name)
        try:
            predictions[name] = out_of_fold(factory, data)
        except NotTrainableError as error:
            reasons[name] = str(error)
    if not predictions:
        raise NotTrainableError("no estimator could be trained: " + "; ".join(f"{n}: {r}" for n, r in reasons.items()))
    complexity = {name: factory().complexity for name, factory in factories.items()}
    scores = _scores(predictions, complexity, data, knob_steps, seed)
    chosen, selected_by = select(scores)
    refused = [Score(name, complexity[name], why_not=why) for name, why in reasons.items()]
    calibrator = fit_calibrator(calibration, predictions[chosen], data.labels, data.weights, data.folds)
    estimator = factories[chosen]().fit(data.inputs, data.labels, data.weights)
    return Head(estimator, calibrator, (*scores, *refused), selected_by)


def out_of_fold(factory: Factory, data: Training) -> Floats:
    """(n, m) predictions for each request by an estimator that saw neither it nor any of its fold."""
    predictions = np.full(data.labels.shape, np.nan)
    for fold in np.unique(data.folds):
        held = data.folds == fold
        model = factory().fit(data.inputs.take(~held), data.labels[~held], data.weights[~held])
        predictions[held] = model.predict(data.inputs.take(held))
    return predictions


def select(scores: Sequence[Score]) -> tuple[str, str]:
    """The estimator to use, and by what it was chosen.

    By AIQ, the simpler one among equals; by the Brier score where AIQ could not be measured.
    """
    if any(np.isnan(score.aiq) for score in scores):
        return min(scores, key=lambda score: score.brier).name, "Brier score"
    return min(scores, key=lambda score: (-score.aiq, score.complexity)).name, "AIQ"


def _scores(
    predictions: Mapping[str, Floats], complexity: Mapping[str, int], data: Training, knob_steps: int, seed: int
) -> list[Score]:
    seen = np.isfinite(data.labels) & (data.weights > 0)
    values = _bootstrapped_aiq(predictions, data, knob_steps, seed)
    best = max(values, key=lambda name: values[name][0])
    scores = []
    for name, prediction in predictions.items():
        p, y = np.clip(prediction[seen], 0, 1), data.labels[seen]
        mean, resampled = values[name]
        error = float(np.std(values[best][1] - resampled))
        scores.append(Score(name, complexity[name], mean, error, brier(p, y), expected_calibration_error(p, y)))
    return scores


def _bootstrapped_aiq(
    predictions: Mapping[str, Floats], data: Training, knob_steps: int, seed: int
) -> dict[str, tuple[float, Floats]]:
    """For each estimator its AIQ on the complete requests and on resamples of them."""
    rows = data.complete
    if rows.sum() < ENOUGH_COMPLETE:
        return {name: (float("nan"), np.array([np.nan])) for name in predictions}
    quality, cost, expected = data.labels[rows], data.cost[rows], data.expected_cost[rows]
    alone = singles(quality, cost)
    knobs = knob_grid(expected, knob_steps)
    weights = bootstrap_weights(np.arange(len(quality)), _RESAMPLES, seed)
    values = {}
    for name, prediction in predictions.items():
        points = frontier(prediction[rows], expected, quality, cost, knobs)
        values[name] = (alone.aiq(points.cost, points.quality), bootstrap_aiq(points, quality, cost, weights))
    return values
