"""Labels: which answers were acceptable, and which acceptable one was cheapest."""

from __future__ import annotations

import numpy as np

from serving.bundle.arrays import Columns, Floats


def acceptable(quality: Floats, threshold: float) -> Floats:
    """(n, m) 1.0 where quality >= threshold, 0.0 where it is below, NaN where nobody judged."""
    labels: Floats = np.where(np.isnan(quality), np.nan, (quality >= threshold).astype(np.float64))
    return labels


def cheapest_acceptable(labels: Floats, cost_usd: Floats) -> Columns:
    """(n,) the column of the cheapest acceptable candidate, -1 where none was acceptable or it cannot be known.

    It is known where every cheaper candidate was judged too: `cost_usd` (m,) or (n, m) gives the order, ties going to
    the first column.
    """
    n, m = labels.shape
    cost = np.broadcast_to(cost_usd, (n, m))
    order = np.argsort(np.where(np.isnan(cost), np.inf, cost), axis=1, kind="stable")
    ordered = np.take_along_axis(labels, order, axis=1)
    first = (ordered != 0.0).argmax(axis=1)  # the first that is acceptable or unjudged
    stops = np.take_along_axis(ordered, first[:, None], axis=1)[:, 0]
    column = np.take_along_axis(order, first[:, None], axis=1)[:, 0]
    known = (stops == 1.0) & (ordered != 0.0).any(axis=1)
    result: Columns = np.where(known, column, -1)
    return result
