"""What is learned from, and what is measured on, where answers were bought: propensities, weights, and small logs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from serving.bundle.arrays import Floats
from serving.bundle.catalogue import Candidate
from training.config import Params, load_params
from training.dataset.inputs import Inputs
from training.dataset.matrix import OutcomeMatrix
from training.learn.prepare import Prepared, prepare
from training.learn.refit import is_small
from training.learn.training_data import cell_judged, cell_weights, judged_shares, part_propensity
from training.logs.validate import validate

NAN = float("nan")
CATALOGUE = {name: Candidate(name=name) for name in ("a", "b", "c")}


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(overrides=["split.method=random"])


def log(requests: int, *, propensities: bool, judged: float = 0.05, seed: int = 0) -> pd.DataFrame:
    """One answer each of a or b, few judged; every tenth request was drawn and asked of all three, c with .5; and every
    seventh other was asked of c to learn from."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(requests):
        request = {"request_id": f"r{number}", "prompt": f"prompt {number}", "cost_usd": 0.1}
        logged = "ab"[int(draw.random() < 0.3)]
        known = draw.random() < judged
        rows.append(
            {
                **request,
                "candidate": logged,
                "quality": float(draw.random() < 0.8) if known else None,
                "propensity": (0.3 if logged == "b" else 0.7) if propensities else None,
            }
        )
        if number % 10 == 0:
            names = [name for name in ("a", "b") if not (known and name == logged)]
            names += ["c"] if draw.random() < 0.5 else []
            shares = {"a": 1.0, "b": 1.0, "c": 0.5}
            for name in names:
                answer = {"quality": float(draw.random() < 0.8), "propensity": shares[name], "purpose": "certify"}
                rows.append({**request, "candidate": name, **answer})
        elif number % 7 == 0:
            rows.append({**request, "candidate": "c", "quality": 1.0, "propensity": 0.2, "purpose": "learn"})
    return validate(pd.DataFrame(rows), source="test", format="test").frame


def inputs_of(prepared: Prepared) -> Inputs:
    n = len(prepared.labels)
    noise = np.random.default_rng(0).standard_normal((n, 3)).astype(np.float32)
    return Inputs(noise, noise[:, :2], 2, np.ones(n))


@pytest.mark.parametrize("propensities", [True, False])
def test_a_drawn_request_has_the_plans_propensity_and_knows_what_the_log_knew(
    params: Params, propensities: bool
) -> None:
    prepared = prepare(log(1_000, propensities=propensities), params, CATALOGUE)
    matrix, everything = prepared.matrix, np.ones(len(prepared.labels), dtype=np.bool_)
    found, note = part_propensity(prepared, inputs_of(prepared), everything, params)
    drawn, bought = matrix.drawn, matrix.certifying
    assert drawn.sum() == 100
    assert "a plan's, as its rows say, for 100 requests" in note
    assert set(found[drawn][bought[drawn]]) == {1.0, 0.5}
    logged = matrix.attempted & ~bought & ~matrix.learning
    assert (found[drawn][logged[drawn]] == 1.0).all()
    assert np.isnan(found[matrix.learning]).all()
    # Elsewhere as without the plan: the choice, times the share that was judged.
    others = found[~drawn][logged[~drawn]]
    assert np.isfinite(others).all()
    assert others.max() < 0.15
    assert (np.isfinite(found[drawn]) == (matrix.attempted & ~matrix.learning)[drawn]).all()


def test_answers_that_nobody_graded_count_by_the_share_of_bought_ones_that_were(params: Params) -> None:
    frame = log(1_000, propensities=True)
    bought = frame.index[(frame["purpose"] == "certify") & (frame["candidate"] == "a")]
    frame.loc[bought[::2], "quality"] = NAN
    prepared = prepare(frame, params, CATALOGUE)
    everything = np.ones(len(prepared.labels), dtype=np.bool_)
    found, _ = part_propensity(prepared, inputs_of(prepared), everything, params)
    judged = prepared.matrix.certifying[:, 0] & np.isfinite(prepared.labels[:, 0])
    assert found[judged, 0] == pytest.approx(0.5, abs=0.05)


def test_the_share_judged_and_the_choice_make_up_a_propensity(params: Params) -> None:
    frame = log(1_000, propensities=True)
    bought = frame.index[(frame["purpose"] == "certify") & (frame["candidate"] == "a")]
    frame.loc[bought[::2], "quality"] = NAN
    prepared = prepare(frame, params, CATALOGUE)
    matrix, everything = prepared.matrix, np.ones(len(prepared.labels), dtype=np.bool_)
    found, _ = part_propensity(prepared, inputs_of(prepared), everything, params)
    judged = cell_judged(matrix, prepared.fair_labels)
    choice, logged = found / judged, ~matrix.certifying & ~matrix.learning & ~matrix.drawn[:, None]
    assert set(choice[logged & np.isfinite(found)].round(9)) == {0.3, 0.7}
    assert set(choice[matrix.certifying & np.isfinite(found)].round(9)) == {0.5, 1.0}
    assert (np.isfinite(judged) >= np.isfinite(found)).all()
    # Each part's is found within it, as the propensities are.
    shares, split = judged_shares(prepared), prepared.split
    for rows in (split.train, split.calibration, split.test):
        np.testing.assert_array_equal(shares[rows], cell_judged(matrix.take(rows), prepared.fair_labels[rows]))


