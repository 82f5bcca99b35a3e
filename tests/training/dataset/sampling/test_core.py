"""The core of a log: a fair and deterministic sample, and what is estimated on it is the log's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bundle.arrays import Columns, Floats
from training.config import Scale
from training.dataset.matrix import OutcomeMatrix
from training.dataset.sampling.core import core_of
from training.dataset.split import Split
from training.measure.propensity import fitting_weights, judged_share, observation_propensity

NAMES = ("small", "large", "new")
N = 20_000


def matrix_of(n: int, seed: int = 0) -> tuple[OutcomeMatrix, Floats, Columns, Split]:
    """A log in which one candidate is chosen by workflow, "rare" is a workflow of 30 requests, and "new" has 40 answers."""
    draw = np.random.default_rng(seed)
    workflow = draw.choice(["chat", "code"], n, p=[0.98, 0.02]).astype(object)
    workflow[draw.permutation(n)[:30]] = "rare"
    chance = np.where((workflow == "code")[:, None], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0])
    chosen = (draw.random(n) > chance[:, 0]).astype(np.intp)
    chosen[draw.permutation(n)[:40]] = 2
    attempted = np.eye(3, dtype=np.bool_)[chosen]
    good = draw.random((n, 3)) < np.where((workflow == "code")[:, None], [0.05, 0.9, 0.5], [0.9, 0.9, 0.5])
    judged = attempted & (draw.random((n, 3)) < [0.5, 0.8, 1.0])
    nothing = np.full((n, 3), np.nan)
    objects = np.full(n, None)
    matrix = OutcomeMatrix(
        candidates=NAMES,
        request_id=np.array([f"r{seed}-{number}" for number in range(n)], dtype=object),
        requests=objects,
        texts=objects,
        workflow=workflow,
        session_id=objects,
        timestamp=np.full(n, np.datetime64("NaT"), dtype="datetime64[ns]"),
        given_split=objects,
        quality=np.where(judged, good.astype(float), np.nan),
        cost_usd=nothing,
        input_tokens=nothing,
        output_tokens=nothing,
        latency_ms=nothing,
        propensity=nothing,
        weak_quality=nothing,
        weak_source=nothing,
        attempted=attempted,
        error=np.zeros((n, 3), dtype=np.bool_),
        chained=np.zeros((n, 3), dtype=np.bool_),
        certifying=np.zeros((n, 3), dtype=np.bool_),
        learning=np.zeros((n, 3), dtype=np.bool_),
        weight=np.ones(n),
    )
    groups = np.sort(draw.integers(0, n // 2, n))
    part = draw.choice(3, n // 2 + 1, p=[0.6, 0.2, 0.2])[groups]
    split = Split(part == 0, part == 1, part == 2, np.zeros(n, dtype=np.bool_), "random", "")
    return matrix, matrix.quality, groups, split


def scale(train: int, measured: int, floor: int = 100) -> Scale:
    return Scale(core_train=train, core_measured=measured, floor=floor, part_rows=1_000)


@pytest.fixture(scope="module")
def log() -> tuple[OutcomeMatrix, Floats, Columns, Split]:
    return matrix_of(N)


def test_a_log_that_fits_is_its_own_core(log: tuple[OutcomeMatrix, Floats, Columns, Split]) -> None:
    core = core_of(*log, scale(N, N), seed=0)
    assert core.kept.all()
    assert (core.weight == 1).all()
    assert core.sampled is None


def test_groups_stay_whole_and_sizes_are_those_that_were_asked_for(
    log: tuple[OutcomeMatrix, Floats, Columns, Split],
) -> None:
    matrix, labels, groups, split = log
    core = core_of(matrix, labels, groups, split, scale(3_000, 1_000), seed=0)
    kept = pd.Series(core.kept).groupby(groups)
    assert (kept.all() == kept.any()).all()
    assert int(core.kept[split.train].sum()) == pytest.approx(3_000, rel=0.1)
    for part in (split.calibration, split.test):
        assert int(core.kept[part].sum()) == pytest.approx(1_000, rel=0.1)
        assert len(np.unique(core.weight[part & core.kept])) == 1
    assert core.sampled is not None
    assert core.sampled.kept == int(core.kept.sum())
    assert f"{core.sampled.kept:,} of {N:,} requests" in core.sampled.said()


def test_what_is_rare_is_kept(log: tuple[OutcomeMatrix, Floats, Columns, Split]) -> None:
    matrix, labels, groups, split = log
    core = core_of(matrix, labels, groups, split, scale(1_500, 1_000), seed=0)
    rare = split.train & ((matrix.workflow == "rare") | np.isfinite(labels[:, 2]))
    assert rare.sum() > 20
    assert core.kept[rare].all()


def test_the_core_depends_on_ids_alone(log: tuple[OutcomeMatrix, Floats, Columns, Split]) -> None:
    matrix, labels, groups, split = log
    order = np.random.default_rng(1).permutation(N)
    masks = {name: getattr(split, name)[order] for name in ("train", "calibration", "test", "dropped")}
    asked = scale(3_000, 1_000)
    core = core_of(matrix, labels, groups, split, asked, seed=0)
    again = core_of(matrix.take(order), labels[order], groups[order], replace(split, **masks), asked, seed=0)
    np.testing.assert_array_equal(again.kept, core.kept[order])
    np.testing.assert_allclose(again.weight, core.weight[order])
    other = core_of(matrix, labels, groups, split, asked, seed=1)
    assert (other.kept != core.kept).any()


@settings(max_examples=10)
@given(st.integers(100, 6_000), st.integers(100, 6_000))
def test_a_larger_core_holds_the_smaller(one: int, other: int) -> None:
    log = matrix_of(4_000, seed=2)
    small, large = (core_of(*log, scale(size, 500, 1), seed=0).kept for size in sorted((one, other)))
    assert (large | ~small).all()


def test_what_was_bought_stays(log: tuple[OutcomeMatrix, Floats, Columns, Split]) -> None:
    matrix, labels, groups, split = log
    draw = np.random.default_rng(3)
    certify, learn = (np.zeros((N, 3), dtype=np.bool_) for _ in range(2))
    certify[draw.permutation(N)[:300], 0] = True
    learn[np.flatnonzero(split.train)[:50], 1] = True
    bought = replace(matrix, certifying=certify, learning=learn)
    core = core_of(bought, labels, groups, split, scale(3_000, 1_000), seed=0)
    assert core.kept[(certify | learn).any(axis=1)].all()


def estimated(matrix: OutcomeMatrix, labels: Floats) -> tuple[Floats, Floats]:
    features = np.stack([matrix.workflow == name for name in ("chat", "code", "rare")], axis=1).astype(np.float64)
    known = matrix.attempted, matrix.error, labels
    folds: Callable[[], Columns] = lambda: np.arange(len(matrix)) % 3  # noqa: E731
    found, _ = observation_propensity(
        matrix.attempted, matrix.error, matrix.propensity, labels, features, folds, matrix.weight
    )
    share = judged_share(*known, matrix.weight)
    weights = np.where(np.isfinite(labels), fitting_weights(found, share, 100.0, matrix.weight), 0.0)
    mean = (weights * np.nan_to_num(labels)).sum(axis=0) / weights.sum(axis=0)
    tried = found / share
    by_workflow = [np.nanmean(tried[matrix.workflow == name][:, :2], axis=0) for name in ("chat", "code")]
    return mean[:2], np.concatenate([*by_workflow, np.nanmean(share, axis=0)])


def test_a_weighted_core_estimates_the_whole_log(log: tuple[OutcomeMatrix, Floats, Columns, Split]) -> None:
    """And without the weights, by which floors are made up for, it does not."""
    matrix, labels, groups, split = log
    mean, chances = estimated(matrix.take(split.train), labels[split.train])
    found, bent = [], []
    for seed in range(12):
        core = core_of(matrix, labels, groups, split, scale(600, 1_000, 50), seed)
        rows = core.kept & split.train
        found.append(estimated(replace(matrix.take(rows), weight=core.weight[rows]), labels[rows]))
        bent.append(estimated(matrix.take(rows), labels[rows])[0])
    means, cores = (np.array(each) for each in zip(*found, strict=True))
    np.testing.assert_allclose(means.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(cores.mean(axis=0), chances, atol=0.03)
    assert abs(np.array(bent).mean(axis=0)[0] - mean[0]) > 0.04


def test_an_unweighted_core_does_not(log: tuple[OutcomeMatrix, Floats, Columns, Split]) -> None:
    """The floors bend the sample: without weights the share of the new candidate is far off."""
    matrix, labels, groups, split = log
    core = core_of(matrix, labels, groups, split, scale(1_000, 1_000), seed=0)
    rows = core.kept & split.train
    share = matrix.attempted[split.train][:, 2].mean()
    bent = matrix.attempted[rows][:, 2].mean()
    righted = np.average(matrix.attempted[rows][:, 2], weights=core.weight[rows])
    assert bent > 3 * share
    assert righted == pytest.approx(share, rel=0.15)


def test_what_comes_later_to_a_conversation_leaves_it_where_it_was(
    log: tuple[OutcomeMatrix, Floats, Columns, Split],
) -> None:
    matrix, labels, groups, split = log
    dated = replace(matrix, timestamp=np.datetime64("2026-01-01", "ns") + np.arange(N) * np.timedelta64(1, "s"))
    asked = scale(3_000, 1_000, 1)
    once = core_of(dated, labels, groups, split, asked, seed=0)
    # The same conversations, an hour after the last of all requests go on for one more turn each.
    later = replace(
        dated,
        request_id=np.array([f"later-{number}" for number in range(N)], dtype=object),
        timestamp=dated.timestamp + np.timedelta64(1, "D"),
    )
    both = {name: np.concatenate([getattr(dated, name), getattr(later, name)]) for name in ("request_id", "timestamp")}
    twice = replace(dated.take(np.tile(np.arange(N), 2)), **both)
    masks = {name: np.tile(getattr(split, name), 2) for name in ("train", "calibration", "test", "dropped")}
    grown = core_of(
        twice, np.tile(labels, (2, 1)), np.tile(groups, 2), replace(split, **masks), scale(6_000, 2_000, 1), seed=0
    )
    assert 3_000 < once.kept.sum() < N
    # Twice as many of twice as many: the same share, and so the same conversations but for where the threshold lies.
    assert (grown.kept[:N] != once.kept).mean() < 0.005
    assert np.array_equal(grown.kept[:N], grown.kept[N:])
    without = core_of(replace(dated, timestamp=dated.timestamp[::-1]), labels, groups, split, asked, seed=0)
    assert (without.kept != once.kept).mean() > 0.05, "another request is the earliest"
