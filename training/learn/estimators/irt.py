"""An item-response model: how able each candidate is, how hard each request is, and how much each candidate minds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from serving.bundle.arrays import Bools, Floats
from training.dataset.inputs import Inputs
from training.learn.estimators.base import (
    PRICED,
    NotTrainableError,
    observed,
    observed_mean,
    sigmoid,
)
from training.learn.estimators.design import Design, SigmoidOfColumns, stacked

# Variances are kept between these: a block of coefficients is never quite left out, nor left free.
_LEAST, _MOST = 1e-6, 4.0


@dataclass
class _Variances:
    """Prior variances of the blocks of coefficients: what is estimated by marginal likelihood."""

    ability: float = 1.0
    text: float = 1e-3
    workflow: float = 0.25
    interaction: float = 0.1


class ItemResponse(SigmoidOfColumns):
    """logit P(acceptable) = ability_c + slope_c (x b + workflow) + (candidate, workflow) term: the 2PL model.

    What makes a request hard, x b + workflow, is learned from all candidates' outcomes together, so that it can be learned
    where each has few. Abilities are shrunk towards a line in the logarithm of the price (with few candidates, towards one
    level), the interactions of candidate and workflow towards none, and slopes towards 1. How far each block of coefficients
    is shrunk is read from the log: its variance maximises the marginal likelihood under Laplace's approximation (MacKay
    1992). Of the text it sees the `dims` directions of largest variance. At most `requests` are learned from, drawn at random:
    from that many on other estimators know more. `mean_cost` (m,) in USD. Source: Birnbaum 1968; IRT-Router, arXiv 2506.01048.
    """

    name: ClassVar[str] = "item-response"
    family: ClassVar[str] = "item-response"
    complexity: ClassVar[int] = 2
    graded: ClassVar[bool] = True
    rounds: ClassVar[int] = 12

    def __init__(
        self,
        mean_cost: Floats,
        seed: int = 0,
        slope_variance: float = 0.1,
        dims: int = 64,
        requests: int = 10_000,
    ) -> None:
        self.mean_cost = mean_cost
        self.seed = seed
        self.dims = dims
        self.slope_variance = slope_variance
        self.requests = requests

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        rows = _drawn(labels, self.requests, self.seed)
        inputs, labels = inputs.take(rows), labels[rows]
        weight, weighted = observed(labels, weights[rows])
        if not weight.sum() > 0:
            raise NotTrainableError("no outcome was judged")
        text = inputs.untagged()
        design = Design.learn(text)
        tags = inputs.workflows.astype(np.float64)
        seen = np.asarray(tags.any(axis=0))
        columns = design.columns(text)[:, : text.embedding.shape[1] + text.surface]
        _, directions = np.linalg.eigh(columns.T @ columns)
        directions = directions[:, -self.dims :]
        model = _Fit(
            columns=columns @ directions,
            tags=tags[:, seen],
            weight=weight,
            weighted=weighted,
            around=_line(self.mean_cost),
            start=observed_mean(labels, weights[rows]),
            slope_variance=self.slope_variance,
        )
        for _ in range(self.rounds):
            model.step()
        m = labels.shape[1]
        self.variances = model.variances
        coefficients = np.zeros((stacked(text).shape[1], m))
        coefficients[: columns.shape[1]] = np.outer(directions @ model.text, model.slope)
        self.weight, self.bias = design.fold(coefficients, model.ability)
        terms = np.zeros((len(seen), m))
        terms[seen] = np.outer(model.workflow, model.slope) + model.interaction.T
        if len(seen):
            self.weight[-len(seen) :] = terms
        return self


class _Fit:
    """The coefficients, improved by `step`: one of Newton's, then the variances', then the slopes'.

    `columns` (n, d), `tags` (n, k), `weight` and `weighted` (n, m) the cells' weights, 0 where nothing was observed, and
    these times the labels. `around` (m, r) spans what abilities may have in common at no price.
    """

    def __init__(
        self,
        columns: Floats,
        tags: Floats,
        weight: Floats,
        weighted: Floats,
        around: Floats,
        start: Floats,
        slope_variance: float,
    ) -> None:
        self.columns, self.tags = columns, tags
        self.design = np.hstack([columns, tags])
        self.weight, self.weighted = weight, weighted
        m, d, k = weight.shape[1], columns.shape[1], tags.shape[1]
        basis, _ = np.linalg.qr(around)
        self.apart = np.eye(m) - basis @ basis.T
        self.freedom = m - around.shape[1]
        start = np.clip(start, 1e-3, 1 - 1e-3)
        self.ability = np.log(start / (1 - start))
        self.slope = np.ones(m)
        self.text, self.workflow, self.interaction = np.zeros(d), np.zeros(k), np.zeros((m, k))
        self.slope_variance = slope_variance
        self.variances = _Variances()

    def step(self) -> None:
        """One round; nothing is drawn, so that the same log gives the same model."""
        before, value = self._state(), self._objective()
        covariances = self._newton()
        after, share = self._state(), 1.0
        while self._objective() < value and share > 0.1:  # a step too far is halved
            share /= 2
            self._restore(tuple(b + share * (a - b) for a, b in zip(after, before, strict=True)))
        self._shrinkage(*covariances)
        self._slopes()

    def _state(self) -> tuple[Floats, ...]:
        return self.ability, self.text, self.workflow, self.interaction

    def _restore(self, state: tuple[Floats, ...]) -> None:
        self.ability, self.text, self.workflow, self.interaction = state

    def _hardness(self) -> Floats:
        return np.asarray(self.columns @ self.text + self.tags @ self.workflow)

    def _logits(self) -> Floats:
        return np.asarray(self.ability + self._hardness()[:, None] * self.slope + self.tags @ self.interaction.T)

    def _objective(self) -> float:
        """Log posterior, up to a constant."""
        z, v = self._logits(), self.variances
        fit = float((self.weighted * z - self.weight * np.logaddexp(0.0, z)).sum())
        apart = self.apart @ self.ability
        prior = (
            float(apart @ apart) / v.ability
            + float(self.text @ self.text) / v.text
            + float(self.workflow @ self.workflow) / v.workflow
            + float((self.interaction**2).sum()) / v.interaction
        )
        return fit - 0.5 * prior

    def _newton(self) -> tuple[Floats, Floats]:
        """A Newton step on all coefficients but the slopes; returns the covariance of those before the interactions, and
        the interactions' variances, both by Laplace's approximation.

        The interactions touch each its own cells only: their block is diagonal, and is eliminated.
        """
        m, d, k = len(self.ability), len(self.text), len(self.workflow)
        v, p = self.variances, sigmoid(self._logits())
        residual, curve = self.weighted - self.weight * p, self.weight * p * (1 - p)
        sloped = curve * self.slope
        per_request = (curve * self.slope**2).sum(axis=1)
        design = self.design
        left = np.zeros((m + d + k, m + d + k))
        left[:m, :m] = np.diag(curve.sum(axis=0)) + self.apart / v.ability + 1e-6 * np.eye(m)
        left[m:, :m] = design.T @ sloped
        left[:m, m:] = left[m:, :m].T
        left[m:, m:] = (design * per_request[:, None]).T @ design
        left[m:, m:] += np.diag(np.concatenate([np.full(d, 1 / v.text), np.full(k, 1 / v.workflow)]))
        shared = residual @ self.slope
        right = np.concatenate(
            [
                residual.sum(axis=0) - self.apart @ self.ability / v.ability,
                self.columns.T @ shared - self.text / v.text,
                self.tags.T @ shared - self.workflow / v.workflow,
            ]
        )
        across, own = np.zeros((m + d + k, m, k)), np.zeros((m, k))
        for tag in range(k):
            inside = self.tags[:, tag] > 0
            cells = curve[inside].sum(axis=0)
            own[:, tag] = cells + 1 / v.interaction
            across[np.arange(m), np.arange(m), tag] = cells
            across[m:, :, tag] = design[inside].T @ sloped[inside]
        cross = (self.tags.T @ residual).T - self.interaction / v.interaction
        flat = across.reshape(m + d + k, m * k)
        scaled: Floats = flat / own.reshape(-1)
        covariance: Floats = np.linalg.inv(left - scaled @ flat.T).astype(np.float64)
        shift = covariance @ (right - scaled @ cross.reshape(-1))
        inner = (cross.reshape(-1) - flat.T @ shift) / own.reshape(-1)
        self.ability = self.ability + shift[:m]
        self.text = self.text + shift[m : m + d]
        self.workflow = self.workflow + shift[m + d :]
        self.interaction = self.interaction + inner.reshape(m, k)
        # the diagonal of the interactions' own covariance, by the inverse of a block matrix
        spread: Floats = 1 / own.reshape(-1) + ((covariance @ scaled) * scaled).sum(axis=0)
        return covariance, spread

    def _shrinkage(self, covariance: Floats, spread: Floats) -> None:
        """The variances, by MacKay's rule from the coefficients and their posterior covariance."""
        m, d, k = len(self.ability), len(self.text), len(self.workflow)
        v, diagonal, apart = self.variances, np.diag(covariance), self.apart @ self.ability
        around = float(np.trace(self.apart @ covariance[:m, :m]))
        self.variances = _Variances(
            ability=_variance(float(apart @ apart), self.freedom, around, v.ability),
            text=_variance(float(self.text @ self.text), d, float(diagonal[m : m + d].sum()), v.text),
            workflow=_variance(float(self.workflow @ self.workflow), k, float(diagonal[m + d :].sum()), v.workflow),
            interaction=_variance(float((self.interaction**2).sum()), m * k, float(spread.sum()), v.interaction),
        )

    def _slopes(self) -> None:
        """A Newton step on each candidate's slope, all else held."""
        hardness, p = self._hardness()[:, None], sigmoid(self._logits())
        gradient = ((self.weighted - self.weight * p) * hardness).sum(axis=0)
        curve = (self.weight * p * (1 - p) * hardness**2).sum(axis=0)
        towards = (self.slope - 1.0) / self.slope_variance
        self.slope = np.clip(self.slope + (gradient - towards) / (curve + 1 / self.slope_variance), 0.2, 3.0)


