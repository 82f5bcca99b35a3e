"""The new candidate's column: a few coefficients on the known candidates' logits, fitted on its judged probes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serving.bundle.arrays import AnyFloats, Floats
from training.extend.structure import Structure
from training.learn.estimators.base import sigmoid
from training.learn.heads.calibrate import FLOOR

_STEPS = 100
_CLOSE = 1e-10
# Standard deviations by which a chance is put below the likeliest one. Among candidates that are known well, the one that is
# not looks best where it is overrated: a choice of the best takes that for granted, unless it is kept back.
CAUTION = 0.5


@dataclass(frozen=True)
class Column:
    """logit p = x @ `coefficients` (f,) - CAUTION standard deviations of that, |x @ `root`|, `root` (f, f).

    x are the features of `Structure`, and a column for each workflow.
    """

    structure: Structure
    coefficients: Floats
    root: Floats

    def predict(self, acceptable: AnyFloats, workflows: AnyFloats) -> Floats:
        """(n,) the chance of an acceptable answer, of the known candidates' chances (n, m) and workflow columns (n, k)."""
        features = np.column_stack([self.structure.features(acceptable), workflows.astype(np.float64)])
        level = features @ self.coefficients - CAUTION * np.sqrt(np.square(features @ self.root).sum(axis=1))
        return np.asarray(np.clip(sigmoid(level), FLOOR, 1 - FLOOR))


@dataclass(frozen=True)
class Posterior:
    """Coefficients of n features: their likeliest values (f,), and their covariance by Laplace's approximation (f, f)."""

    coefficients: Floats
    covariance: Floats


def posterior(features: Floats, target: Floats, mean: Floats, variance: Floats) -> Posterior:
    """Logistic regression of `target` (n,) in [0, 1] on features (n, f), with a normal prior on each coefficient.

    By Newton's method, a step that would overshoot being halved.
    """
    precision = 1.0 / variance
    found = mean.copy()

    def value(at: Floats) -> float:
        level = features @ at
        return float((target * level - np.logaddexp(0.0, level)).sum() - 0.5 * precision @ (at - mean) ** 2)

    best = value(found)
    for _ in range(_STEPS):
        chance = sigmoid(features @ found)
        slope = features.T @ (target - chance) - precision * (found - mean)
        curve = (features * (chance * (1.0 - chance))[:, None]).T @ features + np.diag(precision)
        step, share = np.linalg.solve(curve, slope), 1.0
        while (reached := value(found + share * step)) < best and share > 1e-6:
            share /= 2
        found, gained, best = found + share * step, reached - best, reached
        if gained < _CLOSE:
            break
    chance = sigmoid(features @ found)
    curve = (features * (chance * (1.0 - chance))[:, None]).T @ features + np.diag(precision)
    return Posterior(found, np.asarray(np.linalg.inv(curve)))


def prior(structure: Structure, workflows: int) -> tuple[Floats, Floats]:
    """Mean and variance, both (f,), of the coefficients of the features and of so many workflows' columns."""
    return (
        np.concatenate([structure.mean, np.zeros(workflows)]),
        np.concatenate([structure.variance, np.full(workflows, structure.workflow)]),
    )


def fit_column(structure: Structure, acceptable: AnyFloats, workflows: AnyFloats, target: Floats) -> Column:
    """The column, of n probes: the known candidates' chances (n, m), workflow columns (n, k), and outcomes (n,) in [0, 1]."""
    features = np.column_stack([structure.features(acceptable), workflows.astype(np.float64)])
    found = posterior(features, target, *prior(structure, workflows.shape[1]))
    return Column(structure, found.coefficients, np.asarray(np.linalg.cholesky(found.covariance)))
