"""The estimators by name, made with the parameters of a run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from training.config import ConfigError, Fit
from training.estimators.base import Estimator, Floats
from training.estimators.linear import DirectClassifier, LogisticPerCandidate
from training.estimators.tables import WorkflowTable
from training.estimators.trees import LightGBMPerCandidate


def factories(fit: Fit, mean_cost: Floats) -> dict[str, Callable[[], Estimator]]:
    """One factory for each name in `fit.estimators`; raises ConfigError for an unknown one.

    `mean_cost` (m,) is the candidates' mean cost, which orders them for the direct classifier.
    """
    known: dict[str, Callable[[], Estimator]] = {
        WorkflowTable.name: partial(WorkflowTable, strength=fit.table_strength),
        LogisticPerCandidate.name: partial(LogisticPerCandidate, c=fit.logistic_c),
        LightGBMPerCandidate.name: partial(
            LightGBMPerCandidate,
            seed=fit.seed,
            dims=fit.tree_dims,
            trees=fit.trees,
            leaves=fit.leaves,
            learning_rate=fit.learning_rate,
        ),
        DirectClassifier.name: partial(DirectClassifier, mean_cost=mean_cost, c=fit.logistic_c),
    }
    unknown = [name for name in fit.estimators if name not in known]
    if unknown:
        raise ConfigError(f"fit.estimators has {unknown[0]!r}; there are {', '.join(known)}")
    return {name: known[name] for name in fit.estimators}
