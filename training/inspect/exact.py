"""Sums of floating-point numbers that are exact, and therefore the same in whatever parts the numbers come."""

from __future__ import annotations

import numpy as np

from serving.bundle.arrays import Columns, Floats

# A sum is held as a multiple of this, of which every float64 is one: the smallest is 2^-1074, with 52 bits to spare.
_UNIT = 1 << 1126
_BITS, _LOW_BITS = 53, 26
_EXPONENTS = 4096


def exact_sums(values: Floats, group: Columns, groups: int) -> list[int]:
    """What the values (n,) of each group sum up to, (groups,), to be added up and turned into numbers by `rounded`.

    `group` (n,) is 0 to groups - 1, and no value is NaN or infinite. Mantissas are added up as integers, apart for each
    exponent and in two halves, so that no bit is lost up to 2^26 values.
    """
    sums = [0] * groups
    fraction, exponent = np.frexp(values)
    whole = np.ldexp(fraction, _BITS).astype(np.int64)
    keys, place = np.unique(group * _EXPONENTS + (exponent + 1126 - _BITS), return_inverse=True)
    high = np.bincount(place, whole >> _LOW_BITS, len(keys))
    low = np.bincount(place, whole & ((1 << _LOW_BITS) - 1), len(keys))
    for key, upper, lower in zip(keys.tolist(), high.tolist(), low.tolist(), strict=True):
        of, shift = divmod(key, _EXPONENTS)
        sums[of] += ((int(upper) << _LOW_BITS) + int(lower)) << shift
    return sums


def rounded(total: int) -> float:
    """The number next to an exact sum, which is what `math.fsum` gives for the same numbers."""
    return total / _UNIT
