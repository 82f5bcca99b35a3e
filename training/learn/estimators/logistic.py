"""A logistic regression per candidate, searched for from where one on nearly the same rows was found, if there is one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from scipy.linalg import LinAlgError, cholesky, solve_triangular
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from serving.bundle.arrays import Columns, Floats
from training.dataset.inputs import Inputs
from training.learn.estimators.base import Estimator, FromNearby, NotTrainableError, observed_mean, sigmoid
from training.learn.estimators.design import Design, SigmoidOfColumns, blocks

# The search ends where each direction's slope is so small: so near is the optimum, in standard deviations of the coefficients
# (by Laplace's approximation), as far as the curvature that the search began with is right.
_NEAR = 1e-7
# It is given up after so many steps. From nearby it takes some ten.
_STEPS = 100
# Where it may be farther than this by `_distance`, Newton's steps on all rows find it.
_FAR = 1e-4
# And so far it may be from where these end, by the rounding of large sums.
_LOST = 1e-2
# Rows that tell well enough where to begin and how the loss curves there: 30 for each of some 280 columns.
_ENOUGH = 8192
# What outcomes have to weigh together for anything to be learned from them, such as those that age has made light: one outcome.
_LEAST_WEIGHT = 1.0


class LogisticPerCandidate(SigmoidOfColumns, FromNearby):
    """One logistic regression per candidate, on the requests that this candidate was judged on.

    A candidate with fewer than `minimum` outcomes of either kind, or with outcomes that weigh less than one together, gets its
    shrunken mean instead. `optima` are the others', by candidate.
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

    def _fit(self, inputs: Inputs, labels: Floats, weights: Floats, near: Mapping[int, Optimum]) -> Self:
        design = Design.learn(inputs)
        overall = np.clip(observed_mean(labels, weights), 1e-3, 1 - 1e-3)
        weight, bias = np.zeros((len(design.mean), labels.shape[1])), np.log(overall / (1 - overall))
        seen = np.isfinite(labels) & (weights > 0)
        either = np.minimum((seen & (labels == 1)).sum(axis=0), (seen & (labels == 0)).sum(axis=0))
        weighty = np.where(seen, weights, 0.0).sum(axis=0) >= _LEAST_WEIGHT
        known = np.flatnonzero((either >= self.minimum) & weighty)
        self.optima: dict[int, Optimum] = {}
        if len(known):
            seen = seen[:, known]
            counts = np.where(seen, self.c * weights[:, known], 0.0)
            rows = _Rows(inputs, design, np.where(seen, labels[:, known], 0.0), counts)
            begin = [rows.begin(place, near.get(candidate)) for place, candidate in enumerate(known.tolist())]
            self.optima = dict(zip(known.tolist(), rows.optima(begin), strict=True))
        for candidate, found in self.optima.items():
            weight[:, candidate], bias[candidate] = found.solution[:-1], found.solution[-1]
        self.weight, self.bias = design.fold(weight, bias)
        return self


@dataclass(frozen=True)
class Optimum:
    """A `solution` (d + 1,) on the standardised columns of a `design`, its bias last, and about the second derivatives there,
    `curvature` (d + 1, d + 1)."""

    solution: Floats
    curvature: Floats
    design: Design

    @property
    def root(self) -> Floats:
        """The lower triangle whose square is the curvature; raises LinAlgError where rounding left none."""
        return np.asarray(cholesky(self.curvature + 1e-9 * np.eye(len(self.curvature)), lower=True))

    def on(self, design: Design) -> Optimum:
        """The same on the columns that another design standardises: exactly, but for columns that did not vary here."""
        ratio = np.divide(design.scale, self.design.scale, out=np.zeros_like(design.scale), where=self.design.scale > 0)
        turned = np.diag(np.append(ratio, 1.0))  # [columns of then, 1] to [columns of now, 1]
        turned[:-1, -1] = (self.design.mean - design.mean) * design.scale
        penalty = _penalty(len(turned))
        solution = np.zeros(len(turned))
        raw = self.solution[:-1] * self.design.scale
        np.divide(raw, design.scale, out=solution[:-1], where=design.scale > 0)
        solution[-1] = self.solution[-1] + raw @ (design.mean - self.design.mean)
        return Optimum(solution, turned @ (self.curvature - penalty) @ turned.T + penalty, design)


