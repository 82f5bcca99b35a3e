"""The plan: known probabilities, fair samples, budgets that are kept, and what it says it will bring."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.training.evidence.logs import CACHE, CATALOGUE, PARAMS, of_rows, table
from tests.training.evidence.test_frame import CHEAP, DEAR, row
from training.evidence.advise import advise
from training.evidence.foresee import Foreseen
from training.evidence.frame import EvidenceError
from training.evidence.plan import BUDGETS_USD, Planned, offers, plan
from training.logs.outcomes import Outcomes
from training.quality.llm_prices import Price


def planned(log: Outcomes, budget_usd: float = 1.0, **more: Any) -> Planned:
    asked = {"target": 0.95, "seed": 0, **more}
    return plan(log, PARAMS, CATALOGUE, CACHE, budget_usd=budget_usd, **asked)


@pytest.fixture(scope="module")
def made() -> Planned:
    return planned(table())


def test_the_same_seed_makes_the_same_plan_and_another_one_another(made: Planned) -> None:
    assert planned(table()).file == made.file
    other = planned(table(), seed=1)
    assert {pair.request_id for pair in other.file.pairs} != {pair.request_id for pair in made.file.pairs}


def test_every_pair_has_its_probability_and_none_is_there_twice(made: Planned) -> None:
    pairs = made.file.pairs
    assert all(0 < pair.propensity <= 1 for pair in pairs)
    assert len({(pair.request_id, pair.candidate) for pair in pairs}) == len(pairs)
    asked = {name for name, wanted in zip(made.frame.names, made.asked, strict=True) if wanted}
    certifying = [pair for pair in pairs if pair.purpose == "certify"]
    assert {pair.candidate for pair in certifying} == asked
    assert all(pair.propensity == 1.0 for pair in certifying)
    assert {pair.purpose for pair in pairs} == {"certify", "learn"}
    drawn = {pair.request_id for pair in pairs if pair.purpose == "certify"}
    assert not drawn & {pair.request_id for pair in pairs if pair.purpose == "learn"}


def test_a_drawn_request_is_asked_of_the_reference_unless_that_is_known(made: Planned) -> None:
    frame = made.frame
    reference = frame.names.index(made.reference)
    known = {str(name) for name in frame.matrix.request_id[np.isfinite(frame.labels[:, reference])]}
    asked: dict[str, set[str]] = {}
    for pair in made.file.pairs:
        if pair.purpose == "certify":
            asked.setdefault(pair.request_id, set()).add(pair.candidate)
    assert len(asked) >= made.asked_for.requests - 1
    assert all(made.reference in names or request in known for request, names in asked.items())


def test_what_is_planned_costs_the_budget_and_the_dearer_offer_buys_more(made: Planned) -> None:
    assert [offer.budget_usd for offer in made.offers] == list(BUDGETS_USD)
    expected = sum(pair.expected_usd for pair in made.file.pairs)
    assert expected == pytest.approx(0.9, rel=0.1)
    assert made.asked_for.low_usd < made.asked_for.expected_usd < made.asked_for.high_usd
    assert made.asked_for.expected_usd == pytest.approx(0.9, rel=0.05)
    assert np.all(np.diff([offer.pairs for offer in made.offers]) >= 0)
    whole = made.offers[-1]
    assert whole.expected_usd < 100.0
    assert whole.requests == made.frame.sendable.sum()


def test_with_a_judge_its_grades_are_part_of_the_budget() -> None:
    with_grades = planned(table(), judge=Price(1.0, 2.0)).asked_for
    assert with_grades.judge_usd > 0.05
    assert with_grades.expected_usd + with_grades.judge_usd == pytest.approx(0.9, rel=0.05)


def test_who_is_not_worth_its_price_is_not_asked_unless_it_is_named() -> None:
    """Two dear candidates: nobody would send the second one anything that the first does not do as well."""
    twin = CATALOGUE[DEAR].model_copy(update={"name": "twin"})
    catalogue = {**CATALOGUE, "twin": twin}
    good = {DEAR: 1.0, CHEAP: 0.8, "twin": 0.3}
    draw = np.random.default_rng(0)
    rows = [
        row(number, name, quality=float(draw.random() < good[name]), cost_usd=twin.cost_usd(20, 10))
        for number, name in enumerate(draw.choice(list(good), 900))
    ]
    asked = {"budget_usd": 0.05, "target": 0.95, "seed": 0}
    found = plan(of_rows(*rows), PARAMS, catalogue, CACHE, **asked)
    certifying = {pair.candidate for pair in found.file.pairs if pair.purpose == "certify"}
    assert certifying == {DEAR, CHEAP}
    named = plan(of_rows(*rows), PARAMS, catalogue, CACHE, others=["twin"], **asked)
    assert {pair.candidate for pair in named.file.pairs if pair.purpose == "certify"} == {DEAR, CHEAP, "twin"}


def test_requests_are_drawn_uniformly() -> None:
    """Over many seeds each request is drawn about as often as any other, whatever is believed of it."""
    log, count, seeds = table(200), np.zeros(200), 40
    params = replace(PARAMS, plan=replace(PARAMS.plan, draws=1, certify_share=1.0))
    for seed in range(seeds):
        found = plan(log, params, CATALOGUE, CACHE, budget_usd=0.2, target=0.95, seed=seed, budgets=())
        place = {name: number for number, name in enumerate(found.frame.matrix.request_id)}
        for request in {pair.request_id for pair in found.file.pairs}:
            count[place[request]] += 1
    share = count.sum() / seeds / 200
    # The sum of squared deviations of 200 binomials, each with variance `seeds` p (1 - p).
    spread = ((count - seeds * share) ** 2).sum() / (seeds * share * (1 - share))
    assert 200 - 4 * (2 * 200) ** 0.5 < spread < 200 + 4 * (2 * 200) ** 0.5


def test_answers_that_were_logged_are_graded_and_not_bought() -> None:
    rows = [row(number, DEAR, answer=f"It is {7 * number}.", cost_usd=0.01) for number in range(200)]
    found = planned(of_rows(*rows), 0.02, others=[CHEAP], judge=Price(0.1, 0.1))
    logged = [pair for pair in found.file.pairs if pair.candidate == DEAR]
    assert logged
    assert all(pair.answer is not None and pair.expected_usd == 0.0 and pair.propensity == 1.0 for pair in logged)
    assert all(pair.answer is None and pair.expected_usd > 0 for pair in found.file.pairs if pair.candidate == CHEAP)


def test_what_is_free_is_planned_for_like_anything_else() -> None:
    """Without a judge a logged answer costs nothing, and a self-hosted candidate's answers do not either."""
    free = CATALOGUE[CHEAP].model_copy(update={"name": "own", "input_usd_per_mtok": 0.0, "output_usd_per_mtok": 0.0})
    rows = [row(number, DEAR, answer=f"It is {7 * number}.", cost_usd=0.01) for number in range(200)]
    found = plan(
        of_rows(*rows),
        PARAMS,
        {**CATALOGUE, "own": free},
        CACHE,
        budget_usd=1.0,
        target=0.95,
        seed=0,
        others=["own", CHEAP],
    )
    assert {pair.candidate for pair in found.file.pairs} == {DEAR, "own", CHEAP}
    assert all(0.0 < pair.propensity <= 1.0 for pair in found.file.pairs)
    taught = planned(table(), 0.3).file.pairs
    assert all(np.isfinite(pair.propensity) for pair in taught)


