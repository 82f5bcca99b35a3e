"""Off-policy evaluation: what a router would have given, from a log that has one or a few outcomes per request.

n requests, m candidates. A target policy is `columns` (n,), the candidate it would choose on each request. `outcome` (n, m)
is quality, acceptability or cost, NaN where it was not observed. `propensity` (n, m) is the probability with which the
logging policy observed that cell, 1 on a request on which every candidate was run, NaN where there was no attempt.

Where answers are observed only if somebody judged them, `propensity` is that of the choice and of being judged together,
and `judged` (n, m) the second alone, as `propensity.judged_share` has it; without `judged` whatever was chosen was observed.
A highest weight is one of the choice, 1 / max(propensity, judged / clip) in all: a choice's probability varies from request
to request, where a share of 5% judged is the same for all answers, and to clip it would count errors, which are always
known, for more than they are.

Rows count as independent, unless `groups` (n,) says which belong together, as the requests of a conversation that keeps
its side of a share do: errors are then robust to whatever correlates within a group, and the effective sample counts
groups (Liang & Zeger 1986). A row counts if its propensities are known: at least one is, and none is missing where an
outcome was observed. A row that counts but has no outcome of the chosen candidate is not left out: its weight is 0.

Where rows stand for more or fewer of a log than others, as they do in the core of a sampled one, `standing` (n,) says for how
many: means are of what they stand for. Without it each stands for as many.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats

CLIP = 100.0
MINIMUM_EFFECTIVE = 30.0
_Z = NormalDist().inv_cdf(0.975)
# Weights average 1 where the log could have observed every choice; an average clearly below this is a hole in the log.
_SUPPORT = 0.95


@dataclass(frozen=True)
class Estimate:
    """A target policy's mean outcome with its 95% interval, from `n` requests worth `effective_sample` of its own.

    Where the log cannot bear it, `refused` says why, and value, low and high are NaN.
    """

    value: float
    low: float
    high: float
    effective_sample: float
    n: int
    method: str
    refused: str | None = None


def importance_weights(
    observed: Bools, propensity: Floats, columns: Columns, clip: float, judged: Floats | None = None
) -> Floats:
    """(n,) 1 / max(propensity, judged / clip) of the chosen cell where it was observed, else 0.

    `observed`, `propensity` and `judged` are (n, m); `clip` >= 1 is the highest weight of a choice, which trades bias for
    variance (Ionides 2008). Raises ValueError when a chosen, observed cell has no propensity in [0, 1].
    """
    _check(observed, propensity, columns, clip)
    rows = np.arange(len(columns))
    seen, p = observed[rows, columns], propensity[rows, columns]
    least = _least(propensity, judged, clip)[rows, columns]
    wrong = seen & ~((p >= 0) & (p <= 1))
    if wrong.any():
        raise ValueError(
            f"{wrong.sum()} observed outcomes have no propensity in [0, 1], the first {p[wrong][0]}; "
            "propensity.estimate_propensities gives one where none was logged"
        )
    weights: Floats = np.where(seen, 1.0 / np.maximum(np.where(seen, p, 1.0), least), 0.0)
    return weights


def effective_sample_size(weights: Floats, groups: Columns | None = None) -> float:
    """(sum w)^2 / sum w^2: how many rows of equal weight say as much; 0 without weights. Source: Kish 1965.

    With `groups` (n,) of a group's weights together, as if its rows said the same: how many groups of equal weight.
    """
    weights = _summed(weights, groups)
    squares = float((weights**2).sum())
    return float(weights.sum()) ** 2 / squares if squares > 0 else 0.0


def ips(
    outcome: Floats,
    propensity: Floats,
    columns: Columns,
    *,
    judged: Floats | None = None,
    clip: float = CLIP,
    minimum_effective: float = MINIMUM_EFFECTIVE,
    groups: Columns | None = None,
    standing: Floats | None = None,
) -> Estimate:
    """Inverse propensity scoring, mean(w y): unbiased where the propensities are right, of high variance.

    Where a group is drawn as one and has more rows on one side than on the other, the weights do not average 1 and
    this is not right: `snips` is. Source: Horvitz & Thompson 1952. Interval: normal approximation; it may reach past
    the range of the outcomes.
    """
    rows, weights, y = _chosen(outcome, propensity, columns, judged, clip)
    counts = _counts(standing, rows)
    stood = weights if counts is None else counts * weights
    return _estimate("ips", _stood(weights * y, counts), stood, minimum_effective, _of(groups, rows))


def snips(
    outcome: Floats,
    propensity: Floats,
    columns: Columns,
    *,
    judged: Floats | None = None,
    clip: float = CLIP,
    minimum_effective: float = MINIMUM_EFFECTIVE,
    groups: Columns | None = None,
    standing: Floats | None = None,
) -> Estimate:
    """Self-normalised inverse propensity scoring, sum(w y) / sum(w): stays within the outcomes' range, biased by O(1/n).

    Source: Swaminathan & Joachims 2015. Interval: delta method, of width zero when all weighted outcomes are equal; for
    failures that are rare, `bounds.weighted_upper` says more.
    """
    rows, weights, y = _chosen(outcome, propensity, columns, judged, clip)
    counts = _counts(standing, rows)
    weights = weights if counts is None else counts * weights
    return _estimate("snips", _normalised(weights, y), weights, minimum_effective, _of(groups, rows))


def doubly_robust(
    outcome: Floats,
    propensity: Floats,
    columns: Columns,
    model: Floats,
    *,
    judged: Floats | None = None,
    clip: float = CLIP,
    minimum_effective: float = MINIMUM_EFFECTIVE,
    groups: Columns | None = None,
    standing: Floats | None = None,
) -> Estimate:
    """mean(f) + sum(w (y - f)) / sum(w) with f the model's prediction for the chosen candidate.

    Right where either the propensities or the model are, biased by O(1/n) as `snips`: normalised, it does not take a
    group that has more rows on one side for more weight. `model` (n, m) must not have seen the outcomes it predicts:
    out of fold, or fitted on other requests. Source: Dudík, Langford & Li 2011; normalised: Thomas & Brunskill 2016.
    Interval: delta method.
    """
    rows, weights, y = _chosen(outcome, propensity, columns, judged, clip)
    if model.shape != outcome.shape:
        raise ValueError(f"expected predictions of shape {outcome.shape}, got {model.shape}")
    predicted = model[np.arange(len(columns)), columns][rows]
    counts = _counts(standing, rows)
    weights = weights if counts is None else counts * weights
    linear = _stood(predicted, counts) + _normalised(weights, y - predicted)
    return _estimate("doubly robust", linear, weights, minimum_effective, _of(groups, rows))


def mask_to_one(quality: Floats, propensities: Floats, seed: int) -> tuple[Floats, Floats]:
    """Keeps one outcome per request, drawn with the given probabilities: a log whose truth is known.

    `quality` (n, m) complete, `propensities` (n, m) with rows that sum to 1. Returns both, NaN but in the drawn cells.
    """
    if quality.shape != propensities.shape:
        raise ValueError(f"expected propensities of shape {quality.shape}, got {propensities.shape}")
    if not np.isfinite(quality).all():
        raise ValueError(f"expected complete outcomes, {(~np.isfinite(quality)).sum()} of {quality.size} are missing")
    if (propensities < 0).any() or not np.allclose(propensities.sum(axis=1), 1.0):
        raise ValueError("expected propensities >= 0 that sum to 1 in every row")
    ends = np.cumsum(propensities, axis=1)
    # Scaled to the row's own last end, so that rounding never leaves a draw past it.
    draw = np.random.default_rng(seed).random((len(quality), 1)) * ends[:, -1:]
    drawn = (draw >= ends).sum(axis=1)
    kept = np.arange(quality.shape[1]) == drawn[:, None]
    return np.where(kept, quality, np.nan), np.where(kept, propensities, np.nan)


def _check(outcome: Bools | Floats, propensity: Floats, columns: Columns, clip: float) -> None:
    n, m = outcome.shape
    if propensity.shape != (n, m) or columns.shape != (n,):
        raise ValueError(
            f"expected propensities of shape {(n, m)} and columns of shape {(n,)}, got {propensity.shape} and {columns.shape}"
        )
    if n and not (columns.min() >= 0 and columns.max() < m):
        raise ValueError(f"expected columns from 0 to {m - 1}, got {columns.min()} to {columns.max()}")
    if not clip >= 1:
        raise ValueError(f"expected a highest weight of at least 1, got {clip}")


def _least(propensity: Floats, judged: Floats | None, clip: float) -> Floats:
    """(n, m) the lowest probability that a cell's weight is of: 1 / clip for its choice, times the share judged."""
    if judged is None:
        return np.full(propensity.shape, 1.0 / clip)
    if judged.shape != propensity.shape:
        raise ValueError(f"expected shares judged of shape {propensity.shape}, got {judged.shape}")
    return np.where(np.isfinite(judged), judged, 1.0) / clip


