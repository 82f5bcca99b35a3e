"""What is believed of the candidates before anything is bought: a posterior, so that what is not known can be drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import ndtr

from serving.bundle.arrays import Columns, Floats
from training.learn.estimators.base import sigmoid

# Prior deviations, in logits: a candidate's ability around a line in the logarithm of its price, what a workflow is worth to
# all and to one candidate, and what the text tells. The line has a level of about three acceptable answers in four.
_LEVEL, _LEVEL_DEVIATION = 1.1, 1.0
_SLOPE, _SLOPE_DEVIATION = 0.4, 0.4
_ABILITY, _WORKFLOW, _INTERACTION, _TEXT = 0.7, 0.8, 0.6, 0.9
_STEPS = 30
_LONGEST, _CONVERGED = 4.0, 1e-4


@dataclass(frozen=True)
class Shape:
    """What the belief sees of n requests and m candidates.

    `text` (n, d), its columns' variances summing to 1; `workflow` (n,) from 0 to `workflows` - 1, or -1; `price` (m,) the
    standardised logarithm of what candidates cost.
    """

    text: Floats
    workflow: Columns
    workflows: int
    price: Floats

    def take(self, rows: Columns) -> Shape:
        return Shape(self.text[rows], self.workflow[rows], self.workflows, self.price)


class Belief:
    """logit P(acceptable) = level + slope price_c + ability_c + workflow_w + interaction_cw + text b, with normal priors.

    The posterior given outcomes is taken as normal around its mode (Laplace). It needs no outcome at all: without any it is
    the prior. How a request was chosen does not matter to it as long as what moved the choice is among what it sees.
    """

    def __init__(self, shape: Shape, mean: Floats | None = None, precision: Floats | None = None) -> None:
        """The prior for requests and candidates of this shape, unless another normal one is given: (coefficients,) its `mean`
        and (coefficients, coefficients) its `precision`."""
        m, k, d = len(shape.price), shape.workflows, shape.text.shape[1]
        self._shape = shape
        self._starts = np.cumsum([0, 1, 1, m, k, m * k, d])
        deviations = (_LEVEL_DEVIATION, _SLOPE_DEVIATION, _ABILITY, _WORKFLOW, _INTERACTION, _TEXT)
        usual = np.repeat(1.0 / np.square(deviations), np.diff(self._starts))
        level = np.zeros(len(usual))
        level[:2] = _LEVEL, _SLOPE
        self.mean = level if mean is None else mean
        self.precision = np.diag(usual) if precision is None else precision

    def given(self, shape: Shape, labels: Floats) -> Belief:
        """What is believed given these requests' outcomes too: `labels` (n, m) of 0 and 1, NaN where none is known."""
        rows, columns = np.nonzero(np.isfinite(labels))
        if not len(rows):
            return self
        design, y = self._design(shape, rows, columns), labels[rows, columns]
        theta, curve = self.mean, self.precision
        for _ in range(_STEPS):
            p = sigmoid(design @ theta)
            gradient = design.T @ (y - p) - self.precision @ (theta - self.mean)
            curve = (design * (p * (1.0 - p))[:, None]).T @ design + self.precision
            step = np.linalg.solve(curve, gradient)
            longest = float(np.abs(step).max())
            theta = theta + step * min(1.0, _LONGEST / max(longest, 1e-12))
            if longest < _CONVERGED:
                break
        return Belief(self._shape, theta, curve)

    def drawn(self, generator: np.random.Generator) -> Floats:
        """A draw of the coefficients."""
        noise = generator.standard_normal(len(self.mean))
        return np.asarray(self.mean + solve_triangular(np.linalg.cholesky(self.precision).T, noise, lower=False))

    def chances(self, shape: Shape, theta: Floats | None = None) -> Floats:
        """(n, m) P(acceptable), by the mean unless other coefficients are given."""
        theta = self.mean if theta is None else theta
        level, slope, ability, workflow, interaction, text = np.split(theta, self._starts[1:-1])
        m, k = len(shape.price), shape.workflows
        # One more row, of zeros, for requests of no workflow.
        shared = np.append(workflow, 0.0)[shape.workflow]
        own = np.vstack([interaction.reshape(k, m), np.zeros((1, m))])[shape.workflow]
        return sigmoid(level + slope * shape.price + ability + own + (shared + shape.text @ text)[:, None])

    def _design(self, shape: Shape, rows: Columns, columns: Columns) -> Floats:
        """(cells, coefficients) what each observed cell consists of."""
        m = len(shape.price)
        design = np.zeros((len(rows), len(self.mean)))
        cells, kinds = np.arange(len(rows)), shape.workflow[rows]
        starts = self._starts
        design[:, 0] = 1.0
        design[:, 1] = shape.price[columns]
        design[cells, starts[2] + columns] = 1.0
        named = kinds >= 0
        design[cells[named], starts[3] + kinds[named]] = 1.0
        design[cells[named], starts[4] + kinds[named] * m + columns[named]] = 1.0
        design[:, starts[5] :] = shape.text[rows]
        return design


def correlated(chances: Floats, together: float, generator: np.random.Generator) -> Floats:
    """(n, m) outcomes of 0 and 1 with these chances, which fail together on a request as far as `together` in [0, 1) says.

    A normal copula: what candidates have in common on a request is one number that all of them get.
    """
    shared = generator.standard_normal((len(chances), 1))
    own = generator.standard_normal(chances.shape)
    luck = ndtr(np.sqrt(together) * shared + np.sqrt(1.0 - together) * own)
    return np.asarray(luck < chances, dtype=np.float64)
