"""Upper confidence bounds on a failure rate: of independent requests, of conversations, and of requests seen by chance."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from scipy.special import betaincinv

from serving.bundle.arrays import Columns, Floats


@dataclass(frozen=True)
class RateBound:
    """An estimated failure rate, its upper bound, and how many independent requests with a known outcome say as much."""

    rate: float
    upper: float
    effective: float


def clopper_pearson_upper(failures: int, n: int, delta: float) -> float:
    """The failure rate that is exceeded with probability at most `delta`, after `failures` in n independent trials.

    Exact: holds for every n; 1 where n is 0. Source: Clopper & Pearson 1934. Raises ValueError unless 0 <= failures <= n
    and 0 < delta < 1.
    """
    if not 0 <= failures <= n:
        raise ValueError(f"expected between 0 and {n} failures, got {failures}")
    _check_delta(delta)
    return 1.0 if failures == n else _beta_upper(failures + 1.0, float(n - failures), delta)


def rate_upper(
    losses: Floats, weights: Floats, groups: Columns, delta: float, shares: Floats | None = None
) -> RateBound:
    """Upper bound at 1 - delta of the mean loss over all n requests, of which some were seen, and whole groups go together.

    Parameters: `losses` (n,) in [0, 1], read only where the weight is above 0; `weights` (n,) 1 / the probability with which
    the request's loss was seen, 0 where it was not; `groups` (n,) the conversation of each request; `shares` (n,) >= 0, how
    many requests of the traffic each one stands for, by default 1. Raises ValueError.

    The estimate is Horvitz & Thompson's: each conversation's losses over their probabilities, summed. As Clopper & Pearson
    do with one failure, one more thing is supposed to have failed: the most that one could, which is the heaviest weight or
    the typical failing conversation, whichever is more (Fay & Feuer 1997 do so for weighted sums of rare events). The
    bound is the quantile of the beta distribution that has the resulting mean, and the variance between conversations.
    With weights of 1 and every request a conversation of its own this is Clopper-Pearson's bound exactly. Else it is
    approximate, and its coverage is simulated in the tests.

    A log that never tries what is asked about shows no failure of it. So where the weights sum to less than the requests
    by more than chance explains, what is lacking counts as failed, request by request: with the variance that so many failures
    have.
    """
    n = len(losses)
    shares = np.ones(n) if shares is None else shares
    _check(losses, weights, groups, shares)
    _check_delta(delta)
    seen = weights > 0
    total = float(shares.sum())
    if not (seen & (shares > 0)).any():
        return RateBound(float("nan"), 1.0, 0.0)
    weight = shares * weights
    _, member = np.unique(groups, return_inverse=True)
    failed: Floats = np.bincount(member, weight * np.where(seen, losses, 0.0)).astype(np.float64)
    size: Floats = np.bincount(member, shares).astype(np.float64)
    weighed: Floats = np.bincount(member, weight).astype(np.float64)
    # The variance of a sum of 1/p's is the sum of (1 - p) / p, of which the seen ones give an estimate.
    chance = float(np.sqrt((weight * np.maximum(weight - shares, 0.0)).sum()))
    lacking = max(total - float(weighed.sum()) - NormalDist().inv_cdf(1.0 - delta) * chance, 0.0)
    y = float(failed.sum()) + lacking
    one_more = max(float(weight.max()), _typical_failing(failed, weighed))
    if y >= total:
        return RateBound(1.0, 1.0, 0.0)
    mean = (y + one_more) / (total + one_more)
    typical = float((shares**2).sum()) / total
    variance = float(((failed - mean * size) ** 2).sum()) + (one_more * (1.0 - mean)) ** 2
    variance += lacking * typical * max(1.0 - 2.0 * mean, 0.0)  # (1 - mean)^2 instead of mean^2, of each
    both = mean * (1.0 - mean) * (total + one_more) ** 2 / variance
    return RateBound(y / total, _beta_upper(mean * both, (1.0 - mean) * both, delta), max(both - 1.0, 0.0))


def _typical_failing(failed: Floats, weighed: Floats) -> float:
    """How much fails at once where a request of a group fails, given what failed in each and what each weighs, (groups,).

    Each failure counts, so a group that failed in two counts twice. A whole group of typical size is supposed to have
    failed beside those that did: without failures nothing is known of how they come together.
    """
    typical = float((weighed**2).sum() / weighed.sum())
    return float(((failed**2).sum() + typical**2) / (failed.sum() + typical))


def _beta_upper(a: float, b: float, delta: float) -> float:
    return float(betaincinv(a, b, 1.0 - delta))


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"expected delta between 0 and 1, got {delta}")


def _check(losses: Floats, weights: Floats, groups: Columns, shares: Floats) -> None:
    shapes = [values.shape for values in (losses, weights, groups, shares)]
    if len(set(shapes)) != 1:
        raise ValueError(f"expected a loss, a weight, a group and a share for each request, got shapes {shapes}")
    for name, values in (("weights", weights), ("shares", shares)):
        if not (values >= 0).all():
            raise ValueError(f"expected {name} >= 0, got {values[~(values >= 0)][0]}")
    read = losses[weights > 0]
    if not ((read >= 0) & (read <= 1)).all():
        raise ValueError(f"expected losses in [0, 1], got {read[~((read >= 0) & (read <= 1))][0]}")
