"""Intervals of paired differences: what two alternatives gave on the same requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from serving.bundle.arrays import Floats

RESAMPLES = 2_000


def interval(differences: Floats, statistic: Callable[..., Any], seed: int = 0) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of `statistic`, as np.median, of (n,) paired differences."""
    rng, n = np.random.default_rng(seed), len(differences)
    drawn = [float(statistic(differences[rng.integers(n, size=n)])) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return low, high
