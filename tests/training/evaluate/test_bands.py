"""The sweep with its bands: what it rests on, and that it says what the choices came to."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from serving.bundle.arrays import Columns, Floats
from serving.bundle.manifest import Objective, open_bundle
from serving.decide.decision import Estimates
from serving.decide.router import Router
from serving.decide.value import choose, knob_for
from tests import fake_bundle
from tests.fake_frontier import log_with_dates
from training.dataset.matrix import build_matrix
from training.evaluate.bands import Mark, Outcomes, Tradeoff, enough_complete, guarded_knobs, places, repeats, tradeoff
from training.evaluate.evaluation import Evaluation
from training.evaluate.served import evaluate_bundle
from training.logs.outcomes import Outcomes as Log
from training.logs.validate import validate
from training.publish.promote import set_point


def evaluated(folder: Path, log: Log) -> Evaluation:
    return evaluate_bundle(open_bundle(folder), log, {}, assumed_output_tokens=100.0, resamples=200, seed=0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("bands"), frontier=True)


@pytest.fixture(scope="module")
def complete(bundle: Path) -> Evaluation:
    return evaluated(bundle, log_with_dates(1))


def contained(mark: Mark) -> bool:
    return (
        mark.cost_low <= mark.cost_usd <= mark.cost_high
        and mark.quality_low <= mark.quality <= mark.quality_high
        and mark.saving_low <= mark.saving <= mark.saving_high
    )


def test_a_mark_is_what_its_choices_came_to(bundle: Path, complete: Evaluation) -> None:
    router = Router(open_bundle(bundle))
    matrix = build_matrix(log_with_dates(1).frame, router.candidates)
    expected = router.estimate(list(matrix.requests))
    rows, found = np.arange(len(matrix)), complete.tradeoff
    assert (found.basis, found.requests, found.effective_requests) == ("complete", len(matrix), len(matrix))
    assert [mark.knob for mark in found.sweep] == list(router.manifest.knobs)
    reference = router.candidates.index(router.manifest.reference)
    for mark in found.sweep:
        value = expected.of(Objective.ACCEPTABLE).astype(np.float64)
        columns = choose(value, expected.cost_usd.astype(np.float64), mark.knob)
        assert mark.quality == pytest.approx(matrix.quality[rows, columns].mean())
        assert mark.cost_usd == pytest.approx(matrix.cost_usd[rows, columns].mean())
        base = matrix.cost_usd[:, reference].mean()
        assert mark.saving == pytest.approx(1 - matrix.cost_usd[rows, columns].mean() / base)
        failed = (matrix.quality[rows, columns] == 0) & (matrix.quality[:, reference] == 1)
        assert mark.violation_rate == pytest.approx(failed.mean())
        assert sum(mark.shares.values()) == pytest.approx(1.0)


def test_bands_contain_what_they_are_about(complete: Evaluation) -> None:
    found = complete.tradeoff
    marks = [*found.sweep, *found.guarded, *found.singles.values(), *found.points.values()]
    assert len(marks) > 50
    assert all(contained(mark) for mark in marks)
    assert any(mark.quality_low < mark.quality < mark.quality_high for mark in marks)


def test_the_guarded_sweep_begins_at_the_reference_and_passes_each_point(complete: Evaluation) -> None:
    first = complete.tradeoff.guarded[0]
    assert (first.knob, first.violation_rate, first.saving) == (0.0, 0.0, 0.0)
    point = complete.tradeoff.points["quality-0.9"]
    on = next(mark for mark in complete.tradeoff.guarded if mark.knob == point.knob)
    assert (on.cost_usd, on.quality) == pytest.approx((point.cost_usd, point.quality))


def test_the_default_point_is_what_the_table_says_of_the_router(complete: Evaluation) -> None:
    line, mark = complete.line(), complete.tradeoff.points["quality-0.9"]
    assert (mark.quality, mark.cost_usd, mark.saving) == pytest.approx((line.quality, line.cost_usd, line.saving))


def test_one_answer_a_request_gives_a_doubly_robust_frontier(bundle: Path, complete: Evaluation) -> None:
    """The log whose every outcome is known says whether the bands of the one with a third of them hold."""
    found = evaluated(bundle, log_with_dates(2, 900, everybody=False)).tradeoff
    assert found.basis == "doubly robust"
    assert 30 < found.effective_requests < found.requests == 900
    truth = complete.tradeoff.singles
    for name, mark in found.singles.items():
        assert contained(mark)
        assert abs(mark.quality - truth[name].quality) < 0.1
        assert mark.violation_rate is None
    assert len(found.sweep) > 10


def test_workflows_of_one_answer_a_request_are_near_the_truth(bundle: Path) -> None:
    everything = {line.workflow: line for line in evaluated(bundle, log_with_dates(4, 1800)).workflows}
    some = evaluated(bundle, log_with_dates(5, 1800, everybody=False)).workflows
    assert {line.workflow for line in some} == {"easy", "hard", "(none)"}
    for line in some:
        truth = everything[line.workflow]
        assert line.requests == truth.requests
        assert line.quality == pytest.approx(truth.quality, abs=0.1)
        assert line.reference_quality == pytest.approx(truth.reference_quality, abs=0.1)
        assert line.cost_usd == pytest.approx(truth.cost_usd, rel=0.15)
        assert line.reference_cost_usd == pytest.approx(truth.reference_cost_usd, rel=0.15)


def test_what_the_log_cannot_bear_is_not_told(bundle: Path) -> None:
    found = evaluated(bundle, log_with_dates(3, 40, everybody=False)).tradeoff
    assert (found.basis, found.sweep, found.points) == (None, (), {})
    assert found.why_not is not None
    assert "effective sample" in found.why_not


def test_each_knob_of_a_sweep_has_its_place() -> None:
    knobs = [0.0, *np.geomspace(0.1, 1000.0, 9).tolist()]
    found = places(knobs)
    assert (found[0], found[1], found[-1]) == (10.0, 10.0, 0.0)
    for knob, place in zip(knobs[2:-1], found[2:-1], strict=True):
        assert knob_for(place, knobs) == pytest.approx(knob)


def test_a_points_knob_takes_the_place_of_the_nearest(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    knobs = guarded_knobs(manifest)
    assert 40.0 in knobs
    assert len(knobs) == len(manifest.knobs)
    assert 0.0 in knobs


def test_a_large_log_is_resampled_less_often() -> None:
    assert repeats(1000, 7_000) == 1000
    assert repeats(1000, 100_000) == 400
    assert repeats(1000, 10_000_000) == 100
    assert repeats(50, 10_000_000) == 50


def test_a_handful_of_requests_is_no_error(bundle: Path) -> None:
    found = evaluated(bundle, log_with_dates(6, 3, everybody=False))
    assert found.tradeoff.basis is None
    assert found.tradeoff.why_not
    assert found.workflows == ()


def test_one_complete_request_does_not_put_the_others_aside(bundle: Path) -> None:
    """Nor would it, with bands of no width, stand for all of them."""
    alone = log_with_dates(2, 900, everybody=False)
    mixed = pd.concat([log_with_dates(8, 1).frame.assign(request_id="all", prompt="prove it all"), alone.frame])
    found = evaluated(bundle, validate(mixed, source="test", format="test"))
    assert (found.complete_requests, found.lines) == (1, ())
    assert found.tradeoff.basis == "doubly robust"
    assert found.tradeoff.requests > 800
    assert all(mark.quality_high - mark.quality_low > 0.01 for mark in found.tradeoff.sweep)
    assert "only 1 test requests, of 1 conversations" in (found.why_not or "")
    assert found.workflows


def unlike_the_traffic(workflows: tuple[str | None, ...], requests: int = 900) -> Log:
    """A log of which an evaluation run asked every candidate, four of five times about the first of these workflows; the rest
    is traffic, as much of each of the three."""
    run, traffic = log_with_dates(11, 400).frame, log_with_dates(12, requests, everybody=False).frame
    kept = run[run["workflow"].isin([one for one in workflows if one is not None])]
    rare = kept[(kept["workflow"] == workflows[0]) | (kept["request_id"].str[1:].astype(int) % 4 == 0)]
    frame = pd.concat([rare.assign(request_id="run-" + rare["request_id"], propensity=1.0), traffic], ignore_index=True)
    return validate(frame, source="test", format="test")


def test_complete_requests_are_weighted_to_the_workflows_of_the_traffic(bundle: Path) -> None:
    log = unlike_the_traffic(("easy", "hard"))
    found = evaluated(bundle, log).tradeoff
    assert found.basis == "complete"
    assert found.note is not None
    assert "They cover easy, hard, which carry 66.7% of the traffic" in found.note
    router = Router(open_bundle(bundle))
    matrix = build_matrix(log.frame, router.candidates)
    rows = matrix.complete()
    assert found.requests == rows.sum()
    assert 30 < found.effective_requests < found.requests
    column = router.candidates.index(fake_bundle.SMALL)
    quality, workflow = matrix.quality[rows][:, column], matrix.workflow[rows]
    each = [float(quality[workflow == name].mean()) for name in ("easy", "hard")]
    mark = found.singles[fake_bundle.SMALL]
    assert mark.quality == pytest.approx(np.mean(each), abs=0.005)
    assert abs(mark.quality - quality.mean()) > 0.001, "they are not all alike"
    assert contained(mark)
    assert sum(mark.shares.values()) == pytest.approx(1.0)


def test_where_all_are_complete_or_a_fair_sample_each_counts_once(bundle: Path, complete: Evaluation) -> None:
    assert complete.tradeoff.note is None
    run, traffic = log_with_dates(11, 300).frame, log_with_dates(12, 600, everybody=False).frame
    frame = pd.concat([run.assign(request_id="run-" + run["request_id"]), traffic], ignore_index=True)
    found = evaluated(bundle, validate(frame, source="test", format="test"))
    assert found.tradeoff.note is None
    assert found.tradeoff.points["quality-0.9"].quality == pytest.approx(found.line().quality)


def test_complete_requests_of_no_workflow_of_the_traffic_say_so(bundle: Path) -> None:
    frame = unlike_the_traffic(("easy",)).frame
    own = frame["request_id"].str.startswith("run-")
    frame = frame.assign(workflow=np.where(own, "exam", frame["workflow"]))
    found = evaluated(bundle, validate(frame, source="test", format="test")).tradeoff
    assert found.note is not None
    assert "say nothing of the traffic" in found.note


def test_no_share_is_beyond_all_and_the_same_outcome_of_all_has_a_band(bundle: Path) -> None:
    frame = log_with_dates(1).frame.assign(quality=1.0)
    found = evaluated(bundle, validate(frame, source="test", format="test")).tradeoff
    for mark in (*found.sweep, *found.singles.values(), *found.points.values()):
        assert (mark.quality, mark.quality_high) == (1.0, 1.0)
        assert mark.quality_low == pytest.approx(300 / (300 + 1.959964**2)), "Wilson's, of 300 conversations"
    frame = log_with_dates(2, 900, everybody=False).frame
    good = frame["candidate"] == fake_bundle.LARGE
    frame = frame.assign(quality=np.where(good, 1.0, frame["quality"]))
    found = evaluated(bundle, validate(frame, source="test", format="test")).tradeoff
    assert found.basis == "doubly robust"
    for mark in (*found.sweep, *found.singles.values(), *found.points.values()):
        assert 0 <= mark.quality_low <= mark.quality <= mark.quality_high <= 1
        assert mark.saving_high <= 1
        assert mark.cost_low >= 0


def test_complete_requests_count_from_thirty_conversations_on() -> None:
    assert not enough_complete(np.ones(290, dtype=bool), np.arange(290) // 10)
    assert enough_complete(np.ones(300, dtype=bool), np.arange(300) // 10)
    assert not enough_complete(np.arange(300) < 29, np.arange(300))


def test_a_saving_against_a_reference_that_the_log_hardly_tried_is_not_told(tmp_path: Path) -> None:
    """What the router chooses is known by many answers; what it is compared with is the estimate of its cost alone."""
    frame = log_with_dates(2, 900, everybody=False).frame
    fake_bundle.build(tmp_path, frontier=True)
    bundle = set_point(tmp_path, "cheapest").folder
    few = (frame["candidate"] != fake_bundle.LARGE) | (np.arange(len(frame)) % 60 == 0)
    frame = frame[few].assign(propensity=np.where(frame[few]["candidate"] == fake_bundle.LARGE, 0.01, 0.495))
    found = evaluated(bundle, validate(frame.reset_index(drop=True), source="test", format="test")).tradeoff
    assert found.basis == "doubly robust"
    assert fake_bundle.LARGE not in found.singles
    marks = [*found.sweep, *found.singles.values(), *found.points.values()]
    assert marks
    assert all(np.isfinite(mark.quality_low) and np.isfinite(mark.cost_usd) for mark in marks)
    assert all(np.isnan([mark.saving, mark.saving_low, mark.saving_high]).all() for mark in marks)


@pytest.mark.parametrize("everybody", [True, False])
def test_requests_of_a_core_count_for_those_that_they_stand_for(bundle: Path, everybody: bool) -> None:
    router = Router(open_bundle(bundle))
    matrix = build_matrix(log_with_dates(2, 900, everybody=everybody).frame, router.candidates)
    expected, n = router.estimate(list(matrix.requests)), len(matrix)
    columns = router.chosen(list(matrix.requests), expected)
    standing = np.where(matrix.workflow == "hard", 1.0, 3.0)

    def swept(rows: Columns, counts: Floats | None) -> Tradeoff:
        propensity = np.where(matrix.attempted, 1.0 if everybody else 1 / len(router.candidates), np.nan)
        known = Outcomes(
            *(part[rows] for part in (matrix.quality, matrix.cost_usd, matrix.quality, propensity)),
            None,
            matrix.complete()[rows],
            rows,
            matrix.workflow[rows],
            counts,
        )
        part = Estimates(**{one.name: getattr(expected, one.name)[rows] for one in fields(Estimates)})
        return tradeoff(router.manifest, part, columns[rows], known, resamples=100, seed=0)

    core, log = swept(np.arange(n), standing), swept(np.repeat(np.arange(n), standing.astype(int)), None)
    plain = swept(np.arange(n), None)
    assert core.basis == log.basis == ("complete" if everybody else "doubly robust")
    for name, mark in core.singles.items():
        truth = log.singles[name]
        assert (mark.quality, mark.cost_usd, mark.saving) == pytest.approx(
            (truth.quality, truth.cost_usd, truth.saving)
        )
        assert contained(mark)
    assert max(abs(mark.quality - plain.singles[name].quality) for name, mark in core.singles.items()) > 1e-4
