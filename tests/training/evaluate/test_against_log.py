"""Whether routing is dearer than the log was, by the same requests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from training.dataset.matrix import OutcomeMatrix, build_matrix
from training.evaluate.against_log import saved_against_log
from training.evaluate.bands import Outcomes
from training.logs.validate import validate


def logged(requests: int = 300) -> OutcomeMatrix:
    """Each request put to one of two by turns, of which "large" costs ten times as much."""
    rows: list[dict[str, Any]] = [
        {
            "request_id": f"r{i}",
            "prompt": f"p{i}",
            "candidate": name,
            "quality": 1.0,
            "cost_usd": 1.0,
            "propensity": 0.5,
        }
        for i in range(requests)
        for name in (("small", "large")[i % 2],)
    ]
    return build_matrix(validate(pd.DataFrame(rows), source="test", format="test").frame, ("small", "large"))


def interval(matrix: OutcomeMatrix, seed: int, columns: int | None) -> tuple[float, float] | None:
    """With heavy-tailed sizes; all to a column, or, without one, as the log itself drew."""
    draw = np.random.default_rng(seed)
    n = len(matrix)
    size = np.exp(1.5 * draw.standard_normal(n) - 1.5**2 / 2)
    usd = size[:, None] * np.array([0.001, 0.01])
    went = draw.integers(2, size=n)
    seen = np.arange(2) == went[:, None]
    cost = np.where(seen, usd, np.nan)
    changed = _with(matrix, seen, cost)
    value = np.where(seen, 1.0, np.nan)
    known = Outcomes(
        value, cost, value, np.where(seen, 0.5, np.nan), None, np.zeros(n, dtype=bool), np.arange(n), matrix.workflow
    )
    chosen = draw.integers(2, size=n) if columns is None else np.full(n, columns)
    return saved_against_log(changed, known, usd, chosen)


def _with(matrix: OutcomeMatrix, seen: Any, cost: Any) -> OutcomeMatrix:
    from dataclasses import replace

    return replace(matrix, attempted=seen, cost_usd=cost, quality=np.where(seen, 1.0, np.nan))


def test_a_mix_as_dear_as_the_logs_is_hardly_ever_told_from_it() -> None:
    """By the sign of two means alone, half of such logs would be dearer than today."""
    matrix = logged()
    found = [interval(matrix, seed, None) for seed in range(200)]
    known = [one for one in found if one is not None]
    assert len(known) == 200
    assert sum(high < 0 for _, high in known) <= 16
    assert sum(low <= 0 <= high for low, high in known) >= 180


def test_all_to_the_dear_one_is_dearer_and_all_to_the_cheap_one_is_not() -> None:
    matrix = logged()
    for column, sign in ((1, -1), (0, 1)):
        found = interval(matrix, 0, column)
        assert found is not None
        assert found[0] * sign > 0
        assert found[1] * sign > 0


def test_of_a_handful_it_is_not_known() -> None:
    assert interval(logged(20), 0, 1) is None


def test_requests_of_a_core_save_what_those_that_they_stand_for_save() -> None:
    """Half of the requests were kept whole, and the others, ten times as large, stand for nine."""
    matrix, n = logged(), len(logged())
    seen = np.arange(2) == (np.arange(n) // 2 % 2)[:, None]
    size = np.where(np.arange(n) % 2 == 0, 1.0, 10.0)
    cost = np.where(seen, size[:, None] * np.array([0.001, 0.01]), np.nan)
    changed, value = _with(matrix, seen, cost), np.where(seen, 1.0, np.nan)
    propensity, nothing = np.where(seen, 0.5, np.nan), np.zeros(n, dtype=bool)
    usd = size[:, None] * np.array([0.001, 0.01])
    cheap = np.zeros(n, dtype=np.intp)
    saved = []
    for standing in (None, np.where(size == 1.0, 1.0, 9.0)):
        known = Outcomes(value, cost, value, propensity, None, nothing, np.arange(n), matrix.workflow, standing)
        found = saved_against_log(changed, known, usd, cheap)
        assert found is not None
        saved.append(sum(found) / 2)
    assert saved[0] == pytest.approx(0.0045 * 5.5, rel=0.05)
    assert saved[1] == pytest.approx(0.0045 * 9.1, rel=0.05)
