"""Selection of an estimator by out-of-fold AIQ, and that nothing is scored on what it has seen."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Self

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.estimators.base import Estimator, Floats, Inputs, NotTrainableError
from training.estimators.linear import LogisticPerCandidate
from training.estimators.tables import WorkflowTable
from training.fit import ENOUGH_COMPLETE, Score, Training, fit_head, out_of_fold, select
from training.metrics import brier
from training.onnx_graph import Graph

NAN = float("nan")
FACTORIES = {"workflow-table": WorkflowTable, "logistic": lambda: LogisticPerCandidate(0.1)}


def score(name: str, complexity: int, aiq: float, error: float, brier: float = 0.2) -> Score:
    return Score(name, complexity, aiq, error, brier, ece=0.01)


def training(n: int = 300, complete: int | None = None, seed: int = 0) -> Training:
    """n requests whose first coordinate decides which of two candidates does well; their workflow tells nothing."""
    generator = np.random.default_rng(seed)
    embedding = generator.normal(size=(n, 3)).astype(np.float32)
    features = np.zeros((n, 3), dtype=np.float32)
    features[:, 0] = np.arange(n)  # each request's own number
    features[np.arange(n), 1 + np.arange(n) % 2] = 1.0
    p = np.column_stack([1 / (1 + np.exp(-4 * embedding[:, 0])), np.full(n, 0.8)])
    labels = (generator.uniform(size=(n, 2)) < p).astype(np.float64)
    cost = np.tile([1.0, 5.0], (n, 1))
    known = np.arange(n) < (n if complete is None else complete)
    labels[~known, 1] = NAN
    return Training(
        inputs=Inputs(embedding, features, surface=1),
        labels=labels,
        weights=np.ones((n, 2)),
        cost=cost,
        expected_cost=cost,
        complete=known,
        folds=generator.permutation(n) % 5,
    )


class Spy(Estimator):
    """Remembers the requests it was fitted on, by their number, and those it was asked about."""

    name: ClassVar[str] = "spy"
    complexity: ClassVar[int] = 0

    def __init__(self) -> None:
        self.seen: set[float] = set()
        self.asked: set[float] = set()

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        assert len(inputs) == len(labels) == len(weights)
        self.seen = set(inputs.features[:, 0].tolist())
        return self

    def predict(self, inputs: Inputs) -> Floats:
        self.asked = set(inputs.features[:, 0].tolist())
        return np.repeat(inputs.features[:, :1].astype(np.float64), 2, axis=1)

    def to_onnx(self, graph: Graph) -> str:
        raise AssertionError("not exported here")


class Refusing(Spy):
    name: ClassVar[str] = "refusing"
    complexity: ClassVar[int] = 7

    def fit(self, inputs: Inputs, labels: Floats, weights: Floats) -> Self:
        raise NotTrainableError("there is too little to go by")


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [
        # However near the simpler one comes, the better one is taken.
        ([score("table", 0, 0.80, 0.02), score("trees", 4, 0.81, 0.0)], "trees"),
        ([score("table", 0, 0.82, 0.0), score("trees", 4, 0.81, 0.02)], "table"),
        # Equally good: the simpler.
        ([score("table", 0, 0.81, 0.0), score("logistic", 2, 0.81, 0.0), score("trees", 4, 0.7, 0.0)], "table"),
        # The Brier score has no say where AIQ was measured.
        ([score("table", 0, 0.80, 0.02, brier=0.1), score("trees", 4, 0.81, 0.0, brier=0.3)], "trees"),
    ],
)
def test_the_highest_aiq_is_selected_and_among_equals_the_simplest(scores: list[Score], chosen: str) -> None:
    assert select(scores) == (chosen, "AIQ")
    assert select(scores[::-1]) == (chosen, "AIQ")


def test_without_aiq_the_lowest_brier_score_counts() -> None:
    scores = [score("table", 0, NAN, NAN, brier=0.2), score("trees", 4, NAN, NAN, brier=0.18)]
    assert select(scores) == ("trees", "Brier score")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=8))
def test_nothing_is_better_than_the_chosen_one_nor_as_good_and_simpler(made: list[tuple[int, int]]) -> None:
    scores = [score(str(n), complexity, aiq / 4, 0.1) for n, (complexity, aiq) in enumerate(made)]
    name, _ = select(scores)
    chosen = next(s for s in scores if s.name == name)
    assert chosen.aiq == max(s.aiq for s in scores)
    assert chosen.complexity == min(s.complexity for s in scores if s.aiq == chosen.aiq)


def test_out_of_fold_never_trains_on_what_it_predicts() -> None:
    data, spies = training(), []

    def factory() -> Spy:
        spies.append(Spy())
        return spies[-1]

    predictions = out_of_fold(factory, data)
    assert predictions[:, 0].tolist() == data.inputs.features[:, 0].tolist()  # each request's own prediction, in place
    assert len(spies) == 5
    for spy in spies:
        assert not spy.seen & spy.asked
        assert len(spy.seen | spy.asked) == 300
        (fold,) = {int(data.folds[int(number)]) for number in spy.asked}
        assert {int(data.folds[int(number)]) for number in spy.seen} == set(range(5)) - {fold}
    assert set().union(*(spy.asked for spy in spies)) == set(range(300))


def test_a_label_does_not_change_its_own_request_s_out_of_fold_prediction() -> None:
    data = training()
    turned = data.labels.copy()
    turned[17] = 1 - turned[17]
    before = out_of_fold(WorkflowTable, data)
    after = out_of_fold(WorkflowTable, replace(data, labels=turned))
    same_fold = data.folds == data.folds[17]
    assert (before[same_fold] == after[same_fold]).all()
    assert (before[~same_fold] != after[~same_fold]).any()


def test_the_estimator_that_knows_more_is_chosen_by_aiq_and_refitted() -> None:
    data = training()
    head = fit_head(data, FACTORIES, calibration="sigmoid", knob_steps=20, seed=0)
    assert (head.estimator.name, head.selected_by) == ("logistic", "AIQ")
    assert head.calibrator.name == "sigmoid"
    table, logistic = head.scores
    assert logistic.aiq > table.aiq + table.shortfall_error
    assert logistic.shortfall_error == 0.0
    assert 0 <= logistic.ece < 0.2
    # The scores are those of the out-of-fold predictions, the estimator is that of all rows.
    assert logistic.brier == pytest.approx(brier(out_of_fold(FACTORIES["logistic"], data), data.labels))
    refitted = FACTORIES["logistic"]().fit(data.inputs, data.labels, data.weights)
    assert (head.estimator.predict(data.inputs) == refitted.predict(data.inputs)).all()
    assert (head.predict(data.inputs) == head.calibrator.predict(refitted.predict(data.inputs))).all()


@pytest.mark.parametrize(("complete", "by"), [(ENOUGH_COMPLETE - 1, "Brier score"), (ENOUGH_COMPLETE, "AIQ")])
def test_few_complete_requests_are_compared_by_brier_score(complete: int, by: str) -> None:
    head = fit_head(training(complete=complete), FACTORIES, calibration="none", knob_steps=20, seed=0)
    assert head.selected_by == by
    assert all(np.isnan(s.aiq) == (by == "Brier score") for s in head.scores)
    assert all(np.isfinite([s.brier, s.ece]).all() for s in head.scores)


def test_one_that_cannot_be_trained_is_left_out_and_says_why() -> None:
    asked = []
    head = fit_head(
        training(),
        {"refusing": Refusing, **FACTORIES},
        calibration="auto",
        knob_steps=20,
        seed=0,
        progress=asked.append,
    )
    assert asked == ["refusing", "workflow-table", "logistic"]
    by_name = {s.name: s for s in head.scores}
    assert by_name["refusing"].why_not == "there is too little to go by"
    assert by_name["refusing"].complexity == 7
    assert np.isnan(by_name["refusing"].brier)
    assert by_name["logistic"].why_not is None
    assert head.estimator.name == "logistic"


def test_when_none_can_be_trained_every_reason_is_given() -> None:
    with pytest.raises(NotTrainableError, match="no estimator could be trained: one: there is too little to go by; two: "):
        fit_head(training(), {"one": Refusing, "two": Refusing}, calibration="auto", knob_steps=20, seed=0)


def test_a_seed_gives_the_same_head() -> None:
    one, other = (fit_head(training(), FACTORIES, calibration="auto", knob_steps=20, seed=3) for _ in range(2))
    assert one.scores == other.scores
    assert (one.predict(training().inputs) == other.predict(training().inputs)).all()
