"""The estimators by name, made with the parameters of a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from training.config import ConfigError, Fit
from training.estimators.base import Estimator, Floats
from training.estimators.linear import (
    DirectClassifier,
    LogisticPerCandidate,
    LowRankResidual,
    ReducedRankRidge,
    Ridge,
)
from training.estimators.neighbours import NearestNeighbours
from training.estimators.tables import ClusterTable, WorkflowTable
from training.estimators.trees import LightGBMLong, LightGBMPerCandidate


def factories(fit: Fit, mean_cost: Floats) -> dict[str, Callable[[], Estimator]]:
    """One factory for each name in `fit.estimators`; raises ConfigError for an unknown one.

    `mean_cost` (m,) is the candidates' mean cost, which orders them for the direct classifier.
    """
    trees: dict[str, Any] = {
        "seed": fit.seed,
        "dims": fit.tree_dims,
        "trees": fit.trees,
        "leaves": fit.leaves,
        "learning_rate": fit.learning_rate,
    }
    penalty, strength = fit.low_rank_penalty, fit.table_strength
    known: dict[str, Callable[[], Estimator]] = {
        WorkflowTable.name: partial(WorkflowTable, strength),
        ClusterTable.name: partial(ClusterTable, fit.seed, fit.clusters, strength),
        LowRankResidual.name: partial(LowRankResidual, penalty, fit.low_rank, strength),
        ReducedRankRidge.name: partial(ReducedRankRidge, penalty, fit.low_rank),
        Ridge.name: partial(Ridge, penalty),
        LogisticPerCandidate.name: partial(LogisticPerCandidate, fit.logistic_c),
        NearestNeighbours.name: partial(NearestNeighbours, fit.seed, fit.neighbours),
        LightGBMPerCandidate.name: partial(LightGBMPerCandidate, **trees),
        LightGBMLong.name: partial(LightGBMLong, mean_cost, **trees),
        DirectClassifier.name: partial(DirectClassifier, mean_cost, fit.logistic_c),
    }
    unknown = [name for name in fit.estimators if name not in known]
    if unknown:
        raise ConfigError(f"fit.estimators has {unknown[0]!r}; there are {', '.join(known)}")
    return {name: known[name] for name in fit.estimators}
