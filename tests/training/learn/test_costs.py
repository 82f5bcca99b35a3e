"""Costs: prices filled in by hand, and what is expected of each candidate, in numpy and in ONNX."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bundle.arrays import Floats
from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import Usual
from tests import onnx_run
from training.dataset.inputs import Inputs
from training.dataset.matrix import OutcomeMatrix, build_matrix
from training.learn.costs import CostModel, LogRidge, cost_sources, fit_costs, to_onnx, usual_of
from training.learn.estimators.design import stacked
from training.learn.onnx_graph import Graph
from training.logs.validate import validate
from training.prices.costs import CostError, CostNotes, fill_costs

NAN = float("nan")
DIM, SURFACE = 4, 3
DEAR = Candidate(name="dear", input_usd_per_mtok=10.0, output_usd_per_mtok=40.0)
CHEAP = Candidate(name="cheap", input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)
CATALOGUE = {"dear": DEAR, "cheap": CHEAP, "open": Candidate(name="open")}
PROMPT = "x" * 400  # 100 tokens at four characters each


def matrix(*rows: dict[str, Any]) -> OutcomeMatrix:
    """Rows of one request each unless `request_id` is given."""
    filled = [{"request_id": f"r{n}", "prompt": PROMPT, "quality": 1.0, **row} for n, row in enumerate(rows)]
    return build_matrix(validate(pd.DataFrame(filled), source="test", format="test").frame)


def requests(n: int, seed: int = 0) -> Inputs:
    generator = np.random.default_rng(seed)
    embedding, features = generator.normal(size=(n, DIM)), generator.normal(size=(n, SURFACE)) * 2 + 4
    return Inputs(embedding.astype(np.float32), features.astype(np.float32), SURFACE, np.full(n, 100.0))


def log_linear(inputs: Inputs) -> Floats:
    """(n, 2) positive values whose logarithm is linear: a slope in common, one of the second's own."""
    x = stacked(inputs)
    return np.exp(np.column_stack([1.0 + 0.5 * x[:, 4], 3.0 + 0.5 * x[:, 4] + 0.3 * x[:, 0]]))


def ridge(inputs: Inputs, values: Floats, **options: Any) -> LogRidge:
    return LogRidge(**{"shared": 1e-4, "own": 1e-4, **options}).fit(inputs, values)


def test_a_logged_cost_is_kept_and_a_missing_one_is_priced_from_tokens() -> None:
    given_ = matrix(
        {"candidate": "dear", "cost_usd": 0.5, "input_tokens": 1000, "output_tokens": 100},
        {"candidate": "dear", "input_tokens": 1000, "output_tokens": 100},
    )
    filled, notes = fill_costs(given_, CATALOGUE, 250.0)
    # (1000 * 10 + 100 * 40) / 1e6
    assert filled.cost_usd[:, 0].tolist() == pytest.approx([0.5, 0.014])
    assert notes == CostNotes(
        logged=1, priced=1, counted_input_tokens=0, estimated_input_tokens=0, estimated_output_tokens=0
    )
    assert np.isnan(given_.cost_usd[1, 0])  # what went in is as it was


def test_missing_tokens_are_estimated_and_counted_but_not_written_down() -> None:
    filled, notes = fill_costs(
        matrix(
            {"candidate": "dear", "output_tokens": 200, "cost_usd": 0.1},
            {"candidate": "dear", "output_tokens": 400, "cost_usd": 0.1},
            {"candidate": "dear", "input_tokens": 50},
            {"candidate": "cheap"},
        ),
        CATALOGUE,
        assumed_output_tokens=250.0,
    )
    # Dear: 50 tokens in and its own mean of 300 out. Cheap: 400 characters / 4 in and the assumed 250 out.
    by_candidate = dict(zip(filled.candidates, filled.cost_usd.T, strict=True))
    assert by_candidate["dear"][2] == pytest.approx((50 * 10 + 300 * 40) / 1e6)
    assert by_candidate["cheap"][3] == pytest.approx((100 * 1 + 250 * 2) / 1e6)
    assert notes == CostNotes(
        logged=2, priced=2, counted_input_tokens=0, estimated_input_tokens=1, estimated_output_tokens=2
    )
    assert np.isnan(filled.output_tokens[2:]).all()
    assert np.isnan(filled.input_tokens[3]).all()


