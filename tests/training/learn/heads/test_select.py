"""Selection of an estimator: the one-standard-error rule, and that nothing is scored on what it has seen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bundle.arrays import Floats
from training.dataset.inputs import Inputs
from training.learn.estimators.base import Estimator, NotTrainableError
from training.learn.estimators.blend import Blend
from training.learn.estimators.logistic import LogisticPerCandidate
from training.learn.estimators.tables import WorkflowTable
from training.learn.heads.out_of_fold import out_of_fold
from training.learn.heads.select import (
    ENOUGH,
    FEW,
    Blending,
    Head,
    Score,
    blend_weights,
    effective_outcomes,
    fit_head,
    out_of_fold_aiq,
    select,
)
from training.learn.onnx_graph import Graph
from training.learn.training_data import TrainingData
from training.measure.metrics import brier

NAN = float("nan")
OPTIONS: dict[str, Any] = {"blend": None, "knob_steps": 20, "seed": 3}
FACTORIES: dict[str, Callable[[], Estimator]] = {
    "workflow-table": WorkflowTable,
    "logistic": lambda: LogisticPerCandidate(0.1),
}


def score(name: str, complexity: int, aiq: float, error: float, brier: float = 0.2) -> Score:
    return Score(name, complexity, aiq, error, brier, ece=0.01)


def training(n: int = 300, complete: int | None = None, propensity: float = 1.0, seed: int = 0) -> TrainingData:
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
    return TrainingData(
        inputs=Inputs(embedding, features, surface=1, counted=np.ones(len(embedding))),
        labels=labels,
        weights=np.ones((n, 2)),
        propensity=np.full((n, 2), propensity),
        cost=cost,
        expected_cost=cost,
        complete=known,
        groups=np.arange(n),
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
        # The table falls short of the best by .01, which is within the .02 of that difference: the simpler one.
        ([score("table", 0, 0.80, 0.02), score("trees", 4, 0.81, 0.0)], "table"),
        # Short by .03, and the error is .02: the better one.
        ([score("table", 0, 0.78, 0.02), score("trees", 4, 0.81, 0.0)], "trees"),
        # On the edge it is still within one standard error.
        ([score("table", 0, 0.75, 0.25), score("trees", 4, 1.0, 0.0)], "table"),
        # The simplest is too far off; of the two that are near, the simpler.
        ([score("a", 0, 0.5, 0.1), score("b", 1, 0.79, 0.03), score("c", 2, 0.80, 0.02), score("d", 3, 0.81, 0)], "b"),
        # A simple one that is the best needs no rule.
        ([score("table", 0, 0.82, 0.0), score("trees", 4, 0.81, 0.02)], "table"),
        # Equally simple: the better.
        ([score("one", 1, 0.80, 0.1), score("other", 1, 0.805, 0.1), score("best", 3, 0.81, 0.0)], "other"),
    ],
)
def test_the_one_standard_error_rule_by_hand(scores: list[Score], chosen: str) -> None:
    assert select(scores, 1.0) == (chosen, "AIQ")
    assert select(scores[::-1], 1.0) == (chosen, "AIQ")


def test_the_blend_gives_way_only_to_one_that_is_better_for_sure() -> None:
    scores = [score("table", 0, 0.83, 0.0), score("blend", 5, 0.80, 0.02)]
    assert select(scores, 2.0) == ("blend", "AIQ")
    assert select(scores, 1.0) == ("table", "AIQ")


def test_without_aiq_the_lowest_brier_score_counts() -> None:
    scores = [score("table", 0, NAN, NAN, brier=0.2), score("trees", 4, NAN, NAN, brier=0.18)]
    assert select(scores, 1.0) == ("trees", "Brier score")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1), st.floats(0, 0.3)), min_size=1, max_size=8))
def test_nothing_simpler_than_the_chosen_one_is_within_its_error(made: list[tuple[int, float, float]]) -> None:
    best = max(aiq for _, aiq, _ in made)
    scores = [score(str(n), c, aiq, 0.0 if aiq == best else error) for n, (c, aiq, error) in enumerate(made)]
    name, _ = select(scores, 1.0)
    chosen = next(s for s in scores if s.name == name)
    assert best - chosen.aiq <= chosen.shortfall_error
    assert not any(s.complexity < chosen.complexity and best - s.aiq <= s.shortfall_error for s in scores)


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
    head = fit_head(data, FACTORIES, calibration="sigmoid", **OPTIONS)
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


@pytest.mark.parametrize(
    ("complete", "propensity", "by"),
    [
        (ENOUGH - 1, NAN, "Brier score"),
        (ENOUGH, NAN, "AIQ"),
        (ENOUGH - 1, 0.9, "AIQ"),  # too few are complete, but the propensities are known
        (9, 0.9, "Brier score"),  # of one candidate too little is known for those either
    ],
)
def test_few_complete_requests_are_compared_by_brier_score(complete: int, propensity: float, by: str) -> None:
    data = training(complete=complete, propensity=propensity)
    head = fit_head(data, FACTORIES, calibration="none", **OPTIONS)
    assert head.selected_by == by
    assert all(np.isnan(s.aiq) == (by == "Brier score") for s in head.scores)
    assert all(np.isfinite([s.brier, s.ece]).all() for s in head.scores)


def test_estimators_are_compared_at_what_few_thumbs_stand_for() -> None:
    """Of both candidates' answers every two hundredth is judged; the dear one is better than anyone expects."""
    data = training(n=60_000)
    thumbs = np.random.default_rng(0).random((60_000, 2)) < 0.005
    few = replace(
        data,
        labels=np.where(thumbs, data.labels, NAN),
        complete=np.zeros(60_000, dtype=np.bool_),
        propensity=np.full((60_000, 2), 0.005),
        judged=np.full((60_000, 2), 0.005),
    )
    expected = np.column_stack([1 / (1 + np.exp(-4 * data.inputs.embedding[:, 0])), np.full(60_000, 0.3)])
    (truth, _), (found, _) = (out_of_fold_aiq(expected, one, 20, 0) for one in (data, few))
    assert found == pytest.approx(truth, abs=0.05)


