"""The estimators by name, made with the parameters of a run."""

from __future__ import annotations

from functools import partial
from typing import Any

from serving.bundle.arrays import Floats
from training.config import ConfigError, Fit
from training.learn.estimators.base import Factory
from training.learn.estimators.irt import ItemResponse
from training.learn.estimators.linear import (
    DirectClassifier,
    HierarchicalRidge,
    LowRankResidual,
    ReducedRankRidge,
    Ridge,
)
from training.learn.estimators.logistic import LogisticPerCandidate
from training.learn.estimators.neighbours import NearestNeighbours
from training.learn.estimators.tables import AdditiveTable, ClusterTable, WorkflowTable
from training.learn.estimators.trees import LightGBMLong, LightGBMPerCandidate


def factories(fit: Fit, mean_cost: Floats) -> dict[str, Factory]:
    """One factory for each name in `fit.estimators`, with the first of its settings; raises ConfigError.

    `mean_cost` (m,) is the candidates' mean cost in USD.
    """
    return {name: next(iter(_settings(fit, mean_cost, name).values())) for name in fit.estimators}


def variants(fit: Fit, mean_cost: Floats) -> dict[str, Factory]:
    """As `factories`, with every setting that is to be tried out of fold; all but an estimator's first are named after it."""
    return {variant: factory for name in fit.estimators for variant, factory in _settings(fit, mean_cost, name).items()}


def _settings(fit: Fit, mean_cost: Floats, name: str) -> dict[str, Factory]:
    trees: dict[str, Any] = {
        "seed": fit.seed,
        "dims": fit.tree_dims,
        "trees": fit.trees,
        "leaves": fit.leaves,
        "learning_rate": fit.learning_rate,
    }
    rank, penalty, strength = fit.low_rank[0], fit.low_rank_penalty[0], fit.table_strength[0]
    known: dict[str, dict[str, Factory]] = {
        WorkflowTable.name: {f"strength {s:g}": partial(WorkflowTable, s) for s in fit.table_strength},
        AdditiveTable.name: {f"strength {s:g}": partial(AdditiveTable, s) for s in fit.additive_strength},
        ClusterTable.name: {"": partial(ClusterTable, fit.seed, fit.clusters, strength)},
        LowRankResidual.name: {
            f"rank {r}, penalty {p:g}": partial(LowRankResidual, p, r, strength)
            for p in fit.low_rank_penalty
            for r in fit.low_rank
        },
        HierarchicalRidge.name: {
            f"own {own:g}": partial(HierarchicalRidge, mean_cost, fit.shared_penalty, own, fit.tag_scale)
            for own in fit.own_penalty
        },
        ReducedRankRidge.name: {"": partial(ReducedRankRidge, penalty, rank)},
        Ridge.name: {"": partial(Ridge, penalty)},
        ItemResponse.name: {"": partial(ItemResponse, mean_cost, fit.seed)},
        LogisticPerCandidate.name: {"": partial(LogisticPerCandidate, fit.logistic_c)},
        NearestNeighbours.name: {"": partial(NearestNeighbours, fit.seed, fit.neighbours)},
        LightGBMPerCandidate.name: {"": partial(LightGBMPerCandidate, **trees)},
        LightGBMLong.name: {"": partial(LightGBMLong, mean_cost, **trees)},
        DirectClassifier.name: {"": partial(DirectClassifier, mean_cost, fit.logistic_c)},
    }
    if name not in known:
        raise ConfigError(
            f"{name!r} is no estimator (fit.estimators, evaluate.split_estimators); there are {', '.join(known)}"
        )
    return {
        name if position == 0 else f"{name} ({setting})": factory
        for position, (setting, factory) in enumerate(known[name].items())
    }