@dataclass(frozen=True)
class _Rows:
    """Requests with `labels` (n, k) 0 or 1 of k candidates, and what each counts against the penalty, `weights` (n, k), 0 where
    it was not judged. A candidate's optimum is where half the squares of its coefficients, on the columns that the `design`
    standardises, and its weighted log loss are least together."""

    inputs: Inputs
    design: Design
    labels: Floats
    weights: Floats

    def begin(self, place: int, near: Optimum | None) -> Optimum:
        """Where the search for one candidate's optimum begins: `near`, if it is of use on these columns."""
        if near is not None and len(near.design.mean) == len(self.design.mean):
            with suppress(LinAlgError):
                there = near.on(self.design)
                _ = there.root
                return there
        return self.by_newton(place, _ENOUGH)

    def by_newton(self, place: int, most: int | None = None) -> Optimum:
        """One candidate's optimum by Newton's steps, as suits a few hundred columns: nearly, on a part of so many rows that
        counts for all, or on all of them. Raises NotTrainableError where it is not found."""
        rows = np.flatnonzero(self.weights[:, place] > 0)
        if most is not None:
            rows = self._part(rows, self.labels[:, place], most)
        columns, labels = self.design.columns(self.inputs.take(rows)), self.labels[rows, place]
        weights = self.weights[rows, place]
        weights = weights * (self.weights[:, place].sum() / weights.sum())
        if not (np.isfinite(columns).all() and np.isfinite(weights).all()):
            raise NotTrainableError("embeddings, features or weights of outcomes are not finite")
        tolerance, steps = (1e-4, 50) if most is not None else (1e-14, 200)
        model = LogisticRegression(C=1.0, tol=tolerance, max_iter=steps, solver="newton-cholesky")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how far the optimum is from where it ends is looked at
            model.fit(columns, labels, sample_weight=weights)
        solution = np.append(model.coef_[0], model.intercept_[0])
        chance = sigmoid(columns @ solution[:-1] + solution[-1])
        slope = np.append(columns.T @ (weights * (chance - labels)) + solution[:-1], weights @ (chance - labels))
        curve = weights * chance * (1.0 - chance)
        curvature = _penalty(len(solution))
        curvature[:-1, :-1] += columns.T @ (columns * curve[:, None])
        curvature[-1, :-1] = curvature[:-1, -1] = curve @ columns
        curvature[-1, -1] += curve.sum()
        if most is None and not _distance(slope, curvature) <= _LOST:
            raise NotTrainableError(
                f"a logistic regression on {len(rows):,} outcomes was not found by {steps} of Newton's steps; a lower "
                "fit.logistic_c makes it easier"
            )
        return Optimum(solution, curvature, self.design)

    @staticmethod
    def _part(rows: Columns, labels: Floats, most: int) -> Columns:
        """Some `most`, evenly spread over `rows`, of which some are labelled 1 and some 0."""
        step = max(1, len(rows) // most)
        while step > 1 and len(np.unique(labels[rows[::step]])) < 2:
            step //= 2
        return rows[::step]

    def optima(self, begin: list[Optimum]) -> list[Optimum]:
        """All candidates' optima together, by steps of L-BFGS in directions in which the curvature is about 1: a few are enough
        from nearby, and each goes through the rows once for all candidates. One that is not found so is by Newton's steps."""
        size = len(begin[0].solution)
        try:
            roots = [one.root for one in begin]
        except LinAlgError:
            return [self.by_newton(place) for place in range(len(begin))]

        def coefficients(steps: Floats) -> Floats:
            parts = zip(begin, roots, steps.reshape(len(begin), size), strict=True)
            return np.array(
                [one.solution + solve_triangular(root, part, lower=True, trans="T") for one, root, part in parts]
            )

        def loss(steps: Floats) -> tuple[float, Floats]:
            value, slope = self._loss(coefficients(steps))
            turned = [solve_triangular(root, part, lower=True) for root, part in zip(roots, slope, strict=True)]
            return value, np.concatenate(turned)

        options = {"gtol": _NEAR, "ftol": 0.0, "maxiter": _STEPS}
        found = minimize(loss, np.zeros(len(begin) * size), jac=True, method="L-BFGS-B", options=options)
        at, slope = coefficients(found.x), np.reshape(found.jac, (len(begin), size))
        return [
            Optimum(at[place], one.curvature, one.design)
            if _distance(root @ slope[place], one.curvature) <= _FAR
            else self.by_newton(place)
            for place, (one, root) in enumerate(zip(begin, roots, strict=True))
        ]

    def _loss(self, at: Floats) -> tuple[float, Floats]:
        """The loss of all candidates together, and its slope (k, d + 1), at coefficients (k, d + 1)."""
        weight, bias = self.design.fold(at[:, :-1].T, at[:, -1])
        value = 0.5 * float((at[:, :-1] ** 2).sum())
        sums = np.zeros((1 + len(weight), len(at)))  # of residuals, and of residuals times raw columns
        start = 0
        for columns in blocks(self.inputs):
            rows = slice(start, start + len(columns))
            start += len(columns)
            logits = columns @ weight + bias
            value += float((self.weights[rows] * (np.logaddexp(0.0, logits) - self.labels[rows] * logits)).sum())
            residual = self.weights[rows] * (sigmoid(logits) - self.labels[rows])
            sums[0] += residual.sum(axis=0)
            sums[1:] += columns.T @ residual
        slope = at.copy()
        slope[:, :-1] += self.design.sums(sums).T
        slope[:, -1] = sums[0]
        return value, slope


def _distance(slope: Floats, curvature: Floats) -> float:
    """How far an optimum may be, by the slope (d + 1,) and the bias's row of the curvature.

    On columns that are centred by what rows count there, coefficients and bias do not pull at each other: the coefficients are
    at most as far as their slope is long, for the penalty alone curves by 1, and the bias by its slope over its curvature.
    """
    bias = max(float(curvature[-1, -1]), np.finfo(np.float64).tiny)
    mean = curvature[:-1, -1] / bias
    apart = np.linalg.norm(slope[:-1] - mean * slope[-1])
    return float(np.hypot(apart, abs(slope[-1]) / bias + np.linalg.norm(mean) * apart))


def _penalty(size: int) -> Floats:
    """(size, size) what the penalty adds to the second derivatives: 1 for each coefficient, nothing for the bias."""
    penalty = np.eye(size)
    penalty[-1, -1] = 0.0
    return penalty
