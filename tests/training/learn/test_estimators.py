"""Estimators: the workflow table by hand, then what every estimator in the registry has to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from serving.bundle.arrays import Floats, Floats32
from tests import onnx_run
from training.config import ConfigError, load_params
from training.dataset.inputs import Inputs
from training.learn.estimators import neighbours
from training.learn.estimators.base import Estimator, NotTrainableError, observed_mean, priced_mean, sigmoid
from training.learn.estimators.blend import Blend
from training.learn.estimators.design import Design, stacked
from training.learn.estimators.irt import ItemResponse
from training.learn.estimators.linear import (
    DirectClassifier,
    HierarchicalRidge,
    LowRankResidual,
    ReducedRankRidge,
    Ridge,
)
from training.learn.estimators.logistic import LogisticPerCandidate
from training.learn.estimators.neighbours import NearestNeighbours
from training.learn.estimators.registry import factories
from training.learn.estimators.tables import AdditiveTable, ClusterTable, WorkflowTable
from training.learn.estimators.trees import LightGBMLong, LightGBMPerCandidate
from training.learn.onnx_graph import Graph

FIT = load_params().fit
MEAN_COST = np.array([1.0, 3.0, 9.0])
# Regularised less than in a real run, for these sets are tiny.
MADE: dict[str, Callable[[], Estimator]] = {
    WorkflowTable.name: WorkflowTable,
    AdditiveTable.name: partial(AdditiveTable, 20.0),
    ClusterTable.name: partial(ClusterTable, clusters=12),
    LogisticPerCandidate.name: partial(LogisticPerCandidate, c=1.0),
    LowRankResidual.name: partial(LowRankResidual, penalty=5.0),
    ReducedRankRidge.name: partial(ReducedRankRidge, penalty=5.0),
    Ridge.name: partial(Ridge, penalty=5.0),
    HierarchicalRidge.name: partial(HierarchicalRidge, MEAN_COST, shared=5.0, own=20.0, tag=2.0),
    NearestNeighbours.name: partial(NearestNeighbours, k=30),
    ItemResponse.name: partial(ItemResponse, MEAN_COST),
    LightGBMPerCandidate.name: LightGBMPerCandidate,
    LightGBMLong.name: partial(LightGBMLong, MEAN_COST),
    DirectClassifier.name: partial(DirectClassifier, MEAN_COST, c=1.0),
    Blend.name: partial(
        Blend,
        {"table": WorkflowTable, "logistic": partial(LogisticPerCandidate, c=1.0), "unused": Ridge},
        {"table": 0.25, "logistic": 0.75, "unused": 0.0},
    ),
}


def registered() -> tuple[str, ...]:
    """Every name that the registry knows; it lists them where it is asked for one that it does not know."""
    try:
        factories(replace(FIT, estimators=("",)), MEAN_COST)
    except ConfigError as error:
        return tuple(str(error).partition("there are ")[2].split(", "))
    raise AssertionError("the registry takes an empty name")


NAMES = tuple(dict.fromkeys((*registered(), *MADE)))
DIM, SURFACE, WORKFLOWS = 8, 3, 4
NAN = float("nan")


def make(name: str) -> Estimator:
    return MADE[name]() if name in MADE else factories(replace(FIT, estimators=(name,)), MEAN_COST)[name]()


def inputs_of(workflow: list[int | None], embedding: Floats | None = None, surface: Floats | None = None) -> Inputs:
    """Inputs of requests with the given workflow columns; None is a request without a tag."""
    n = len(workflow)
    tags = np.array([[column == w for column in range(WORKFLOWS)] for w in workflow], dtype=np.float32)
    vectors = np.zeros((n, DIM)) if embedding is None else embedding
    numbers = np.zeros((n, SURFACE)) if surface is None else surface
    features = np.hstack([numbers, tags.reshape(n, WORKFLOWS)]).astype(np.float32)
    return Inputs(vectors.astype(np.float32), features, SURFACE, np.ones(len(vectors)))


def drawn(n: int, seed: int = 0) -> Inputs:
    """Random requests, about a fifth of them without a tag."""
    generator = np.random.default_rng(seed)
    embedding = generator.normal(size=(n, DIM))
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    workflow = [None if w == WORKFLOWS else int(w) for w in generator.integers(0, WORKFLOWS + 1, n)]
    return inputs_of(workflow, embedding, generator.normal(size=(n, SURFACE)) * 3 + 5)


def outcomes(inputs: Inputs, seed: int = 0, hidden: float = 0.0) -> tuple[Floats, Floats]:
    """Labels (n, 3) that depend on the embedding and the workflow, a share of them `hidden`, and weights."""
    generator = np.random.default_rng(seed + 1)
    hard = 4 * inputs.embedding[:, :1] + inputs.workflows @ np.array([[1.0], [-1.0], [0.5], [0.0]])
    p = sigmoid(np.array([0.0, 0.7, 2.0]) - hard.astype(np.float64))
    labels = (generator.uniform(size=p.shape) < p).astype(np.float64)
    labels[generator.uniform(size=p.shape) < hidden] = NAN
    return labels, generator.uniform(0.5, 2.0, p.shape)


def fitted(name: str, n: int = 400, hidden: float = 0.0) -> Estimator:
    inputs = drawn(n)
    return make(name).fit(inputs, *outcomes(inputs, hidden=hidden))


def test_the_shrunken_mean_by_hand() -> None:
    labels = np.array([[1.0, 0.0], [1.0, NAN], [NAN, NAN]])
    # Overall 2/3. Candidate 0: (2 + 2 * 2/3) / (2 + 2). Candidate 1: (0 + 2 * 2/3) / (1 + 2).
    assert observed_mean(labels, np.ones((3, 2))).tolist() == pytest.approx([5 / 6, 4 / 9])
    # Weight 3 on the one failure: overall 2/5.
    weights = np.array([[1.0, 3.0], [1.0, 9.0], [9.0, 9.0]])
    assert observed_mean(labels, weights).tolist() == pytest.approx([(2 + 0.8) / 4, 0.8 / 5])


def test_means_that_scatter_no_more_than_chance_are_read_off_the_line_in_price() -> None:
    labels = np.repeat([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]], 10, axis=0)
    # Ten of twenty each: no scatter at all, so all four get the level, whatever they cost.
    assert priced_mean(labels, np.ones((20, 4)), np.array([1.0, 2.0, 4.0, 8.0])) == pytest.approx(0.5)
    # Means rise by .1 with each doubling of the price: on the line, and kept though each is of ten outcomes.
    rising = np.array([[float(row < passed) for passed in (4, 5, 6, 7)] for row in range(10)])
    assert priced_mean(rising, np.ones((10, 4)), np.array([1.0, 2.0, 4.0, 8.0])) == pytest.approx([0.4, 0.5, 0.6, 0.7])


def test_means_that_scatter_for_sure_are_kept() -> None:
    labels = np.array([[float(row < passed) for passed in (100, 900, 200, 950)] for row in range(1000)])
    assert priced_mean(labels, np.ones((1000, 4)), np.array([1.0, 2.0, 4.0, 8.0])) == pytest.approx(
        [0.1, 0.9, 0.2, 0.95], abs=0.01
    )


def test_a_candidate_without_outcomes_gets_the_line_s_value() -> None:
    labels = np.array([[float(row < passed) for passed in (4, 5, 6, 7)] for row in range(10)])
    labels[:, 3] = NAN
    estimate = priced_mean(labels, np.ones((10, 4)), np.array([1.0, 2.0, 4.0, 8.0]))
    assert estimate[3] == pytest.approx(0.5)  # three candidates are too few for a line: the level
    with pytest.raises(NotTrainableError):
        priced_mean(np.full((2, 4), NAN), np.ones((2, 4)), np.ones(4))


def test_the_hierarchical_ridge_solves_the_joint_problem() -> None:
    inputs = drawn(150)
    labels, weights = outcomes(inputs, hidden=0.5)
    shared, own, tag = 5.0, 20.0, 2.0
    model = HierarchicalRidge(MEAN_COST, shared, own, tag).fit(inputs, labels, weights)
    columns = Design.learn(inputs.untagged()).columns(inputs.untagged())
    columns[:, -WORKFLOWS:] = tag * inputs.workflows
    # The same by one big ridge over (request, candidate) rows with a copy of the columns for each candidate.
    rows, candidates = np.nonzero(np.isfinite(labels))
    scale = np.sqrt(shared / own)
    blocks = [columns[rows]] + [scale * columns[rows] * (candidates == c)[:, None] for c in range(labels.shape[1])]
    joint, w = np.hstack(blocks), weights[rows, candidates]
    mean = priced_mean(labels, weights, MEAN_COST)
    target = labels[rows, candidates] - mean[candidates]
    solved = np.linalg.solve(joint.T @ (joint * w[:, None]) + shared * np.eye(joint.shape[1]), joint.T @ (w * target))
    b, *differences = np.split(solved, labels.shape[1] + 1)
    expected = mean + columns @ np.column_stack([b + scale * difference for difference in differences])
    assert model.predict(inputs) == pytest.approx(expected, abs=1e-6)


def test_the_workflow_table_by_hand() -> None:
    inputs = inputs_of([0, 0, 1, None])
    labels = np.array([[1.0], [1.0], [0.0], [0.0]])
    table = WorkflowTable(strength=4.0).fit(inputs, labels, np.ones((4, 1)))
    # Overall .5. Workflow 0: (2 + 4 * .5) / (2 + 4). Workflow 1: (0 + 2) / (1 + 4). Workflow 2 was never seen: .5.
    estimated = table.predict(inputs_of([0, 1, 2, None]))
    assert estimated[:, 0].tolist() == pytest.approx([2 / 3, 0.4, 0.5, 0.5])


def test_a_workflow_where_a_candidate_was_not_judged_gets_that_candidate_s_mean() -> None:
    labels = np.array([[1.0, 1.0], [0.0, NAN]])
    table = WorkflowTable(strength=2.0).fit(inputs_of([0, 1]), labels, np.ones((2, 2)))
    overall = observed_mean(labels, np.ones((2, 2)))
    assert table.predict(inputs_of([1]))[0, 1] == pytest.approx(overall[1])


def test_more_strength_pulls_a_workflow_nearer_to_the_mean() -> None:
    inputs, labels = inputs_of([0, 0, 1, 1]), np.array([[1.0], [1.0], [0.0], [0.0]])
    gaps = []
    for strength in (0.5, 5.0, 500.0):
        low, high = np.sort(WorkflowTable(strength).fit(inputs, labels, np.ones((4, 1))).predict(inputs)[[0, 2], 0])
        gaps.append(high - low)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[-1] < 0.01


def test_inputs_know_their_tags() -> None:
    inputs = inputs_of([2, None])
    assert inputs.tagged.tolist() == [True, False]
    assert inputs.untagged().tagged.tolist() == [False, False]
    assert inputs.tagged.tolist() == [True, False]  # the original is as it was
    assert inputs.take(np.array([1])).tagged.tolist() == [False]


def test_the_design_standardises_and_folds_back() -> None:
    inputs = drawn(50)
    design = Design.learn(inputs)
    columns = design.columns(inputs)
    assert columns.mean(axis=0) == pytest.approx(np.zeros(columns.shape[1]), abs=1e-9)
    assert columns[:, DIM:].std(axis=0) == pytest.approx(np.ones(SURFACE + WORKFLOWS))
    assert (columns[:, :DIM] ** 2).mean() == pytest.approx(1.0)  # one deviation for all of the embedding
    weight, bias = np.random.default_rng(1).normal(size=(columns.shape[1], 2)), np.array([0.3, -2.0])
    raw, shifted = design.fold(weight, bias)
    assert stacked(inputs) @ raw + shifted == pytest.approx(columns @ weight + bias)


def test_a_constant_column_counts_for_nothing() -> None:
    inputs = inputs_of([None, None, None], np.random.default_rng(0).normal(size=(3, DIM)), np.full((3, SURFACE), 7.0))
    assert (Design.learn(inputs).columns(inputs)[:, DIM:] == 0).all()


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(np.array([-1e6, 0.0, 1e6])).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hidden", [0.0, 0.3])
def test_the_graph_gives_what_numpy_gives(name: str, hidden: float) -> None:
    estimator, inputs = fitted(name, hidden=hidden), drawn(150, seed=9)
    for part in (inputs, inputs.untagged(), inputs.take(np.array([3]))):
        graph = Graph(DIM, SURFACE + WORKFLOWS)
        made = onnx_run.run(graph, estimator.to_onnx(graph), 3, embedding=part.embedding, features=part.features)
        assert np.abs(made - estimator.predict(part)).max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_finite_however_odd_the_request(name: str) -> None:
    estimator, inputs = fitted(name), drawn(20, seed=4)
    odd = replace(inputs, embedding=inputs.embedding * 1e3, features=inputs.features * 1e3)
    for part in (inputs, odd.untagged(), replace(inputs, embedding=np.zeros_like(inputs.embedding))):
        p = estimator.predict(part)
        assert p.shape == (20, 3)
        assert np.isfinite(p).all()
        if not isinstance(
            estimator, (LowRankResidual, HierarchicalRidge)
        ):  # linear in the text, and cut by the calibration
            assert (p >= -1e-9).all()
            assert (p <= 1 + 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
def test_it_learns_from_a_quarter_of_the_cells(name: str) -> None:
    inputs = drawn(1_500)
    labels, weights = outcomes(inputs, hidden=0.75)
    p = make(name).fit(inputs, labels, weights).predict(inputs)
    seen = np.isfinite(labels)
    assert 0.2 < seen.mean() < 0.3
    overall = np.broadcast_to(observed_mean(labels, weights), labels.shape)
    assert np.isfinite(p).all()
    if (
        name != DirectClassifier.name
    ):  # it sees the few requests whose cheapest candidate is known, and those are biased
        assert np.mean((p[seen] - labels[seen]) ** 2) < np.mean((overall[seen] - labels[seen]) ** 2)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_not_judged_cannot_matter(name: str) -> None:
    inputs = drawn(600)
    labels, weights = outcomes(inputs, hidden=0.4)
    elsewhere = np.where(np.isnan(labels), 123.0, weights)
    one, other = (make(name).fit(inputs, labels, w).predict(inputs) for w in (weights, elsewhere))
    assert (one == other).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_the_same_estimator(name: str) -> None:
    inputs = drawn(100, seed=5)
    assert (fitted(name, hidden=0.2).predict(inputs) == fitted(name, hidden=0.2).predict(inputs)).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_separable_set_is_learned(name: str) -> None:
    # Workflow 0 is easy, workflow 1 is for the dear candidates, and the embedding's first coordinate tells them apart.
    workflow: list[int | None] = [0, 1] * 60
    embedding = np.random.default_rng(2).normal(size=(120, DIM)) * 0.1
    embedding[:, 0] = np.where(np.arange(120) % 2, 1.0, -1.0)
    inputs = inputs_of(workflow, embedding)
    labels = np.where((np.arange(120) % 2)[:, None], [[0.0, 1.0, 1.0]], [[1.0, 1.0, 0.0]])
    weights = np.ones(labels.shape)
    p = make(name).fit(inputs, labels, weights).predict(inputs)
    overall = np.broadcast_to(observed_mean(labels, weights), labels.shape)
    assert np.mean((p[:, 0] - labels[:, 0]) ** 2) < 0.5 * np.mean((overall[:, 0] - labels[:, 0]) ** 2)
    assert (p[1::2, 0] < 0.4).all()
    assert (p[0::2, 0] > 0.6).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("label", [0.0, 1.0, NAN])
def test_a_candidate_that_was_always_or_never_good_or_never_judged_is_no_obstacle(name: str, label: float) -> None:
    inputs = drawn(400)
    labels, weights = outcomes(inputs)
    labels[:, 2] = label
    estimator = make(name).fit(inputs, labels, weights)
    p = estimator.predict(inputs)
    assert np.isfinite(p).all()
    if name != DirectClassifier.name and np.isfinite(label):
        assert (np.abs(p[:, 2] - label) < 0.05).all()
    graph = Graph(DIM, SURFACE + WORKFLOWS)
    made = onnx_run.run(graph, estimator.to_onnx(graph), 3, embedding=inputs.embedding, features=inputs.features)
    assert np.abs(made - p).max() < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_without_any_judged_outcome_it_says_that_it_cannot_learn(name: str) -> None:
    inputs = drawn(60)
    with pytest.raises(NotTrainableError):
        make(name).fit(inputs, np.full((60, 3), NAN), np.ones((60, 3)))


@pytest.mark.parametrize("name", NAMES)
def test_fit_gives_the_estimator_back_and_leaves_its_arguments_alone(name: str) -> None:
    inputs = drawn(200)
    labels, weights = outcomes(inputs, hidden=0.2)
    before = [array.copy() for array in (inputs.embedding, inputs.features, labels, weights)]
    estimator = make(name)
    assert estimator.fit(inputs, labels, weights) is estimator
    for array, was in zip((inputs.embedding, inputs.features, labels, weights), before, strict=True):
        assert np.array_equal(array, was, equal_nan=True)


def test_weights_count() -> None:
    inputs = inputs_of([0] * 40)
    labels = np.array([[1.0], [0.0]] * 20)
    heavy = np.where(labels == 1, 9.0, 1.0)
    for estimator in (WorkflowTable(1.0), LogisticPerCandidate(1.0)):
        assert estimator.fit(inputs, labels, heavy).predict(inputs)[0, 0] == pytest.approx(0.9, abs=0.02)


def test_the_direct_classifier_says_what_it_lacks() -> None:
    inputs = drawn(100)
    # Only the dearest was ever judged: a cheaper one might have been acceptable, so no class is known.
    labels = np.full((100, 3), NAN)
    labels[:, 2] = 1.0
    with pytest.raises(NotTrainableError, match="known for 0 requests of 0 classes; 50 requests and 2 classes"):
        DirectClassifier(MEAN_COST).fit(inputs, labels, np.ones((100, 3)))
    with pytest.raises(NotTrainableError, match="known for 100 requests of 1 classes"):
        DirectClassifier(MEAN_COST).fit(inputs, np.ones((100, 3)), np.ones((100, 3)))


def test_the_direct_classifier_adds_up_the_classes_that_cost_no_more() -> None:
    inputs = drawn(400)
    estimator = DirectClassifier(np.array([3.0, 1.0, 2.0]), 1.0).fit(inputs, *outcomes(inputs))
    classes, p = estimator.classes(inputs), estimator.predict(inputs)
    assert classes.sum(axis=1) == pytest.approx(np.ones(400))
    assert p[:, 1] == pytest.approx(classes[:, 1])
    assert p[:, 2] == pytest.approx(classes[:, 1] + classes[:, 2])
    assert p[:, 0] == pytest.approx(np.ones(400))


def test_a_blend_is_the_weighted_mean_of_its_members() -> None:
    inputs = drawn(200)
    data = outcomes(inputs)
    table, logistic = WorkflowTable().fit(inputs, *data), LogisticPerCandidate(c=1.0).fit(inputs, *data)
    blend = MADE[Blend.name]().fit(inputs, *data)
    assert blend.predict(inputs) == pytest.approx(0.25 * table.predict(inputs) + 0.75 * logistic.predict(inputs))


@pytest.mark.parametrize("name", NAMES)
def test_what_does_not_use_the_workflow_does_not(name: str) -> None:
    estimator, inputs = fitted(name), drawn(100, seed=8)
    same = (estimator.predict(inputs) == estimator.predict(inputs.untagged())).all()
    assert same != estimator.uses_workflow
    # Nor may tags have made a difference to what was learned.
    if not estimator.uses_workflow:
        training = drawn(400)
        untagged = make(name).fit(training.untagged(), *outcomes(training))
        assert untagged.predict(inputs) == pytest.approx(estimator.predict(inputs), abs=1e-12)


def test_the_registry_makes_what_is_asked_for_in_that_order() -> None:
    wanted = ("lightgbm", "workflow-table")
    made = factories(replace(FIT, estimators=wanted), MEAN_COST)
    assert tuple(made) == wanted
    assert [factory().name for factory in made.values()] == list(wanted)
    with pytest.raises(ConfigError, match=r"'oracle' is no estimator \(fit\.estimators.*; there are workflow-table, "):
        factories(replace(FIT, estimators=("oracle",)), MEAN_COST)


def test_neighbours_are_found_chunk_by_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = fitted(NearestNeighbours.name), drawn(100, seed=5)
    whole = model.predict(asked)
    sizes: list[int] = []
    near = NearestNeighbours._near

    def spied(self: NearestNeighbours, embedding: Floats32) -> Floats:
        sizes.append(len(embedding))
        return near(self, embedding)

    monkeypatch.setattr(neighbours, "_CHUNK", 32)
    monkeypatch.setattr(NearestNeighbours, "_near", spied)
    assert model.predict(asked) == pytest.approx(whole, abs=1e-6)
    assert sizes == [32, 32, 32, 4]


def test_what_makes_requests_hard_is_learned_from_all_candidates_outcomes() -> None:
    generator = np.random.default_rng(11)
    n, m = 1200, 12
    ability, price = np.linspace(-1.0, 2.0, m), np.geomspace(1.0, 50.0, m)
    asked = drawn(n + 1000, seed=4)
    hard = 4.0 * asked.embedding[:, 0] + asked.workflows @ np.array([1.0, -1.0, 0.5, 0.0])
    p = sigmoid(ability - hard[:, None].astype(np.float64))
    labels = (generator.uniform(size=p.shape) < p).astype(np.float64)
    tried = np.arange(m) == generator.integers(
        0, m, (n + 1000, 1)
    )  # one candidate each, a hundred outcomes of every one
    seen, unseen = np.arange(n), np.arange(n, n + 1000)
    outcome, weights = np.where(tried, labels, NAN)[seen], np.ones((n, m))
    learned = ItemResponse(price).fit(asked.take(seen), outcome, weights)
    table = WorkflowTable().fit(asked.take(seen), outcome, weights)

    def error(estimator: Estimator) -> float:
        return float(((estimator.predict(asked.take(unseen)) - p[unseen]) ** 2).mean())

    # a table that knows each workflow's true means would be off by the variance within workflows, .04
    assert error(learned) < 0.02 < 0.04 < error(table)
    # Interactions that are not there are shrunk away: less is left of them than of what is there.
    assert learned.variances.interaction < 0.1 < learned.variances.workflow