def test_what_was_not_attempted_has_no_cost() -> None:
    filled, _ = fill_costs(matrix({"candidate": "dear"}, {"candidate": "cheap"}), CATALOGUE, 250.0)
    assert np.isfinite(filled.cost_usd).tolist() == filled.attempted.tolist() == [[False, True], [True, False]]


@pytest.mark.parametrize("name", ["open", "unheard-of"])
def test_a_candidate_without_cost_and_price_is_named(name: str) -> None:
    with pytest.raises(CostError, match=rf"no cost is known for {name}: .*candidates\.toml.*aliases"):
        fill_costs(matrix({"candidate": name, "cost_usd": 0.1}, {"candidate": name}), CATALOGUE, 250.0)
    filled, _ = fill_costs(matrix({"candidate": name, "cost_usd": 0.1}), CATALOGUE, 250.0)
    assert filled.cost_usd.tolist() == [[0.1]]


@pytest.mark.parametrize(
    ("candidate", "rows", "logged_tokens", "source"),
    [
        ("dear", 20, True, "tokens"),
        ("dear", 19, True, "logged"),  # too few tokens to learn lengths from
        ("dear", 40, False, "logged"),
        ("open", 40, True, "logged"),  # no price
        ("unheard-of", 40, True, "logged"),
    ],
)
def test_where_a_candidate_s_cost_comes_from(candidate: str, rows: int, logged_tokens: bool, source: str) -> None:
    tokens = {"input_tokens": 9, "output_tokens": 9} if logged_tokens else {"input_tokens": 9}
    made = matrix(*[{"candidate": candidate, "cost_usd": 0.1, **tokens} for _ in range(rows)])
    assert cost_sources(made, CATALOGUE) == {candidate: source}


def test_a_log_linear_law_is_recovered() -> None:
    inputs = requests(400)
    model = ridge(inputs, log_linear(inputs))
    assert model.predict(inputs) == pytest.approx(log_linear(inputs), rel=1e-3)
    middle = requests(100, seed=1)
    inside = np.abs(stacked(middle) - stacked(inputs).mean(axis=0)).max(axis=1) < 3
    assert model.predict(middle)[inside] == pytest.approx(log_linear(middle)[inside], rel=1e-3)


def test_the_smearing_factor_makes_the_mean_right_not_the_median() -> None:
    inputs = requests(4_000)
    noise = np.exp(np.random.default_rng(1).normal(size=(4_000, 1)))  # of mean exp(1/2)
    model = ridge(inputs, 3.0 * noise)
    assert model.predict(inputs).mean() == pytest.approx((3.0 * noise).mean(), rel=0.05)
    assert model.smear[0] == pytest.approx(np.exp(0.5), rel=0.1)


def test_a_candidate_with_few_rows_borrows_what_the_others_teach() -> None:
    inputs = requests(400)
    values = log_linear(inputs)[:, [0, 0]]
    truth = values[:, 1].copy()
    values[4:, 1] = NAN
    known = (truth > values[:4, 1].min()) & (truth < values[:4, 1].max())
    borrowed = ridge(inputs, values, own=300.0).predict(inputs)[:, 1]
    assert np.abs(np.log(borrowed / truth))[known].max() < 0.1


def test_expectations_stay_within_what_was_seen_times_the_stretch() -> None:
    inputs = requests(200)
    values = log_linear(inputs)
    far = replace(inputs, features=inputs.features * 100)
    for stretch in (1.0, 10.0):
        model = ridge(inputs, values, stretch=stretch)
        made = model.predict(far)
        assert (made <= values.max(axis=0) * stretch * model.smear * 1.0001).all()
        assert (made >= values.min(axis=0) / stretch * model.smear * 0.9999).all()
        assert made.max() == pytest.approx(values.max() * stretch, rel=0.01)


