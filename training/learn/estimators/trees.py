"""Gradient-boosted trees (LightGBM)."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import lightgbm as lgb
import numpy as np
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from serving.bundle.arrays import Columns, Floats, Floats32
from training.dataset.inputs import Inputs
from training.learn.estimators.base import Estimator, NotTrainableError, observed_mean
from training.learn.onnx_graph import Graph

# What trees see is rounded to multiples of 1 / 4096. LightGBM splits half way between two values in double precision,
# ONNX compares in single: on this grid half way is a float32 too, so that no request falls on the other side of a split.
_GRID = 4096.0
# The newest opset that onnxmltools converts to; the few operators it writes mean the same at the graph's own.
_CONVERTED_OPSET = 15


class LightGBMPerCandidate(Estimator):
    """One LightGBM classifier per candidate.

    The trees see the embedding's `dims` columns of largest variance beside the features. They are picked, not projected,
    so that the exported graph compares the very same float32 numbers. A candidate with fewer than `minimum` outcomes of
    either kind gets its shrunken mean.
    """

    name: ClassVar[str] = "lightgbm"
    family: ClassVar[str] = "trees"
    complexity: ClassVar[int] = 4
    minimum: ClassVar[int] = 20

    def __init__(self, seed: int = 0, dims: int = 32, trees: int = 80, leaves: int = 8, learning_rate: float = 0.05):
        self.dims = dims
        self.options = _options(seed, trees, leaves, learning_rate)

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        self.picked: Columns = _widest(inputs, self.dims)
        self.overall = observed_mean(labels, weights)
        columns = _columns(inputs, self.picked)
        self.models: list[lgb.LGBMClassifier | None] = []
        for candidate in range(labels.shape[1]):
            seen = np.isfinite(labels[:, candidate]) & (weights[:, candidate] > 0)
            y = labels[seen, candidate].astype(np.int64)
            if min((y == 1).sum(), (y == 0).sum()) < self.minimum:
                self.models.append(None)
                continue
            model = lgb.LGBMClassifier(**self.options)
            self.models.append(model.fit(columns[seen], y, sample_weight=weights[seen, candidate]))
        return self

    def predict(self, inputs: Inputs) -> Floats:
        columns = _columns(inputs, self.picked)
        return np.column_stack(
            [
                np.full(len(inputs), self.overall[candidate])
                if model is None
                else model.booster_.predict(columns, num_threads=1)
                for candidate, model in enumerate(self.models)
            ]
        )

    def to_onnx(self, graph: Graph) -> str:
        columns, width = _columns_onnx(graph, self.picked)
        parts = []
        for candidate, model in enumerate(self.models):
            if model is None:
                parts.append(graph.linear(graph.features, np.zeros((graph.feature_count, 1)), self.overall[candidate]))
                continue
            parts.append(_probability(graph, model, columns, width))
        return graph.concat(*parts)


class LightGBMLong(Estimator):
    """One LightGBM model over (request, candidate) rows, so that candidates with few outcomes learn from the others'.

    Beside what the per-candidate trees see, each row says which candidate it is of, and how good and how dear that one is
    on the whole.
    """

    name: ClassVar[str] = "lightgbm-long"
    family: ClassVar[str] = "trees"
    complexity: ClassVar[int] = 4

    def __init__(
        self,
        mean_cost: Floats,
        seed: int = 0,
        dims: int = 32,
        trees: int = 80,
        leaves: int = 8,
        learning_rate: float = 0.05,
    ) -> None:
        self.dims = dims
        self.mean_cost = mean_cost
        self.options = _options(seed, trees, 2 * leaves, learning_rate)

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        self.picked: Columns = _widest(inputs, self.dims)
        m = labels.shape[1]
        overall = observed_mean(labels, weights)
        cost = np.log(np.maximum(self.mean_cost, 1e-12))
        self.candidates: Floats32 = _gridded(np.column_stack([np.eye(m), overall, cost]).astype(np.float32))
        rows, candidates = np.nonzero(np.isfinite(labels) & (weights > 0))
        target = labels[rows, candidates].astype(np.int64)
        if min((target == 1).sum(), (target == 0).sum()) == 0:
            raise NotTrainableError("every judged outcome is the same")
        shared = _columns(inputs, self.picked)
        self.model = lgb.LGBMClassifier(**self.options).fit(
            np.hstack([shared[rows], self.candidates[candidates]]), target, sample_weight=weights[rows, candidates]
        )
        return self

    def predict(self, inputs: Inputs) -> Floats:
        n, m = len(inputs), len(self.candidates)
        shared = _columns(inputs, self.picked)
        rows = np.hstack([np.repeat(shared, m, axis=0), np.tile(self.candidates, (n, 1))])
        return np.asarray(self.model.booster_.predict(rows, num_threads=1)).reshape(n, m)

    def to_onnx(self, graph: Graph) -> str:
        m, own = self.candidates.shape
        shared, width = _columns_onnx(graph, self.picked)
        axis = graph.constant([1], np.int64)
        spread = graph.add("Tile", graph.add("Unsqueeze", shared, axis), graph.constant([1, m, 1], np.int64))
        zero = graph.scale(graph.columns(graph.features, [0]), 0.0)  # (n, 1), to broadcast with
        candidates = graph.add("Add", graph.add("Unsqueeze", zero, axis), graph.constant(self.candidates[None]))
        rows = graph.add("Concat", spread, candidates, axis=2)
        flat = graph.add("Reshape", rows, graph.constant([-1, width + own], np.int64))
        probability = _probability(graph, self.model, flat, width + own)
        return graph.add("Reshape", probability, graph.constant([-1, m], np.int64))


def _options(seed: int, trees: int, leaves: int, learning_rate: float) -> dict[str, Any]:
    return {
        "n_estimators": trees,
        "num_leaves": leaves,
        "learning_rate": learning_rate,
        "min_child_samples": 20,
        "reg_lambda": 5.0,
        "subsample": 0.8,
        "subsample_freq": 1,
        "colsample_bytree": 0.5,
        "random_state": seed,
        "deterministic": True,
        "force_row_wise": True,
        "n_jobs": 1,  # two threads of a tiny fit mostly wait for each other
        "verbosity": -1,
    }


def _gridded(columns: Floats32) -> Floats32:
    """The columns rounded to multiples of 1 / _GRID, in float32."""
    return np.asarray(np.rint(columns * np.float32(_GRID)) / np.float32(_GRID), dtype=np.float32)


def _columns(inputs: Inputs, picked: Columns) -> Floats32:
    """(n, dims + k) what the trees see: the picked columns of the embedding, and the features."""
    return _gridded(np.hstack([inputs.embedding[:, picked], inputs.features]))


def _columns_onnx(graph: Graph, picked: Columns) -> tuple[str, int]:
    """The same in the graph, and how many columns: scaling by a power of two and rounding half to even are exact."""
    columns = graph.concat(graph.columns(graph.embedding, picked), graph.features)
    rounded = graph.add("Round", graph.scale(columns, _GRID))
    return graph.scale(rounded, 1.0 / _GRID), len(picked) + graph.feature_count


def _widest(inputs: Inputs, dims: int) -> Columns:
    """The embedding columns of largest variance, in their order."""
    variance = inputs.embedding.var(axis=0)
    return np.sort(np.argsort(-variance, kind="stable")[:dims])


def _probability(graph: Graph, model: lgb.LGBMClassifier, columns: str, width: int) -> str:
    """(rows, 1) P(label 1) by a converted LightGBM classifier."""
    converted = convert_lightgbm(
        model,
        initial_types=[("input", FloatTensorType([None, width]))],
        target_opset=_CONVERTED_OPSET,
        zipmap=False,
    )
    return graph.columns(graph.merge(converted, columns)[1], [1])
