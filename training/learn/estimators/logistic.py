"""A logistic regression per candidate, searched for from where one on nearly the same rows was found, if there is one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from serving.bundle.arrays import Floats
from training.dataset.inputs import Inputs
from training.learn.estimators.base import Estimator, FromNearby, observed_mean, sigmoid
from training.learn.estimators.design import Design, SigmoidOfColumns

# A solution is so near to the optimum, in standard deviations of the coefficients (by Laplace's approximation).
_NEAR = 1e-7
_STEPS = 100
# Rows that tell well enough where to begin and how the loss curves there: 30 for each of some 280 columns.
_ENOUGH = 8192


class LogisticPerCandidate(SigmoidOfColumns, FromNearby):
    """One logistic regression per candidate, on the requests that this candidate was judged on.

    A candidate with fewer than `minimum` outcomes of either kind gets its shrunken mean instead.
    """

    name: ClassVar[str] = "logistic"
    family: ClassVar[str] = "text"
    complexity: ClassVar[int] = 2
    minimum: ClassVar[int] = 5

    def __init__(self, c: float = 0.003) -> None:
        self.c = c

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        return self._fit(inputs, labels, weights, {})

    def fit_near(self, near: Estimator, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        assert isinstance(near, LogisticPerCandidate)
        return self._fit(inputs, labels, weights, near.optima)

    def _fit(self, inputs: Inputs, labels: Floats, weights: Floats, near: dict[int, _Optimum]) -> Self:
        design = Design.learn(inputs)
        m = labels.shape[1]
        overall = np.clip(observed_mean(labels, weights), 1e-3, 1 - 1e-3)
        weight, bias = np.zeros((len(design.mean), m)), np.log(overall / (1 - overall))
        self.optima: dict[int, _Optimum] = {}
        for candidate in range(m):
            seen = np.isfinite(labels[:, candidate]) & (weights[:, candidate] > 0)
            y = labels[seen, candidate]
            if min((y == 1).sum(), (y == 0).sum()) < self.minimum:
                continue
            rows = _Rows(design.columns(inputs.take(seen)), y, self.c * weights[seen, candidate])
            begin = near[candidate].on(design) if candidate in near else rows.from_nothing(design)
            found = self.optima[candidate] = rows.optimum(begin)
            weight[:, candidate], bias[candidate] = found.solution[:-1], found.solution[-1]
        self.weight, self.bias = design.fold(weight, bias)
        return self


@dataclass(frozen=True)
class _Optimum:
    """A `solution` (d + 1,) on the standardised columns of a `design`, its bias last, and about the second derivatives there,
    `curvature` (d + 1, d + 1)."""

    solution: Floats
    curvature: Floats
    design: Design

    def on(self, design: Design) -> _Optimum:
        """The same on the columns that another design standardises: exactly, but for columns that did not vary here."""
        ratio = np.divide(design.scale, self.design.scale, out=np.zeros_like(design.scale), where=self.design.scale > 0)
        turned = np.diag(np.append(ratio, 1.0))  # [columns of then, 1] to [columns of now, 1]
        turned[:-1, -1] = (self.design.mean - design.mean) * design.scale
        penalty = _penalty(len(turned))
        solution = np.zeros(len(turned))
        raw = self.solution[:-1] * self.design.scale
        np.divide(raw, design.scale, out=solution[:-1], where=design.scale > 0)
        solution[-1] = self.solution[-1] + raw @ (design.mean - self.design.mean)
        return _Optimum(solution, turned @ (self.curvature - penalty) @ turned.T + penalty, design)


@dataclass(frozen=True)
class _Rows:
    """Judged requests: standardised `columns` (n, d), `labels` (n,) 0 or 1, and what each counts against the penalty, `weights`
    (n,). The optimum is where half the coefficients' squares and the weighted log loss are least together."""

    columns: Floats
    labels: Floats
    weights: Floats

    def from_nothing(self, design: Design) -> _Optimum:
        """Nearly the optimum, by Newton's steps, as suits a few hundred columns: of many rows on a part that counts for all."""
        step = max(1, len(self.labels) // _ENOUGH)
        while step > 1 and len(np.unique(self.labels[::step])) < 2:
            step //= 2
        columns, labels, weights = self.columns[::step], self.labels[::step], step * self.weights[::step]
        model = LogisticRegression(C=1.0, max_iter=50, solver="newton-cholesky")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the rest of the way is gone by `optimum`
            model.fit(columns, labels, sample_weight=weights)
        solution = np.append(model.coef_[0], model.intercept_[0])
        chance = sigmoid(columns @ solution[:-1] + solution[-1])
        curve = weights * chance * (1.0 - chance)
        curvature = _penalty(len(solution))
        curvature[:-1, :-1] += columns.T @ (columns * curve[:, None])
        curvature[-1, :-1] = curvature[:-1, -1] = curve @ columns
        curvature[-1, -1] += curve.sum()
        return _Optimum(solution, curvature, design)

    def optimum(self, begin: _Optimum) -> _Optimum:
        """The optimum, by steps of L-BFGS in directions in which the curvature is about 1: a few are enough from nearby."""
        root = cholesky(begin.curvature + 1e-9 * np.eye(len(begin.curvature)), lower=True)

        def coefficients(steps: Floats) -> Floats:
            return begin.solution + np.asarray(solve_triangular(root, steps, lower=True, trans="T"))

        def loss(steps: Floats) -> tuple[float, Floats]:
            at = coefficients(steps)
            logits, plain = self._logits(at), np.append(at[:-1], 0.0)
            value = 0.5 * plain @ plain + self.weights @ (np.logaddexp(0.0, logits) - self.labels * logits)
            residual = self.weights * (sigmoid(logits) - self.labels)
            slope = plain + np.append(residual @ self.columns, residual.sum())
            return float(value), np.asarray(solve_triangular(root, slope, lower=True))

        options = {"gtol": _NEAR, "ftol": 0.0, "maxiter": _STEPS}
        found = minimize(loss, np.zeros(len(root)), jac=True, method="L-BFGS-B", options=options)
        return _Optimum(coefficients(found.x), begin.curvature, begin.design)

    def _logits(self, solution: Floats) -> Floats:
        return np.asarray(self.columns @ solution[:-1] + solution[-1])


def _penalty(size: int) -> Floats:
    """(size, size) what the penalty adds to the second derivatives: 1 for each coefficient, nothing for the bias."""
    penalty = np.eye(size)
    penalty[-1, -1] = 0.0
    return penalty
