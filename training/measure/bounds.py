"""Upper confidence bounds on a failure rate, for fully observed and for importance-weighted requests."""

from __future__ import annotations

from scipy.stats import beta

from serving.bundle.arrays import Floats
from training.measure.offpolicy import effective_sample_size


def clopper_pearson_upper(failures: int, n: int, delta: float) -> float:
    """The failure rate that is exceeded with probability at most `delta`, after `failures` in n independent trials.

    Exact: holds for every n; 1 where n is 0. Source: Clopper & Pearson 1934. Raises ValueError unless 0 <= failures <= n
    and 0 < delta < 1.
    """
    if not 0 <= failures <= n:
        raise ValueError(f"expected between 0 and {n} failures, got {failures}")
    return _upper(float(failures), float(n), delta)


def weighted_upper(losses: Floats, weights: Floats, delta: float) -> tuple[float, float]:
    """Upper bound at 1 - delta of the weighted mean loss, and the effective number of rows it rests on.

    `losses` (n,) in [0, 1], read only where the weight is above 0; `weights` (n,) >= 0. Approximate: Clopper-Pearson at
    (r n', n') with r the self-normalised mean loss and n' the effective number of rows, both real numbers, as Korn &
    Graubard 1998 do for survey weights. n' is the lower of Kish's (sum w)^2 / sum w^2 and the variance's own
    r (1 - r) / var(r), which is the lower one where heavy rows fail more often. Equal weights give the exact bound.
    """
    if losses.shape != weights.shape:
        raise ValueError(f"expected one weight per loss, got {losses.shape} losses and {weights.shape} weights")
    if not (weights >= 0).all():
        raise ValueError(f"expected weights >= 0, got {weights[~(weights >= 0)][0]}")
    weighed = weights > 0
    losses, weights = losses[weighed], weights[weighed]
    if not ((losses >= 0) & (losses <= 1)).all():
        raise ValueError(f"expected losses in [0, 1], got {losses[~((losses >= 0) & (losses <= 1))][0]}")
    if len(losses) == 0:
        return _upper(0.0, 0.0, delta), 0.0
    share = weights / weights.sum()
    rate = min(float(share @ losses), 1.0)
    n_effective = effective_sample_size(share)
    squared = (losses - rate) ** 2
    variance = float(share**2 @ squared)
    if variance > 0:
        # r (1 - r) as a sum of terms >= 0, which rounding leaves exact where nearly all or nearly none fail.
        n_effective = min(n_effective, float(share @ (squared + losses * (1.0 - losses))) / variance)
    return _upper(rate * n_effective, n_effective, delta), n_effective


def _upper(failures: float, n: float, delta: float) -> float:
    if not 0 < delta < 1:
        raise ValueError(f"expected delta between 0 and 1, got {delta}")
    if failures >= n:
        return 1.0
    return float(beta.ppf(1.0 - delta, failures + 1.0, n - failures))
