"""Which workflow a prompt without a tag is of: recognised by its text, and believed the less the stranger the prompt is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from serving.bundle.encoder import onnx_session
from training.config import load_params
from training.dataset.inputs import Inputs
from training.dataset.split import workflow_folds
from training.learn.estimators.design import Design, stacked
from training.learn.estimators.registry import variants
from training.learn.export import pair_to_onnx, recognised_to_onnx
from training.learn.heads.pair import Pair, fit_pair
from training.learn.heads.recognise import Recogniser, learn_recogniser
from training.learn.onnx_graph import Graph
from training.learn.training_data import TrainingData

DIM, SURFACE, WORKFLOWS = 24, 2, 4
COST = np.array([1.0, 5.0])


def written(n: int, seed: int, *, workflows: int = WORKFLOWS, tagged: float = 1.0) -> tuple[Inputs, np.ndarray]:
    """Requests of so many workflows, each about a direction of its own, and their workflows; a share has its tag."""
    draw = np.random.default_rng(seed)
    kind = draw.integers(0, workflows, n)
    embedding = 0.15 * draw.normal(size=(n, DIM))
    embedding[np.arange(n), kind] += 1.0
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    features = np.zeros((n, SURFACE + WORKFLOWS), dtype=np.float32)
    features[:, :SURFACE] = draw.normal(size=(n, SURFACE))
    said = draw.random(n) < tagged
    features[np.flatnonzero(said), SURFACE + kind[said]] = 1.0
    return Inputs(embedding.astype(np.float32), features, SURFACE, np.ones(n)), kind


def recogniser(inputs: Inputs, kind: np.ndarray) -> Recogniser | None:
    groups = np.arange(len(inputs))
    names = np.array([f"w{k}" for k in kind], dtype=object)
    return learn_recogniser(inputs, groups % 5, workflow_folds(groups, names, 5))


def test_the_text_tells_the_workflow_and_a_tag_is_believed() -> None:
    found = recogniser(*written(600, 0))
    asked, kind = written(300, 1, tagged=0.5)
    assert found is not None
    recognised = found.recognised(asked)
    assert (recognised.workflows.sum(axis=1) == 1).all()
    assert (recognised.workflows.argmax(axis=1) == kind).mean() > 0.98
    assert (recognised.workflows[asked.tagged] == asked.workflows[asked.tagged]).all()
    assert (recognised.features[:, :SURFACE] == asked.features[:, :SURFACE]).all()
    assert (found.known(asked)[asked.tagged] == 1.0).all()


def test_a_prompt_of_no_known_workflow_is_believed_less() -> None:
    """Three workflows are learned; prompts of the fourth are told from new prompts of the three."""
    inputs, kind = written(900, 0)
    known_ones = kind < 3
    found = recogniser(inputs.take(known_ones), kind[known_ones])
    asked, kind = written(400, 1, tagged=0.0)
    assert found is not None
    chance = found.known(asked)[:, 0]
    assert chance[kind < 3].mean() > 0.8
    assert chance[kind == 3].mean() < 0.2


def test_one_workflow_or_few_requests_recognise_nothing() -> None:
    assert recogniser(*written(200, 0, workflows=1)) is None
    assert recogniser(*written(8, 0)) is None
    assert recogniser(*written(200, 0, tagged=0.0)) is None


def test_two_workflows_and_rare_ones() -> None:
    """Of two workflows scikit-learn keeps one score; a workflow of a handful of requests is never recognised."""
    inputs, kind = written(400, 0, workflows=2)
    found = recogniser(inputs, kind)
    asked, truth = written(200, 1, workflows=2, tagged=0.0)
    assert found is not None
    assert (found.recognised(asked).workflows.argmax(axis=1) == truth).mean() > 0.98
    mixed, kind = written(400, 2)
    kept = (kind < 3) | (np.cumsum(kind == 3) <= 5)
    found = recogniser(mixed.take(kept), kind[kept])
    assert found is not None
    assert not (found.recognised(written(200, 3, tagged=0.0)[0]).workflows.argmax(axis=1) == 3).any()


@pytest.mark.parametrize(("workflows", "tagged"), [(3, 0.8), (2, 1.0)])
def test_the_scores_are_a_linear_discriminant_analysis(workflows: int, tagged: float) -> None:
    """Those of scikit-learn's on the standardised columns, up to what all classes have in common."""
    inputs, kind = written(500, 3, workflows=workflows, tagged=tagged)
    found = recogniser(inputs, kind)
    assert found is not None
    text = inputs.untagged()
    columns = Design.learn(text).columns(text)
    classes = np.where(inputs.tagged, inputs.workflows.argmax(axis=1), WORKFLOWS)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1).fit(columns, classes)
    known = np.unique(classes)
    scores = stacked(text) @ found.weight[:, known] + found.bias[known]
    scores[:, known == WORKFLOWS] += np.log(4.0)
    expected = theirs.decision_function(columns)
    if len(known) == 2:
        expected = np.column_stack([0.0 * expected, expected])
    np.testing.assert_allclose(scores - scores[:, :1], expected - expected[:, :1], atol=1e-7)


