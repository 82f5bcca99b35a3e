"""Sums over requests: what is solved from them is what the rows give, however the rows are cut and ordered."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bundle.arrays import Columns, Floats
from training.dataset.inputs import Inputs
from training.learn import sums as made
from training.learn.costs import CostSums, LogRidge, logarithm
from training.learn.estimators.base import FromSums, NotTrainableError, observed_mean, priced_mean, sigmoid
from training.learn.estimators.blend import Blend, fit_from
from training.learn.estimators.design import Design, linear, stacked
from training.learn.estimators.linear import HierarchicalRidge, LowRankResidual, ReducedRankRidge, Ridge
from training.learn.estimators.neighbours import NearestNeighbours
from training.learn.estimators.tables import AdditiveTable, WorkflowTable
from training.learn.sums import Normal, Sums, add

NAN = float("nan")
MEAN_COST = np.array([1.0, 3.0, 9.0])
DIM, SURFACE, SLOTS = 5, 3, 4


def requests(n: int, seed: int, workflows: int = 3) -> Inputs:
    """Random requests, the last surface column of which never varies; a quarter has no tag."""
    draw = np.random.default_rng(seed)
    features = np.zeros((n, SURFACE + workflows))
    features[:, :SURFACE] = draw.normal(size=(n, SURFACE)) * [3.0, 0.1, 0.0] + [7.0, 1.0, 1 / 3]
    tag = draw.integers(0, workflows + 1, n)
    known = tag < workflows
    features[np.flatnonzero(known), SURFACE + tag[known]] = 1.0
    embedding = draw.normal(size=(n, DIM)) + 0.3
    return Inputs(embedding.astype(np.float32), features.astype(np.float32), SURFACE, np.ones(n))


def judged(n: int, seed: int) -> tuple[Floats, Floats, Columns]:
    """Labels in [0, 1], NaN for half of them, weights, some of them 0, and the slots."""
    draw = np.random.default_rng(seed + 1)
    labels = np.where(draw.random((n, 3)) < 0.5, draw.random((n, 3)), NAN)
    return labels, draw.gamma(1.0, size=(n, 3)) * (draw.random((n, 3)) < 0.9), draw.integers(0, SLOTS, n)


def same(one: Sums | Normal, other: Sums | Normal, tolerance: float = 1e-9) -> None:
    for field in fields(one):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=tolerance, err_msg=field.name)


def weighted(labels: Floats, weights: Floats) -> tuple[Floats, Floats]:
    known = np.isfinite(labels)
    return np.where(known, weights, 0.0), np.where(known, labels, 0.0)


def ridge(columns: Floats, target: Floats, weight: Floats, penalty: float) -> Floats:
    """(d,) by the normal equations of the rows themselves."""
    left = columns.T @ (columns * weight[:, None]) + penalty * np.eye(columns.shape[1])
    return np.asarray(np.linalg.solve(left, columns.T @ (weight * target)))


def standardised(inputs: Inputs) -> Floats:
    """(n, DIM + SURFACE), by numpy's own mean and deviation; the embedding shares one, what never varies is 0."""
    columns = stacked(inputs)[:, : DIM + SURFACE]
    deviation = columns.std(axis=0)
    deviation[:DIM] = np.sqrt((deviation[:DIM] ** 2).mean())
    varies = deviation > 1e-6
    return np.where(varies, (columns - columns.mean(axis=0)) / np.where(varies, deviation, 1.0), 0.0)


def table(inputs: Inputs, labels: Floats, weights: Floats, strength: float) -> Floats:
    """(n, m) each workflow's shrunken mean, workflow by workflow."""
    weight, label = weighted(labels, weights)
    overall = observed_mean(labels, weights)
    found = np.tile(overall, (len(inputs), 1))
    for column in range(inputs.workflows.shape[1]):
        inside = inputs.workflows[:, column] > 0
        total = (weight * label)[inside].sum(axis=0) + strength * overall
        found[inside] = total / (weight[inside].sum(axis=0) + strength)
    return found


def low_rank(inputs: Inputs, labels: Floats, weights: Floats, base: Floats, penalty: float, rank: int) -> Floats:
    weight, label = weighted(labels, weights)
    columns = standardised(inputs)
    found = np.column_stack([ridge(columns, (label - base)[:, c], weight[:, c], penalty) for c in range(3)])
    _, directions = np.linalg.eigh((columns @ found).T @ (columns @ found))
    leading = directions[:, -rank:]
    return np.asarray(base + columns @ found @ leading @ leading.T)


