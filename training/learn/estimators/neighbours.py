"""The nearest neighbours' outcomes."""

from __future__ import annotations

import hashlib
from typing import ClassVar, Self

import numpy as np

from serving.bundle.arrays import Columns, Floats, Floats32
from training.dataset.inputs import Inputs
from training.learn.estimators.base import Estimator, observed, observed_mean
from training.learn.onnx_graph import Graph

# Keeps the weights' denominator away from zero where all neighbours are equally near.
_SPREAD_FLOOR = 0.01
# Requests whose nearness to every prompt is held at a time: 64 MB in float32 with 8,000 prompts.
_CHUNK = 2048


class NearestNeighbours(Estimator):
    """Mean outcome of the `k` nearest prompts by cosine, each weighted by how much nearer it is than the k-th.

    The weights fall to zero at the k-th neighbour, so that a tie there makes no difference. Prompts that recur are one
    neighbour with all their outcomes. At most `prompts` are kept, drawn at random, so that the graph stays small.
    Sources: RouterBench; arXiv 2505.12601.
    """

    name: ClassVar[str] = "knn"
    family: ClassVar[str] = "neighbours"
    complexity: ClassVar[int] = 3
    graded: ClassVar[bool] = True
    uses_workflow: ClassVar[bool] = False

    def __init__(self, seed: int = 0, k: int = 100, strength: float = 1.0, prompts: int = 8000) -> None:
        self.seed = seed
        self.k = k
        self.strength = strength
        self.prompts = prompts

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        self.overall = observed_mean(labels, weights)
        weight, total = observed(labels, weights)
        first, member = _distinct(inputs.embedding)
        self.count, self.total = np.zeros((len(first), labels.shape[1])), np.zeros((len(first), labels.shape[1]))
        np.add.at(self.count, member, weight)
        np.add.at(self.total, member, total)
        kept = np.random.default_rng(self.seed).permutation(len(first))[: self.prompts]
        self.prompt: Floats32 = inputs.embedding[first[kept]]
        self.count, self.total = self.count[kept], self.total[kept]
        self.size = min(self.k, len(kept))
        return self

    def predict(self, inputs: Inputs) -> Floats:
        predicted = np.empty((len(inputs), len(self.overall)))
        for start in range(0, len(inputs), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            predicted[chunk] = self._near(inputs.embedding[chunk])
        return predicted

    def _near(self, embedding: Floats32) -> Floats:
        """(n, m) of the embeddings (n, dim), with n x prompts numbers in float32 at once."""
        nearness = embedding @ self.prompt.T
        np.negative(nearness, out=nearness)
        nearest = np.argpartition(nearness, self.size - 1, axis=1)[:, : self.size]
        near = -np.take_along_axis(nearness, nearest, axis=1).astype(np.float64)
        least, most = near.min(axis=1, keepdims=True), near.max(axis=1, keepdims=True)
        weight = (near - least) / (most - least + _SPREAD_FLOOR)
        total = np.einsum("nk,nkm->nm", weight, self.total[nearest])
        count = np.einsum("nk,nkm->nm", weight, self.count[nearest])
        return np.asarray((total + self.strength * self.overall) / (count + self.strength))

    def to_onnx(self, graph: Graph) -> str:
        nearness = graph.add("MatMul", graph.embedding, graph.constant(self.prompt.T))
        near, nearest = graph.top(nearness, self.size)
        axis = graph.constant([1], np.int64)
        least, most = graph.add("ReduceMin", near, axis, keepdims=1), graph.add("ReduceMax", near, axis, keepdims=1)
        spread = graph.add("Add", graph.add("Sub", most, least), graph.constant(_SPREAD_FLOOR))
        weight = graph.add("Div", graph.add("Sub", near, least), spread)
        row = graph.add("Unsqueeze", weight, axis)  # (n, 1, k)

        def weighted(table: Floats) -> str:
            gathered = graph.add("Gather", graph.constant(table), nearest, axis=0)  # (n, k, m)
            return graph.add("Squeeze", graph.add("MatMul", row, gathered), axis)

        total = graph.add("Add", weighted(self.total), graph.constant(self.strength * self.overall))
        count = graph.add("Add", weighted(self.count), graph.constant(self.strength))
        return graph.add("Div", total, count)


def _distinct(embedding: Floats32) -> tuple[Columns, Columns]:
    """(k,) the first place of each different row of `embedding`, and (n,) which of them each row is. Their order is that of
    hashes, so that it is the same however the rows are ordered."""
    rows = np.ascontiguousarray(embedding)
    hashes = np.array([hashlib.blake2b(row.data, digest_size=16).digest() for row in rows], dtype="S16")
    _, first, member = np.unique(hashes, return_index=True, return_inverse=True)
    return first, member.reshape(-1)
