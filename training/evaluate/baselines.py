"""What a router is compared with, each run through the same policy on the same requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from serving.bundle.arrays import Columns, Floats
from training.config import Params
from training.dataset.inputs import Inputs
from training.evaluate.evaluation import ONLY
from training.evaluate.sweep import Contender
from training.learn.estimators.base import Estimator, NotTrainableError
from training.learn.estimators.linear import DirectClassifier, Ridge
from training.learn.estimators.neighbours import NearestNeighbours
from training.learn.estimators.registry import factories
from training.learn.estimators.tables import ClusterTable, WorkflowTable
from training.learn.training_data import TrainingData
from training.measure.metrics import known_mean


@dataclass(frozen=True)
class Truth:
    """The simulator's true P(acceptable) and expected cost, both indexed by request_id with a column per candidate."""

    acceptable: pd.DataFrame
    cost_usd: pd.DataFrame

    def of(self, request_id: NDArray[np.object_], candidates: tuple[str, ...]) -> tuple[Floats, Floats]:
        """(n, m) probabilities and costs of the given requests."""
        rows, columns = list(request_id), list(candidates)
        return (
            self.acceptable.loc[rows, columns].to_numpy(dtype=np.float64),
            self.cost_usd.loc[rows, columns].to_numpy(dtype=np.float64),
        )


# The estimators one would try first, as the result table names them.
LEARNED = {
    "workflow table": WorkflowTable.name,
    "nearest neighbours": NearestNeighbours.name,
    "k-means table": ClusterTable.name,
    "ridge": Ridge.name,
}


def fitted(data: TrainingData, inputs: Inputs, params: Params, names: Sequence[str]) -> dict[str, Estimator]:
    """Estimators by name, fitted on the training part with these `inputs`; one that cannot be trained is left out."""
    kinds = factories(replace(params.fit, estimators=tuple(names)), known_mean(data.cost, data.standing))
    models: dict[str, Estimator] = {}
    for name, kind in kinds.items():
        try:
            models[name] = kind().fit(inputs, *data.taught())
        except NotTrainableError:
            continue
    return models


def learned_baselines(
    data: TrainingData, params: Params, test: tuple[Inputs, Floats], calibration: tuple[Inputs, Floats]
) -> list[Contender]:
    """The baselines that are learned as the router is; each tuple is inputs and expected cost (n, m)."""
    models = fitted(data, data.inputs, params, tuple(LEARNED.values()))
    return [
        Contender(name, (model.predict(test[0]), test[1]), (model.predict(calibration[0]), calibration[1]))
        for name, kind in LEARNED.items()
        if (model := models.get(kind)) is not None
    ]


def direct_choice(data: TrainingData, params: Params, test: Inputs) -> Columns | None:
    """(n,) the class that the direct classifier of the cheapest acceptable candidate predicts, None if untrainable."""
    model = fitted(data, data.inputs, params, [DirectClassifier.name]).get(DirectClassifier.name)
    return model.classes(test).argmax(axis=1) if isinstance(model, DirectClassifier) else None


def fixed_points(
    quality: Floats, cost: Floats, candidates: tuple[str, ...], reference: int, direct: Columns | None
) -> Mapping[str, tuple[Floats, Floats]]:
    """Routers without a knob: name -> each request's (quality, cost), both (n,). `quality`, `cost` (n, m) are complete."""
    rows = np.arange(len(quality))
    cheapest = int(cost.mean(axis=0).argmin())
    points = {f"{ONLY}{name}": (quality[:, c], cost[:, c]) for c, name in enumerate(candidates)}
    points["always best"] = (quality[:, reference], cost[:, reference])
    points["always cheapest"] = (quality[:, cheapest], cost[:, cheapest])
    points["random"] = (quality.mean(axis=1), cost.mean(axis=1))
    if direct is not None:
        points["direct classifier, argmax"] = (quality[rows, direct], cost[rows, direct])
    return points