def hierarchical(inputs: Inputs, labels: Floats, weights: Floats, shared: float, own: float, tag: float) -> Floats:
    """One large ridge over the judged cells, on their columns and on a copy of these for each candidate."""
    weight, _ = weighted(labels, weights)
    columns = np.hstack([standardised(inputs), tag * inputs.workflows])
    rows, candidates = np.nonzero(weight > 0)
    mean, ratio = priced_mean(labels, weights, MEAN_COST), np.sqrt(shared / own)
    blocks = [columns[rows]] + [ratio * columns[rows] * (candidates == c)[:, None] for c in range(3)]
    target = labels[rows, candidates] - mean[candidates]
    b, *apart = np.split(ridge(np.hstack(blocks), target, weight[rows, candidates], shared), 4)
    return np.asarray(mean + columns @ np.column_stack([b + ratio * one for one in apart]))


def additive(inputs: Inputs, labels: Floats, weights: Floats, strength: float) -> Floats:
    """As its docstring says, with each workflow's effect found by bisection on the slope of its likelihood."""
    weight, label = weighted(labels, weights)
    overall = np.clip(observed_mean(labels, weights), 1e-4, 1 - 1e-4)
    base = np.log(overall / (1 - overall))
    found = np.tile(overall, (len(inputs), 1))
    for column in range(inputs.workflows.shape[1]):
        inside = inputs.workflows[:, column] > 0
        count, total = weight[inside].sum(axis=0), (weight * label)[inside].sum(axis=0)
        low, high = -8.0, 8.0
        for _ in range(200):
            effect = (low + high) / 2
            slope = (total - count * sigmoid(base + effect)).sum() - effect / 2
            low, high = (effect, high) if slope > 0 else (low, effect)
        found[inside] = (total + strength * sigmoid(base + effect)) / (count + strength)
    return found


KINDS: dict[str, FromSums] = {
    WorkflowTable.name: WorkflowTable(4.0),
    AdditiveTable.name: AdditiveTable(7.0),
    LowRankResidual.name: LowRankResidual(2.0, 2, 4.0),
    ReducedRankRidge.name: ReducedRankRidge(2.0, 1, 4.0),
    Ridge.name: Ridge(2.0),
    HierarchicalRidge.name: HierarchicalRidge(MEAN_COST, 3.0, 9.0, 2.0),
}


def direct(name: str, inputs: Inputs, labels: Floats, weights: Floats) -> Floats:
    mean = np.tile(observed_mean(labels, weights), (len(inputs), 1))
    return {
        WorkflowTable.name: lambda: table(inputs, labels, weights, 4.0),
        AdditiveTable.name: lambda: additive(inputs, labels, weights, 7.0),
        LowRankResidual.name: lambda: low_rank(
            inputs, labels, weights, table(inputs, labels, weights, 4.0), penalty=2.0, rank=2
        ),
        ReducedRankRidge.name: lambda: low_rank(inputs, labels, weights, mean, penalty=2.0, rank=1),
        Ridge.name: lambda: low_rank(inputs, labels, weights, mean, penalty=2.0, rank=3),
        HierarchicalRidge.name: lambda: hierarchical(inputs, labels, weights, 3.0, 9.0, 2.0),
    }[name]()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("workflows", [3, 0])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_solved_from_sums_is_what_the_rows_give(name: str, workflows: int, seed: int) -> None:
    inputs = requests(150, seed, workflows)
    labels, weights, slot = judged(150, seed)
    expected = direct(name, inputs, labels, weights)
    sums = add(inputs, weights, [labels], slot, SLOTS)
    np.testing.assert_allclose(KINDS[name].fit_sums(sums.all()).predict(inputs), expected, atol=1e-9)
    np.testing.assert_allclose(KINDS[name].fit(inputs, labels, weights).predict(inputs), expected, atol=1e-9)
    for fold in range(SLOTS):
        rest = slot != fold
        seen = inputs.take(rest)
        expected = direct(name, seen, labels[rest], weights[rest])
        np.testing.assert_allclose(KINDS[name].fit_sums(sums.without(fold)).predict(seen), expected, atol=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_without_tags_the_sums_are_those_of_requests_without_tags(name: str) -> None:
    inputs = requests(120, 5)
    labels, weights, _ = judged(120, 5)
    normal = Normal.of(inputs, labels, weights)
    same(normal.untagged(), Normal.of(inputs.untagged(), labels, weights))
    bare = KINDS[name].fit(inputs.untagged(), labels, weights).predict(inputs)
    np.testing.assert_allclose(KINDS[name].fit_sums(normal.untagged()).predict(inputs), bare, atol=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 60))