def test_a_candidate_of_which_nothing_was_observed_is_unknown() -> None:
    inputs = requests(60)
    values = log_linear(inputs)
    values[:, 1] = NAN
    made = ridge(inputs, values).predict(inputs)
    assert np.isnan(made[:, 1]).all()
    assert np.isfinite(made[:, 0]).all()
    assert np.isnan(ridge(inputs, np.full((60, 2), NAN)).predict(inputs)).all()


def test_what_was_observed_to_be_free_is_free_and_zeros_lower_the_mean() -> None:
    inputs = requests(2_000)
    values = np.column_stack([np.zeros(2_000), np.where(np.arange(2_000) % 4, 2.0, 0.0)])
    made = ridge(inputs, values).predict(inputs)
    assert (made[:, 0] == 0).all()
    assert made[:, 1] == pytest.approx(np.full(2_000, 1.5))


@pytest.mark.parametrize("case", ["whole", "partial", "unknown", "free"])
def test_the_graph_gives_what_numpy_gives(case: str) -> None:
    inputs = requests(200)
    values = log_linear(inputs) * np.exp(np.random.default_rng(2).normal(size=(200, 2)))
    if case == "partial":
        values[np.random.default_rng(3).uniform(size=values.shape) < 0.75] = NAN
    elif case != "whole":
        values[:, 1] = NAN if case == "unknown" else 0.0
    model = ridge(inputs, values, shared=10.0, own=300.0, stretch=1000.0)
    far = replace(inputs, features=inputs.features * 5)
    for part in (inputs, far):
        graph = Graph(DIM, SURFACE)
        made = onnx_run.run(
            graph, to_onnx(graph, [(model, model.factors[0])]), 2, embedding=part.embedding, features=part.features
        )
        expected = model.predict(part)
        np.testing.assert_allclose(made, expected, rtol=1e-4)


def cost_model(
    cost_from: dict[str, Any], candidates: tuple[Candidate, ...] = (CHEAP, DEAR)
) -> tuple[CostModel, Inputs]:
    """A model of 80 requests on which both candidates wrote 100 tokens, read 200, and were logged at 0.3 and 0.7 USD."""
    rows = []
    for request in range(80):
        for candidate, cost in zip(candidates, (0.3, 0.7), strict=True):
            tokens = {"input_tokens": 200, "output_tokens": 100, "latency_ms": 50}
            rows.append({"request_id": f"r{request}", "candidate": candidate.name, "cost_usd": cost, **tokens})
    made, inputs = matrix(*rows), requests(80)
    return fit_costs(inputs, made, candidates, cost_from, shared=10.0, own=300.0, assumed_output_tokens=250.0), inputs


def test_expected_cost_is_tokens_times_price_or_what_was_logged() -> None:
    model, inputs = cost_model({"cheap": "tokens", "dear": "logged"})
    made = model.cost_usd(inputs)
    assert made.shape == (80, 2)
    assert made[:, 0] == pytest.approx(np.full(80, (200 * 1 + 100 * 2) / 1e6))
    assert made[:, 1] == pytest.approx(np.full(80, 0.7))
    assert model.latency.predict(inputs) == pytest.approx(np.full((80, 2), 50.0))


@pytest.fixture(scope="module")
def by_tokens() -> tuple[CostModel, Inputs]:
    return cost_model({"cheap": "tokens", "dear": "tokens"})


@settings(deadline=None)
@given(factor=st.floats(0.01, 100))
def test_a_changed_price_changes_the_cost_without_a_new_fit(by_tokens: tuple[CostModel, Inputs], factor: float) -> None:
    model, inputs = by_tokens
    dearer = DEAR.model_copy(update={"input_usd_per_mtok": 10.0 * factor, "output_usd_per_mtok": 40.0 * factor})
    before, after = model.cost_usd(inputs), replace(model, candidates=(CHEAP, dearer)).cost_usd(inputs)
    assert after[:, 1] == pytest.approx(before[:, 1] * factor)
    assert (after[:, 0] == before[:, 0]).all()


