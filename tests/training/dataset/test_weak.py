"""What a weak source says of an answer stands beside what was judged, and is nowhere taken for it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from serving.bundle.catalogue import Candidate
from serving.bundle.features import SURFACE, feature_matrix
from tests.training.dataset.test_matrix import NAN, frame, matrix, row, same
from training.config import WEAK, ConfigError, Params, Signals, load_params
from training.dataset.inputs import Inputs
from training.dataset.label import judged_quality, label_kinds, labels_said, with_judgements
from training.learn.hints import Hints
from training.learn.learn import learn
from training.learn.prepare import Prepared, PrepareError, prepare
from training.learn.training_data import TrainingData, propensities, training_data
from training.logs.validate import validate

CATALOGUE = {name: Candidate(name=name) for name in ("a", "b")}
NONE = dict.fromkeys(WEAK, 0.0)


def weak(request: str, candidate: str, source: str = "retried", **rest: Any) -> dict[str, Any]:
    return row(request, candidate, quality_source=source, **{"quality": 0.0, **rest})


# --- rows ---


def test_a_weak_quality_is_no_judgement_and_the_rest_of_its_row_counts() -> None:
    made = matrix(
        weak("r1", "a", cost_usd=0.1, propensity=0.5, output_tokens=3),
        row("r1", "b", quality=1.0, cost_usd=0.2, quality_source="thumb"),
        row("r2", "a", quality=1.0, cost_usd=0.1),
        row("r2", "b", quality=1.0, cost_usd=0.1),
    )
    assert same(made.quality, [[NAN, 1.0], [1.0, 1.0]])
    assert same(made.weak_quality, [[0.0, NAN], [NAN, NAN]])
    assert made.weak_source[0, 0] == WEAK.index("retried")
    assert made.attempted.all()
    assert (made.cost_usd[0, 0], made.propensity[0, 0], made.output_tokens[0, 0]) == (0.1, 0.5, 3)
    assert made.complete().tolist() == [False, True]


def test_the_last_answer_counts_whatever_its_quality_is_from() -> None:
    made = matrix(
        row("r1", "a", quality=1.0), weak("r1", "a"), weak("r2", "a"), row("r2", "a", quality=1.0), row("r3", "b")
    )
    assert same(made.quality, [[NAN, NAN], [1.0, NAN], [NAN, NAN]])
    assert same(made.weak_quality, [[0.0, NAN], [NAN, NAN], [NAN, NAN]])


def test_errors_of_a_candidate_whose_answers_have_weak_qualities_alone_are_not_judged() -> None:
    made = matrix(weak("r1", "a"), row("r2", "a", status="error"), weak("r3", "b", status="error"), row("r3", "a"))
    assert np.isnan(made.quality[:, 0]).all()
    assert np.isnan(made.weak_quality[1:]).all(), "an error is known, whatever is said of it"


def test_a_source_is_one_of_those_known_and_is_said_of_a_quality() -> None:
    found = frame(row("1", "a", quality=0.5, quality_source=" Thumb "), row("2", "a", quality_source="cut"))
    assert found["quality_source"].fillna("").tolist() == ["thumb", ""]
    raw = pd.DataFrame([{"prompt": "x", **weak("1", "a")}, {"prompt": "y", **weak("2", "a", "hunch")}])
    skipped = validate(raw, source="log", format="test").skipped.iloc[0]
    assert skipped["reason"] == ("quality_source is neither judged, thumb, schema, empty, cut, switched nor retried")
    assert (skipped["field"], skipped["value"]) == ("quality_source", "hunch")


def test_a_judgement_takes_the_place_of_a_weak_quality() -> None:
    found = frame(weak("1", "a"), weak("2", "a", quality=0.5), row("3", "a", quality=0.25, quality_source="thumb"))
    assert same(judged_quality(found), [NAN, NAN, 0.25])
    made = with_judgements(found, np.array([0.0, NAN, 0.25]))
    assert made["quality"].tolist() == [0.0, 0.5, 0.25]
    assert made["quality_source"].fillna("").tolist() == ["", "retried", "thumb"]


def test_labels_are_said_by_where_they_are_from() -> None:
    rows = [
        *(row(f"j{number}", "a", quality=1.0) for number in range(3)),
        row("t", "a", quality=1.0, quality_source="thumb"),
        row("e", "b", status="error"),
        row("u", "b"),
        *(weak(f"w{number}", "b") for number in range(2)),
        weak("c", "b", "cut"),
    ]
    kinds = label_kinds(frame(*rows))
    assert kinds == {"judged": 3, "thumb": 1, "failed": 1, "cut": 1, "retried": 2}
    said = labels_said(kinds, Signals(**NONE))
    assert said == (
        "labels: 3 judged, 1 thumbs, 1 failed calls; not used: 1 cut, 2 retried (--set signals.cut=WEIGHT fits on them too)"
    )
    assert labels_said(kinds, Signals(**{**NONE, "cut": 0.5, "retried": 1.0})) == (
        "labels: 3 judged, 1 thumbs, 1 failed calls; fitted on, never measured on: 1 cut at 0.5, 2 retried at 1"
    )
    assert labels_said({"judged": 3, "failed": 1}, Signals(**NONE)) is None


# --- what is learned ---


def log(seed: int = 0) -> pd.DataFrame:
    """One answer each of a or b, a third judged, and a weak quality on half of the others."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(600):
        said = draw.choice(["judged", "retried", "cut", ""], p=[0.34, 0.22, 0.11, 0.33])
        told = {"judged": {"quality": float(draw.random() < 0.7)}, "": {}}
        rows.append(
            row(
                f"r{number}",
                "ab"[int(draw.random() < 0.4)],
                cost_usd=0.1,
                **told.get(said, {"quality": 0.0, "quality_source": said}),
            )
        )
    return frame(*rows)


