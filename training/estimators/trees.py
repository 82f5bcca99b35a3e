"""Gradient-boosted trees (LightGBM)."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from training.estimators.base import Estimator, Floats, Inputs, Matrix, observed_mean
from training.onnx_graph import Graph

# The newest opset that onnxmltools converts to; the few operators it writes mean the same at the graph's own.
_CONVERTED_OPSET = 15


class LightGBMPerCandidate(Estimator):
    """One LightGBM classifier per candidate.

    The trees see the embedding's `dims` columns of largest variance beside the features. They are picked, not projected,
    so that the exported graph compares the very same float32 numbers. A candidate with fewer than `minimum` outcomes of
    either kind gets its shrunken mean.
    """

    name: ClassVar[str] = "lightgbm"
    complexity: ClassVar[int] = 4
    minimum: ClassVar[int] = 20

    def __init__(self, seed: int = 0, dims: int = 32, trees: int = 80, leaves: int = 8, learning_rate: float = 0.05):
        self.dims = dims
        self.options: dict[str, Any] = {
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

    def columns(self, inputs: Inputs) -> Matrix:
        """(n, dims + k) what the trees see."""
        return np.hstack([inputs.embedding[:, self.picked], inputs.features])

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        variance = inputs.embedding.var(axis=0)
        self.picked: NDArray[np.intp] = np.sort(np.argsort(-variance, kind="stable")[: self.dims])
        self.overall = observed_mean(labels, weights)
        columns = self.columns(inputs)
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
        columns = self.columns(inputs)
        return np.column_stack(
            [
                np.full(len(inputs), self.overall[candidate])
                if model is None
                else model.booster_.predict(columns, num_threads=1)
                for candidate, model in enumerate(self.models)
            ]
        )

    def to_onnx(self, graph: Graph) -> str:
        columns = graph.concat(graph.columns(graph.embedding, self.picked), graph.features)
        width = len(self.picked) + graph.feature_count
        parts = []
        for candidate, model in enumerate(self.models):
            if model is None:
                zero = graph.add("Mul", graph.columns(graph.features, [0]), graph.constant(0.0))
                parts.append(graph.add("Add", zero, graph.constant(self.overall[candidate])))
                continue
            converted = convert_lightgbm(
                model,
                initial_types=[("input", FloatTensorType([None, width]))],
                target_opset=_CONVERTED_OPSET,
                zipmap=False,
            )
            parts.append(graph.columns(graph.merge(converted, columns)[1], [1]))
        return graph.concat(*parts)