def test_blend_weights_by_hand() -> None:
    # Labels are .25 of one and .75 of the other, the third only adds error: half way from those weights to 1/3 each.
    one, other = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 0.0]])
    labels = 0.25 * one + 0.75 * other
    found = blend_weights({"one": one, "bad": 1 - one, "other": other}, labels, np.ones((2, 2)), equal=0.5)
    halfway = {"one": 0.125 + 1 / 6, "bad": 1 / 6, "other": 0.375 + 1 / 6}
    assert found == pytest.approx(halfway, abs=1e-3)
    assert sum(found.values()) == pytest.approx(1.0)
    labels[0, 1] = NAN  # what was not judged does not count
    assert sum(
        blend_weights({"one": one, "other": other}, labels, np.ones((2, 2)), equal=0.5).values()
    ) == pytest.approx(1.0)


def test_a_blend_competes_where_it_is_asked_for() -> None:
    head = fit_head(training(), FACTORIES, calibration="none", **{**OPTIONS, "blend": Blending(errors=99.0)})
    assert [s.name for s in head.scores] == ["workflow-table", "logistic", "blend"]
    assert head.scores[2].complexity == Blend.complexity
    blend = Blend(FACTORIES, {"workflow-table": 0.25, "logistic": 0.75})
    described = Head(Blend.name, head.factory, blend, head.calibrator, head.scores, "AIQ").description
    assert described == "blend of logistic 0.75, workflow-table 0.25"
    assert head.description == head.estimator.name or isinstance(head.estimator, Blend)


def test_a_family_far_behind_is_left_out_of_the_blend() -> None:
    head = fit_head(training(), FACTORIES, calibration="none", **{**OPTIONS, "blend": Blending(errors=0.0)})
    assert [s.name for s in head.scores] == ["workflow-table", "logistic"]


def test_one_that_cannot_be_trained_is_left_out_and_says_why() -> None:
    told = []
    head = fit_head(
        training(),
        {"refusing": Refusing, **FACTORIES},
        calibration="auto",
        **OPTIONS,
        stage="acceptable",
        progress=lambda stage, done, total: told.append((stage, done, total)),
    )
    parts = 3 * 5  # estimators times folds
    assert [one for one in told if one[0] == "acceptable"] == [("acceptable", done, parts) for done in range(parts + 1)]
    by_name = {s.name: s for s in head.scores}
    assert by_name["refusing"].why_not == "there is too little to go by"
    assert by_name["refusing"].complexity == 7
    assert np.isnan(by_name["refusing"].brier)
    assert by_name["logistic"].why_not is None
    assert head.estimator.name == "logistic"


