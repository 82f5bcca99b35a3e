"""Months of UTC, as the store counts them: by when they begin, in epoch seconds."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple


class Month(NamedTuple):
    """A calendar month of UTC, from `begins` to before `ends`, in epoch seconds."""

    begins: int
    ends: int

    @property
    def name(self) -> str:
        """As 2026-03."""
        return f"{datetime.fromtimestamp(self.begins, UTC):%Y-%m}"

    @property
    def following(self) -> Month:
        return month_of(self.ends)


def month_of(at: float) -> Month:
    """The month that a time is in."""
    begins = datetime.fromtimestamp(at, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    ends = (begins + timedelta(days=32)).replace(day=1)
    return Month(int(begins.timestamp()), int(ends.timestamp()))


def months_from(at: float, count: int) -> Iterator[Month]:
    """So many months, that of a time first."""
    month = month_of(at)
    for _ in range(count):
        yield month
        month = month.following
