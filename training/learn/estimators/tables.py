"""Tables of means: the baseline that most published routers lose to."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from sklearn.cluster import KMeans

from serving.bundle.arrays import Floats, Floats32
from training.dataset.inputs import Inputs
from training.learn.estimators.base import Estimator, FromSums, observed, observed_mean, shrunk_mean, sigmoid
from training.learn.onnx_graph import Graph
from training.learn.sums import Normal

_STEPS = 30
# A workflow's effect on all candidates is shrunk as by so many outcomes; without any it is 0.
_EFFECT_STRENGTH = 2.0


class WorkflowTable(FromSums):
    """Each workflow's mean per candidate, shrunk towards the candidate's overall mean.

    A request without a known workflow gets the overall mean. `strength` is how many outcomes the overall mean counts
    for (empirical-Bayes shrinkage with a Beta prior of that many pseudo-outcomes).
    """

    name: ClassVar[str] = "workflow-table"
    family: ClassVar[str] = "table"
    complexity: ClassVar[int] = 0
    graded: ClassVar[bool] = True

    def __init__(self, strength: float = 10.0) -> None:
        self.strength = strength

    def fit_sums(self, normal: Normal) -> Self:
        self.overall = shrunk_mean(normal.weight, normal.total)
        counts, sums = normal.counts[:-1].T, normal.cross_tagged.T  # (workflows, m)
        table = (sums + self.strength * self.overall) / (counts + self.strength)
        self.offset = table - self.overall  # (workflows, m)
        return self

    def predict(self, inputs: Inputs) -> Floats:
        probability: Floats = self.overall + inputs.workflows.astype(np.float64) @ self.offset
        return probability

    def to_onnx(self, graph: Graph) -> str:
        weight = np.zeros((graph.feature_count, self.offset.shape[1]))
        weight[graph.feature_count - len(self.offset) :] = self.offset
        return graph.linear(graph.features, weight, self.overall)


class AdditiveTable(WorkflowTable):
    """The table shrunk towards a sum: the logit of a candidate's mean plus the workflow's effect on all candidates.

    Each cell is the mean of its own outcomes, shrunk towards that as by `strength` outcomes: with few of them a workflow is
    known to be hard or easy long before it is known for whom. A request without a known workflow gets the candidate's mean.
    """

    name: ClassVar[str] = "additive-table"
    family: ClassVar[str] = "additive"
    complexity: ClassVar[int] = 1

    def __init__(self, strength: float = 100.0) -> None:
        super().__init__(strength)

    def fit_sums(self, normal: Normal) -> Self:
        self.overall = np.clip(shrunk_mean(normal.weight, normal.total), 1e-4, 1.0 - 1e-4)
        base = np.log(self.overall / (1.0 - self.overall))
        counts, sums = normal.counts[:-1].T, normal.cross_tagged.T  # (workflows, m)
        effect = np.zeros((len(counts), 1))
        for _ in range(_STEPS):  # Newton's on a concave likelihood in one number for each workflow
            expected = sigmoid(base + effect)
            slope = (sums - counts * expected).sum(axis=1, keepdims=True) - _EFFECT_STRENGTH * effect / 4.0
            curvature = (counts * expected * (1.0 - expected)).sum(axis=1, keepdims=True) + _EFFECT_STRENGTH / 4.0
            effect = np.clip(effect + slope / curvature, -8.0, 8.0)
        table = (sums + self.strength * sigmoid(base + effect)) / (counts + self.strength)
        self.offset = table - self.overall
        return self


class ClusterTable(Estimator):
    """Each k-means cluster's mean per candidate, shrunk as the workflow table is. Source: Avengers-Pro, arXiv 2508.12631.

    It sees the embedding alone. There are at most `clusters` clusters, fewer where requests are few.
    """

    name: ClassVar[str] = "k-means-table"
    family: ClassVar[str] = "neighbours"
    complexity: ClassVar[int] = 1
    graded: ClassVar[bool] = True
    uses_workflow: ClassVar[bool] = False
    per_cluster: ClassVar[int] = 25

    def __init__(self, seed: int = 0, clusters: int = 32, strength: float = 10.0) -> None:
        self.seed = seed
        self.clusters = clusters
        self.strength = strength

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        k = max(1, min(self.clusters, len(inputs) // self.per_cluster))
        # n_init=1 and one thread's worth of data: the same seed gives the same clusters
        model = KMeans(k, n_init=1, random_state=self.seed).fit(inputs.embedding)
        self.centres: Floats32 = model.cluster_centers_.astype(np.float32)
        self.overall = observed_mean(labels, weights)
        weight, total = observed(labels, weights)
        member = np.eye(k)[self.clusters_of(inputs)]
        self.table = (member.T @ total + self.strength * self.overall) / (member.T @ weight + self.strength)
        return self

    def clusters_of(self, inputs: Inputs) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        """(n,) the nearest centre of each request."""
        nearness = inputs.embedding @ self.centres.T - self._half_norms
        return np.asarray(nearness.argmax(axis=1))

    def predict(self, inputs: Inputs) -> Floats:
        probability: Floats = self.table[self.clusters_of(inputs)]
        return probability

    def to_onnx(self, graph: Graph) -> str:
        nearness = graph.linear(graph.embedding, self.centres.T, -self._half_norms)
        cluster = graph.add("ArgMax", nearness, axis=1, keepdims=0)
        return graph.add("Gather", graph.constant(self.table), cluster, axis=0)

    @property
    def _half_norms(self) -> Floats32:
        # |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2): the nearest centre maximises what is in brackets
        return np.asarray(0.5 * (self.centres**2).sum(axis=1), dtype=np.float32)
