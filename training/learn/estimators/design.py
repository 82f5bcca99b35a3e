"""The standardised design matrix of embedding, surface features and workflow, and what is linear in its columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from serving.bundle.arrays import Floats
from training.dataset.inputs import Inputs
from training.learn.estimators.base import Estimator, sigmoid
from training.learn.onnx_graph import Graph
from training.learn.sums import BLOCK, Normal

# So many requests at a time stay in the processor's cache while they are gone through.
_CACHED = 512
# A column that varies by less, or by less than this share of its mean, is constant: of sums rounding leaves as much.
_LEAST, _LEAST_SHARE = 1e-9, 1e-6


@dataclass(frozen=True)
class Design:
    """The standardised design matrix: embedding, surface features and workflow columns side by side.

    Each column is centred on its training mean and divided by its training deviation; embedding columns share one
    deviation, so that no direction of the embedding is blown up.
    """

    mean: Floats
    scale: Floats

    @classmethod
    def learn(cls, inputs: Inputs) -> Design:
        n = len(inputs)
        total, squares = np.zeros((2, inputs.embedding.shape[1] + inputs.features.shape[1]))
        for columns in blocks(inputs):
            total += columns.sum(axis=0)
        for columns in blocks(inputs):
            squares += np.square(columns - total / n).sum(axis=0)
        return cls._of(total / n, squares / n, inputs.embedding.shape[1])

    @classmethod
    def of(cls, normal: Normal) -> Design:
        """As `learn` from the requests of the sums."""
        n = normal.outcomes[-1]
        mean = np.append(normal.gram[-1, 0, 1:], normal.counts[-1]) / n
        square = np.append(np.diag(normal.gram[-1])[1:], normal.counts[-1]) / n
        return cls._of(mean, np.maximum(square - mean**2, 0.0), normal.dim)

    @classmethod
    def _of(cls, mean: Floats, variance: Floats, dim: int) -> Design:
        size, variance = np.abs(mean), variance.copy()
        variance[:dim] = variance[:dim].mean()
        size[:dim] = np.sqrt((mean[:dim] ** 2).mean())
        deviation = np.sqrt(variance)
        varies = deviation > np.maximum(_LEAST, _LEAST_SHARE * size)
        return cls(mean, np.where(varies, 1.0 / np.where(varies, deviation, 1.0), 0.0))

    def columns(self, inputs: Inputs) -> Floats:
        """(n, dim + k) standardised."""
        values: Floats = stacked(inputs)
        values -= self.mean
        values *= self.scale
        return values

    def gram(self, normal: Normal, candidate: int) -> Floats:
        """(d, d) sum w x x' of one candidate's outcomes, x the standardised columns; -1: of every request."""
        moments = normal.moments(candidate)
        one, mean = moments[0, 1:], self.mean
        centred = moments[1:, 1:] - np.outer(mean, one) - np.outer(one, mean) + moments[0, 0] * np.outer(mean, mean)
        return np.asarray(self.scale[:, None] * centred * self.scale)

    def sums(self, raw: Floats) -> Floats:
        """(d, k) sums of the standardised columns, by weights whose sums of [1, columns] are `raw` (1 + d, k)."""
        return np.asarray(self.scale[:, None] * (raw[1:] - np.outer(self.mean, raw[0])))

    def fold(self, weight: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """Weight and bias that give the same values on the raw columns."""
        raw = weight * self.scale[:, None]
        return raw, bias - self.mean @ raw


class SigmoidOfColumns(Estimator):
    """An estimator that, once fitted, is a sigmoid of embedding and features times `weight` (dim + k, m) plus `bias` (m,)."""

    weight: Floats
    bias: Floats

    def predict(self, inputs: Inputs) -> Floats:
        return sigmoid(linear(inputs, self.weight, self.bias))

    def to_onnx(self, graph: Graph) -> str:
        columns = graph.concat(graph.embedding, graph.features)
        return graph.add("Sigmoid", graph.linear(columns, self.weight, self.bias))


def stacked(inputs: Inputs) -> Floats:
    """(n, dim + k) embedding and features side by side, as they are."""
    return np.hstack([inputs.embedding, inputs.features], dtype=np.float64)


def linear(inputs: Inputs, weight: Floats, bias: Floats) -> Floats:
    """(n, m) embedding and features times `weight` (dim + k, m), plus `bias` (m,), a block of requests at a time."""
    found = np.empty((len(inputs), weight.shape[1]))
    for start in range(0, len(inputs), BLOCK):
        block = slice(start, start + BLOCK)
        dim = inputs.embedding.shape[1]
        found[block] = inputs.embedding[block].astype(np.float64) @ weight[:dim]
        found[block] += inputs.features[block].astype(np.float64) @ weight[dim:] + bias
    return found


def blocks(inputs: Inputs) -> Iterator[Floats]:
    """(b, dim + k) embedding and features side by side, so many requests at a time."""
    for start in range(0, len(inputs), _CACHED):
        block = slice(start, start + _CACHED)
        yield np.hstack([inputs.embedding[block], inputs.features[block]], dtype=np.float64)