def test_tools_and_schemas_go_with_the_pair() -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    rows = [row(number, DEAR, parameters=json.dumps({"tools": [tool]})) for number in range(60)]
    found = planned(of_rows(*rows), 0.05, others=[CHEAP])
    assert found.file.pairs
    assert all(pair.parameters == {"tools": [tool]} for pair in found.file.pairs)


def test_without_any_outcome_there_is_a_plan_all_the_same() -> None:
    found = planned(of_rows(*(row(number, DEAR) for number in range(300))), 0.05, others=[CHEAP])
    assert found.reference == DEAR
    assert 0.0 <= found.asked_for.foreseen.chance <= 1.0


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"budget_usd": 0.0}, "--budget-usd 0.0: expected an amount"),
        ({"budget_usd": float("nan")}, "--budget-usd nan"),
        ({"target": 1.0}, "--target 1.0: expected a quality target"),
    ],
)
def test_what_is_no_amount_and_no_target_is_refused(more: dict[str, float], expected: str) -> None:
    with pytest.raises(EvidenceError, match=expected):
        planned(table(), **more)


def test_more_money_makes_success_likelier_and_the_advice_is_the_least_that_suffices(made: Planned) -> None:
    chances = [offer.foreseen.chance for offer in made.offers]
    assert chances[-1] >= chances[0]
    assert chances[-1] > 0.8
    advice = advise(table(), PARAMS, CATALOGUE, CACHE, 0.95)
    assert advice is not None
    assert advice.foreseen.chance >= 0.8
    assert advice.budget_usd <= 5.0


def test_what_cannot_become_likely_is_not_played_to_the_end_and_the_advice_is_the_same() -> None:
    ladder = (0.02, 0.1, 1.0, 100.0, 200.0)

    def offered(likely: float) -> list[Foreseen]:
        asked = {"budgets": ladder, "target": 0.95, "seed": PARAMS.fit.seed, "likely": likely}
        return [offer.foreseen for offer in offers(table(), PARAMS, CATALOGUE, CACHE, **asked)]

    whole, ended = offered(0.0), offered(0.8)
    assert {one.draws for one in whole} == {PARAMS.plan.draws}
    assert [one.chance >= 0.8 for one in ended] == [one.chance >= 0.8 for one in whole]
    assert whole[0].chance < 0.8 <= whole[-1].chance
    assert ended[0].draws < PARAMS.plan.draws
    for one, other in zip(whole, ended, strict=True):
        assert one == other or one.chance < 0.8
    assert ended[-1] is ended[-2], "both buy all there is"
