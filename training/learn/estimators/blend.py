"""A convex average of a few estimators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import numpy as np

from serving.bundle.arrays import Floats
from training.dataset.inputs import Inputs
from training.learn.estimators.base import Estimator, Factory, FromNearby, FromSums
from training.learn.onnx_graph import Graph
from training.learn.sums import Normal


class Blend(Estimator):
    """The weighted mean of its members' probabilities; the weights were fitted out of fold and add up to 1."""

    name: ClassVar[str] = "blend"
    family: ClassVar[str] = ""
    complexity: ClassVar[int] = 5

    def __init__(self, members: Mapping[str, Factory], weights: Mapping[str, float]) -> None:
        self.members = {name: members[name]() for name, weight in weights.items() if weight > 0}
        self.weights = {name: weights[name] for name in self.members}

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        fit_from(self, inputs, labels, weights, Normal.of(inputs, labels, weights) if takes_sums(self) else None)
        return self

    def predict(self, inputs: Inputs) -> Floats:
        return np.asarray(sum(self.weights[name] * member.predict(inputs) for name, member in self.members.items()))

    def to_onnx(self, graph: Graph) -> str:
        return graph.total(
            *(graph.scale(member.to_onnx(graph), self.weights[name]) for name, member in self.members.items())
        )


def parts_of(name: str, estimator: Estimator) -> Mapping[str, Estimator]:
    """Itself by its name, or the members of a blend."""
    return estimator.members if isinstance(estimator, Blend) else {name: estimator}


def takes_sums(estimator: Estimator) -> bool:
    """Whether it, or a member of it, is solved from sums."""
    if isinstance(estimator, Blend):
        return any(takes_sums(member) for member in estimator.members.values())
    return isinstance(estimator, FromSums)


def fit_from(
    estimator: Estimator,
    inputs: Inputs,
    labels: Floats,
    weights: Floats,
    normal: Normal | None = None,
    near: Mapping[str, Estimator] | None = None,
    name: str = "",
) -> Estimator:
    """Fits it: from the rows' sums `normal` what can be, a blend member by member, and from the rows what cannot.

    Without `normal` everything is fitted from the rows. `near` are estimators learned on nearly the same rows, by name: of a
    blend its members', else `name`. Raises NotTrainableError.
    """
    begin = None if near is None else near.get(name)
    if isinstance(estimator, Blend):
        for member_name, member in estimator.members.items():
            fit_from(member, inputs, labels, weights, normal, near, member_name)
    elif isinstance(estimator, FromSums) and normal is not None:
        estimator.fit_sums(normal)
    elif isinstance(estimator, FromNearby) and begin is not None:
        estimator.fit_near(begin, inputs, labels, weights)
    else:
        estimator.fit(inputs, labels, weights)
    return estimator