def _variance(squares: float, count: int, spread: float, before: float) -> float:
    """The variance that makes `count` coefficients of this sum of squares and posterior `spread` likeliest, in (_LEAST, _MOST).

    squares / (count - spread / before) is MacKay's fixed point; the mean of it and of the EM step (squares + spread) / count
    is as quick and does not swing.
    """
    if count <= 0:
        return before
    known = max(count - spread / before, 1e-3)
    fixed, expected = squares / known, (squares + spread) / count
    return float(np.clip(np.sqrt(max(fixed, _LEAST) * max(expected, _LEAST)), _LEAST, _MOST))


def _line(mean_cost: Floats) -> Floats:
    """(m, 2) a level and the logarithm of the price, or (m, 1) the level alone where candidates are few."""
    level = np.ones((len(mean_cost), 1))
    price = np.log(np.maximum(mean_cost, 1e-12))
    if len(mean_cost) < PRICED or np.ptp(price) < 1e-9:
        return level
    return np.hstack([level, (price - price.mean())[:, None]])


def _drawn(labels: Floats, most: int, seed: int) -> Bools:
    """(n,) at most so many of the requests that have an outcome, drawn at random."""
    rows = np.flatnonzero(np.isfinite(labels).any(axis=1))
    if len(rows) > most:
        rows = np.random.default_rng(seed).permutation(rows)[:most]
    kept = np.zeros(len(labels), dtype=np.bool_)
    kept[rows] = True
    return kept
