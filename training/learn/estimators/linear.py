"""Linear models of acceptability over the embedding, the surface features and the workflow."""

from __future__ import annotations

import warnings
from typing import ClassVar, Self

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from serving.bundle.arrays import Columns, Floats
from training.dataset.inputs import Inputs
from training.dataset.label import cheapest_acceptable
from training.learn.estimators.base import Estimator, FromSums, NotTrainableError, shrunk_to_price
from training.learn.estimators.design import Design, linear
from training.learn.estimators.tables import WorkflowTable
from training.learn.onnx_graph import Graph
from training.learn.sums import Normal


class LowRankResidual(FromSums):
    """The workflow table, plus what text adds to it in the few directions in which candidates vary together.

    A ridge regression of each candidate's residual (its label minus the table) on the standardised columns, weighted by
    the observed cells; its fitted values are then projected on their `rank` leading directions across candidates
    (reduced-rank regression, Izenman 1975). Few directions leave little room for one candidate to look best by luck.
    """

    name: ClassVar[str] = "table+low-rank"
    family: ClassVar[str] = "low-rank"
    complexity: ClassVar[int] = 2
    graded: ClassVar[bool] = True
    text_only: ClassVar[bool] = False

    def __init__(self, penalty: float = 1000.0, rank: int = 2, strength: float = 10.0) -> None:
        self.penalty = penalty
        self.rank = rank
        self.strength = strength

    def fit_sums(self, normal: Normal) -> Self:
        used = normal.untagged() if self.text_only else normal
        self.table = WorkflowTable(self.strength).fit_sums(used)
        text = normal.text()
        design = Design.of(text)
        # sum w (y - what the table says) x, by candidate
        cross = design.sums(normal.cross.T - _level(normal) * self.table.overall - _tabled(used, self.table.offset))
        coefficients = np.empty_like(cross)
        for shared in text.alike():
            left = design.gram(text, shared[0]) + self.penalty * np.eye(len(cross))
            coefficients[:, shared] = np.linalg.solve(left, cross[:, shared])
        m = cross.shape[1]
        if self.rank < m:
            _, directions = np.linalg.eigh(coefficients.T @ design.gram(text, -1) @ coefficients)
            leading = directions[:, -self.rank :]
            coefficients = coefficients @ leading @ leading.T
        weight, self.bias = design.fold(coefficients, np.zeros(m))
        self.weight = np.vstack([weight, np.zeros((normal.workflows, m))])
        return self

    def predict(self, inputs: Inputs) -> Floats:
        base = self.table.predict(inputs.untagged() if self.text_only else inputs)
        return np.asarray(base + linear(inputs, self.weight, self.bias))

    def to_onnx(self, graph: Graph) -> str:
        # The workflow columns' weights are zero.
        columns = graph.concat(graph.embedding, graph.features)
        if self.text_only:
            return graph.linear(columns, self.weight, self.bias + self.table.overall)
        return graph.total(graph.linear(columns, self.weight, self.bias), self.table.to_onnx(graph))


class ReducedRankRidge(LowRankResidual):
    """The same without workflows: each candidate's mean, plus the low-rank part."""

    name: ClassVar[str] = "reduced-rank-ridge"
    family: ClassVar[str] = "text"
    complexity: ClassVar[int] = 2
    uses_workflow: ClassVar[bool] = False
    text_only: ClassVar[bool] = True


class Ridge(LowRankResidual):
    """Each candidate's mean plus its own ridge regression on the text: full rank, no workflow."""

    name: ClassVar[str] = "ridge"
    family: ClassVar[str] = "text"
    complexity: ClassVar[int] = 2
    uses_workflow: ClassVar[bool] = False
    text_only: ClassVar[bool] = True

    def __init__(self, penalty: float = 1000.0) -> None:
        super().__init__(penalty, rank=10**6)


