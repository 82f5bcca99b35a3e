"""The standardised design matrix of embedding, surface features and workflow, and ridge regression on it."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from threading import Lock

import numpy as np
from cachetools import LRUCache

from serving.bundle.arrays import Floats
from training.dataset.inputs import Inputs
from training.learn.estimators.base import Estimator, sigmoid
from training.learn.onnx_graph import Graph

_GRAMS: LRUCache[tuple[object, ...], Floats] = LRUCache(maxsize=64)  # those of the folds, a few for each
_LOCK = Lock()


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
        columns = stacked(inputs)
        deviation = columns.std(axis=0)
        dim = inputs.embedding.shape[1]
        deviation[:dim] = np.sqrt((deviation[:dim] ** 2).mean())
        return cls(columns.mean(axis=0), np.where(deviation > 1e-9, 1.0 / np.maximum(deviation, 1e-9), 0.0))

    def columns(self, inputs: Inputs) -> Floats:
        """(n, dim + k) standardised."""
        values: Floats = (stacked(inputs) - self.mean) * self.scale
        return values

    def fold(self, weight: Floats, bias: Floats) -> tuple[Floats, Floats]:
        """Weight and bias that give the same values on the raw columns."""
        raw = weight * self.scale[:, None]
        return raw, bias - self.mean @ raw


class SigmoidOfColumns(Estimator):
    """An estimator that, once fitted, is a sigmoid of embedding and features times `weight` (dim + k, m) plus `bias` (m,)."""

    weight: Floats
    bias: Floats

    def predict(self, inputs: Inputs) -> Floats:
        return sigmoid(stacked(inputs) @ self.weight + self.bias)

    def to_onnx(self, graph: Graph) -> str:
        columns = graph.concat(graph.embedding, graph.features)
        return graph.add("Sigmoid", graph.linear(columns, self.weight, self.bias))


def stacked(inputs: Inputs) -> Floats:
    """(n, dim + k) embedding and features side by side, as they are."""
    return np.hstack([inputs.embedding, inputs.features]).astype(np.float64)


def _digest(values: Floats) -> bytes:
    return blake2b(np.ascontiguousarray(values).data, digest_size=16).digest()


class Equations:
    """Normal equations of weighted least squares on columns X (n, d).

    Fits on the same columns, of another penalty or another target, share their Gram matrices: the last ones computed are kept,
    under a digest of what they were computed from.
    """

    def __init__(self, columns: Floats) -> None:
        self.columns = columns
        self._digest = _digest(columns)

    def gram(self, weight: Floats) -> Floats:
        """(d, d) X'WX, of weights (n,) >= 0; not to be written to."""
        key = (self._digest, self.columns.shape, _digest(weight))
        with _LOCK:
            known = _GRAMS.get(key)
        if known is None:
            rows = weight > 0
            taken = self.columns[rows]
            known = (taken * weight[rows, None]).T @ taken
            known.flags.writeable = False
            with _LOCK:
                _GRAMS[key] = known
        return known

    def ridge(self, target: Floats, weight: Floats, penalty: float) -> Floats:
        """(d, m) minimisers of sum w (y - Xb)^2 + penalty |b|^2, each column's on its own: target and weight are (n, m)."""
        cross = self.columns.T @ (weight * target)
        found = np.empty_like(cross)
        for shared in same_rows(weight):
            left = self.gram(weight[:, shared[0]]) + penalty * np.eye(len(cross))
            found[:, shared] = np.linalg.solve(left, cross[:, shared])
        return found


def same_rows(weight: Floats) -> list[list[int]]:
    """The columns of the weights (n, m) that are equal, together: candidates that share a Gram matrix."""
    found: dict[bytes, list[int]] = {}
    for column, w in enumerate(weight.T):
        found.setdefault(w.tobytes(), []).append(column)
    return list(found.values())
