"""What every estimator of P(acceptable) takes, gives and can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.learn.onnx_graph import Graph

Floats = NDArray[np.float64]
Matrix = NDArray[np.float32]

# From this many candidates on their means are shrunk towards a line in price, with fewer towards one level.
_PRICED = 4


class NotTrainableError(TrainingError):
    """This estimator cannot learn from these outcomes; the message says what is missing."""


@dataclass(frozen=True)
class Inputs:
    """What the head sees of n requests: `embedding` (n, dim) and `features` (n, surface + workflows), float32.

    The features' first `surface` columns are surface features, the rest are one column per known workflow, all zero
    where a request has no tag or an unknown one.
    """

    embedding: Matrix
    features: Matrix
    surface: int

    def __len__(self) -> int:
        return len(self.embedding)

    @property
    def workflows(self) -> Matrix:
        """(n, workflows) the one-hot part."""
        return self.features[:, self.surface :]

    @property
    def tagged(self) -> NDArray[np.bool_]:
        """(n,) whether the request's workflow is a known one."""
        return np.asarray(self.workflows.any(axis=1))

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Inputs:
        return replace(self, embedding=self.embedding[rows], features=self.features[rows])

    def untagged(self) -> Inputs:
        """The same requests as if none had a workflow tag."""
        features = self.features.copy()
        features[:, self.surface :] = 0.0
        return replace(self, features=features)


class Estimator(ABC):
    """Estimates each candidate's P(acceptable) on a request, learnt from whatever cells were observed."""

    name: ClassVar[str]
    # Order of preference among equals: the lower, the simpler.
    complexity: ClassVar[int]
    # What it is built on; a blend takes the best of each family, and none of "".
    family: ClassVar[str]
    # Whether it estimates a mean of anything in [0, 1], rather than the chance of a 1.
    graded: ClassVar[bool] = False
    # Whether the workflow tag makes a difference to it.
    uses_workflow: ClassVar[bool] = True

    @abstractmethod
    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        """Learns from labels (n, m), NaN where not judged, and weights (n, m) >= 0; raises NotTrainableError.

        Labels are 0 or 1; an estimator that is `graded` takes any number in [0, 1].
        """

    @abstractmethod
    def predict(self, inputs: Inputs) -> Floats:
        """(n, m) probabilities, uncalibrated."""

    @abstractmethod
    def to_onnx(self, graph: Graph) -> str:
        """Adds this estimator's nodes; returns the tensor (n, m) that equals `predict`."""


def observed_mean(labels: Floats, weights: Floats, strength: float = 2.0) -> Floats:
    """(m,) weighted mean label of each candidate, shrunk towards the mean of all with `strength` pseudo-outcomes."""
    seen = np.isfinite(labels)
    weight = np.where(seen, weights, 0.0)
    total = np.where(seen, labels, 0.0) * weight
    if not weight.sum() > 0:
        raise NotTrainableError("no outcome was judged")
    overall = total.sum() / weight.sum()
    mean: Floats = (total.sum(axis=0) + strength * overall) / (weight.sum(axis=0) + strength)
    return mean


def priced_mean(labels: Floats, weights: Floats, mean_cost: Floats) -> Floats:
    """(m,) weighted mean label of each candidate, shrunk towards a line in the logarithm of its price.

    By how much is read from the means themselves: the less they scatter around the line beyond what chance explains, the
    more they are shrunk (empirical Bayes; DerSimonian & Laird 1986 for the variance between candidates). With few
    candidates the line is level. `mean_cost` (m,) in USD. Raises NotTrainableError where nothing was judged.
    """
    seen = np.isfinite(labels)
    weight = np.where(seen, weights, 0.0)
    if not weight.sum() > 0:
        raise NotTrainableError("no outcome was judged")
    total, squares = weight.sum(axis=0), (weight**2).sum(axis=0)
    n = np.where(squares > 0, total**2 / np.where(squares > 0, squares, 1.0), 0.0)
    mean = (np.where(seen, labels, 0.0) * weight).sum(axis=0) / np.where(total > 0, total, 1.0)
    overall = float(n @ mean / n.sum())
    line = np.full(len(n), overall)
    if (n > 0).sum() >= _PRICED:
        x = np.log(np.maximum(mean_cost, 1e-12))
        x = x - n @ x / n.sum()
        spread = float(n @ x**2)
        slope = float(n @ (x * (mean - overall))) / spread if spread > 0 else 0.0
        line = np.clip(overall + slope * x, 0.01, 0.99)
    within = max(overall * (1.0 - overall), 1e-6)
    freedom = (n > 0).sum() - (2 if (n > 0).sum() >= _PRICED else 1)
    room = n.sum() - (n**2).sum() / n.sum()
    between = max(float(n @ (mean - line) ** 2) - freedom * within, 0.0) / room if room > 0 else 0.0
    share = n * between / (n * between + within)
    shrunk: Floats = share * mean + (1.0 - share) * line
    return shrunk


def sigmoid(value: Floats) -> Floats:
    """1 / (1 + exp(-value)), without overflow."""
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * value))
    return result
