"""Fits every estimator, scores each out of fold, and keeps the one whose decisions are worth most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from serving.bundle.arrays import Bools, Floats
from training.dataset.inputs import Inputs
from training.engine.engine import Engine, Progress, silent
from training.engine.local import HERE
from training.learn.estimators.base import Estimator, Factory, NotTrainableError, observed
from training.learn.estimators.blend import Blend, fit_from, parts_of, takes_sums
from training.learn.heads.calibrate import Calibrator, Uncalibrated, fit_calibrator
from training.learn.heads.out_of_fold import by_fold, learned_near, out_of_fold_of_all
from training.learn.sums import Normal
from training.learn.training_data import TrainingData
from training.measure.frontier import bootstrap_aiq, bootstrap_weights, frontier, knob_grid, singles
from training.measure.metrics import brier, expected_calibration_error, of_cells
from training.measure.offpolicy import pseudo_outcomes

# Below this many requests (complete ones, or effective ones where most have one outcome) AIQ is noise, and estimators
# are compared by their Brier score instead.
ENOUGH = 50
# From this many complete requests on, they alone are what estimators are selected on.
PLENTY_COMPLETE = 300
# How a head was selected for which there were too few outcomes to select by.
FEW = "plain mean, for outcomes are few"
_RESAMPLES = 60


@dataclass(frozen=True)
class Blending:
    """How the blend is made: of the families within `errors` standard errors of the best, with a share of `equal` weights.

    Below `few` effective outcomes of the usual candidate nothing is selected, for the best looking one of many would be a
    lucky one: the blend is then the plain mean of `few_estimators`, each with its first setting.
    """

    errors: float = 2.0
    equal: float = 0.75
    few: float = 0.0
    few_estimators: tuple[str, ...] = ()

    def without_selection(self, data: TrainingData, names: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` that are averaged without selection: none with outcomes enough to select, or with one to average."""
        if float(np.median(effective_outcomes(data.labels, data.weights))) >= self.few:
            return ()
        averaged = tuple(name for name in names if name in self.few_estimators)
        return averaged if len(averaged) > 1 else ()


@dataclass(frozen=True)
class Score:
    """An estimator's out-of-fold record.

    `aiq` is NaN where it could not be measured; `shortfall_error` is the bootstrap standard error of the best estimator's
    AIQ minus this one's. `why_not` says why an estimator could not be trained.
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
    """A fitted estimator with its calibration, and how it was selected; `name` is that of its score.

    `factory` makes the estimator anew, to be fitted on other rows.
    """

    name: str
    factory: Factory
    estimator: Estimator
    calibrator: Calibrator
    scores: tuple[Score, ...]
    selected_by: str

    def predict(self, inputs: Inputs) -> Floats:
        """(n, m) calibrated P(acceptable)."""
        return self.calibrator.predict(self.estimator.predict(inputs))

    def refitted(self, inputs: Inputs, labels: Floats, weights: Floats, normal: Normal | None) -> Head:
        """The same with the estimator fitted on these rows instead: arguments as of `fit_from`."""
        near = parts_of(self.name, self.estimator)
        return replace(self, estimator=fit_from(self.factory(), inputs, labels, weights, normal, near, self.name))

    @property
    def description(self) -> str:
        """The estimator's name; of a blend its members and weights too."""
        if not isinstance(self.estimator, Blend):
            return self.name
        parts = sorted(self.estimator.weights.items(), key=lambda part: -part[1])
        return "blend of " + ", ".join(f"{name} {weight:.2f}" for name, weight in parts)


