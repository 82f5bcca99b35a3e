"""What a router is compared with, each run through the same policy on the same requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from serving.bundle.arrays import Floats
from training.config import Params
from training.dataset.inputs import Inputs
from training.learn.estimators.base import NotTrainableError
from training.learn.estimators.linear import DirectClassifier, Ridge
from training.learn.estimators.neighbours import NearestNeighbours
from training.learn.estimators.registry import factories
from training.learn.estimators.tables import ClusterTable, WorkflowTable
from training.learn.training_data import TrainingData

# What the name of a single candidate's line begins with.
ONLY = "only "


@dataclass(frozen=True)
class Contender:
    """A router to be swept over the knob: what it expects of m candidates on calibration and on test requests.

    `simulated_truth` marks one that no log could train: it knows the simulator's true probabilities.
    """

    name: str
    calibration: tuple[Floats, Floats]  # estimate and expected cost, each (n, m)
    test: tuple[Floats, Floats]
    simulated_truth: bool = False


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


def learnt_baselines(
    data: TrainingData, params: Params, calibration: tuple[Inputs, Floats], test: tuple[Inputs, Floats]
) -> list[Contender]:
    """The estimators one would try first, fitted on the training part; each tuple is inputs and expected cost (n, m)."""
    named = {
        "workflow table": WorkflowTable.name,
        "nearest neighbours": NearestNeighbours.name,
        "k-means table": ClusterTable.name,
        "ridge": Ridge.name,
    }
    kinds = factories(replace(params.fit, estimators=tuple(named.values())), np.nanmean(data.cost, axis=0))
    contenders = []
    for name, kind in named.items():
        model = kinds[kind]().fit(data.inputs, data.labels, data.weights)
        contenders.append(
            Contender(name, (model.predict(calibration[0]), calibration[1]), (model.predict(test[0]), test[1]))
        )
    return contenders


def direct_choice(data: TrainingData, mean_cost: Floats, c: float, test: Inputs) -> NDArray[np.intp] | None:
    """(n,) the class that the direct classifier of the cheapest acceptable candidate predicts, None if untrainable."""
    try:
        classifier = DirectClassifier(mean_cost, c).fit(data.inputs, data.labels, data.weights)
    except NotTrainableError:
        return None
    choice: NDArray[np.intp] = classifier.classes(test).argmax(axis=1)
    return choice


def fixed_points(
    quality: Floats, cost: Floats, candidates: tuple[str, ...], reference: int, direct: NDArray[np.intp] | None
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
