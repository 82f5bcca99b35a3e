"""Logistic regressions: the optimum is that of scikit-learn, wherever the search for it begins."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from serving.bundle.arrays import Floats
from training.dataset.inputs import Inputs
from training.learn.estimators import logistic
from training.learn.estimators.base import NotTrainableError
from training.learn.estimators.blend import Blend, fit_from
from training.learn.estimators.design import Design
from training.learn.estimators.logistic import LogisticPerCandidate
from training.learn.estimators.tables import WorkflowTable

NAN = float("nan")
C = 0.05
HALF = np.arange(600) % 2 == 0


def requests(n: int, seed: int = 0, workflows: int = 3) -> Inputs:
    """Random requests of some workflows; the last surface column never varies."""
    draw = np.random.default_rng(seed)
    embedding = draw.normal(size=(n, 6)) + 0.2
    features = np.zeros((n, 3 + workflows))
    features[:, :3] = draw.normal(size=(n, 3)) * [4.0, 0.1, 0.0] + [7.0, 1.0, 1 / 3]
    features[np.arange(n), 3 + draw.integers(0, workflows, n)] = 1.0
    return Inputs(embedding.astype(np.float32), features.astype(np.float32), 3, np.ones(n))


def outcomes(inputs: Inputs, seed: int = 0) -> tuple[Floats, Floats]:
    """Labels (n, 3), a third of them unknown, of the last candidate but four failures; and weights."""
    draw = np.random.default_rng(seed + 1)
    hard = inputs.embedding[:, :1] * 2 + inputs.workflows[:, :1] - inputs.workflows[:, 1:2]
    chance = 1 / (1 + np.exp(hard - [0.0, 1.0, 2.0]))
    labels = (draw.random(chance.shape) < chance).astype(np.float64)
    labels[draw.random(labels.shape) < 0.3] = NAN
    labels[:, 2] = 1.0
    labels[:4, 2] = 0.0
    return labels, draw.gamma(1.0, size=labels.shape) * (draw.random(labels.shape) < 0.9)


def by_scikit_learn(inputs: Inputs, labels: Floats, weights: Floats, asked: Inputs) -> Floats:
    """(n, 2) of the candidates of which enough is known."""
    design, found = Design.learn(inputs), []
    for candidate in range(2):
        seen = np.isfinite(labels[:, candidate]) & (weights[:, candidate] > 0)
        model = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-12, max_iter=200)
        model.fit(design.columns(inputs.take(seen)), labels[seen, candidate], sample_weight=weights[seen, candidate])
        found.append(model.predict_proba(design.columns(asked))[:, 1])
    return np.column_stack(found)


def test_it_is_the_optimum() -> None:
    inputs = requests(600)
    labels, weights = outcomes(inputs)
    found = LogisticPerCandidate(C).fit(inputs, labels, weights).predict(inputs)
    assert found[:, :2] == pytest.approx(by_scikit_learn(inputs, labels, weights, inputs), abs=1e-7)
    assert np.ptp(found[:, 2]) == 0.0  # four failures are too few


def test_beginning_elsewhere_ends_at_the_same_place() -> None:
    """From other requests, other labels, columns that did not vary there, and a candidate that was not learned there."""
    inputs = requests(600)
    labels, weights = outcomes(inputs)
    other = requests(500, seed=5)
    of_other = outcomes(other, seed=6)
    turned = 1.0 - of_other[0], of_other[1]
    untagged = outcomes(other.untagged(), seed=7)
    few = np.where(np.arange(500)[:, None] < [500, 6, 500], of_other[0], NAN), of_other[1]
    moved = replace(other, embedding=other.embedding + np.float32(3.0))
    aside = LogisticPerCandidate(C).fit(inputs, labels, weights).predict(inputs)
    for begun, told in (
        (other, of_other),
        (other, turned),
        (other.untagged(), untagged),
        (other, few),
        (moved, of_other),
    ):
        near = LogisticPerCandidate(C).fit(begun, *told)
        found = LogisticPerCandidate(C).fit_near(near, inputs, labels, weights).predict(inputs)
        assert found == pytest.approx(aside, abs=1e-6)


def test_a_beginning_without_use_is_none() -> None:
    """A curvature of which rounding left nothing positive."""
    inputs = requests(600)
    data = outcomes(inputs)
    aside = LogisticPerCandidate(C).fit(inputs, *data).predict(inputs)
    near = LogisticPerCandidate(C).fit(inputs, *data)
    near.optima[0] = replace(near.optima[0], curvature=-np.eye(len(near.optima[0].curvature)))
    found = LogisticPerCandidate(C).fit_near(near, inputs, *data).predict(inputs)
    assert found == pytest.approx(aside, abs=1e-6)


def test_what_another_design_makes_of_an_optimum_says_the_same() -> None:
    inputs, other = requests(600), requests(400, seed=9)
    first = LogisticPerCandidate(C).fit(inputs, *outcomes(inputs))
    optimum, design = first.optima[0], Design.learn(other)
    turned = optimum.on(design)
    said = design.columns(inputs) @ turned.solution[:-1] + turned.solution[-1]
    before = optimum.design.columns(inputs) @ optimum.solution[:-1] + optimum.solution[-1]
    assert said == pytest.approx(before, abs=1e-9)
    again = turned.on(optimum.design)
    assert again.curvature == pytest.approx(optimum.curvature, rel=1e-9, abs=1e-9)


def test_steps_from_nearby_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a fold they go on from what was learned with it: else nothing is won."""
    asked: list[int] = []

    def counted(*arguments: object, **named: object) -> object:
        found = plain(*arguments, **named)
        asked.append(found.nfev)
        return found

    plain = logistic.minimize
    inputs = requests(2_000)
    labels, weights = outcomes(inputs)
    near = LogisticPerCandidate(C).fit(inputs, labels, weights)
    monkeypatch.setattr(logistic, "minimize", counted)
    left = np.arange(2_000) % 5 > 0
    LogisticPerCandidate(C).fit_near(near, inputs.take(left), labels[left], weights[left])
    assert len(asked) == 1  # both candidates together
    assert asked[0] <= 15