@pytest.fixture(scope="module")
def pair() -> Pair:
    """Learned where the first candidate is good at half of the workflows, and the second at the other half."""
    inputs, kind = written(1200, 0, tagged=0.9)
    draw = np.random.default_rng(5)
    good = np.where((kind < 2)[:, None], [0.9, 0.2], [0.2, 0.9])
    n = len(kind)
    data = TrainingData(
        inputs=inputs,
        labels=(draw.random((n, 2)) < good).astype(np.float64),
        weights=np.ones((n, 2)),
        propensity=np.ones((n, 2)),
        cost=np.tile(COST, (n, 1)),
        expected_cost=np.tile(COST, (n, 1)),
        complete=np.ones(n, dtype=np.bool_),
        groups=np.arange(n),
        folds=np.arange(n) % 5,
    )
    params = load_params()
    params = replace(params, fit=replace(params.fit, estimators=("workflow-table", "logistic")))
    names = np.array([f"w{k}" if said else None for k, said in zip(kind, inputs.tagged, strict=True)], dtype=object)
    kinds = variants(params.fit, COST)
    return fit_pair(data, kinds, names, params, recogniser(inputs, kind), calibration="none")


def test_a_request_without_its_tag_gets_what_its_workflow_would(pair: Pair) -> None:
    asked, _ = written(400, 7)
    with_tag, without = pair.predict(asked), pair.predict(asked.untagged())
    alone = pair.untagged.predict(asked.untagged())
    assert np.abs(with_tag - without).mean() < 0.5 * np.abs(with_tag - alone).mean()


def test_the_graph_recognises_the_same(pair: Pair) -> None:
    asked, _ = written(300, 8, tagged=0.5)
    assert pair.recogniser is not None
    assert pair.recogniser.clear(asked).mean() > 0.99
    graph = Graph(DIM, SURFACE + WORKFLOWS)
    graph.add_columns(recognised_to_onnx(graph, pair.recogniser, SURFACE), WORKFLOWS)
    graph.output("estimates", 2, pair_to_onnx(graph, pair, SURFACE))
    model = graph.model()
    onnx.checker.check_model(model)
    feed = {"embedding": asked.embedding, "features": asked.features}
    found = onnx_session(model.SerializeToString()).run(["estimates"], feed)[0]
    assert found == pytest.approx(pair.predict(asked), abs=1e-5)


def test_what_is_learned_anew_is_recognised_anew(pair: Pair) -> None:
    """After a refit on workflows that lie elsewhere the text tells those."""
    inputs, kind = written(600, 9)
    turned = replace(inputs, embedding=np.ascontiguousarray(np.roll(inputs.embedding, 7, axis=1)))
    assert pair.recogniser is not None
    again = pair.recogniser.refitted(turned, np.arange(len(turned)) % 5)
    recognised = again.recognised(turned.untagged()).workflows.argmax(axis=1)
    assert (recognised == kind).mean() > 0.98
    assert again.slope == pair.recogniser.slope


def test_more_requests_do_not_make_everything_look_known() -> None:
    """Five times as many requests are a measure that prompts lie nearer to: by it alone a strange one would look known."""
    few, kind = written(150, 0, workflows=3)
    more, _ = written(750, 1, workflows=3)
    strange = written(400, 2, tagged=0.0)
    asked = strange[0].take(strange[1] == 3)
    found = recogniser(few, kind)
    assert found is not None
    again = found.refitted(more, np.arange(len(more)) % 5)
    unmoved = replace(again, level=found.level)
    usual = strange[0].take(strange[1] < 3)
    assert again.known(asked).mean() <= found.known(asked).mean() < unmoved.known(asked).mean()
    assert again.known(usual).mean() == pytest.approx(found.known(usual).mean(), abs=0.05)


def test_what_is_never_tagged_looks_new_however_often_it_was_seen() -> None:
    """A kind of work without tags is in training, and the tagged head knows nothing of it."""
    inputs, kind = written(800, 0)
    features = inputs.features.copy()
    features[kind == 3, SURFACE:] = 0.0
    found = recogniser(replace(inputs, features=features), kind)
    asked, kind = written(400, 1, tagged=0.0)
    assert found is not None
    chance = found.known(asked)[:, 0]
    assert chance[kind == 3].mean() < 0.2 < 0.8 < chance[kind < 3].mean()


def test_a_kind_that_is_near_a_workflow_but_never_tagged_is_not_taken_for_it() -> None:
    """Half of the log has no tag, and something of its own beside what the first workflow has; dropped tags are recognised."""
    inputs, kind = written(1200, 0)
    own = np.arange(len(kind)) % 2 == 0
    embedding, features = inputs.embedding.copy(), inputs.features.copy()
    embedding[own] = embedding[kind == 0][np.arange(own.sum()) % (kind == 0).sum()]
    embedding[own, DIM - 1] += 1.0
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    features[own, SURFACE:] = 0.0
    log = replace(inputs, embedding=embedding, features=features)
    found = recogniser(log, kind)
    assert found is not None
    assert found.recognised(log.take(own)).tagged.mean() < 0.05
    withheld = log.take(~own).untagged()
    assert (found.recognised(withheld).workflows.argmax(axis=1) == kind[~own])[
        found.recognised(withheld).tagged
    ].mean() > 0.95
    dropped, kind = written(1200, 3, tagged=0.5)
    found = recogniser(dropped, kind)
    asked, truth = written(300, 4, tagged=0.0)
    assert found is not None
    assert (found.recognised(asked).workflows.argmax(axis=1) == truth).mean() > 0.95