def test_when_none_can_be_trained_every_reason_is_given() -> None:
    with pytest.raises(
        NotTrainableError, match="no estimator could be trained: one: there is too little to go by; two: "
    ):
        fit_head(training(), {"one": Refusing, "two": Refusing}, calibration="auto", **OPTIONS)


def test_a_seed_gives_the_same_head() -> None:
    one, other = (fit_head(training(), FACTORIES, calibration="auto", **OPTIONS) for _ in range(2))
    assert one.scores == other.scores
    assert (one.predict(training().inputs) == other.predict(training().inputs)).all()


def test_effective_outcomes_by_hand() -> None:
    labels = np.array([[1.0, 0.0], [0.0, NAN], [1.0, NAN]])
    weights = np.array([[1.0, 5.0], [1.0, 5.0], [2.0, 5.0]])
    assert effective_outcomes(labels, weights).tolist() == pytest.approx([16 / 6, 1.0])
    assert effective_outcomes(np.full((2, 1), NAN), np.ones((2, 1))).tolist() == [0.0]


@pytest.mark.parametrize(("few", "selected_by"), [(301.0, FEW), (300.0, "AIQ")])
def test_with_few_outcomes_nothing_is_selected(few: float, selected_by: str) -> None:
    names = ("workflow-table", "logistic", "other setting")
    kinds = {**FACTORIES, "other setting": lambda: LogisticPerCandidate(10.0)}
    blending = Blending(few=few, few_estimators=("logistic", "workflow-table", "not asked for"))
    head = fit_head(training(300), kinds, calibration="none", **{**OPTIONS, "blend": blending})
    assert head.selected_by == selected_by
    if selected_by == FEW:
        assert isinstance(head.estimator, Blend)
        assert head.estimator.weights == pytest.approx(dict.fromkeys(names[:2], 0.5))
        assert {score.name for score in head.scores} == {*names[:2], Blend.name}


def floored(n: int = 20_000) -> TrainingData:
    """The core of a log of n requests, of which 1 in 50 went to the dear candidate: all of these, and a tenth of the others.

    Acceptable are 60% of the cheap one's answers and 90% of the dear one's.
    """
    generator = np.random.default_rng(0)
    dear = generator.uniform(size=n) < 0.02
    kept = dear | (generator.uniform(size=n) < 0.1)
    dear, n = dear[kept], int(kept.sum())
    attempted = np.column_stack([~dear, dear])
    labels = np.where(attempted, generator.uniform(size=(n, 2)) < [0.6, 0.9], NAN)
    cost = np.tile([1.0, 5.0], (n, 1))
    return replace(
        training(n, complete=0),
        labels=labels,
        propensity=np.where(attempted, [0.98, 0.02], NAN),
        cost=np.where(attempted, cost, NAN),
        expected_cost=cost,
        standing=np.where(dear, 1.0, 10.0),
    )


def test_answers_that_a_floor_kept_stand_for_themselves_alone() -> None:
    data = floored()
    expected = np.tile([0.7, 0.8], (len(data.labels), 1))
    aiq, resampled = out_of_fold_aiq(expected, data, 20, 3)
    assert aiq == pytest.approx((0.6 + 0.9) / 2, abs=0.03)  # between the two candidates' qualities
    assert np.mean(resampled) == pytest.approx(aiq, abs=0.02)
    unweighted, _ = out_of_fold_aiq(expected, replace(data, standing=None), 20, 3)
    assert unweighted > 1.0  # what no quality is


def test_scores_are_of_what_requests_stand_for() -> None:
    data = replace(training(400), standing=np.where(np.arange(400) < 100, 3.0, 1.0))
    often = np.concatenate([np.arange(100), np.arange(100), np.arange(400)])
    head = fit_head(data, FACTORIES, calibration="none", **OPTIONS)
    table = next(score for score in head.scores if score.name == "workflow-table")
    p = out_of_fold(WorkflowTable, data)
    assert table.brier == pytest.approx(brier(p[often], data.labels[often]))


def test_requests_that_all_stand_for_as_many_change_nothing() -> None:
    data = training(400, complete=100)
    once, same = (
        fit_head(replace(data, standing=counts), FACTORIES, calibration="auto", **OPTIONS)
        for counts in (None, np.full(400, 3.0))
    )
    for one, other in zip(once.scores, same.scores, strict=True):
        assert one.aiq == pytest.approx(other.aiq, abs=1e-12)
        assert one.brier == pytest.approx(other.brier, abs=1e-12)
