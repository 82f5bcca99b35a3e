"""What routing saves against what the log itself cost, on the same requests."""

from __future__ import annotations

import numpy as np
from scipy.special import stdtrit

from serving.bundle.arrays import Columns, Floats
from training.dataset.matrix import OutcomeMatrix
from training.evaluate.bands import Outcomes
from training.measure.metrics import mean_of
from training.measure.offpolicy import MINIMUM_EFFECTIVE, doubly_robust, pseudo_outcomes


def saved_against_log(
    matrix: OutcomeMatrix, known: Outcomes, expected_usd: Floats, columns: Columns
) -> tuple[float, float] | None:
    """The 95% interval of what a request is saved, in USD, where the log made a choice of its own; `columns` (n,) is where the
    router sends the requests.

    Paired: of each request what the log paid for it, less what the router's choice costs (doubly robust, around `expected_usd`
    (n, m)), so that large requests are large on both sides. Errors by conversation. None where the log cannot bear it.
    """
    if known.propensity is None:
        return None
    called = matrix.attempted | matrix.chained
    own = called & ~matrix.certifying & ~matrix.learning & ~np.asarray(matrix.attempted.all(axis=1))[:, None]
    seen, drawn = np.isfinite(known.value), np.isfinite(known.propensity)
    rows = own.any(axis=1) & ~(own & ~np.isfinite(matrix.cost_usd)).any(axis=1)
    rows &= drawn.any(axis=1) & ~(seen & ~drawn).any(axis=1)
    groups, member = np.unique(known.groups[rows], return_inverse=True)
    if len(groups) < MINIMUM_EFFECTIVE:
        return None
    cost = np.where(seen, known.cost_usd, np.nan)[rows]
    propensity, usd, chosen = known.propensity[rows], expected_usd[rows].astype(np.float64), columns[rows]
    judged = None if known.judged is None else known.judged[rows]
    standing = None if known.standing is None else known.standing[rows]
    bears = doubly_robust(cost, propensity, chosen, usd, judged=judged, groups=known.groups[rows], standing=standing)
    if bears.refused is not None:
        return None
    routed = pseudo_outcomes(cost, propensity, usd, judged=judged)[np.arange(len(chosen)), chosen]
    saved = np.where(own[rows], matrix.cost_usd[rows], 0.0).sum(axis=1) - routed
    mean = float(mean_of(saved, standing))
    strayed = saved - mean if standing is None else (saved - mean) * standing / standing.mean()
    sums = np.bincount(member, strayed)
    error = float(np.sqrt((sums**2).sum() * len(groups) / (len(groups) - 1))) / len(saved)
    half = float(stdtrit(len(groups) - 1, 0.975)) * error
    return mean - half, mean + half
