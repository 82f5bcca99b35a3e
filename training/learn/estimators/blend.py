"""A convex average of a few estimators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

from serving.bundle.arrays import Floats
from training.dataset.inputs import Inputs
from training.learn.estimators.base import Estimator, Factory
from training.learn.onnx_graph import Graph


class Blend(Estimator):
    """The weighted mean of its members' probabilities; the weights were fitted out of fold and add up to 1."""

    name: ClassVar[str] = "blend"
    family: ClassVar[str] = ""
    complexity: ClassVar[int] = 5

    def __init__(self, members: Mapping[str, Factory], weights: Mapping[str, float]) -> None:
        self.members = {name: members[name]() for name, weight in weights.items() if weight > 0}
        self.weights = {name: weights[name] for name in self.members}

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        for member in self.members.values():
            member.fit(inputs, labels, weights)
        return self

    def predict(self, inputs: Inputs) -> Floats:
        return np.asarray(sum(self.weights[name] * member.predict(inputs) for name, member in self.members.items()))

    def to_onnx(self, graph: Graph) -> str:
        return graph.total(
            *(graph.scale(member.to_onnx(graph), self.weights[name]) for name, member in self.members.items())
        )
