"""Calibration: probabilities that mean what they say, learned from out-of-fold predictions with scikit-learn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from serving.bundle.arrays import Columns, Floats
from training.learn.estimators.base import sigmoid
from training.learn.onnx_graph import Graph, logit
from training.measure.metrics import brier, of_cells

# No answer is certain: a probability is kept this far from 0 and 1.
FLOOR = 1e-3
# Fewer outcomes than this of either kind cannot bear a candidate's own map; it gets the one of all candidates.
_ENOUGH = 30


class Calibrator(ABC):
    """Maps (n, m) raw probabilities to calibrated ones, column by column."""

    name: ClassVar[str]

    @abstractmethod
    def fit(self, probability: Floats, labels: Floats, weights: Floats) -> Self:
        """`labels` (n, m) in {0, 1, NaN}; `probability` must be out of fold; `weights` (n, m) >= 0."""

    @abstractmethod
    def predict(self, probability: Floats) -> Floats: ...

    @abstractmethod
    def to_onnx(self, graph: Graph, probability: str) -> str: ...


class Uncalibrated(Calibrator):
    """Leaves probabilities as they are, inside [FLOOR, 1 - FLOOR]."""

    name: ClassVar[str] = "none"

    def fit(self, probability: Floats, labels: Floats, weights: Floats) -> Self:  # noqa: ARG002 - nothing to learn
        return self

    def predict(self, probability: Floats) -> Floats:
        return np.asarray(np.clip(probability, FLOOR, 1 - FLOOR))

    def to_onnx(self, graph: Graph, probability: str) -> str:
        return graph.clip(probability, FLOOR, 1 - FLOOR)


class Sigmoid(Calibrator):
    """Platt scaling of the log-odds, p' = sigmoid(a logit(p) + b), one map per candidate. Source: Platt 1999."""

    name: ClassVar[str] = "sigmoid"

    def fit(self, probability: Floats, labels: Floats, weights: Floats) -> Self:
        x, seen = logit(probability), np.isfinite(labels) & (weights > 0)
        pooled = _platt(x[seen], labels[seen], weights[seen])
        maps = [
            _platt(x[rows, c], labels[rows, c], weights[rows, c]) if _enough(labels[rows, c]) else pooled
            for c, rows in enumerate(seen.T)
        ]
        self.slope, self.intercept = np.array(maps).T
        return self

    def predict(self, probability: Floats) -> Floats:
        return np.asarray(np.clip(sigmoid(logit(probability) * self.slope + self.intercept), FLOOR, 1 - FLOOR))

    def to_onnx(self, graph: Graph, probability: str) -> str:
        shifted = graph.total(graph.scale(graph.logit(probability), self.slope), graph.constant(self.intercept))
        return graph.clip(graph.add("Sigmoid", shifted), FLOOR, 1 - FLOOR)


class Isotonic(Calibrator):
    """Isotonic regression, one non-decreasing map per candidate. Source: Zadrozny & Elkan 2002.

    Between its knots the map is linear, so it is a sum of clipped ramps, which is how it is written in ONNX. It is
    reduced to at most `knots` of them, with as many outcomes between each two.
    """

    name: ClassVar[str] = "isotonic"
    knots: ClassVar[int] = 24

    def fit(self, probability: Floats, labels: Floats, weights: Floats) -> Self:
        seen = np.isfinite(labels) & (weights > 0)
        m = labels.shape[1]
        self.x, self.y = np.zeros((self.knots, m)), np.zeros((self.knots, m))
        for c in range(m):
            rows = seen[:, c]
            where = rows if _enough(labels[rows, c]) else seen.any(axis=1)
            cells = np.s_[rows, c] if where is rows else np.nonzero(seen)
            p, y, w = probability[cells], labels[cells], weights[cells]
            model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(p, y, sample_weight=w)
            at = _spaced(np.quantile(p, np.linspace(0.0, 1.0, self.knots)))
            self.x[:, c] = at
            self.y[:, c] = model.predict(at)
        return self

    def predict(self, probability: Floats) -> Floats:
        columns = [np.interp(p, x, y) for p, x, y in zip(probability.T, self.x.T, self.y.T, strict=True)]
        return np.asarray(np.clip(np.column_stack(columns), FLOOR, 1 - FLOOR))

    def to_onnx(self, graph: Graph, probability: str) -> str:
        widths = np.diff(self.x, axis=0)
        slopes = np.divide(np.diff(self.y, axis=0), widths, out=np.zeros_like(widths), where=widths > 0)
        # All ramps at once: (n, 1, m) against (ramps, m).
        apart = graph.add("Unsqueeze", probability, graph.constant([1], np.int64))
        ramp = graph.add("Max", graph.add("Sub", apart, graph.constant(self.x[:-1])), graph.constant(0.0))
        risen = graph.add("Mul", graph.add("Min", ramp, graph.constant(widths)), graph.constant(slopes))
        total = graph.add("ReduceSum", risen, graph.constant([1], np.int64), keepdims=0)
        return graph.clip(graph.add("Add", total, graph.constant(self.y[0])), FLOOR, 1 - FLOOR)


METHODS: dict[str, type[Calibrator]] = {kind.name: kind for kind in (Uncalibrated, Sigmoid, Isotonic)}


def fit_calibrator(
    method: str,
    probability: Floats,
    labels: Floats,
    weights: Floats,
    folds: Columns,
    standing: Floats | None = None,
) -> Calibrator:
    """The calibrator called `method`, or for "auto" the one with the lowest Brier score over the given folds, of what the
    requests stand for, `standing` (n,), None: one each."""
    if method != "auto":
        return METHODS[method]().fit(probability, labels, weights)
    seen = np.isfinite(labels) & (weights > 0)
    counts = of_cells(standing, seen)
    scores = {}
    for name, kind in METHODS.items():
        out = np.empty_like(probability)
        for fold in np.unique(folds):
            inside = folds == fold
            out[inside] = (
                kind().fit(probability[~inside], labels[~inside], weights[~inside]).predict(probability[inside])
            )
        scores[name] = brier(out[seen], labels[seen], counts)
    best = min(scores, key=lambda name: scores[name])
    return METHODS[best]().fit(probability, labels, weights)


def _spaced(at: Floats, gap: float = 0.005) -> Floats:
    """The knots with those closer than `gap` to the one before left out; the last is repeated to keep the length.

    A steeper ramp than such a gap allows would magnify float32 rounding past what export tolerates.
    """
    kept = [at[0]]
    for value in at[1:]:
        if value >= kept[-1] + gap:
            kept.append(value)
    return np.array(kept + [kept[-1]] * (len(at) - len(kept)))


def _enough(labels: Floats) -> bool:
    return bool(min((labels == 1).sum(), (labels == 0).sum()) >= _ENOUGH)


def _platt(x: Floats, y: Floats, weights: Floats) -> tuple[float, float]:
    if len(np.unique(y)) < 2:
        return 1.0, 0.0
    model = LogisticRegression(C=100.0).fit(x[:, None], y, sample_weight=weights)
    slope = float(model.coef_[0, 0])
    if slope > 0:
        return slope, float(model.intercept_[0])
    # Out-of-fold means run against their labels; a map that turns the order round would be served with refitted ones.
    mean = np.average(y, weights=weights)
    return 0.0, float(np.log(mean / (1 - mean)))
