"""How many days of decisions say what a month has."""

from __future__ import annotations

# The mean length of a month: 365.25 / 12.
DAYS_A_MONTH = 30.4375
DAY = 86_400.0
_DAYS_A_WEEK = 7


def last_midnight(now: float) -> float:
    """When the last day (UTC) ended; times are epoch seconds."""
    return now // DAY * DAY


def whole_weeks(first: float | None, now: float) -> int:
    """The days of the newest whole weeks, of calendar days (UTC) that are over, from that of the `first` decision on; 0 before
    there is a week.

    A working week has two days of next to nothing, so that a part of a week says too much or too little of a month.
    """
    if first is None:
        return 0
    days = int((last_midnight(now) - last_midnight(first)) / DAY)
    return max(days // _DAYS_A_WEEK * _DAYS_A_WEEK, 0)
