"""The chance that a candidate fails where the reference does not: by hand, learned, and as it is served."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serving.bundle.arrays import Floats
from training.config import Params, load_params
from training.dataset.inputs import Inputs
from training.learn.heads.violation import LEAST_TOGETHER, Violation, independent, learn_violation, possible
from training.learn.training_data import TrainingData

NAN = float("nan")
REFERENCE = 1
COST = np.array([1.0, 5.0, 2.0])
EASY, HARD = 0, 1


@pytest.fixture(scope="module")
def params() -> Params:
    found = load_params()
    return replace(found, fit=replace(found.fit, violation_estimators=("workflow-table", "logistic"), few_outcomes=0.0))


def data(n: int, seed: int, *, together: bool) -> TrainingData:
    """Half of the requests are hard: there the reference and the others fail three times of four.

    Where they fail `together`, the others never fail but where the reference does; else each fails by itself.
    """
    draw = np.random.default_rng(seed)
    features = np.zeros((n, 3), dtype=np.float32)
    hard = np.arange(n) % 2
    features[np.arange(n), 1 + hard] = 1.0
    chance = np.where(hard == HARD, 0.75, 0.1)
    failed = draw.random((n, 3)) < chance[:, None]
    if together:
        failed[:] = failed[:, [REFERENCE]]
    cost = np.tile(COST, (n, 1))
    return TrainingData(
        inputs=Inputs(draw.normal(size=(n, 4)).astype(np.float32), features, surface=1, counted=np.ones(n)),
        labels=1.0 - failed,
        weights=np.ones((n, 3)),
        propensity=np.ones((n, 3)),
        cost=cost,
        expected_cost=cost,
        complete=np.ones(n, dtype=np.bool_),
        groups=np.arange(n),
        folds=draw.permutation(n) % 5,
    )


def learned(known: TrainingData, params: Params) -> Violation | None:
    workflow = np.array(["hard" if row[2] else "easy" for row in known.inputs.features], dtype=object)
    return learn_violation(known, REFERENCE, COST, workflow, params, None)


UNTAGGED = np.full(6_000, None, dtype=object)


def predicted(head: Violation, known: TrainingData) -> Floats:
    """What the head says where the chances leave it free."""
    return head.predict(known.inputs, np.full(known.labels.shape, 0.5))


def of_kind(kind: int, values: Floats, known: TrainingData) -> Floats:
    """(m,) the mean of the requests of a kind."""
    return np.asarray(values[known.inputs.features[:, 1 + kind] > 0].mean(axis=0))


def test_if_both_fail_independently_by_hand() -> None:
    acceptable = np.array([[0.9, 0.8, 0.5], [0.2, 0.0, 1.0]])
    assert independent(acceptable, REFERENCE) == pytest.approx(np.array([[0.08, 0.0, 0.4], [0.0, 0.0, 0.0]]))


def test_what_the_chances_allow_by_hand() -> None:
    """A candidate that is .1 less often right than the reference breaks a tenth of its answers, or more, up to all it fails."""
    low, high = possible(np.array([[0.9, 0.8, 0.7]]), 1)
    assert low == pytest.approx(np.array([[0.0, 0.0, 0.1]]))
    assert high == pytest.approx(np.array([[0.1, 0.2, 0.3]]))


def test_no_head_says_more_or_less_than_the_chances_allow(params: Params) -> None:
    known = data(1_000, 7, together=True)
    head = learned(known, params)
    assert head is not None
    chances = np.random.default_rng(0).random((1_000, 3))
    low, high = possible(chances, REFERENCE)
    found = head.predict(known.inputs, chances)
    assert ((found >= low) & (found <= high))[:, [0, 2]].all()
    assert (found[:, REFERENCE] == 0).all()


def test_what_fails_where_the_reference_fails_violates_nothing(params: Params) -> None:
    """By the chances alone a candidate would break 3/16 of the hard requests, and is not used."""
    known = data(2_000, 1, together=True)
    head = learned(known, params)
    assert head is not None
    found = of_kind(HARD, predicted(head, known), known)
    assert found[REFERENCE] == 0.0
    assert found[[0, 2]].max() < 0.02
    assert independent(np.full((1, 3), 0.25), REFERENCE)[0, 0] == pytest.approx(3 / 16)


def test_what_fails_by_itself_is_told_as_by_the_chances(params: Params) -> None:
    known = data(4_000, 2, together=False)
    head = learned(known, params)
    assert head is not None
    values = predicted(head, known)
    for kind, chance in ((EASY, 0.1), (HARD, 0.75)):
        assert of_kind(kind, values, known)[[0, 2]] == pytest.approx(chance * (1 - chance), abs=0.03)


def test_it_takes_requests_on_which_both_are_known(params: Params) -> None:
    known = data(2 * LEAST_TOGETHER + 100, 3, together=True)
    labels = known.labels.copy()
    labels[: LEAST_TOGETHER + 101, 2] = NAN
    assert learned(replace(known, labels=labels), params) is None, "one candidate was hardly tried with the reference"
    labels = known.labels.copy()
    labels[::2, 0], labels[1::2, REFERENCE] = NAN, NAN
    assert learned(replace(known, labels=labels), params) is None, "never both of them"


def test_no_failure_at_all_is_learned_too(params: Params) -> None:
    known = data(1_000, 4, together=True)
    head = learned(replace(known, labels=np.ones((1_000, 3))), params)
    assert head is not None
    assert predicted(head, known).max() < 0.02


def test_it_can_be_learned_again_on_other_rows(params: Params) -> None:
    together, apart = data(2_000, 5, together=True), data(2_000, 6, together=False)
    head = learned(together, params)
    assert head is not None
    again = head.refitted(apart.inputs, apart.labels, None)
    assert of_kind(EASY, predicted(again, apart), apart)[0] > of_kind(EASY, predicted(head, apart), apart)[0]


def test_of_a_sampled_log_the_rate_is_the_one_of_the_log(params: Params) -> None:
    """Hard requests stand for one, easy ones for nine, and no workflow tells them apart."""
    known = data(6_000, 5, together=False)
    known = replace(known, inputs=known.inputs.untagged())
    kept = replace(known, standing=np.where(np.arange(6_000) % 2 == HARD, 1.0, 9.0))
    plain, weighted = (learn_violation(one, REFERENCE, COST, UNTAGGED, params, None) for one in (known, kept))
    assert plain is not None
    assert weighted is not None
    other = 1 - REFERENCE if REFERENCE < 2 else 0
    of_log = 0.1 * (0.25 * 0.75) + 0.9 * (0.1 * 0.9)
    assert predicted(weighted, known)[:, other].mean() == pytest.approx(of_log, abs=0.02)
    assert predicted(plain, known)[:, other].mean() > of_log + 0.02
    again = plain.refitted(known.inputs, known.labels, None, None, kept.standing)
    assert predicted(again, known)[:, other].mean() == pytest.approx(of_log, abs=0.02)