def test_sums_of_parts_add_up_and_are_taken_off_again(seed: int, first: int, second: int) -> None:
    n = first + second
    inputs, (labels, weights, slot) = requests(n, seed), judged(n, seed)
    rows = np.arange(n)

    def of(rows: Columns) -> Sums:
        return add(inputs.take(rows), weights[rows], [labels[rows], 1.0 - labels[rows]], slot[rows], SLOTS)

    whole, one, other = of(rows), of(rows[:first]), of(rows[first:])
    same(one.plus(other), whole)
    same(other.plus(one), whole)
    same(whole.minus(other), one)
    same(of(np.random.default_rng(seed).permutation(n)), whole)
    for fold in range(SLOTS):
        same(whole.without(fold, 1), whole.of([other for other in range(SLOTS) if other != fold], 1))
    same(whole.all(1), Normal.of(inputs, 1.0 - labels, weights))
    nothing = whole.minus(whole)
    assert not any(getattr(nothing, field.name).any() for field in fields(nothing) if field.name != "dim")


def test_the_block_makes_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, (labels, weights, slot) = requests(200, 8), judged(200, 8)
    whole = add(inputs, weights, [labels], slot, SLOTS)
    predicted = linear(inputs, np.ones((DIM + SURFACE + 3, 2)), np.zeros(2))
    learned = Design.learn(inputs)
    monkeypatch.setattr(made, "BLOCK", 7)
    monkeypatch.setattr("training.learn.estimators.design.BLOCK", 7)
    same(add(inputs, weights, [labels], slot, SLOTS), whole)
    np.testing.assert_allclose(linear(inputs, np.ones((DIM + SURFACE + 3, 2)), np.zeros(2)), predicted, rtol=1e-12)
    np.testing.assert_allclose(Design.learn(inputs).scale, learned.scale, rtol=1e-12)


def test_a_fold_that_holds_all_but_one_of_a_candidate_s_outcomes_leaves_exactly_that_one() -> None:
    """What is left is not the difference of two large numbers."""
    inputs, (labels, weights, _) = requests(400, 2), judged(400, 2)
    weights *= 1e6
    slot = np.arange(400) % SLOTS
    labels[:, 1] = np.where(slot == 2, 1.0, NAN)
    labels[1, 1], weights[1, 1] = 0.0, 1e-3
    sums = add(inputs, weights, [labels], slot, SLOTS)
    rest = slot != 2
    same(sums.without(2), Normal.of(inputs.take(rest), labels[rest], weights[rest]), tolerance=0.0)
    labels[1, 1] = NAN
    sums = add(inputs, weights, [labels], slot, SLOTS)
    assert sums.without(2).weight[1] == 0
    assert not sums.without(2).cross[1].any()
    alone = sums.minus(add(inputs.take(~rest), weights[~rest], [labels[~rest]], slot[~rest], SLOTS))
    assert not alone.gram[:, 1].any()
    for name in KINDS:
        p = KINDS[name].fit_sums(sums.without(2)).predict(inputs)
        assert np.isfinite(p).all()


@pytest.mark.parametrize("constant", [0.0, 1 / 3, 1e4])
def test_a_column_that_never_varies_has_no_scale(constant: float) -> None:
    inputs = requests(5000, 3)
    inputs.features[:, 1] = constant
    normal = Normal.of(inputs, *judged(5000, 3)[:2])
    design, learned = Design.of(normal), Design.learn(inputs)
    assert design.scale[DIM + 1] == learned.scale[DIM + 1] == 0
    np.testing.assert_allclose(design.scale, learned.scale, rtol=1e-9)
    np.testing.assert_allclose(design.mean, learned.mean, rtol=1e-12)
    seldom = inputs.features.copy()
    seldom[0, 1] = constant + 1.0
    rare = Design.of(Normal.of(replace(inputs, features=seldom), *judged(5000, 3)[:2]))
    assert rare.scale[DIM + 1] > 0  # one request of 5,000 is enough to vary


def test_the_sums_of_the_standardised_columns_are_those_of_the_columns() -> None:
    inputs, (labels, weights, _) = requests(90, 4), judged(90, 4)
    normal = Normal.of(inputs, labels, weights)
    design, columns = Design.of(normal), Design.learn(inputs).columns(inputs)
    weight, _ = weighted(labels, weights)
    for candidate in range(3):
        expected = columns.T @ (columns * weight[:, candidate : candidate + 1])
        np.testing.assert_allclose(design.gram(normal, candidate), expected, atol=1e-9)
    np.testing.assert_allclose(design.gram(normal, -1), columns.T @ columns, atol=1e-9)


def test_candidates_that_were_judged_alike_are_solved_together() -> None:
    inputs = requests(60, 1)
    labels = np.random.default_rng(0).random((60, 3))
    weights = np.ones((60, 3))
    assert Normal.of(inputs, labels, weights).alike() == [[0, 1, 2]]
    labels[7, 1] = NAN
    assert Normal.of(inputs, labels, weights).alike() == [[0, 2], [1]]


