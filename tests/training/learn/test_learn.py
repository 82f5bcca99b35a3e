"""What is learned as a whole: the reference, and which rows each head has seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
import pytest

from serving.bundle.arrays import Floats
from serving.bundle.features import SURFACE, feature_matrix
from training.certify.certify import cross_fitted
from training.config import Params, load_params
from training.dataset.inputs import Inputs
from training.learn.estimators.base import Estimator
from training.learn.estimators.tables import WorkflowTable
from training.learn.heads.calibrate import Uncalibrated
from training.learn.heads.pair import Pair
from training.learn.learn import Learned, learn, reference_of
from training.learn.onnx_graph import Graph
from training.learn.prepare import Prepared, PrepareError, prepare
from training.learn.refit import is_small, learn_for_serving, learn_for_testing
from training.logs.validate import validate
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation.simulate import simulate

NAN = float("nan")
NAMES = ("good", "lucky", "poor")
COST = np.array([3.0, 1.0, 2.0])


def test_one_lucky_row_makes_no_reference() -> None:
    labels = np.full((201, 3), NAN)
    labels[:100, 0] = np.arange(100) < 90
    labels[100:200, 2] = np.arange(100) < 60
    labels[200, 1] = 1.0
    nothing = np.zeros(201, dtype=np.bool_)
    column, note = reference_of(NAMES, labels, np.ones(labels.shape), COST, nothing, "auto")
    assert column == 0
    assert "at least 30 effective outcomes" in note


def test_forty_lucky_rows_make_no_reference() -> None:
    """What its mean may be at least is less than what is known of the candidate with many."""
    labels = np.full((640, 3), NAN)
    labels[:300, 0] = np.arange(300) < 264
    labels[300:340, 1] = np.arange(40) < 37
    labels[340:, 2] = np.arange(300) < 180
    nothing = np.zeros(640, dtype=np.bool_)
    assert reference_of(NAMES, labels, np.ones(labels.shape), COST, nothing, "auto")[0] == 0
    labels[340:, 1] = np.arange(300) < 285  # as many, and better
    assert reference_of(NAMES, labels, np.ones(labels.shape), COST, nothing, "auto")[0] == 1


def test_a_candidate_with_less_than_a_tenth_of_the_most_outcomes_is_no_reference() -> None:
    labels = np.full((1000, 3), NAN)
    labels[:900, 0] = np.arange(900) < 540
    labels[900:980, 1] = 1.0
    labels[980:, 2] = 1.0
    nothing = np.zeros(1000, dtype=np.bool_)
    column, note = reference_of(NAMES, labels, np.ones(labels.shape), COST, nothing, "auto")
    assert column == 0
    assert "at least 90 effective outcomes" in note


def test_a_candidate_without_outcomes_is_no_reference() -> None:
    labels = np.full((40, 3), NAN)
    labels[:20, 0], labels[20:, 2] = 1.0, 0.0
    # Nobody has 30: those with the most may be it.
    column, _ = reference_of(NAMES, labels, np.ones(labels.shape), COST, np.zeros(40, dtype=np.bool_), "auto")
    assert column == 0


def test_who_answers_most_requests_is_the_reference_until_another_is_known_to_be_better() -> None:
    labels = np.full((400, 3), NAN)
    labels[:35, 0] = np.arange(35) < 26
    labels[35:75, 1] = np.arange(40) < 32  # a little better, as it happened, and known a little better
    labels[75:90, 2] = np.arange(15) < 12
    arguments = labels, np.ones(labels.shape), COST, np.zeros(400, dtype=np.bool_), "auto"
    assert reference_of(NAMES, *arguments)[0] == 1
    column, note = reference_of(NAMES, *arguments, np.array([215, 110, 75]))
    assert column == 0
    assert "it answers 54% of the logged requests" in note
    assert (
        reference_of(NAMES, *arguments, np.array([195, 130, 75]))[0] == 1
    )  # less than half: nobody's traffic is the usual
    labels[100:400, 0], labels[100:400, 1] = np.arange(300) < 120, np.arange(300) < 290
    assert reference_of(NAMES, *arguments, np.array([215, 110, 75]))[0] == 1  # known to be better


def test_complete_requests_say_it_exactly() -> None:
    labels = np.tile([1.0, 1.0, 0.0], (30, 1))
    labels[0, 1] = 0.0
    column, note = reference_of(NAMES, labels, np.ones(labels.shape), COST, np.ones(30, dtype=np.bool_), "auto")
    assert (column, note) == (0, "best mean on 30 complete requests")


def test_a_reference_that_is_set_has_to_be_there() -> None:
    labels = np.ones((30, 3))
    arguments = (labels, np.ones(labels.shape), COST, np.ones(30, dtype=np.bool_))
    assert reference_of(NAMES, *arguments, "poor") == (2, "as set")
    with pytest.raises(PrepareError, match="'absent', which is not in the log; there are good, lucky, poor"):
        reference_of(NAMES, *arguments, "absent")


@pytest.fixture(scope="module")
def params() -> Params:
    found = load_params()
    fit = replace(found.fit, estimators=("workflow-table",), table_strength=(10.0,), blend=False)
    return replace(found, fit=fit, policy=replace(found.policy, cross_fit_below=0))


@pytest.fixture(scope="module")
def small(params: Params) -> tuple[Prepared, Inputs, Learned]:
    catalogue = load_catalogue(SHIPPED)
    names = params.simulate.candidates[:3]
    log = simulate([catalogue[name] for name in names], requests=500, seed=3)
    prepared = prepare(validate(log.outcomes, source="simulated", format="simulated").frame, params, catalogue)
    n = len(prepared.matrix)
    embedding = np.random.default_rng(1).normal(size=(n, 4)).astype(np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    features = feature_matrix(list(prepared.matrix.requests), prepared.workflows)
    inputs = Inputs(embedding, features, len(SURFACE), np.ones(n))
    return prepared, inputs, learn(prepared, inputs, params)


def test_what_is_measured_has_not_seen_the_test_part_and_what_is_served_has(
    small: tuple[Prepared, Inputs, Learned], params: Params
) -> None:
    prepared, inputs, learned = small
    split = prepared.split
    served = learn_for_serving(learned, prepared, inputs, params)
    for found, rows in ((learned, split.train), (served, split.train | split.test)):
        assert sorted(found.data.groups) == sorted(prepared.groups[rows])
        assert found.data.weights.shape == prepared.labels[rows].shape
        table = WorkflowTable().fit(inputs.take(rows), prepared.labels[rows], found.data.weights)
        raw = found.acceptable.raw(inputs)
        expected = table.predict(inputs)
        tagged = inputs.tagged
        np.testing.assert_allclose(raw[tagged], expected[tagged])
    # Neither has seen a request that points are certified on, nor one of its conversation.
    assert set(served.data.groups).isdisjoint(prepared.groups[split.calibration])
    assert served.acceptable.tagged.calibrator is learned.acceptable.tagged.calibrator
    assert served.reference == learned.reference
    assert (
        f"{int((split.train | split.test).sum()):,} requests, those of the training and the test part"
        in served.learned_from
    )
    assert "test part" not in learned.learned_from


def test_of_a_small_log_everything_is_served_and_what_is_measured_has_not_seen_the_test_part(
    small: tuple[Prepared, Inputs, Learned], params: Params
) -> None:
    prepared, inputs, learned = small
    split = prepared.split
    few = replace(params, policy=replace(params.policy, cross_fit_below=501))
    assert [is_small(prepared, one) for one in (params, few)] == [False, True]
    assert learn_for_testing(learned, prepared, inputs, params) is learned
    measured = learn_for_testing(learned, prepared, inputs, few)
    served = learn_for_serving(learned, prepared, inputs, few)
    assert sorted(measured.data.groups) == sorted(prepared.groups[split.train | split.calibration])
    assert set(measured.data.groups).isdisjoint(prepared.groups[split.test])
    assert sorted(served.data.groups) == sorted(prepared.groups[split.train | split.calibration | split.test])
    assert "all of this small log" in served.learned_from


def test_a_candidate_of_few_conversations_has_a_part_kept_aside(
    small: tuple[Prepared, Inputs, Learned], params: Params
) -> None:
    """A fold could have all of them, and its heads would expect nothing of that candidate."""
    prepared, _, _ = small
    few = replace(params, policy=replace(params.policy, cross_fit_below=10_000))
    assert is_small(prepared, few)
    known = np.flatnonzero(prepared.split.train)
    labels = prepared.labels.copy()
    labels[known[4:], 1], labels[prepared.split.calibration, 1] = NAN, NAN
    assert not is_small(replace(prepared, labels=labels), few)


def test_no_request_is_certified_by_heads_that_saw_its_conversation(
    small: tuple[Prepared, Inputs, Learned], params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, inputs, learned = small
    among = prepared.split.train | prepared.split.calibration
    seen: list[np.ndarray] = []

    def noted(*arguments: Any) -> Learned:
        seen.append(arguments[4])
        # heads that tell by their estimate which fold they are for
        table = replace(learned.acceptable.tagged, estimator=Constant(len(seen) / 10), calibrator=Uncalibrated())
        return replace(learned, acceptable=Pair(table, table))

    monkeypatch.setattr("training.certify.certify.refit", noted)
    found, novelty = cross_fitted(learned, learned, prepared, inputs, params, among)
    assert len(seen) == params.fit.folds
    assert novelty.shape == (int(among.sum()),)
    assert found.served is not None
    rows = np.flatnonzero(among)
    assert found.labels.shape == (len(rows), 3)
    asked = np.round(found.acceptable[:, 0] * 10).astype(int) - 1
    for fold, mask in enumerate(seen):
        assert not (mask & ~among).any(), "only of those that were given"
        held = rows[asked == fold]
        assert len(held) > 0
        assert not mask[held].any()
        assert set(prepared.groups[held]).isdisjoint(prepared.groups[mask])
    np.testing.assert_array_equal(found.labels, prepared.labels[rows])


class Constant(Estimator):
    """Expects the same of everything."""

    def __init__(self, value: float) -> None:
        self.value = value

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        raise AssertionError("it is not fitted")

    def predict(self, inputs: Inputs) -> Floats:
        return np.full((len(inputs), 3), self.value)

    def to_onnx(self, graph: Graph) -> str:
        raise AssertionError("it is not exported")


def test_of_a_sampled_log_the_reference_is_the_one_of_the_log() -> None:
    """Of 60 complete requests 40 are of a rare workflow, all of it, and 20 stand for 20 others each."""
    labels = np.ones((60, 3))
    labels[:40, 0] = np.arange(40) < 10  # the rare ones' best is the second
    labels[:40, 1] = np.arange(40) < 36
    labels[40:, 0] = np.arange(20) < 18
    labels[40:, 1] = np.arange(20) < 14
    labels[:, 2] = 0.0
    standing = np.where(np.arange(60) < 40, 1.0, 20.0)
    arguments = labels, np.ones(labels.shape), COST, np.ones(60, dtype=np.bool_), "auto"
    assert reference_of(NAMES, *arguments)[0] == 1
    column, note = reference_of(NAMES, *arguments, None, standing)
    assert column == 0
    assert note == "best mean on 60 complete requests, each for as many of the log as it stands for"
