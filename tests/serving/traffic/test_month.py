"""Which days of decisions say what a month has."""

from __future__ import annotations

import pytest

from serving.traffic.month import DAY, last_midnight, whole_weeks

MONDAY = 1_772_409_600.0  # 2026-03-02T00:00:00Z
NINE = MONDAY + 9 * 3_600


@pytest.mark.parametrize(("asked", "days"), [(0.1, 0), (5.4, 0), (6.99, 0), (7.0, 7), (9.4, 7), (13.9, 7), (14.2, 14)])
def test_only_whole_weeks_of_days_that_are_over_count(asked: float, days: int) -> None:
    assert whole_weeks(NINE, MONDAY + asked * DAY) == days


def test_nothing_stored_is_no_week() -> None:
    assert whole_weeks(None, NINE) == 0
    assert whole_weeks(NINE + 30 * DAY, NINE) == 0, "a clock that was put back"
    assert last_midnight(NINE) == MONDAY