def _chosen(
    outcome: Floats, propensity: Floats, columns: Columns, judged: Floats | None, clip: float
) -> tuple[Bools, Floats, Floats]:
    """The rows that count (n,), and of these the weight and the chosen candidate's outcome, 0 where not observed."""
    _check(outcome, propensity, columns, clip)
    known, observed = np.isfinite(propensity), np.isfinite(outcome)
    rows: Bools = np.asarray(known.any(axis=1) & ~(observed & ~known).any(axis=1))
    share = None if judged is None else judged[rows]
    weights = importance_weights(observed[rows], propensity[rows], columns[rows], clip, share)
    y = outcome[np.arange(len(columns)), columns][rows]
    return rows, weights, np.where(np.isfinite(y), y, 0.0)


def _of(groups: Columns | None, rows: Bools) -> Columns | None:
    """The groups of the rows that count."""
    if groups is None:
        return None
    if groups.shape != rows.shape:
        raise ValueError(f"expected groups of shape {rows.shape}, got {groups.shape}")
    return groups[rows]


def _counts(standing: Floats | None, rows: Bools) -> Floats | None:
    """What the rows that count stand for, 1 on average; None where each stands for as many."""
    if standing is None:
        return None
    if standing.shape != rows.shape:
        raise ValueError(f"expected what rows stand for of shape {rows.shape}, got {standing.shape}")
    kept = standing[rows]
    return kept * (len(kept) / kept.sum()) if len(kept) else kept