def fit_head(
    data: TrainingData,
    factories: Mapping[str, Factory],
    *,
    calibration: str,
    blend: Blending | None,
    knob_steps: int,
    seed: int,
    engine: Engine = HERE,
    stage: str = "fit",
    progress: Progress = silent,
) -> Head:
    """Scores every estimator out of fold, selects one, calibrates it on those predictions and refits it on all rows.

    With a `blend` a convex average of the best of each family competes too. Raises NotTrainableError when none could learn.
    """
    few = () if blend is None else blend.without_selection(data, factories)
    if few:
        factories = {name: factories[name] for name in few}
    predictions: dict[str, Floats] = {}
    reasons: dict[str, str] = {}
    sums = by_fold(data, engine) if any(takes_sums(factory()) for factory in factories.values()) else None
    apart = {} if sums is None else {int(fold): sums.without(place) for place, fold in enumerate(np.unique(data.folds))}
    near = learned_near(factories, data)
    for name, outcome in out_of_fold_of_all(factories, data, apart, engine, near, stage, progress).items():
        if isinstance(outcome, NotTrainableError):
            reasons[name] = str(outcome)
        else:
            predictions[name] = outcome
    complexity = {name: factory().complexity for name, factory in factories.items()}
    if not predictions:
        raise NotTrainableError("no estimator could be trained: " + "; ".join(f"{n}: {r}" for n, r in reasons.items()))
    available = dict(factories)
    ground = _ground(predictions, data)
    given = (data, ground, predictions, knob_steps, seed)
    values = dict(
        zip(predictions, engine.map(_value, given, list(predictions), "score estimators", progress), strict=True)
    )
    scores = _scores(predictions, complexity, data, values)
    best = _best_of_families(scores, values, factories, predictions, blend.errors) if blend is not None else {}
    equal = blend.equal if blend is not None else 0.0
    if few:
        best, equal = dict(predictions), 1.0
    if blend is not None and len(best) > 1:
        weights = blend_weights(best, data.labels, data.weights, equal)
        predictions[Blend.name] = _cross_fitted_blend(best, data, equal)
        available[Blend.name] = lambda: Blend(factories, weights)
        complexity[Blend.name] = Blend.complexity
        values[Blend.name] = _bootstrapped_aiq(predictions[Blend.name], data, ground, knob_steps, seed)
        scores = _scores(predictions, complexity, data, values)
    chosen, selected_by = select(scores, blend.errors if blend is not None else 1.0)
    if few:
        chosen, selected_by = (Blend.name if len(best) > 1 else chosen), FEW
    refused = [Score(name, complexity[name], why_not=why) for name, why in reasons.items()]
    # A map of a candidate's own has a level of its own: learned from few outcomes it lets a lucky one look best again.
    method = Uncalibrated.name if few and calibration == "auto" else calibration
    calibrator = fit_calibrator(method, predictions[chosen], data.labels, data.weights, data.folds, data.standing)
    whole = None if sums is None else sums.all()
    estimator = fit_from(available[chosen](), data.inputs, *data.taught(), whole, near, chosen)
    return Head(chosen, available[chosen], estimator, calibrator, (*scores, *refused), selected_by)


def effective_outcomes(labels: Floats, weights: Floats) -> Floats:
    """(m,) how many outcomes of equal weight each candidate's judged ones are worth, (sum w)^2 / sum w^2. Source: Kish 1965."""
    weight, _ = observed(labels, weights)
    squares = (weight**2).sum(axis=0)
    return np.asarray(weight.sum(axis=0) ** 2 / np.where(squares > 0, squares, 1.0))


def out_of_fold_aiq(prediction: Floats, data: TrainingData, knob_steps: int, seed: int) -> tuple[float, Floats]:
    """AIQ of out-of-fold predictions (n, m) and its resamples, NaN where it cannot be measured."""
    return _bootstrapped_aiq(prediction, data, _ground({"": prediction}, data), knob_steps, seed)


def select(scores: Sequence[Score], errors: float) -> tuple[str, str]:
    """The estimator to use, and by what it was chosen.

    By AIQ with a one-standard-error rule, the error being that of the paired difference to the best (after Breiman et al.
    1984). The blend is kept unless one estimator beats it by more than `errors` of them: where several are as good as
    equal, the best looking one of many is lucky, and their average is not. Without a blend, the simplest within one error
    of the best. By the Brier score where AIQ could not be measured.
    """
    if any(np.isnan(score.aiq) for score in scores):
        return min(scores, key=lambda score: score.brier).name, "Brier score"
    best = max(scores, key=lambda score: score.aiq)
    near = [score for score in scores if best.aiq - score.aiq <= score.shortfall_error]
    blended = next((score for score in scores if score.name == Blend.name), None)
    if blended is not None and best.aiq - blended.aiq <= errors * blended.shortfall_error:
        return Blend.name, "AIQ"
    return min(near, key=lambda score: (score.complexity, -score.aiq)).name, "AIQ"


def _best_of_families(
    scores: Sequence[Score],
    values: Mapping[str, tuple[float, Floats]],
    factories: Mapping[str, Factory],
    predictions: Mapping[str, Floats],
    errors: float,
) -> dict[str, Floats]:
    """The out-of-fold predictions of the best-scored estimator of each family.

    Where AIQ could be measured, a family is left out if its best falls behind the very best by more than so many standard
    errors of the paired difference.
    """
    ranked = sorted(scores, key=lambda score: score.brier if np.isnan(score.aiq) else -score.aiq)
    best: dict[str, Floats] = {}
    families: set[str] = set()
    for score in ranked:
        family = factories[score.name]().family
        if not family or family in families:
            continue
        families.add(family)
        top = next(iter(best), score.name)
        gap, error = values[top][0] - values[score.name][0], float(np.std(values[top][1] - values[score.name][1]))
        if np.isnan(gap) or gap <= errors * error:
            best[score.name] = predictions[score.name]
    return best


