"""The standardised design matrix of embedding, surface features and workflow, and ridge regression on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serving.bundle.arrays import Floats
from training.dataset.inputs import Inputs
from training.learn.estimators.base import Estimator, sigmoid
from training.learn.onnx_graph import Graph


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


def normal_equations(columns: Floats, target: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """X'WX (d, d) and X'Wy, from columns X (n, d) and weights (n,) >= 0; y is (n,) or (n, m), X'Wy (d,) or (d, m)."""
    rows = weight > 0
    columns, target = columns[rows], target[rows]
    weighted = columns * weight[rows, None]
    return weighted.T @ columns, weighted.T @ target


def ridge(columns: Floats, target: Floats, weight: Floats, penalty: float) -> Floats:
    """(d,) or (d, m) minimiser of sum w (y - Xb)^2 + penalty |b|^2; arguments as of `normal_equations`."""
    gram, cross = normal_equations(columns, target, weight)
    return np.asarray(np.linalg.solve(gram + penalty * np.eye(len(gram)), cross), dtype=np.float64)


def ridge_per_candidate(columns: Floats, target: Floats, weight: Floats, penalty: float) -> Floats:
    """(d, m) coefficients, each candidate's on its own weighted rows: target and weight are (n, m)."""
    found = np.empty((columns.shape[1], weight.shape[1]))
    for shared in same_rows(weight):
        found[:, shared] = ridge(columns, target[:, shared], weight[:, shared[0]], penalty)
    return found


def same_rows(weight: Floats) -> list[list[int]]:
    """The columns of the weights (n, m) that are equal, together: candidates that share a Gram matrix."""
    found: dict[bytes, list[int]] = {}
    for column, w in enumerate(weight.T):
        found.setdefault(w.tobytes(), []).append(column)
    return list(found.values())