def test_what_is_usual_of_a_candidate_by_hand() -> None:
    rows = [
        {"request_id": "a", "candidate": "dear", "cost_usd": 0.25, "input_tokens": 50, "output_tokens": 10},
        {"request_id": "b", "candidate": "dear", "cost_usd": 0.75, "input_tokens": 150, "latency_ms": 70},
        {"request_id": "b", "candidate": "open", "cost_usd": 0.125},
    ]
    usual = usual_of(matrix(*rows), np.array([100.0, 300.0]), 250.0)
    assert usual["dear"] == Usual(
        output_tokens=10, cost_usd=0.5, latency_p95_ms=70, input_ratio=0.5, counted_tokens=200, longest=300
    )
    # of "open" nothing but a cost was logged: the others' answer and ratio stand for its own
    assert usual["open"] == Usual(
        output_tokens=10, cost_usd=0.125, latency_p95_ms=None, input_ratio=0.5, counted_tokens=300, longest=300
    )
    alone = usual_of(matrix({"candidate": "open", "cost_usd": 0.125}), np.ones(1), 250.0)
    assert (alone["open"].output_tokens, alone["open"].input_ratio) == (250, 1)


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_nothing_falls_with_a_column_that_says_how_long_a_prompt_is(share: float) -> None:
    inputs = requests(300)
    falling = np.exp(-0.5 * stacked(inputs)[:, [4, 5]] + 0.2 * stacked(inputs)[:, :1])
    falling[np.random.default_rng(4).uniform(size=falling.shape) > share] = NAN
    assert (ridge(inputs, falling).weight[4:6] < 0).any()
    model = ridge(inputs, falling, rising=(4, 5))
    assert (model.weight[4:6] >= 0).all()
    assert (model.weight[0] > 0.05).all(), "what does not say how long it is may fall and rise"
    longer = replace(inputs, features=inputs.features + np.array([1.0, 1.0, 0.0], np.float32))
    assert (model.predict(longer) >= model.predict(inputs)).all()


def test_a_prompt_longer_than_any_that_was_seen_costs_in_proportion_where_only_costs_were_logged() -> None:
    model, inputs = cost_model({"cheap": "tokens", "dear": "logged"})  # of 100 counted tokens each
    made = [model.cost_usd(replace(inputs, counted=np.full(80, length)))[0] for length in (50.0, 100.0, 1000.0)]
    assert [row[1] for row in made] == pytest.approx([0.7, 0.7, 7.0])
    assert [row[0] for row in made] == pytest.approx([(2 * n + 200) / 1e6 for n in (50, 100, 1000)])


def test_of_a_sampled_log_costs_are_those_of_the_log() -> None:
    """Every other request costs ten times as much, for nothing that its text tells, and nine of those were left out."""
    rows = [
        {
            "request_id": f"r{request}",
            "candidate": name,
            "cost_usd": 1.0 if request % 2 else 10.0,
            "input_tokens": 200,
            "output_tokens": 100 if request % 2 else 1000,
            "latency_ms": 50,
        }
        for request in range(400)
        for name in ("cheap", "dear")
    ]
    made, inputs = matrix(*rows), requests(400)
    sources: dict[str, Any] = {"cheap": "logged", "dear": "logged"}
    core = replace(made, weight=np.where(np.arange(400) % 2 == 1, 1.0, 9.0))
    plain, found = (
        fit_costs(inputs, one, (CHEAP, DEAR), sources, shared=10.0, own=300.0, assumed_output_tokens=250.0)
        for one in (made, core)
    )
    assert found.usual["cheap"].cost_usd == pytest.approx(9.1)
    assert found.usual["cheap"].output_tokens == pytest.approx(910.0)
    assert plain.usual["cheap"].cost_usd == pytest.approx(5.5)
    assert found.cost_usd(inputs).mean() == pytest.approx(9.1, rel=0.1)
    assert plain.cost_usd(inputs).mean() == pytest.approx(5.5, rel=0.1)
