"""The core of a log: a fair and deterministic sample, and what is estimated on it is the log's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bundle.arrays import Bools, Columns, Floats
from training.config import Scale
from training.dataset.matrix import OutcomeMatrix
from training.dataset.sampling.core import Core, CoreError, core_of, even, id_hashes
from training.dataset.split import Split
from training.measure.propensity import fitting_weights, judged_share, observation_propensity

NAMES = ("small", "large", "new")
N = 20_000


Log = tuple[OutcomeMatrix, Floats, Split]


def matrix_of(n: int, seed: int = 0) -> Log:
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
        timestamp=np.datetime64("2026-01-01", "ns") + np.arange(n) * np.timedelta64(1, "s"),
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
    return matrix, matrix.quality, split


def scale(train: int, measured: int, floor: int = 100) -> Scale:
    return Scale(core_train=train, core_measured=measured, floor=floor, part_rows=1_000)


@pytest.fixture(scope="module")
def log() -> Log:
    return matrix_of(N)


def test_a_log_that_fits_is_its_own_core(log: Log) -> None:
    core = core_of(*log, scale(N, N), seed=0)
    assert core.kept.all()
    assert (core.weight == 1).all()
    assert core.sampled is None


def test_sizes_are_those_that_were_asked_for(log: Log) -> None:
    matrix, labels, split = log
    core = core_of(matrix, labels, split, scale(3_000, 1_000), seed=0)
    assert int(core.kept[split.train].sum()) == pytest.approx(3_000, rel=0.05)
    for part in (split.calibration, split.test):
        assert int(core.kept[part].sum()) == pytest.approx(1_000, rel=0.1)
        assert len(np.unique(core.weight[part & core.kept])) == 1
    assert core.sampled is not None
    assert core.sampled.kept == int(core.kept.sum())
    assert core.sampled.lowered == ()
    assert f"{core.sampled.kept:,} of {N:,} requests" in core.sampled.said()


def test_what_is_rare_is_kept(log: Log) -> None:
    matrix, labels, split = log
    core = core_of(matrix, labels, split, scale(1_500, 1_000), seed=0)
    rare = split.train & ((matrix.workflow == "rare") | np.isfinite(labels[:, 2]))
    assert rare.sum() > 20
    assert core.kept[rare].all()


def test_the_core_is_the_same_however_rows_are_ordered(log: Log) -> None:
    matrix, labels, split = log
    order = np.random.default_rng(1).permutation(N)
    masks = {name: getattr(split, name)[order] for name in ("train", "calibration", "test", "dropped")}
    asked = scale(3_000, 1_000)
    core = core_of(matrix, labels, split, asked, seed=0)
    again = core_of(matrix.take(order), labels[order], replace(split, **masks), asked, seed=0)
    np.testing.assert_array_equal(again.kept, core.kept[order])
    np.testing.assert_allclose(again.weight, core.weight[order])
    other = core_of(matrix, labels, split, asked, seed=1)
    assert (other.kept != core.kept).any()


@settings(max_examples=10)
@given(st.integers(100, 6_000), st.integers(100, 6_000))
def test_a_larger_core_holds_the_smaller(one: int, other: int) -> None:
    log = matrix_of(4_000, seed=2)
    small, large = (core_of(*log, scale(size, 500, 1), seed=0).kept for size in sorted((one, other)))
    assert (large | ~small).all()


def test_what_was_bought_stays(log: Log) -> None:
    matrix, labels, split = log
    draw = np.random.default_rng(3)
    certify, learn = (np.zeros((N, 3), dtype=np.bool_) for _ in range(2))
    certify[draw.permutation(N)[:300], 0] = True
    learn[np.flatnonzero(split.train)[:50], 1] = True
    bought = replace(matrix, certifying=certify, learning=learn)
    core = core_of(bought, labels, split, scale(3_000, 1_000), seed=0)
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


def test_a_weighted_core_estimates_the_whole_log(log: Log) -> None:
    """And without the weights, by which floors are made up for, it does not."""
    matrix, labels, split = log
    mean, chances = estimated(matrix.take(split.train), labels[split.train])
    found, bent = [], []
    for seed in range(12):
        core = core_of(matrix, labels, split, scale(1_200, 1_000, 120), seed)
        rows = core.kept & split.train
        found.append(estimated(replace(matrix.take(rows), weight=core.weight[rows]), labels[rows]))
        bent.append(estimated(matrix.take(rows), labels[rows])[0])
    means, cores = (np.array(each) for each in zip(*found, strict=True))
    np.testing.assert_allclose(means.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(cores.mean(axis=0), chances, atol=0.03)
    assert abs(np.array(bent).mean(axis=0)[0] - mean[0]) > 0.04


def test_an_unweighted_core_does_not(log: Log) -> None:
    """The floors bend the sample: without weights the share of the new candidate is far off."""
    matrix, labels, split = log
    core = core_of(matrix, labels, split, scale(1_000, 1_000), seed=0)
    rows = core.kept & split.train
    share = matrix.attempted[split.train][:, 2].mean()
    bent = matrix.attempted[rows][:, 2].mean()
    righted = np.average(matrix.attempted[rows][:, 2], weights=core.weight[rows])
    assert bent > 3 * share
    assert righted == pytest.approx(share, rel=0.15)


def log_of(workflow: Columns, part: Columns, tried: Columns | None = None, bought: Bools | None = None) -> Log:
    """A log of two candidates by each request's workflow and part (0 training, 1 calibration, 2 test). The first has all
    answers, and both have one where `tried` is 2."""
    n = len(workflow)
    matrix, _, split = matrix_of(n)
    attempted = np.column_stack(
        [np.ones(n, dtype=np.bool_), np.zeros(n, dtype=np.bool_) if tried is None else tried == 2]
    )
    nothing = np.full((n, 2), np.nan)
    names = ("cost_usd", "input_tokens", "output_tokens", "latency_ms", "propensity", "weak_quality", "weak_source")
    cells: dict[str, Any] = dict.fromkeys(names, nothing)
    learning = np.zeros((n, 2), dtype=np.bool_)
    learning[:, 0] = False if bought is None else bought
    matrix = replace(
        matrix.first(2),
        workflow=np.array([f"w{name}" for name in workflow], dtype=object),
        quality=np.where(attempted, 1.0, np.nan),
        attempted=attempted,
        learning=learning,
        **cells,
    )
    masks = (np.asarray(part) == 0, np.asarray(part) == 1, np.asarray(part) == 2)
    return matrix, matrix.quality, replace(split, train=masks[0], calibration=masks[1], test=masks[2])


def within(core: Core, split: Split, asked: Scale) -> None:
    """Each part has as many as were asked for, give or take five of their square root, and never none."""
    for part, most in (
        (split.train, asked.core_train),
        (split.calibration, asked.core_measured),
        (split.test, asked.core_measured),
    ):
        wanted = min(most, int(part.sum()))
        assert abs(int(core.kept[part].sum()) - wanted) <= 5 * wanted**0.5
        assert core.weight[part].sum() == pytest.approx(part.sum(), rel=0.2)


MANY = 30_000
TURN = np.arange(MANY) % 40
SHAPES = {
    "rare turns of long conversations": np.where((TURN % 8 == 7) & (np.arange(MANY) // 40 % 4 == 0), 1 + TURN // 8, 0),
    "each request its own": np.arange(MANY),
    "workflows of three": np.arange(MANY) // 3,
    "one": np.zeros(MANY, dtype=np.intp),
    "half of few": np.where(np.arange(MANY) % 2 == 0, np.arange(MANY) % 700, 0),
}


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("floor", [20, 1_000])
def test_no_workflows_make_a_core_larger_than_was_asked_for(shape: str, floor: int) -> None:
    part = np.random.default_rng(0).choice(3, MANY, p=[0.6, 0.2, 0.2])
    matrix, labels, split = log_of(SHAPES[shape], part)
    asked = scale(2_000, 500, floor)
    core = core_of(matrix, labels, split, asked, seed=0)
    within(core, split, asked)
    assert core.sampled is not None
    names = len(set(SHAPES[shape]))
    assert core.sampled.floor <= floor
    assert (core.sampled.floor < 1) is (names > 2_000)
    assert any("lowered from" in told for told in core.sampled.lowered) is (core.sampled.floor < floor)


def test_what_is_bought_counts_in_what_is_asked_for() -> None:
    """A tenth of training stays as a whole; what alone is more than there is room for is thinned, which is said."""
    part = np.random.default_rng(0).choice(3, MANY, p=[0.6, 0.2, 0.2])
    for share, whole in ((0.05, True), (0.4, False)):
        bought = np.random.default_rng(1).random(MANY) < share
        matrix, labels, split = log_of(np.arange(MANY) % 50, part, bought=bought)
        asked = scale(2_000, 500, 1_000)
        core = core_of(matrix, labels, split, asked, seed=0)
        within(core, split, asked)
        assert core.sampled is not None
        assert bool(core.kept[bought & split.train].all()) is whole
        told = f"of {int((bought & split.train).sum()):,} requests of the training part that something was bought for"
        assert any(told in each for each in core.sampled.lowered) is not whole


def test_a_floor_holds_for_a_workflow_of_few_conversations_in_every_draw() -> None:
    workflow = np.where(np.arange(MANY) < 8_000, 1, 0)
    matrix, labels, split = log_of(workflow, np.where(np.arange(MANY) < 28_000, 0, 1 + np.arange(MANY) % 2))
    for seed in range(30):
        core = core_of(matrix, labels, split, scale(5_000, 500, 1_000), seed)
        assert (core.kept & (workflow == 1)).sum() > 1_000 - 5 * 1_000**0.5


@pytest.mark.parametrize(("share", "all_kept"), [(0.01, True), (0.5, False), (1.0, False)])
def test_what_all_candidates_were_tried_on_comes_first_where_it_is_measured_on(share: float, all_kept: bool) -> None:
    draw = np.random.default_rng(0)
    part, tried = draw.choice(3, MANY, p=[0.6, 0.2, 0.2]), np.where(draw.random(MANY) < share, 2, 1)
    matrix, labels, split = log_of(np.zeros(MANY, dtype=np.intp), part, tried)
    asked = scale(2_000, 500, 20)
    core = core_of(matrix, labels, split, asked, seed=0)
    within(core, split, asked)
    complete = tried == 2
    for measured in (split.calibration, split.test):
        assert bool(core.kept[measured & complete].all()) is all_kept
        others = measured & ~complete
        if others.any():
            weights = core.weight[core.kept & others]
            assert len(weights) >= 125 - 4 * 125**0.5  # a quarter is left for them
            assert weights.sum() == pytest.approx(others.sum(), rel=0.25)
    if all_kept:
        assert (core.weight[(split.calibration | split.test) & complete] == 1).all()
        # In training as many as of ten workflows.
        assert core.kept[split.train & complete].sum() == pytest.approx(
            min(200, (split.train & complete).sum()), abs=75
        )


def test_nobody_is_in_the_core_for_the_names_of_their_requests(log: Log) -> None:
    """Names that would all be drawn, if the log's other requests had no say in it."""
    matrix, labels, split = log
    names = np.array([f"chosen {number}" for number in range(40 * N)], dtype=object)
    unsalted = pd.util.hash_array(id_hashes(names)) >> np.uint64(11)
    chosen = names[unsalted * 2.0**-53 < 0.02][: N // 10]
    mine = np.zeros(N, dtype=np.bool_)
    mine[np.random.default_rng(0).choice(N, len(chosen), replace=False)] = True
    ids = matrix.request_id.copy()
    ids[mine] = chosen
    core = core_of(replace(matrix, request_id=ids), labels, split, scale(1_500, 500), seed=0)
    share = core.weight[mine].sum() / core.weight.sum()
    assert share == pytest.approx(mine.mean(), abs=0.04)


def test_a_log_that_has_grown_is_drawn_from_alike(log: Log) -> None:
    matrix, labels, split = log
    whole = core_of(matrix, labels, split, scale(3_000, 1_000), seed=0)
    order = np.argsort(matrix.timestamp, kind="stable")
    later = np.sort(order[100:])  # without those that made the salt
    masks = {name: getattr(split, name)[later] for name in ("train", "calibration", "test", "dropped")}
    part, asked = replace(split, **masks), scale(3_000, 1_000)
    known = core_of(matrix.take(later), labels[later], part, asked, seed=0, salt=whole.salt)
    assert known.salt == whole.salt != core_of(matrix.take(later), labels[later], part, asked, seed=0).salt
    assert (known.kept == whole.kept[later]).mean() > 0.98


def test_what_may_be_wanted_later_is_bounded_too() -> None:
    draw = np.random.default_rng(0)
    part, tried = draw.choice(3, MANY, p=[0.6, 0.2, 0.2]), np.where(draw.random(MANY) < 0.5, 2, 1)
    matrix, labels, split = log_of(np.where(part == 2, np.arange(MANY), 0), part, tried)
    methods: tuple[Literal["time", "random"], ...] = ("time", "random")
    for method in methods:
        core = core_of(matrix, labels, replace(split, method=method), scale(2_000, 500, 1_000), seed=0)
        assert (core.near | ~core.kept).all()
        assert core.near.sum() <= 2 * 3_000 + 5 * 6_000**0.5


def test_a_part_of_which_nothing_is_at_hand_is_an_error(log: Log) -> None:
    matrix, labels, split = log
    for asked in (scale(3_000, 1_000), scale(N, N)):
        with pytest.raises(CoreError, match=r"requests of the calibration part none .* router-train run --data OLD"):
            core_of(matrix, labels, split, asked, seed=0, at_hand=~split.calibration)


def test_a_fair_sample_of_what_is_measured_on_can_be_drawn_of_it() -> None:
    draw = np.random.default_rng(0)
    part, tried = draw.choice(3, MANY, p=[0.0, 0.6, 0.4]), np.where(draw.random(MANY) < 0.02, 2, 1)
    matrix, labels, split = log_of(np.zeros(MANY, dtype=np.intp), part, tried)
    core = core_of(matrix, labels, split, scale(2_000, 4_000, 20), seed=0)
    held = replace(matrix.take(core.kept), weight=core.weight[core.kept])
    fair = even(held)
    complete = (tried == 2)[core.kept]
    assert complete.mean() > 0.05
    assert complete[fair].mean() == pytest.approx(0.02, abs=0.01)
    assert fair[~complete].mean() > 0.5
    bought = held.certifying.copy()
    bought[complete, 0] = True
    assert even(replace(held, certifying=bought))[complete].all()


def test_what_a_grown_log_asks_for_was_near_before() -> None:
    draw = np.random.default_rng(0)
    tried, workflow = np.where(draw.random(MANY) < 0.02, 2, 1), draw.choice(30, MANY, p=[0.42, *[0.02] * 29])

    def core_by_time(n: int) -> Core:
        matrix, labels, split = log_of(
            workflow[:n], np.searchsorted([0.6 * n, 0.8 * n], np.arange(n), "right"), tried[:n]
        )
        return core_of(matrix, labels, replace(split, method="time"), scale(6_000, 2_000, 50), seed=0)

    before, after = core_by_time(26_000), core_by_time(MANY)
    assert (before.kept != after.kept[:26_000]).any()
    assert (before.near | ~after.kept[:26_000]).all()
