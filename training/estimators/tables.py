"""Tables of means: the baseline that most published routers lose to."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np

from training.estimators.base import Estimator, Floats, Inputs, observed_mean
from training.onnx_graph import Graph


class WorkflowTable(Estimator):
    """Each workflow's mean per candidate, shrunk towards the candidate's overall mean.

    A request without a known workflow gets the overall mean. `strength` is how many outcomes the overall mean counts
    for (empirical-Bayes shrinkage with a Beta prior of that many pseudo-outcomes).
    """

    name: ClassVar[str] = "workflow-table"
    complexity: ClassVar[int] = 0

    def __init__(self, strength: float = 10.0) -> None:
        self.strength = strength

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        seen = np.isfinite(labels)
        weight = np.where(seen, weights, 0.0)
        total = np.where(seen, labels, 0.0) * weight
        self.overall = observed_mean(labels, weights)
        workflows = inputs.workflows.astype(np.float64)
        table = (workflows.T @ total + self.strength * self.overall) / (workflows.T @ weight + self.strength)
        self.offset = table - self.overall  # (workflows, m)
        return self

    def predict(self, inputs: Inputs) -> Floats:
        probability: Floats = self.overall + inputs.workflows.astype(np.float64) @ self.offset
        return probability

    def to_onnx(self, graph: Graph) -> str:
        weight = np.zeros((graph.feature_count, self.offset.shape[1]))
        weight[graph.feature_count - len(self.offset) :] = self.offset
        return graph.linear(graph.features, weight, self.overall)