def blend_weights(predictions: Mapping[str, Floats], labels: Floats, weights: Floats, equal: float) -> dict[str, float]:
    """Convex weights: a share of `equal` ones, the rest those with the least squared error on the observed cells.

    The least squares alone follow the sample and the Brier score, not the value of decisions; equal weights are hard to
    beat out of sample.
    """
    seen = np.isfinite(labels) & (weights > 0)
    columns = np.column_stack([prediction[seen] for prediction in predictions.values()])
    w = weights[seen] / weights[seen].sum()
    gram, cross = columns.T @ (columns * w[:, None]), columns.T @ (labels[seen] * w)
    k = len(predictions)
    solved = minimize(
        lambda x: x @ gram @ x - 2 * x @ cross,
        np.full(k, 1.0 / k),
        jac=lambda x: 2 * (gram @ x - cross),
        bounds=[(0.0, 1.0)] * k,
        constraints={"type": "eq", "fun": lambda x: x.sum() - 1.0, "jac": lambda x: np.ones_like(x)},
        method="SLSQP",
        options={"ftol": 1e-12},  # Brier scores differ in the fourth decimal
    ).x
    mixed = (1.0 - equal) * np.clip(solved, 0.0, 1.0) + equal / k
    return {name: float(x) for name, x in zip(predictions, mixed / mixed.sum(), strict=True)}


def _cross_fitted_blend(members: Mapping[str, Floats], data: TrainingData, equal: float) -> Floats:
    """(n, m) the blend's predictions, each fold's with weights that were fitted on the other folds."""
    blended = np.zeros(data.labels.shape)
    for fold in np.unique(data.folds):
        held = data.folds == fold
        rest = {name: prediction[~held] for name, prediction in members.items()}
        for name, weight in blend_weights(rest, data.labels[~held], data.weights[~held], equal).items():
            blended[held] += weight * members[name][held]
    return blended


@dataclass(frozen=True)
class _Ground:
    """What estimators are scored on: outcomes (rows, m) of the requests `rows`, true or doubly robust; None: nothing.

    Means over them are of the requests of the log that they stand for, `standing` (rows,); None: one each. A candidate's few
    answers may all be in a sampled log's core, and by the log's propensity alone each would stand for those left out too.
    """

    rows: Bools
    quality: Floats
    cost: Floats
    standing: Floats | None


def _ground(predictions: Mapping[str, Floats], data: TrainingData) -> _Ground | None:
    """The complete requests where there are plenty, else doubly robust pseudo-outcomes of all of them.

    The pseudo-outcomes rest on the mean of all estimators' out-of-fold predictions, the same for everyone compared.
    """
    complete = data.complete
    of_complete = None if data.standing is None else data.standing[complete]
    exact = _Ground(complete, data.labels[complete], data.cost[complete], of_complete)
    if complete.sum() >= PLENTY_COMPLETE:
        return exact
    observed = np.isfinite(data.labels) & np.isfinite(data.propensity)
    if observed.any(axis=1).sum() >= ENOUGH and observed.sum(axis=0).min() >= ENOUGH / 5:
        model = np.mean(list(predictions.values()), axis=0)
        return _Ground(
            np.ones(len(complete), dtype=np.bool_),
            pseudo_outcomes(data.labels, data.propensity, model, judged=data.judged),
            pseudo_outcomes(
                np.where(observed, data.cost, np.nan), data.propensity, data.expected_cost, judged=data.judged
            ),
            data.standing,
        )
    return exact if complete.sum() >= ENOUGH else None


def _scores(
    predictions: Mapping[str, Floats],
    complexity: Mapping[str, int],
    data: TrainingData,
    values: Mapping[str, tuple[float, Floats]],
) -> list[Score]:
    seen = np.isfinite(data.labels) & (data.weights > 0)
    counts = of_cells(data.standing, seen)
    best = max(values, key=lambda name: values[name][0])
    scores = []
    for name, prediction in predictions.items():
        p, y = np.clip(prediction[seen], 0, 1), data.labels[seen]
        mean, resampled = values[name]
        error = float(np.std(values[best][1] - resampled))
        ece = expected_calibration_error(p, y, standing=counts)
        scores.append(Score(name, complexity[name], mean, error, brier(p, y, counts), ece))
    return scores


def _value(
    given: tuple[TrainingData, _Ground | None, Mapping[str, Floats], int, int], name: str
) -> tuple[float, Floats]:
    data, ground, predictions, knob_steps, seed = given
    return _bootstrapped_aiq(predictions[name], data, ground, knob_steps, seed)


def _bootstrapped_aiq(
    prediction: Floats, data: TrainingData, ground: _Ground | None, knob_steps: int, seed: int
) -> tuple[float, Floats]:
    """An estimator's AIQ on the ground, and on resamples of it, whole groups of requests at a time."""
    if ground is None:
        return float("nan"), np.array([np.nan])
    rows = ground.rows
    expected = data.expected_cost[rows]
    counts = ground.standing
    points = frontier(prediction[rows], expected, ground.quality, ground.cost, knob_grid(expected, knob_steps), counts)
    weights = bootstrap_weights(data.groups[rows], _RESAMPLES, seed, standing=counts)
    value = singles(ground.quality, ground.cost, counts).aiq(points.cost, points.quality)
    return value, bootstrap_aiq(points, ground.quality, ground.cost, weights)
