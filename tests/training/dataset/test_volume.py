"""What a log says of its traffic: dates, requests a month, and what they cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from training.dataset.matrix import OutcomeMatrix, build_matrix
from training.dataset.volume import costs_of, volume
from training.logs.validate import validate


def matrix_of(rows: list[dict[str, Any]]) -> OutcomeMatrix:
    return build_matrix(validate(pd.DataFrame(rows), source="test", format="test").frame)


def row(number: int, candidate: str, cost: float | None = 1.0, day: int | None = None, **more: Any) -> dict[str, Any]:
    stamp = None if day is None else f"2026-03-{day:02}T12:00:00Z"
    return {
        "request_id": f"r{number}",
        "prompt": f"prompt {number}",
        "candidate": candidate,
        "quality": 1.0,
        "cost_usd": cost,
        "timestamp": stamp,
        **more,
    }


def test_a_month_is_reckoned_from_the_first_day_to_the_last() -> None:
    found = volume(matrix_of([row(0, "a", day=1), row(1, "b", day=11), row(2, "a", day=11)]))
    assert (found.first, found.last, found.days) == ("2026-03-01T12:00:00Z", "2026-03-11T12:00:00Z", 11.0)
    assert found.requests_a_month == pytest.approx(3 / 11 * 30.4375)
    assert found.requests_a_month_from == "dates"


def test_a_log_of_less_than_a_day_says_nothing_of_a_month() -> None:
    found = volume(matrix_of([row(0, "a", day=1), row(1, "b", day=1)]))
    assert (found.days, found.requests_a_month, found.requests_a_month_from) == (1.0, None, None)
    assert "less than a day" in (found.note or "")
    told = volume(matrix_of([row(0, "a", day=1), row(1, "b", day=1)]), 500.0)
    assert (told.requests_a_month, told.note) == (500.0, None)


# 2026-03-02 is a Monday.
@pytest.mark.parametrize(
    ("days", "counted"),
    [
        (range(2, 7), 7),
        ([*range(2, 7), *range(9, 14)], 14),
        (range(2, 8), 6),  # a Saturday has requests as well
        (range(2, 9), 7),
        (range(2, 10), 8),
        (range(2, 6), 4),
    ],
)
def test_a_working_week_is_a_week(days: Iterable[int], counted: int) -> None:
    logged = [row(10 * day + n, "ab"[n % 2], day=day) for day in days for n in range(4)]
    found = volume(matrix_of(logged))
    assert found.days == counted
    assert found.requests_a_month == pytest.approx(len(logged) / counted * 30.4375)


def test_few_days_and_a_stray_date_are_warned_of() -> None:
    short = [row(n, "ab"[n % 2], day=1 + n) for n in range(13)]
    assert "13 days" in (volume(matrix_of(short)).note or "")
    longer = [row(n, "ab"[n % 2], day=1 + n) for n in range(20)]
    assert volume(matrix_of(longer)).note is None
    stray = [*longer, row(99, "a", timestamp="2025-03-01T12:00:00Z")]
    assert "no request between 2025-03-01 and 2026-03-01" in (volume(matrix_of(stray)).note or "")


def test_an_evaluation_is_no_traffic() -> None:
    traffic = [row(n, "ab"[n % 2], day=1 + n) for n in range(20)]
    evaluated = [row(100 + n, name, day=28) for n in range(50) for name in "ab"]
    bought = [row(200, "a", day=30, propensity=0.5, purpose="certify")]
    found = volume(matrix_of([*traffic, *evaluated, *bought]))
    assert (found.requests, found.counted, found.days) == (71, 20, 20.0)
    assert found.requests_a_month == pytest.approx(30.4375)
    alone = volume(matrix_of(evaluated + [row(300, name, day=1) for name in "ab"]))
    assert alone.counted == 51
    assert "every request went to every candidate" in (alone.note or "")


def test_without_dates_only_a_setting_gives_a_volume() -> None:
    matrix = matrix_of([row(0, "a"), row(1, "b")])
    found = volume(matrix)
    assert (found.first, found.days, found.requests_a_month, found.requests_a_month_from) == (None, None, None, None)
    told = volume(matrix, 5000.0)
    assert (told.requests_a_month, told.requests_a_month_from) == (5000.0, "setting")


def test_requests_without_a_date_are_of_the_same_days() -> None:
    found = volume(matrix_of([row(0, "a", day=1), row(1, "b", day=3), row(2, "a")]))
    assert (found.requests, found.dated) == (3, 2)
    assert found.requests_a_month == pytest.approx(3 / 3 * 30.4375)


def test_what_was_put_to_everybody_is_not_what_traffic_costs() -> None:
    found = volume(
        matrix_of(
            [
                row(0, "a", 2.0),
                row(1, "b", 4.0),
                row(2, "a", 100.0),
                row(2, "b", 100.0),
                row(3, "a", None),
                row(4, "a", 3.0),
            ]
        )
    )
    assert found.cost_usd == 209.0
    assert found.cost_known_share == pytest.approx(5 / 6)
    assert found.cost_usd_per_request == pytest.approx(3.0)  # requests 0, 1 and 4
    assert found.candidates_logged == {"a": 0.75, "b": 0.25}
    evaluated = volume(matrix_of([row(0, "a"), row(0, "b")]))
    assert evaluated.cost_usd_per_request is None
    assert evaluated.candidates_logged == {"a": 0.5, "b": 0.5}


def test_bought_answers_are_no_traffic() -> None:
    bought = {"propensity": 0.5, "purpose": "certify"}
    found = volume(matrix_of([row(0, "a", 2.0), row(0, "b", 50.0, **bought), row(1, "c", 4.0)]))
    assert found.cost_usd_per_request == pytest.approx(3.0)


def test_what_a_core_stands_for_is_what_the_log_cost() -> None:
    """Request 1 stands for three, and so does the one that was put to both."""
    core = matrix_of([row(0, "a", 2.0), row(1, "b", 4.0), row(2, "a", 1.0), row(2, "b", 5.0), row(3, "a", None)])
    log = matrix_of(
        [row(0, "a", 2.0), row(3, "a", None)]
        + [row(number, "b", 4.0) for number in (10, 11, 12)]
        + [each for number in (20, 21, 22) for each in (row(number, "a", 1.0), row(number, "b", 5.0))]
    )
    assert costs_of(replace(core, weight=np.array([1.0, 3.0, 3.0, 1.0]))) == costs_of(log)
    assert costs_of(log).total_usd == 32.0  # those that were put to everybody are in it
    assert costs_of(log).usd_per_request == pytest.approx(3.5)
    assert costs_of(core) != costs_of(log)
