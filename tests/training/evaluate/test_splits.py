"""The three splits: nothing straddles, a left-out workflow is never trained on, and too little is refused in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serving.bundle.arrays import Columns, Floats
from tests.conftest import ROOT
from training.config import ConfigError, Params, load_params
from training.dataset.inputs import Inputs
from training.dataset.split import SplitError
from training.evaluate import splits
from training.evaluate.evaluation import Evaluation, SplitLine
from training.learn.encode import encode
from training.learn.estimators.tables import WorkflowTable
from training.learn.prepare import Prepared, prepare
from training.logs.validate import validate
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation.simulate import simulate

NAMES = [splits.RANDOM, splits.TIME, splits.WORKFLOWS]


@pytest.fixture(scope="module")
def params() -> Params:
    usual = load_params()
    return replace(usual, evaluate=replace(usual.evaluate, resamples=60))


@pytest.fixture(scope="module")
def log(params: Params) -> tuple[Prepared, Inputs]:
    """About 1,500 simulated requests, a fifth of them tried on every candidate."""
    catalogue = load_catalogue(SHIPPED)
    made = simulate([catalogue[name] for name in params.simulate.candidates], requests=1500, seed=3)
    prepared = prepare(validate(made.outcomes, source="simulated", format="simulated").frame, params, catalogue)
    return prepared, encode(prepared, params, ROOT / ".cache")[0]


@pytest.fixture(scope="module")
def lines(log: tuple[Prepared, Inputs], params: Params) -> tuple[SplitLine, ...]:
    return splits.split_figures(*log, params)


def with_matrix(prepared: Prepared, **changed: Any) -> Prepared:
    return replace(prepared, matrix=replace(prepared.matrix, **changed))


def test_no_group_straddles_training_and_test(log: tuple[Prepared, Inputs], params: Params) -> None:
    prepared, _ = log
    draws = [splits.by_prompt(prepared, 0), splits.by_time(prepared, params)]
    for drawn in [*draws, *splits.without_workflows(prepared, 0, 4)]:
        part = drawn.split
        assert part.train.any()
        assert part.test.any()
        assert (part.train.astype(int) + part.calibration + part.test == 1).all()
        assert not set(prepared.groups[part.train]) & set(prepared.groups[part.test])


def test_a_left_out_workflow_is_never_trained_on_and_each_is_left_out_once(log: tuple[Prepared, Inputs]) -> None:
    prepared, _ = log
    times = np.zeros(len(prepared.matrix), dtype=int)
    for drawn in splits.without_workflows(prepared, 0, 4):
        workflow = prepared.matrix.workflow
        assert not set(workflow[drawn.split.train]) & set(workflow[drawn.split.test])
        times += drawn.split.test
    assert (times == 1).all()
    assert len(splits.without_workflows(prepared, 0, 100)) == len(set(prepared.matrix.workflow))


def test_by_time_the_newest_are_tested(log: tuple[Prepared, Inputs], params: Params) -> None:
    prepared, _ = log
    part, stamps = splits.by_time(prepared, params).split, prepared.matrix.timestamp
    assert part.method == "time"
    middle = [np.sort(stamps[rows])[rows.sum() // 2] for rows in (part.train, part.calibration, part.test)]
    assert middle == sorted(middle)
    assert middle[0] < middle[2]


def test_a_workflow_that_training_lacks_is_estimated_without_its_tag() -> None:
    """By hand: training knows workflow 0 alone (always acceptable) and an untagged failure; a test request is of 1."""
    train = Inputs(np.zeros((2, 1), np.float32), np.array([[1, 0], [0, 0]], np.float32), 0, np.ones(2))
    test = Inputs(np.zeros((2, 1), np.float32), np.array([[1, 0], [0, 1]], np.float32), 0, np.ones(2))
    target, weights = np.array([[1.0], [0.0]]), np.ones((2, 1))
    estimate = splits._estimate({"table": lambda: WorkflowTable(1.0)}, train, target, weights, test)
    assert estimate[1, 0] == pytest.approx(0.5)
    assert estimate[0, 0] == pytest.approx(0.75)  # one success and one pseudo-outcome at the mean


def test_every_split_has_its_figures(log: tuple[Prepared, Inputs], lines: tuple[SplitLine, ...]) -> None:
    prepared, _ = log
    assert [line.name for line in lines] == NAMES
    complete = int(prepared.matrix.complete().sum())
    for line in lines:
        assert line.why_not is None
        assert line.estimators == ("workflow-table", "table+low-rank", "hierarchical-ridge")
        assert 0.5 < line.zero_router < 1
        assert 0.5 < line.aiq < 1
        assert line.lead[0] < line.lead[1]
        assert line.lead[0] - 0.05 < line.aiq - line.workflow_table < line.lead[1] + 0.05
    assert lines[0].requests < complete / 2
    assert (lines[2].requests, lines[2].parts) == (complete, splits.PARTS)
    assert lines[2].workflows == len(set(prepared.matrix.workflow[prepared.matrix.complete()]) - {None})
    assert lines[2].workflow_table < lines[0].workflow_table, "a table knows nothing of workflows it never saw"


def test_the_same_log_gives_the_same_figures(
    log: tuple[Prepared, Inputs], lines: tuple[SplitLine, ...], params: Params
) -> None:
    assert splits.split_figures(*log, params) == lines


def test_figures_are_in_the_summary_by_name(lines: tuple[SplitLine, ...]) -> None:
    summary = Evaluation(10, 0, splits=(lines[0], replace(lines[1], why_not="too few"))).summary()
    assert summary["split_random_by_prompt_aiq"] == lines[0].aiq
    assert summary["split_random_by_prompt_lead_low"] == lines[0].lead[0]
    assert not [name for name in summary if "by_time" in name]


def test_without_every_timestamp_there_are_no_figures_by_time(log: tuple[Prepared, Inputs], params: Params) -> None:
    prepared, inputs = log
    stamps = prepared.matrix.timestamp.copy()
    stamps[7] = np.datetime64("NaT")
    found = splits.split_figures(with_matrix(prepared, timestamp=stamps), inputs, params)
    assert "1 of 1500 requests have none" in (found[1].why_not or "")
    assert np.isnan(found[1].aiq)
    assert found[0].why_not is None
    stamps[:] = stamps[0]
    with pytest.raises(SplitError, match="all 1500 requests have the same one"):
        splits.by_time(with_matrix(prepared, timestamp=stamps), params)


def test_one_workflow_cannot_be_left_out(log: tuple[Prepared, Inputs], params: Params) -> None:
    prepared, inputs = log
    one = np.array([None if name is None else "only" for name in prepared.matrix.workflow], dtype=object)
    found = splits.split_figures(with_matrix(prepared, workflow=one), inputs, params)
    assert found[2].why_not == "the log names 1 workflow; leaving one out takes at least 2"


def test_too_few_complete_requests_are_refused_without_training(
    log: tuple[Prepared, Inputs], params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, inputs = log
    quality = prepared.matrix.quality.copy()
    quality[np.flatnonzero(prepared.matrix.complete())[20:], 0] = np.nan
    monkeypatch.setattr(splits, "_relearned", lambda *_: pytest.fail("there was nothing to measure on"))
    found = splits.split_figures(with_matrix(prepared, quality=quality), inputs, params)
    assert [line.name for line in found] == NAMES
    assert found[2].why_not == "20 test requests have a judged, costed outcome of every candidate; 30 are needed"
    assert all(line.why_not and line.summary() == {} for line in found)


def test_a_candidate_that_one_workflow_alone_knows_is_named(log: tuple[Prepared, Inputs], params: Params) -> None:
    prepared, inputs = log
    labels = prepared.labels.copy()
    labels[prepared.matrix.workflow != "maths", 0] = np.nan
    found = splits.split_figures(replace(prepared, labels=labels), inputs, params)
    assert prepared.matrix.candidates[0] in (found[2].why_not or "")


def test_estimators_that_do_not_exist_are_named(params: Params) -> None:
    for names, message in (((), "is empty"), (("oracle",), "'oracle' is no estimator")):
        wrong = replace(params, evaluate=replace(params.evaluate, split_estimators=names))
        with pytest.raises(ConfigError, match=message):
            splits.quick_estimators(wrong, np.ones(2))


def test_requests_that_stand_for_several_count_as_often() -> None:
    draw = np.random.default_rng(0)
    estimate, quality = draw.random((40, 2)), draw.integers(0, 2, (40, 2)) * 1.0
    cost, standing = draw.random((40, 2)) + np.array([0.0, 1.0]), draw.integers(1, 5, 40) * 1.0

    def tested(rows: Columns, counts: Floats | None) -> splits.Tested:
        workflow = np.full(len(rows), None, dtype=object)
        return splits.Tested(
            quality=quality[rows],
            cost_usd=cost[rows],
            groups=rows,
            workflow=workflow,
            standing=counts,
            knobs=np.array([0.0, 0.2, 0.5, 9.0]),
            expected_cost=cost[rows],
        )

    core, log = tested(np.arange(40), standing), tested(np.repeat(np.arange(40), standing.astype(int)), None)
    assert core.aiq(estimate) == pytest.approx(log.aiq(estimate[log.groups]))
    assert core.alone.zero_router == pytest.approx(log.alone.zero_router)