def test_each_kind_of_outcome_counts_one_on_average(params: Params) -> None:
    prepared = prepare(log(3_000, propensities=True, judged=0.3), params, CATALOGUE)
    matrix, everything = prepared.matrix, np.ones(len(prepared.labels), dtype=np.bool_)
    found, _ = part_propensity(prepared, inputs_of(prepared), everything, params)
    weights = cell_weights(matrix, prepared.labels, found, 10.0)
    known = np.isfinite(prepared.labels)
    for group in (matrix.certifying, matrix.learning, matrix.attempted & ~matrix.certifying & ~matrix.learning):
        assert weights[group & known].mean() == pytest.approx(1.0, abs=0.05)
    assert (weights[~matrix.attempted] == 0.0).all()


def test_what_was_chosen_to_learn_from_is_not_measured_on(params: Params) -> None:
    prepared = prepare(log(1_000, propensities=True), params, CATALOGUE)
    assert np.isfinite(prepared.labels[prepared.matrix.learning]).all()
    assert np.isnan(prepared.fair_labels[prepared.matrix.learning]).all()


def test_a_log_is_small_by_the_requests_that_tell_something(params: Params) -> None:
    """Of 4,000 requests few are judged: they are certified on together, and so are those that were drawn of a judged log."""
    few = prepare(log(4_000, propensities=True), params, CATALOGUE)
    assert is_small(few, params)
    many = prepare(log(4_000, propensities=True, judged=1.0), params, CATALOGUE)
    assert is_small(many, params)
    frame = log(4_000, propensities=True, judged=1.0)
    unplanned = prepare(frame[frame["purpose"].isna()].reset_index(drop=True), params, CATALOGUE)
    assert not is_small(unplanned, params)
    assert not is_small(few, replace(params, policy=replace(params.policy, cross_fit_below=100)))


def test_whom_no_drawn_request_was_put_to_is_left_out(params: Params) -> None:
    """It could not be certified; one that the log had tried on nearly all of them anyway could."""
    frame = log(1_000, propensities=True, judged=1.0)
    others = frame[~((frame["candidate"] == "c") & (frame["purpose"] == "certify"))].reset_index(drop=True)
    found = prepare(others, params, CATALOGUE)
    assert found.matrix.candidates == ("a", "b")
    assert "left out of this bundle: c" in found.split.note
    assert "no drawn request was put to" in found.split.note
    alone = others.assign(candidate=others["candidate"].where(others["purpose"].notna(), "a"))
    alone = alone[~((alone["candidate"] == "a") & (alone["purpose"] == "certify"))].reset_index(drop=True)
    assert "a" in prepare(alone, params, CATALOGUE).matrix.candidates


def test_bought_answers_count_for_what_they_are_beside_a_share_of_the_logged(params: Params) -> None:
    """A tenth of what was logged is in the core, and all that was bought: of a's answers as many as in the log."""
    prepared = prepare(log(2_000, propensities=True, judged=1.0), params, CATALOGUE)
    whole, labels = prepared.matrix, prepared.labels
    everything = np.ones(len(labels), dtype=np.bool_)
    propensity, _ = part_propensity(prepared, inputs_of(prepared), everything, params)
    bought = (whole.certifying | whole.learning).any(axis=1)
    kept = bought | (np.random.default_rng(1).random(len(whole)) < 0.1)
    core = replace(whole.take(kept), weight=np.where(bought[kept], 1.0, 10.0))

    def of_drawn(matrix: OutcomeMatrix, weights: Floats) -> Floats:
        seen = np.where(matrix.attempted, weights, 0.0)
        return np.asarray(seen[matrix.drawn].sum(axis=0) / seen.sum(axis=0))

    in_log = of_drawn(whole, cell_weights(whole, labels, propensity, 10.0))
    in_core = of_drawn(core, cell_weights(core, labels[kept], propensity[kept], 10.0))
    alike = replace(core, weight=np.ones(len(core)))
    unweighted = of_drawn(alike, cell_weights(alike, labels[kept], propensity[kept], 10.0))
    assert in_core[:2] == pytest.approx(in_log[:2], rel=0.2)
    assert (unweighted[:2] > 1.5 * in_log[:2]).all()
    # Together a candidate's count for as many as there are, as ever.
    counted = np.where(core.attempted, cell_weights(core, labels[kept], propensity[kept], 10.0), 0.0)
    assert counted.sum(axis=0) == pytest.approx(core.attempted.sum(axis=0), rel=0.02)