class HierarchicalRidge(FromSums):
    """Each candidate's mean, plus a ridge regression on text and workflow whose coefficients candidates share in part.

    The coefficients are b + d_c: b, what makes a request easy for everyone, is learned from all outcomes together with the
    penalty `shared`, and d_c, what sets candidate c apart, with the stronger penalty `own`. Where each request was tried on
    one candidate only, most of what is known is thus known to all of them (a two-level random-effects model, solved
    exactly: the d_c are eliminated candidate by candidate). Workflow columns count `tag` times, so that a tag is penalised
    less than a direction of the text. The means are `priced_mean`.
    """

    name: ClassVar[str] = "hierarchical-ridge"
    family: ClassVar[str] = "hierarchical"
    complexity: ClassVar[int] = 2
    graded: ClassVar[bool] = True

    def __init__(self, mean_cost: Floats, shared: float = 1000.0, own: float = 10000.0, tag: float = 10.0) -> None:
        self.mean_cost = mean_cost
        self.shared = shared
        self.own = own
        self.tag = tag

    def fit_sums(self, normal: Normal) -> Self:
        text, tags = normal.text(), normal.workflows
        design = Design.of(text)
        mean = shrunk_to_price(normal.weight, normal.squares, normal.total, self.mean_cost)
        cross = np.vstack(
            [
                design.sums(normal.cross.T - _level(normal) * mean),
                self.tag * (normal.cross_tagged - normal.counts[:-1] * mean[:, None]).T,
            ]
        )
        d = len(cross)
        left, right = self.shared * np.eye(d), np.zeros(d)
        eliminated = []
        for shared in normal.alike():
            gram = self._gram(normal, design, shared[0])
            solved = np.linalg.solve(gram + self.own * np.eye(d), np.column_stack([gram, cross[:, shared]]))
            left += len(shared) * (gram - gram @ solved[:, :d])
            right += (cross[:, shared] - gram @ solved[:, d:]).sum(axis=1)
            eliminated.append((shared, solved))
        common = np.linalg.solve(left, right)
        coefficients = np.empty_like(cross)
        for shared, solved in eliminated:
            coefficients[:, shared] = (common - solved[:, :d] @ common)[:, None] + solved[:, d:]
        weight, self.bias = design.fold(coefficients[: d - tags], mean)
        self.weight = np.vstack([weight, self.tag * coefficients[d - tags :]])
        return self

    def _gram(self, normal: Normal, design: Design, candidate: int) -> Floats:
        """(d, d) of the standardised text and `tag` times the workflows side by side."""
        tagged = self.tag * design.sums(normal.tagged[candidate])
        counts = np.diag(self.tag**2 * normal.counts[candidate])
        return np.asarray(
            np.block([[design.gram(normal.text(), candidate), tagged], [tagged.T, counts]]), dtype=np.float64
        )

    def predict(self, inputs: Inputs) -> Floats:
        return linear(inputs, self.weight, self.bias)

    def to_onnx(self, graph: Graph) -> str:
        return graph.linear(graph.concat(graph.embedding, graph.features), self.weight, self.bias)


class DirectClassifier(Estimator):
    """One multinomial classifier of the cheapest acceptable candidate: the textbook way, kept to be compared with.

    P(acceptable) of a candidate is taken as the probability that the cheapest acceptable one costs no more than it.
    Needs requests for which the cheapest acceptable candidate is known.
    """

    name: ClassVar[str] = "direct-classifier"
    family: ClassVar[str] = ""
    complexity: ClassVar[int] = 3
    minimum: ClassVar[int] = 50

    def __init__(self, mean_cost: Floats, c: float = 0.003) -> None:
        self.c = c
        self.mean_cost = mean_cost

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        target = cheapest_acceptable(labels, self.mean_cost)
        known = target >= 0
        classes = np.unique(target[known])
        if known.sum() < self.minimum or len(classes) < 2:
            raise NotTrainableError(
                f"the cheapest acceptable candidate is known for {int(known.sum())} requests of {len(classes)} classes; "
                f"{self.minimum} requests and 2 classes are needed"
            )
        self.design = Design.learn(inputs)
        judged = np.where(np.isfinite(labels), weights, 0.0).max(axis=1)
        model = _Quiet(C=self.c, max_iter=40, tol=1e-3).fit(
            self.design.columns(inputs.take(known)), target[known], sample_weight=judged[known]
        )
        m = labels.shape[1]
        weight, bias = np.zeros((model.coef_.shape[1], m)), np.full(m, -30.0)
        if len(classes) == 2:  # scikit-learn keeps one row for two classes: softmax over (0, z)
            weight[:, classes[1]], bias[classes] = model.coef_[0], [0.0, model.intercept_[0]]
        else:
            weight[:, classes], bias[classes] = model.coef_.T, model.intercept_
        self.weight, self.bias = self.design.fold(weight, bias)
        order = np.argsort(self.mean_cost, kind="stable")
        self.cumulate = np.zeros((m, m))  # [class, candidate]: 1 where the class costs no more than the candidate
        for position, candidate in enumerate(order):
            self.cumulate[order[: position + 1], candidate] = 1.0
        return self

    def classes(self, inputs: Inputs) -> Floats:
        """(n, m) probability that each candidate is the cheapest acceptable one."""
        z = linear(inputs, self.weight, self.bias)
        power = np.exp(z - z.max(axis=1, keepdims=True))
        probability: Floats = power / power.sum(axis=1, keepdims=True)
        return probability

    def predict(self, inputs: Inputs) -> Floats:
        return self.classes(inputs) @ self.cumulate

    def to_onnx(self, graph: Graph) -> str:
        columns = graph.concat(graph.embedding, graph.features)
        classes = graph.add("Softmax", graph.linear(columns, self.weight, self.bias), axis=1)
        return graph.add("MatMul", classes, graph.constant(self.cumulate))


class _Quiet(LogisticRegression):  # type: ignore[misc]  # scikit-learn ships no types
    def fit(self, X: Floats, y: Floats | Columns, sample_weight: Floats | None = None) -> Self:
        with warnings.catch_warnings():
            # A strongly regularised fit that stops at max_iter is still the fit that is scored out of fold.
            warnings.simplefilter("ignore", ConvergenceWarning)
            super().fit(X, y, sample_weight=sample_weight)
        return self


def _level(normal: Normal) -> Floats:
    """(q, m) sum w z, by candidate."""
    return normal.gram[:-1, :, 0].T


def _tabled(normal: Normal, offset: Floats) -> Floats:
    """(q, m) sum w (offset of the request's workflow) z, by candidate; `offset` (W, m)."""
    return np.asarray(np.einsum("mqw,wm->qm", normal.tagged[:-1], offset))