def test_members_of_a_blend_begin_at_those_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = requests(600)
    data = outcomes(inputs)
    members, weights = {"text": lambda: LogisticPerCandidate(C), "table": WorkflowTable}, {"text": 0.5, "table": 0.5}
    first = Blend(members, weights).fit(inputs, *data)
    aside = Blend(members, weights).fit(inputs.take(HALF), *(part[HALF] for part in data))
    monkeypatch.setattr(logistic, "LogisticRegression", None)  # what begins from nothing ends here
    again = fit_from(Blend(members, weights), inputs.take(HALF), *(part[HALF] for part in data), near=first.members)
    assert again.predict(inputs) == pytest.approx(aside.predict(inputs), abs=2e-7)


@pytest.mark.parametrize("c", [30.0, 3_000.0])
def test_where_a_search_does_not_end_newton_s_steps_find_it(c: float) -> None:
    """From labels that the columns tell apart to ones of which a fifth is turned, with hardly a penalty."""
    inputs = requests(600)
    apart = np.repeat((inputs.embedding[:, :1] > 0).astype(np.float64), 3, axis=1)
    turned = np.where((np.arange(600) % 5 == 0)[:, None], 1.0 - apart, apart)
    weights = np.ones(apart.shape)
    near = LogisticPerCandidate(c).fit(inputs, apart, weights)
    aside = LogisticPerCandidate(c).fit(inputs, turned, weights).predict(inputs)
    found = LogisticPerCandidate(c).fit_near(near, inputs, turned, weights).predict(inputs)
    assert found == pytest.approx(aside, abs=1e-5)
    design = Design.learn(inputs)
    model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12, max_iter=200)
    model.fit(design.columns(inputs), turned[:, 0])
    assert found[:, 0] == pytest.approx(model.predict_proba(design.columns(inputs))[:, 1], abs=1e-5)


@pytest.mark.parametrize("scale", [1e-8, 1e7])
def test_a_beginning_on_columns_of_another_size_does_no_harm(scale: float) -> None:
    inputs = requests(600)
    data = outcomes(inputs)
    other = replace(inputs, embedding=inputs.embedding * np.float32(scale))
    near = LogisticPerCandidate(C).fit(other, *data)
    found = LogisticPerCandidate(C).fit_near(near, inputs, *data).predict(inputs)
    assert found == pytest.approx(LogisticPerCandidate(C).fit(inputs, *data).predict(inputs), abs=1e-6)


def test_a_beginning_on_other_columns_is_none() -> None:
    inputs, other = requests(600), requests(600, workflows=5)
    data = outcomes(inputs)
    near = LogisticPerCandidate(C).fit(other, *outcomes(other))
    found = LogisticPerCandidate(C).fit_near(near, inputs, *data).predict(inputs)
    assert found == pytest.approx(LogisticPerCandidate(C).fit(inputs, *data).predict(inputs), abs=1e-6)


def test_outcomes_that_age_left_nothing_of_teach_nothing() -> None:
    """Else their fold's fit would end where the fit with the fold began, for want of a slope: it would have seen its fold."""
    inputs = requests(600)
    labels, weights = outcomes(inputs)
    faded = weights * [1.0, 2.0**-35, 1.0]
    near = LogisticPerCandidate(C).fit(inputs, labels, faded)
    assert sorted(near.optima) == [0]
    labels[~HALF, 1] = 1.0
    found = LogisticPerCandidate(C).fit_near(near, inputs.take(HALF), labels[HALF], faded[HALF]).predict(inputs)
    assert np.ptp(found[:, 1]) == 0.0


def test_numbers_that_are_none_are_told() -> None:
    inputs = requests(600)
    inputs.embedding[3, 2] = np.nan
    with pytest.raises(NotTrainableError, match="not finite"):
        LogisticPerCandidate(C).fit(inputs, *outcomes(inputs))