def test_where_nothing_counts_nothing_is_learned() -> None:
    inputs = requests(20, 0)
    for labels, weights in ((np.full((20, 3), NAN), np.ones((20, 3))), (np.ones((20, 3)), np.zeros((20, 3)))):
        for kind in KINDS.values():
            with pytest.raises(NotTrainableError, match="no outcome was judged"):
                kind.fit_sums(Normal.of(inputs, labels, weights))


def test_a_request_of_two_workflows_is_refused() -> None:
    inputs = requests(10, 0)
    inputs.features[3, SURFACE:] = 1.0
    with pytest.raises(ValueError, match="more than one workflow"):
        Normal.of(inputs, np.ones((10, 3)), np.ones((10, 3)))


def test_a_blend_takes_sums_for_the_members_that_are_solved_from_them_and_rows_for_the_others() -> None:
    inputs, (labels, weights, _) = requests(80, 6), judged(80, 6)
    members = {"table": WorkflowTable, "knn": NearestNeighbours}
    blend = Blend(members, {"table": 0.5, "knn": 0.5})
    other = np.where(np.isfinite(labels), 1.0 - labels, NAN)  # sums of something else show who took them
    fit_from(blend, inputs, labels, weights, Normal.of(inputs, other, weights))
    for kind, target in ((WorkflowTable, other), (NearestNeighbours, labels)):
        alone = kind().fit(inputs, target, weights).predict(inputs)
        assert np.array_equal(
            blend.members[{WorkflowTable: "table", NearestNeighbours: "knn"}[kind]].predict(inputs), alone
        )


def test_costs_without_a_fold_are_those_of_the_other_rows() -> None:
    n = 120
    inputs, slot = requests(n, 9), np.arange(n) % SLOTS
    draw = np.random.default_rng(9)
    amounts = np.where(draw.random((n, 2)) < 0.7, draw.gamma(2.0, size=(n, 2)) * (draw.random((n, 2)) < 0.95), NAN)
    rest = slot != 1
    normal = add(inputs, np.ones((n, 2)), [logarithm(amounts)], slot, SLOTS).without(1)
    from_sums = LogRidge(2.0, 5.0).fit(inputs.take(rest), amounts[rest], normal)
    from_rows = LogRidge(2.0, 5.0).fit(inputs.take(rest), amounts[rest])
    np.testing.assert_allclose(from_sums.predict(inputs), from_rows.predict(inputs), rtol=1e-9)
    np.testing.assert_allclose(from_sums.predict_tail(inputs), from_rows.predict_tail(inputs), rtol=1e-9)
    # By the rows: what all have in common, then what sets one apart, each by ridge regression towards the former.
    seen = np.isfinite(logarithm(amounts[rest]))
    columns = Design.learn(inputs.take(rest)).columns(inputs.take(rest))
    logs = np.where(seen, logarithm(amounts[rest]), 0.0)
    mean = logs.sum(axis=0) / seen.sum(axis=0)
    rows, candidates = np.nonzero(seen)
    shared = ridge(columns[rows], (logs - mean)[rows, candidates], np.ones(len(rows)), 2.0)
    for candidate in range(2):
        own = columns[seen[:, candidate]]
        target = (logs[:, candidate] - mean[candidate])[seen[:, candidate]] - own @ shared
        apart = ridge(own, target - target.mean(), np.ones(len(own)), 5.0)
        expected = columns @ (shared + apart) + mean[candidate] + target.mean()
        found = linear(inputs.take(rest), from_rows.weight, from_rows.bias)[:, candidate]
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_amounts_that_are_known_of_the_same_outcomes_are_added_up_together() -> None:
    class Matrix:
        output_tokens = np.array([[1.0, NAN], [2.0, 3.0]])
        cost_usd = np.array([[0.1, NAN], [0.2, 0.3]])
        latency_ms = np.array([[NAN, NAN], [20.0, 30.0]])
        standing = None

    sums = CostSums.of(requests(2, 0), Matrix(), np.zeros(2, dtype=np.intp), 1)  # type: ignore[arg-type]
    tokens, cost, latency = sums.parts
    assert tokens[0] is cost[0]
    assert latency[0] is not cost[0]
    assert [normal.outcomes.tolist() for normal in sums.all()] == [[2.0, 1.0, 2.0]] * 2 + [[1.0, 1.0, 2.0]]
    assert [normal.total[0] for normal in sums.all()] == pytest.approx([np.log(2), np.log(0.02), np.log(20)])
