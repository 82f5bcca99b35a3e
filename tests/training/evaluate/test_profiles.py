"""What candidates are good and bad at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from training.dataset.matrix import OutcomeMatrix, build_matrix
from training.evaluate.profiles import profiles
from training.logs.validate import validate


def matrix_of(requests: int = 40) -> OutcomeMatrix:
    """a is right about everything in "code", b about everything in "poems", of 20 requests each."""
    rows = [
        {
            "request_id": f"r{number}",
            "prompt": f"prompt {number}",
            "workflow": "code" if number % 2 else "poems",
            "candidate": name,
            "quality": float((number % 2 == 1) == (name == "a")),
            "cost_usd": 0.5,
            "latency_ms": None if name == "b" else 100.0,
        }
        for number in range(requests)
        for name in ("a", "b")
    ]
    return build_matrix(validate(pd.DataFrame(rows), source="test", format="test").frame)


def test_each_is_best_where_it_beats_the_others() -> None:
    matrix = matrix_of()
    first, second = profiles(matrix, matrix.quality, np.arange(40))
    assert [one.workflow for one in first.best] == ["code"]
    assert [one.workflow for one in first.worst] == ["poems"]
    assert [one.workflow for one in second.best] == ["poems"]
    (code,) = first.best
    assert (code.quality, code.gap, code.n) == (1.0, 0.5, 20)
    assert 0.2 < code.low < 0.5 < code.high < 0.8, "twenty of twenty are no certainty"
    assert (first.judged, first.quality, first.cost_usd, first.latency_ms) == (40, 0.5, 0.5, 100.0)
    assert second.latency_ms is None


def test_of_a_handful_nothing_is_said() -> None:
    matrix = matrix_of(18)
    assert all(one.best == one.worst == () for one in profiles(matrix, matrix.quality, np.arange(18)))


def test_the_interval_is_that_of_the_paired_difference() -> None:
    """With two candidates, half the difference of a request's outcomes is each one's gap."""
    draw = np.random.default_rng(0)
    matrix = matrix_of(400)
    labels = (draw.random((400, 2)) < np.array([0.8, 0.5])).astype(np.float64)
    code = matrix.workflow == "code"
    half = (labels[code, 0] - labels[code, 1]) / 2
    found = next(one for one in profiles(matrix, labels, np.arange(400))[0].best if one.workflow == "code")
    error = half.std(ddof=1) / np.sqrt(len(half))
    assert found.gap == pytest.approx(half.mean())
    assert found.high - found.low == pytest.approx(2 * 1.97196 * error, rel=0.01), "t of 199 degrees of freedom"


@pytest.mark.parametrize("one_answer", [False, True])
def test_of_candidates_that_are_equally_good_hardly_anything_is_named(one_answer: bool) -> None:
    """Four candidates in ten workflows: without a correction, each log names a dozen of them as good or bad at something."""
    names = ("a", "b", "c", "d")
    rows = [
        {"request_id": f"r{i}", "prompt": f"p{i}", "workflow": f"w{i % 10}", "candidate": name, "quality": 1.0}
        for i in range(400)
        for name in names
    ]
    matrix, named = build_matrix(validate(pd.DataFrame(rows), source="test", format="test").frame), 0
    for seed in range(60):
        draw = np.random.default_rng(seed)
        labels = (draw.random((400, 4)) < 0.95).astype(np.float64)
        if one_answer:
            labels[np.arange(4) != draw.integers(4, size=400)[:, None]] = np.nan
        found = profiles(replace(matrix, attempted=np.isfinite(labels)), labels, np.arange(400))
        named += any(one.best or one.worst for one in found)
    assert named <= 6


def test_of_a_core_they_are_the_logs() -> None:
    """Each request of poems stands for three: as if it were there three times, but for how much is known."""
    matrix = replace(matrix_of(), workflow=np.full(40, None, dtype=object))
    matrix.cost_usd[::2] = 0.1
    weight = np.where(np.arange(40) % 2 == 0, 3.0, 1.0)
    core, _ = profiles(replace(matrix, weight=weight), matrix.quality, np.arange(40))
    often = np.repeat(np.arange(40), weight.astype(int))
    log, _ = profiles(matrix.take(often), matrix.quality[often], often)
    assert core.quality == pytest.approx(0.25)
    assert core.cost_usd == pytest.approx(0.2)
    assert (core.quality, core.cost_usd, core.latency_ms) == pytest.approx((log.quality, log.cost_usd, log.latency_ms))
    assert core.share_logged == log.share_logged == 1.0
    assert core.judged == 40
    assert core.worst[0].gap == pytest.approx(log.worst[0].gap)
    plain, _ = profiles(matrix, matrix.quality, np.arange(40))
    assert plain.quality == 0.5
