"""Out-of-fold predictions: of one estimator, or of many side by side, a part for each estimator and fold."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from serving.bundle.arrays import Floats
from training.engine.engine import Engine, Progress, silent
from training.engine.local import ALONE
from training.learn.estimators.base import Estimator, Factory, FromNearby, FromSums, NotTrainableError
from training.learn.estimators.blend import fit_from
from training.learn.sums import Normal, Sums, add
from training.learn.training_data import TrainingData


@dataclass(frozen=True)
class _Fit:
    """An estimator to be fitted without one fold, and asked about it."""

    name: str
    factory: Factory
    fold: int


# The sums without each fold, from which is solved what can be; None: everything is fitted from the rows.
_Apart = Mapping[int, Normal] | None


def by_fold(data: TrainingData, engine: Engine = ALONE, progress: Progress = silent) -> Sums:
    """The sums of what estimators are taught, a slot for each of the folds in their order."""
    folds, slot = np.unique(data.folds, return_inverse=True)
    labels, weights = data.taught()
    return add(data.inputs, weights, [labels], slot, len(folds), engine, progress)


def learned_near(factories: Mapping[str, Factory], data: TrainingData) -> dict[str, Estimator]:
    """Of those for which that is quicker, the estimators learned on all rows, from which each fold's begins."""
    found = {}
    for name, factory in factories.items():
        if isinstance(factory(), FromNearby):
            with suppress(NotTrainableError):  # told of each fold
                found[name] = factory().fit(data.inputs, *data.taught())
    return found


def out_of_fold(factory: Factory, data: TrainingData, apart: _Apart = None) -> Floats:
    """(n, m) predictions for each request by an estimator that saw neither it nor any of its fold."""
    found = out_of_fold_of_all({"": factory}, data, apart, ALONE)[""]
    if isinstance(found, NotTrainableError):
        raise found
    return found


def out_of_fold_of_all(
    factories: Mapping[str, Factory],
    data: TrainingData,
    apart: _Apart,
    engine: Engine,
    near: Mapping[str, Estimator] | None = None,
    stage: str = "fit",
    progress: Progress = silent,
) -> dict[str, Floats | NotTrainableError]:
    """The same by name; for one that could not be trained without some fold the error that says why.

    Those that take longest come first, so that none of them is waited for in the end. `near` (`learned_near`) has by name where
    a fold's fit begins: where it ends is another matter.
    """
    slowest = list(factories)
    if len(slowest) > 1:
        slowest.sort(key=lambda name: -factories[name]().complexity)
    parts = [_Fit(name, factories[name], int(fold)) for name in slowest for fold in np.unique(data.folds)]
    found: dict[str, Floats | NotTrainableError] = {name: np.full(data.labels.shape, np.nan) for name in factories}
    told = engine.map(
        _fitted, (data, apart, near or {}), parts, stage, progress, name=lambda fit: f"{fit.name}, fold {fit.fold}"
    )
    for part, predicted in zip(parts, told, strict=True):
        so_far = found[part.name]
        if isinstance(so_far, NotTrainableError):
            continue
        if isinstance(predicted, NotTrainableError):
            found[part.name] = predicted
        else:
            so_far[data.folds == part.fold] = predicted
    return found


def _fitted(given: tuple[TrainingData, _Apart, Mapping[str, Estimator]], fit: _Fit) -> Floats | NotTrainableError:
    """(held out, m) what the estimator says of the fold that it has not seen."""
    data, apart, near = given
    held, model = data.folds == fit.fold, fit.factory()
    try:
        if apart is not None and isinstance(model, FromSums):
            model.fit_sums(apart[fit.fold])
        else:
            labels, weights = data.taught()
            fit_from(model, data.inputs.take(~held), labels[~held], weights[~held], near=near, name=fit.name)
    except NotTrainableError as error:
        return error
    return model.predict(data.inputs.take(held))