def params_with(*more: str) -> Params:
    params = load_params(overrides=["split.method=random", *more])
    fit = replace(params.fit, estimators=("workflow-table",), table_strength=(10.0,), blend=False, novelty_clusters=4)
    return replace(params, fit=fit)


def inputs_of(prepared: Prepared) -> Inputs:
    noise = np.random.default_rng(0).standard_normal((len(prepared.labels), 3)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    features = feature_matrix(list(prepared.matrix.requests), prepared.workflows)
    return Inputs(noise, features, len(SURFACE), np.ones(len(noise)))


def data_of(found: pd.DataFrame, params: Params) -> TrainingData:
    prepared = prepare(found, params, CATALOGUE)
    inputs = inputs_of(prepared)
    return training_data(prepared, inputs, propensities(prepared, inputs, params)[0], params)


@pytest.mark.parametrize("settings", [(), ("signals.retried=0.5",)])
def test_but_for_fitting_a_log_is_what_it_is_without_its_weak_qualities(settings: tuple[str, ...]) -> None:
    params, found = params_with(*settings), log()
    bare = found.assign(quality=judged_quality(found), quality_source=None)
    prepared, plain = (prepare(one, params, CATALOGUE) for one in (found, bare))
    assert same(prepared.labels, plain.labels)
    assert same(prepared.fair_labels, plain.fair_labels)
    assert same(prepared.matrix.cost_usd, plain.matrix.cost_usd)
    ours, theirs = data_of(found, params), data_of(bare, params)
    for name in ("labels", "weights", "propensity", "complete"):
        assert same(getattr(ours, name), getattr(theirs, name)), name
    assert theirs.hints is None
    if not settings:
        assert ours.hints is None
        assert all(map(same, ours.taught(), (ours.labels, ours.weights)))


def test_with_a_weight_estimators_are_fitted_on_that_source_alone() -> None:
    found = log()
    data = data_of(found, params_with("signals.retried=0.5"))
    labels, _ = data.taught()
    added = np.isfinite(labels) & np.isnan(data.labels)
    prepared = prepare(found, params_with(), CATALOGUE)
    source = prepared.matrix.weak_source[prepared.split.train]
    assert (source[added] == WEAK.index("retried")).all()
    assert added.sum() == (source == WEAK.index("retried")).sum() > 20
    assert (labels[added] == 0.0).all()


def test_a_candidates_hints_weigh_no_more_than_what_was_judged_of_it() -> None:
    labels = np.array([[1.0, 0.0], [1.0, NAN], [NAN, NAN]])
    weights = np.array([[1.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
    said = np.array([[0.0, NAN], [NAN, 0.0], [0.0, NAN]])
    labels[0, 0], weights[1, 0] = NAN, 0.5  # the first has one of weight .5, and two hints
    for given, each in ((0.125, 0.125), (0.25, 0.25), (1.0, 0.25)):
        both, weight = Hints(said, np.full((3, 2), given)).beside(labels, weights)
        assert same(both, [[0.0, 0.0], [1.0, 0.0], [0.0, NAN]]), "what was judged stays"
        known = np.isfinite(both)
        assert same(weight[known], [each, 1.0, 0.5, given, each]), "and weighs what it did"


def test_a_router_learns_from_hints_and_says_so() -> None:
    found, heads = log(), {}
    for weight in ("0.0", "1.0"):
        params = params_with(f"signals.retried={weight}", f"signals.cut={weight}")
        prepared = prepare(found, params, CATALOGUE)
        heads[weight] = learn(prepared, inputs_of(prepared), params)
    without, given = heads["0.0"], heads["1.0"]
    assert "weak sources" not in without.learned_from
    count = int(np.isfinite(prepared.matrix.weak_source[prepared.split.train]).sum())
    assert given.learned_from.endswith(
        f" They were fitted on {count} qualities of weak sources as well, on which nothing is measured or certified."
    )
    assert same(without.propensity, given.propensity)
    assert without.reference == given.reference


def test_a_log_with_nothing_but_weak_qualities_was_not_judged() -> None:
    with pytest.raises(PrepareError, match="no outcome of a, b was judged"):
        prepare(frame(*(weak(f"r{n}", "ab"[n % 2], cost_usd=0.1) for n in range(60))), params_with(), CATALOGUE)


def test_a_weight_lies_between_0_and_1() -> None:
    with pytest.raises(ConfigError, match=r"signals\.cut"):
        load_params(overrides=["signals.cut=1.5"])
