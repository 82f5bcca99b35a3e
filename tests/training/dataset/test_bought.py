"""Answers that were bought after the fact: what they stand for beside what was logged."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.training.dataset.test_matrix import NAN, matrix, row, same
from training.logs.validate import validate


def bought(request: str, candidate: str, purpose: str = "certify", **rest: object) -> dict[str, object]:
    return row(request, candidate, purpose=purpose, **{"propensity": 0.5, "quality": 1.0, "cost_usd": 0.2, **rest})


def test_a_bought_answer_stands_in_the_place_of_the_logged_one_of_its_candidate() -> None:
    made = matrix(
        row("r", "a", cost_usd=0.1, propensity=0.9),
        row("r", "b", quality=0.0, cost_usd=0.3, propensity=0.1),
        bought("r", "a", quality=1.0),
    )
    assert same(made.quality, [[1.0, 0.0]])
    assert same(made.cost_usd, [[0.2, 0.3]])
    assert same(made.propensity, [[0.5, 0.1]])
    assert made.certifying.tolist() == [[True, False]]
    assert made.drawn.tolist() == [True]


def test_what_is_bought_after_an_error_was_not_led_to_by_it() -> None:
    made = matrix(
        *(row(f"ok{number}", "a", quality=1.0) for number in range(5)),
        row("r", "a", status="error", propensity=0.5),
        bought("r", "b", quality=1.0),
    )
    assert not made.chained.any()
    assert made.quality[-1].tolist() == [0.0, 1.0]


def test_a_chain_of_the_log_stays_one_when_its_request_was_drawn() -> None:
    logged = [
        *(row(f"ok{number}", "a", quality=1.0) for number in range(5)),
        row("r", "a", status="error", propensity=0.5),
        row("r", "b", quality=1.0),
    ]
    made = matrix(*logged, bought("r", "c"))
    assert made.chained[-1].tolist() == [False, True, False]
    assert same(made.quality[-1], [0.0, NAN, 1.0])
    again = matrix(*logged, bought("r", "b"), bought("r", "c"))
    assert not again.chained.any()


def test_a_request_that_what_was_chosen_to_learn_from_completed_is_no_fair_sample() -> None:
    made = matrix(
        row("fair", "a", quality=1.0, cost_usd=0.1),
        bought("fair", "b"),
        row("chosen", "a", quality=1.0, cost_usd=0.1),
        bought("chosen", "b", "learn"),
    )
    assert made.complete().tolist() == [True, False]
    assert made.learning.tolist() == [[False, False], [False, True]]
    assert made.drawn.tolist() == [True, False]


def test_requests_stay_in_the_order_of_the_table_whichever_part_comes_first() -> None:
    rows = [row("r2", "a", quality=1.0), row("r1", "a", quality=0.0), bought("r1", "b"), bought("r2", "b", quality=0.0)]
    there, back = matrix(*rows), matrix(*reversed(rows))
    assert there.request_id.tolist() == ["r2", "r1"]
    assert back.request_id.tolist() == ["r2", "r1"]
    assert same(there.quality, back.quality)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"purpose": "sell", "propensity": 0.5}, "purpose is neither certify nor learn"),
        ({"purpose": "learn", "propensity": None}, "a bought answer without its propensity"),
    ],
)
def test_a_purpose_that_is_none_and_one_without_a_propensity_are_refused(cells: dict[str, object], reason: str) -> None:
    rows = [row("good", "a", prompt="p"), row("r", "a", prompt="q", **cells)]
    assert validate(pd.DataFrame(rows, dtype=object), source="log", format="canonical").reasons == {reason: 1}


def test_purposes_are_read_in_any_case() -> None:
    made = matrix(row("r", "a", quality=1.0), bought("r", "b", "Certify"))
    assert np.array_equal(made.certifying, [[False, True]])


def test_a_logged_answer_that_was_graded_afterwards_cost_what_the_log_says() -> None:
    made = matrix(
        row("r", "a", cost_usd=0.3, output_tokens=9, latency_ms=5.0, input_tokens=4),
        bought("r", "a", cost_usd=None, propensity=1.0),
        bought("r", "b"),
    )
    assert same(made.quality, [[1.0, 1.0]])
    assert same(made.cost_usd, [[0.3, 0.2]])
    assert same(made.output_tokens, [[9, NAN]])
    assert same(made.latency_ms, [[5.0, NAN]])


def test_what_was_bought_twice_is_one_outcome_of_what_certifies() -> None:
    made = matrix(
        row("r", "a", quality=1.0),
        bought("r", "b", quality=0.0, cost_usd=0.1, propensity=0.5),
        bought("r", "b", "learn", quality=1.0, cost_usd=0.3, propensity=0.03),
    )
    assert same(made.quality, [[1.0, 0.0]])
    assert same(made.cost_usd, [[NAN, 0.1]])
    assert same(made.propensity, [[NAN, 0.5]])
    assert made.certifying.tolist() == [[False, True]]