def _stood(values: Floats, counts: Floats | None) -> Floats:
    """(n,) the linear terms of the mean of `values` (n,), each counting for `counts` (n,)."""
    if counts is None or not len(values):
        return values
    mean = float(counts @ values) / len(values)
    return np.asarray(mean + counts * (values - mean))


def _summed(values: Floats, groups: Columns | None) -> Floats:
    """(g,) the sum of each group's values; the values themselves where every row is one."""
    if groups is None:
        return values
    return np.bincount(np.unique(groups, return_inverse=True)[1], weights=values).astype(np.float64)


def _normalised(weights: Floats, values: Floats) -> Floats:
    """(n,) the linear terms of sum(w v) / sum(w): their mean is that, and their spread its error; 0 without weights."""
    total = float(weights.sum())
    if not total > 0:
        return np.zeros_like(weights)
    mean = float((weights * values).sum()) / total
    return np.asarray(mean + weights * (values - mean) * len(weights) / total)


def _estimate(
    method: str, linear: Floats, weights: Floats, minimum_effective: float, groups: Columns | None
) -> Estimate:
    """Mean of the estimator's linear terms (n,): the value plus each row's influence, whose spread is the error."""
    n, effective = len(weights), effective_sample_size(weights, groups)
    refused = _refusal(weights, effective, minimum_effective, groups)
    if refused is not None:
        nan = float("nan")
        return Estimate(nan, nan, nan, effective, n, method, refused)
    value, error = float(linear.mean()), _standard_error(linear, groups)
    return Estimate(value, value - _Z * error, value + _Z * error, effective, n, method)


def _refusal(weights: Floats, effective: float, minimum_effective: float, groups: Columns | None) -> str | None:
    if effective < max(minimum_effective, 2.0):
        return (
            f"{len(weights)} requests hold an effective sample of {effective:.1f} for these choices, "
            f"at least {minimum_effective:g} are needed"
        )
    mean = float(weights.mean())
    if mean + 3 * _standard_error(weights, groups) < _SUPPORT:
        return (
            f"the weights average {mean:.2f} instead of 1: the log has next to no outcomes where these choices "
            "differ from its own"
        )
    return None


def _standard_error(values: Floats, groups: Columns | None) -> float:
    """Of the mean of rows (n,), of which only groups are independent: from the spread of the groups' sums."""
    sums = _summed(values - values.mean(), groups)
    count = len(sums)
    return float(np.sqrt((sums**2).sum() * count / (count - 1)) / len(values))


def pseudo_outcomes(
    outcome: Floats, propensity: Floats, model: Floats, clip: float = CLIP, judged: Floats | None = None
) -> Floats:
    """(n, m) doubly robust pseudo-outcomes, complete: model + w (y - model) where observed, model elsewhere.

    The mean of any policy's choices among them is that policy's doubly robust value, not normalised, so that whatever
    compares policies on complete outcomes can use them in their place. A single one may lie outside [0, 1]. Shapes
    (n, m); `model` must not have seen the outcomes. Source: Dudík, Langford & Li 2011.
    """
    observed = np.isfinite(outcome) & np.isfinite(propensity)
    weight = 1.0 / np.maximum(np.where(observed, propensity, 1.0), _least(propensity, judged, clip))
    return np.asarray(model + np.where(observed, weight * (np.where(observed, outcome, 0.0) - model), 0.0))
