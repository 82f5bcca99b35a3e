"""What the candidates that a bundle knows have in common: how hard requests are, and in which ways candidates differ.

A new candidate is expected to be one of their kind. Its logit is a linear function of theirs, and how far its coefficients may
lie from the usual ones is read from how theirs do: a prior that takes no answer of the new one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serving.bundle.arrays import AnyFloats, Floats
from training.learn.estimators.base import PRICED
from training.learn.onnx_graph import logit

# Ways in which candidates differ that a new one may share, the widest first.
CONTRASTS = 4
# Least standard deviation, in logits, of what a new candidate's level may differ from the line in price.
_LEVEL = 0.5
# How far a workflow may set the new candidate apart beyond what the others' logits say, as a variance in logits.
_WORKFLOW = 1.0
_SLOPE = 0.01


@dataclass(frozen=True)
class Structure:
    """The features of a request, as a linear map of the known candidates' logits (m,), and what is expected of coefficients.

    `weight` (m, f) and `shift` (f,): the features are a constant, the common difficulty, and the contrasts. `mean` (f,) and
    `variance` (f,) are a new candidate's coefficients before any answer of it; those of each workflow are around 0, with
    the variance `workflow`.
    """

    weight: Floats
    shift: Floats
    mean: Floats
    variance: Floats
    workflow: float

    def features(self, acceptable: AnyFloats) -> Floats:
        """(n, f) of the known candidates' chances (n, m)."""
        return np.asarray(logit(acceptable.astype(np.float64)) @ self.weight + self.shift)


def structure_of(acceptable: AnyFloats, cost_usd: Floats, new_cost_usd: float) -> Structure:
    """The structure of what a bundle expects of m candidates on n requests, `acceptable` (n, m).

    `cost_usd` (m,) and `new_cost_usd` are mean expected costs. The common difficulty is the mean logit; contrasts are the
    leading principal components of what is left, each scaled so that the known candidates' coefficients have mean square 1
    (a low-rank item-response model: Birnbaum 1968 has the first dimension). The level is expected on a line in the logarithm of
    the price through the known candidates' levels, as uncertain as they scatter around it (Rao 1973, section 4a.2).
    """
    logits = logit(acceptable.astype(np.float64))
    level = logits.mean(axis=0)
    common = logits.mean(axis=1) - logits.mean()
    rest = logits - level - common[:, None]
    m = len(level)
    kept = min(CONTRASTS, m - 1)
    _, sizes, directions = np.linalg.svd(rest, full_matrices=False)
    directions = directions[:kept][sizes[:kept] > 1e-6 * max(float(np.linalg.norm(logits)), 1e-12)]
    kept = len(directions)
    # With its mean taken off, a direction sees nothing of what is common to a row.
    contrast = (directions - directions.mean(axis=1, keepdims=True)).T / np.sqrt(m)
    even = np.full(m, 1.0 / m)
    weight = np.column_stack([np.zeros(m), even, contrast])
    centre = logits.mean(axis=0)
    shift = np.concatenate([[1.0], [-float(logits.mean())], -(centre @ contrast)])
    spread = float(common @ common)
    slopes = (logits - level).T @ common / spread if spread > 0 else np.ones(m)
    expected, variance = _on_the_line(level, cost_usd, new_cost_usd)
    return Structure(
        weight=weight,
        shift=shift,
        mean=np.concatenate([[expected, 1.0], np.zeros(kept)]),
        variance=np.concatenate([[max(variance, _LEVEL**2), max(float(slopes.var()), _SLOPE)], np.ones(kept)]),
        workflow=_WORKFLOW,
    )


def _on_the_line(level: Floats, cost_usd: Floats, new_cost_usd: float) -> tuple[float, float]:
    """What is expected of a new candidate's level, and with which variance; with few candidates the line is level."""
    m = len(level)
    price = np.log(np.maximum(np.append(cost_usd, new_cost_usd), 1e-12))
    columns = np.ones((m + 1, 1))
    if m >= PRICED and np.ptp(price[:m]) > 1e-9:
        columns = np.column_stack([columns, price - price[:m].mean()])
    known, new = columns[:m], columns[m]
    found = np.linalg.lstsq(known, level, rcond=None)[0]
    within = float(((level - known @ found) ** 2).sum()) / max(m - known.shape[1], 1)
    return float(new @ found), within * (1.0 + float(new @ np.linalg.inv(known.T @ known) @ new))
