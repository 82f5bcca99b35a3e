"""What-if on a small case whose figures can be reckoned by hand: prices, candidates, regions, limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serving.bundle.manifest import Manifest
from serving.bundle.request import RouteRequest, read
from serving.decide.decision import Estimates
from serving.decide.policy import Policy
from tests import fake_bundle
from training.dataset.volume import Volume
from training.evaluate.bands import Outcomes as Known
from training.whatif.case import Case, WhatIfError
from training.whatif.outcome import VOID, budget_next_month, compared

N = 60


def manifest() -> Manifest:
    """The bundle that nobody trained, with prices per token and a region of its own for each candidate."""
    made = fake_bundle.manifest()
    priced = tuple(
        one.model_copy(
            update={
                "input_usd_per_mtok": 1.0 * 10**place,
                "output_usd_per_mtok": 2.0 * 10**place,
                "regions": frozenset({"eu"} if place == 0 else {"us"}),
                "context_window": None,
            }
        )
        for place, one in enumerate(made.candidates)
    )
    names = [one.name for one in priced]
    update = {
        "candidates": priced,
        "cost_from": dict.fromkeys(names, "tokens"),
        "knobs": (0.0, 10.0, 100.0, 1000.0, 1e9),
    }
    return made.model_copy(update=update)


@pytest.fixture
def case() -> Case:
    made = manifest()
    m, rng = len(made.candidates), np.random.default_rng(0)
    requests = tuple(read(RouteRequest(prompt=f"prompt number {row}")) for row in range(N))
    counted = np.array([request.said for request in requests], dtype=np.float64)
    answered = np.full((N, m), 100.0)
    chance = np.clip(np.linspace(0.6, 0.95, m) + 0.1 * rng.standard_normal((N, m)), 0.01, 0.99)
    prices = np.array([(one.input_usd_per_mtok, one.output_usd_per_mtok) for one in made.candidates])
    ratio = np.array([made.usual[one.name].input_ratio for one in made.candidates])
    said = counted[:, None] * ratio
    cost = (said * prices[:, 0] + answered * prices[:, 1]) / 1e6
    labels = (rng.random((N, m)) < chance).astype(np.float64)
    reference = [one.name for one in made.candidates].index(made.reference)
    violation = (1 - chance) * chance[:, [reference]]
    violation[:, reference] = 0.0
    nan = np.full((N, m), np.nan, dtype=np.float32)
    estimates = Estimates(
        chance.astype(np.float32),
        chance.astype(np.float32),
        violation.astype(np.float32),
        cost,
        nan,
        nan,
        answered.astype(np.float32),
        np.ones((N, 1), dtype=np.float32),
        np.zeros((N, 1), dtype=np.float32),
    )
    known = Known(
        labels,
        cost.copy(),
        labels,
        None,
        None,
        np.ones(N, dtype=np.bool_),
        np.arange(N),
        np.array([None] * N, dtype=object),
    )
    volume = Volume(N, requests_a_month=3_000.0, requests_a_month_from="setting")
    return Case(made, requests, estimates, known, said, answered, volume, "made-up requests", resamples=50)


def test_a_price_moves_expected_and_paid_costs_by_tokens_times_price(case: Case) -> None:
    name = case.candidates[-1]
    moved = case.with_prices({name: (5.0, 7.0)})
    ratio = case.manifest.usual[name].input_ratio
    counted = np.array([request.said for request in case.requests])
    expected = (counted * ratio * 5.0 + 100.0 * 7.0) / 1e6
    assert moved.estimates.cost_usd[:, -1] == pytest.approx(expected)
    assert moved.known.cost_usd[:, -1] == pytest.approx(expected)
    assert (moved.estimates.cost_usd[:, :-1] == case.estimates.cost_usd[:, :-1]).all()
    single = moved.outcome().tradeoff.singles[name]
    assert single.cost_usd == pytest.approx(expected.mean())
    assert single.quality == case.outcome().tradeoff.singles[name].quality


def test_a_discount_on_logged_costs_stays_when_the_price_moves(case: Case) -> None:
    paid = case.known.cost_usd * 0.8
    old = case.manifest.candidates[0]
    doubled = {old.name: (2 * (old.input_usd_per_mtok or 0), 2 * (old.output_usd_per_mtok or 0))}
    moved = replace(case, known=replace(case.known, cost_usd=paid)).with_prices(doubled)
    assert moved.known.cost_usd[:, 0] == pytest.approx(2 * paid[:, 0])


def test_the_price_of_a_candidate_with_logged_costs_moves_nothing_and_that_is_said(case: Case) -> None:
    name = case.candidates[0]
    logged = case.manifest.model_copy(update={"cost_from": {**case.manifest.cost_from, name: "logged"}})
    moved = replace(case, manifest=logged).with_prices({name: (0.0, 0.0)})
    assert (moved.estimates.cost_usd == case.estimates.cost_usd).all()
    assert any("learned from logged costs" in one for one in moved.outcome().said)
    assert moved.times({name: 0.5}).estimates.cost_usd[:, 0] == pytest.approx(0.5 * case.estimates.cost_usd[:, 0])


def test_dearer_everywhere_is_the_same_frontier_at_a_higher_cost(case: Case) -> None:
    before = case.outcome().tradeoff
    after = case.times(dict.fromkeys(case.candidates, 3.0)).outcome().tradeoff
    for name, mark in before.singles.items():
        assert after.singles[name].cost_usd == pytest.approx(3.0 * mark.cost_usd)
    assert after.sweep[0].cost_usd == pytest.approx(3.0 * before.sweep[0].cost_usd), "quality alone: no choice moves"
    assert after.sweep[0].saving == pytest.approx(before.sweep[0].saving)


def test_a_candidate_that_is_removed_gets_nothing_anywhere(case: Case) -> None:
    for name in case.candidates:
        found = case.without([name]).outcome()
        marks = [*found.tradeoff.sweep, *found.tradeoff.guarded, *found.tradeoff.points.values()]
        assert marks
        assert all(mark.shares[name] == 0 for mark in marks)
        assert found.shares[name] == 0
        assert name not in found.tradeoff.singles
        assert VOID in found.said
        assert all(point.certificate is None for point in found.bundle.operating_points)


def test_a_region_that_is_forbidden_forbids_its_candidates(case: Case) -> None:
    found = case.only_regions(["us"]).outcome()
    assert found.shares[case.candidates[0]] == 0
    assert found.left_out == (case.candidates[0],)
    with pytest.raises(WhatIfError, match="no candidate may answer any of the 60 requests: only in mars"):
        case.only_regions(["mars"]).outcome()


def test_a_limit_on_cost_keeps_to_it(case: Case) -> None:
    limit = float(case.estimates.cost_usd[:, 0].max()) * 1.01
    found = case.under(Policy(max_cost_usd=limit), "a limit").outcome()
    assert found.shares[case.candidates[0]] == 1.0
    assert found.default is not None
    assert found.default.cost_usd <= limit


def test_the_month_and_the_budget_are_requests_times_what_a_request_costs(case: Case) -> None:
    found = case.outcome()
    assert found.default is not None
    month, budget = found.month, budget_next_month(found)
    assert month is not None
    assert budget is not None
    assert month["routed_usd"] == pytest.approx(3_000 * found.default.cost_usd)
    assert month["saved_usd"] == pytest.approx(month["reference_usd"] - month["routed_usd"])
    assert budget.usd == pytest.approx(month["routed_usd"])
    assert budget.by_candidate["usd"].sum() == pytest.approx(budget.usd)
    assert budget.by_candidate["requests"].sum() == pytest.approx(3_000)
    half = budget_next_month(found, 1_500.0)
    assert half is not None
    assert half.usd == pytest.approx(budget.usd / 2)
    assert budget_next_month(replace(found, volume=Volume(N))) is None


def test_a_lower_target_costs_no_more(case: Case) -> None:
    marks = [case.at(target=target).here for target in (0.99, 0.9, 0.6)]
    costs = [mark.cost_usd for mark in marks if mark is not None]
    assert len(costs) == 3
    assert costs == sorted(costs, reverse=True)
    assert len(compared({"a": case.outcome(), "b": case.at(target=0.9)})) == 2


def test_what_cannot_be_asked_is_told(case: Case) -> None:
    with pytest.raises(WhatIfError, match="'nobody' is no candidate of the bundle; it has"):
        case.without(["nobody"])
    with pytest.raises(WhatIfError, match="expected two amounts"):
        case.with_prices({case.candidates[0]: (-1.0, 0.0)})
    with pytest.raises(WhatIfError, match="leave one"):
        case.without(case.candidates)
    with pytest.raises(WhatIfError, match="between 0 and 1"):
        case.at(target=95)
    with pytest.raises(WhatIfError, match="and not both"):
        case.at(0.0, target=0.9)


def test_the_place_of_a_target_is_its_own_and_not_the_next_of_the_sweep(case: Case) -> None:
    shifted = replace(case, changes=("something",))  # so that no operating point's own knob is taken
    for knob in (3.0, 31.4159, 500.0):
        found = case.at(knob)
        assert found.here is not None
        assert found.here.knob == knob
        assert set(found.tradeoff.points) == set(case.outcome().tradeoff.points)
    target = shifted.at(target=0.9)
    assert target.here is not None
    assert target.here.knob == shifted.knob_for(0.9)


def measured_on(case: Case, complete: np.ndarray, workflow: np.ndarray) -> Case:
    return replace(case, known=replace(case.known, complete=complete, workflow=workflow))


def test_figures_of_some_requests_say_of_which(case: Case) -> None:
    rows = np.arange(N)
    found = measured_on(case, rows < 40, np.where(rows < 57, "maths", "sql").astype(object)).outcome()
    assert (found.evaluation.test_requests, found.evaluation.complete_requests) == (N, 40)
    assert "The figures are of the 40 of the 60 for which every candidate's outcome is known." in found.said
    assert "None of them is of sql (5.0%): of these workflows they say nothing." in found.said
    assert found.month is not None, "95% of the requests are of the workflows that are known"
    assert case.outcome().evaluation.complete_requests == N
    assert not any("every candidate's outcome" in one for one in case.outcome().said)


def test_a_month_is_not_told_by_workflows_that_are_a_part_of_the_traffic(case: Case) -> None:
    rows = np.arange(N)
    found = measured_on(case, rows < 40, np.where(rows < 50, "maths", "sql").astype(object)).outcome()
    assert found.default is not None
    assert (found.month, budget_next_month(found), budget_next_month(found, 100.0)) == (None, None, None)
    assert found.evaluation.volume.requests_a_month is None
    assert any("have 83.3% of the requests, fewer than 90%, so no month" in one for one in found.said)
    assert compared({"a": found})["USD a month"].isna().all()
