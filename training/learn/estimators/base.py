"""What every estimator of P(acceptable) takes, gives and can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Self

import numpy as np

from serving.bundle.arrays import Floats
from training.dataset.inputs import Inputs
from training.errors import TrainingError
from training.learn.onnx_graph import Graph
from training.learn.sums import Normal

# From this many candidates on their means are shrunk towards a line in price, with fewer towards one level.
PRICED = 4


class NotTrainableError(TrainingError):
    """This estimator cannot learn from these outcomes; the message says what is missing."""


class Estimator(ABC):
    """Estimates each candidate's P(acceptable) on a request, learned from whatever cells were observed."""

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


class FromSums(Estimator):
    """An estimator that is solved from sums over the requests, and never asks for the requests themselves."""

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        return self.fit_sums(Normal.of(inputs, labels, weights))

    @abstractmethod
    def fit_sums(self, normal: Normal) -> Self:
        """As `fit` on the requests that were added up; raises NotTrainableError."""


class FromNearby(Estimator):
    """An estimator that is searched for, and sooner found from one of its kind that was learned on nearly the same rows."""

    @abstractmethod
    def fit_near(self, near: Estimator, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        """As `fit`, to the same end, beginning at `near`."""


Factory = Callable[[], Estimator]


def observed(labels: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Both (n, m): what each label weighs, and label times weight; 0 where it was not judged."""
    seen = np.isfinite(labels)
    weight = np.where(seen, weights, 0.0)
    return weight, np.where(seen, labels, 0.0) * weight


def observed_mean(labels: Floats, weights: Floats, strength: float = 2.0) -> Floats:
    """(m,) weighted mean label of each candidate, shrunk towards the mean of all with `strength` pseudo-outcomes."""
    weight, total = observed(labels, weights)
    return shrunk_mean(weight.sum(axis=0), total.sum(axis=0), strength)


def shrunk_mean(weight: Floats, total: Floats, strength: float = 2.0) -> Floats:
    """The same from each candidate's sum of weights and of weights times labels, both (m,)."""
    if not weight.sum() > 0:
        raise NotTrainableError("no outcome was judged")
    overall = total.sum() / weight.sum()
    mean: Floats = (total + strength * overall) / (weight + strength)
    return mean


def priced_mean(labels: Floats, weights: Floats, mean_cost: Floats) -> Floats:
    """(m,) weighted mean label of each candidate, shrunk towards a line in the logarithm of its price.

    By how much is read from the means themselves: the less they scatter around the line beyond what chance explains, the
    more they are shrunk (empirical Bayes; DerSimonian & Laird 1986 for the variance between candidates). With few
    candidates the line is level. `mean_cost` (m,) in USD. Raises NotTrainableError where nothing was judged.
    """
    weight, weighted = observed(labels, weights)
    return shrunk_to_price(weight.sum(axis=0), (weight**2).sum(axis=0), weighted.sum(axis=0), mean_cost)


def shrunk_to_price(total: Floats, squares: Floats, weighted: Floats, mean_cost: Floats) -> Floats:
    """`priced_mean` from each candidate's sum of weights, of their squares and of weights times labels, all (m,)."""
    if not total.sum() > 0:
        raise NotTrainableError("no outcome was judged")
    n = np.where(squares > 0, total**2 / np.where(squares > 0, squares, 1.0), 0.0)
    mean = weighted / np.where(total > 0, total, 1.0)
    overall = float(n @ mean / n.sum())
    line = np.full(len(n), overall)
    if (n > 0).sum() >= PRICED:
        x = np.log(np.maximum(mean_cost, 1e-12))
        x = x - n @ x / n.sum()
        spread = float(n @ x**2)
        slope = float(n @ (x * (mean - overall))) / spread if spread > 0 else 0.0
        line = np.clip(overall + slope * x, 0.01, 0.99)
    within = max(overall * (1.0 - overall), 1e-6)
    freedom = (n > 0).sum() - (2 if (n > 0).sum() >= PRICED else 1)
    room = n.sum() - (n**2).sum() / n.sum()
    between = max(float(n @ (mean - line) ** 2) - freedom * within, 0.0) / room if room > 0 else 0.0
    share = n * between / (n * between + within)
    shrunk: Floats = share * mean + (1.0 - share) * line
    return shrunk


def sigmoid(value: Floats) -> Floats:
    """1 / (1 + exp(-value)), without overflow."""
    result: Floats = 0.5 * (1.0 + np.tanh(0.5 * value))
    return result
