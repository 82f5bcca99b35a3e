"""A decision's id, which begins with when it was made: whoever has the id knows in which month the decision stands."""

from __future__ import annotations

import secrets
import time
from typing import NamedTuple

_MILLISECONDS = 2**48 - 1  # what an id has room for
_AROUND = 86_400.0  # clocks of two machines differ by less
_LATEST = 250_000_000_000.0  # of the year 9892, up to which there are months


class Around(NamedTuple):
    """Between which times, in epoch seconds, a decision was made."""

    since: float
    until: float


EVER = Around(float("-inf"), float("inf"))


def new_id(at: float | None = None) -> str:
    """A new id, of a decision made at `at` (epoch seconds; now): a UUID of version 7 as 32 hexadecimal digits.

    Ids sort by the millisecond in which they were made; what follows that is drawn.
    """
    milliseconds = min(max(int((time.time() if at is None else at) * 1e3), 0), _MILLISECONDS)
    drawn = secrets.randbits(74)
    first, last = drawn >> 62, drawn & (2**62 - 1)
    return f"{milliseconds << 80 | 7 << 76 | first << 64 | 2 << 62 | last:032x}"


def made_around(identifier: str) -> Around:
    """When a decision was made, by its id, and a day more on either side; `EVER` where the id does not say."""
    if len(identifier) != 32 or identifier[12] != "7" or identifier[16] not in "89ab":
        return EVER
    try:
        at = int(identifier[:12], 16) / 1e3
    except ValueError:
        return EVER
    return Around(at - _AROUND, at + _AROUND) if at < _LATEST else EVER
