"""The additive logit table, a baseline: what a candidate is worth, plus what a workflow is, and little of both together."""

from __future__ import annotations

from typing import Self

import numpy as np

from serving.bundle.arrays import Floats
from training.dataset.inputs import Inputs
from training.learn.estimators.base import observed, observed_mean, sigmoid

_STEPS = 30
# A workflow's effect is shrunk as by so many outcomes; without any it is 0.
_EFFECT_STRENGTH = 2.0


class AdditiveLogitTable:
    """P(acceptable) of a candidate on a workflow: the logit of its shrunken mean plus the workflow's effect.

    Each cell is the mean of its own outcomes, shrunk towards that as by `strength` outcomes. A request without a known
    workflow gets the candidate's shrunken mean.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        """Learns from labels (n, m), NaN where not judged, and weights (n, m) >= 0; raises NotTrainableError."""
        weight, total = observed(labels, weights)
        self.overall = np.clip(observed_mean(labels, weights), 1e-4, 1.0 - 1e-4)
        base = np.log(self.overall / (1.0 - self.overall))
        member = inputs.workflows.astype(np.float64)
        counts, sums = member.T @ weight, member.T @ total  # (workflows, m)
        effect = np.zeros((len(counts), 1))
        for _ in range(_STEPS):  # Newton's steps on a concave likelihood in one number for each workflow
            expected = sigmoid(base + effect)
            slope = (sums - counts * expected).sum(axis=1, keepdims=True) - _EFFECT_STRENGTH * effect / 4.0
            curvature = (counts * expected * (1.0 - expected)).sum(axis=1, keepdims=True) + _EFFECT_STRENGTH / 4.0
            effect = np.clip(effect + slope / curvature, -8.0, 8.0)
        additive = sigmoid(base + effect)
        self.table = (sums + self.strength * additive) / (counts + self.strength)
        return self

    def predict(self, inputs: Inputs) -> Floats:
        """(n, m) probabilities."""
        known = inputs.tagged[:, None]
        probability: Floats = np.where(known, inputs.workflows.astype(np.float64) @ self.table, self.overall)
        return probability
