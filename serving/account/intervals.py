"""What 95% intervals are made of."""

from __future__ import annotations

from math import sqrt

Z = 1.959964  # of a normal distribution, two-sided


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """The 95% interval of a rate; `trials` need be no whole number. Without any trial nothing is known: (0, 1)."""
    if trials <= 0:
        return 0.0, 1.0
    rate, square = successes / trials, Z * Z / trials
    centre, half = rate + square / 2, Z * sqrt(rate * (1 - rate) / trials + square / (4 * trials))
    return max((centre - half) / (1 + square), 0.0), min((centre + half) / (1 + square), 1.0)


def student(freedom: float) -> float:
    """The two-sided 95% quantile of Student's t, to four digits from 30 degrees of freedom on (Cornish and Fisher)."""
    z, n = Z, max(freedom, 1.0)
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n * n)
