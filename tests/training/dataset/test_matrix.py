"""Matrices: partial logs, repeated attempts, what was not judged, and requests as they were sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.bundle.request import RouteRequest
from training.dataset.matrix import OutcomeMatrix, build_matrix
from training.logs.validate import validate


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    """A validated outcome table; a row has a request, a candidate and whatever else is given."""
    filled = [{"prompt": f"prompt {row['request_id']}", **row} for row in rows]
    return validate(pd.DataFrame(filled), source="test", format="test").frame


def row(request: str, candidate: str, **rest: Any) -> dict[str, Any]:
    return {"request_id": request, "candidate": candidate, **rest}


def matrix(*rows: dict[str, Any], candidates: list[str] | None = None) -> OutcomeMatrix:
    return build_matrix(frame(*rows), candidates)


def same(left: Any, right: Any) -> bool:
    return bool(np.array_equal(np.asarray(left, dtype=float), np.asarray(right, dtype=float), equal_nan=True))


NAN = float("nan")


def test_a_partial_log_by_hand() -> None:
    made = matrix(
        row("r2", "b", quality=1.0, cost_usd=0.2, latency_ms=10.0),
        row("r1", "a", quality=0.5, cost_usd=0.1, input_tokens=7, output_tokens=3, propensity=0.25),
        row("r2", "a", quality=0.0, cost_usd=0.3),
    )
    assert made.candidates == ("a", "b")
    assert made.request_id.tolist() == ["r2", "r1"]  # in order of first appearance
    assert len(made) == 2
    assert same(made.quality, [[0.0, 1.0], [0.5, NAN]])
    assert same(made.cost_usd, [[0.3, 0.2], [0.1, NAN]])
    assert same(made.latency_ms, [[NAN, 10.0], [NAN, NAN]])
    assert same(made.input_tokens, [[NAN, NAN], [7, NAN]])
    assert same(made.output_tokens, [[NAN, NAN], [3, NAN]])
    assert same(made.propensity, [[NAN, NAN], [0.25, NAN]])
    assert made.attempted.tolist() == [[True, True], [True, False]]
    assert made.texts.tolist() == ["prompt r2", "prompt r1"]


def test_tries_of_one_candidate_are_one_outcome_its_last_answer_at_the_cost_of_all() -> None:
    made = matrix(
        row("r", "a", quality=1.0, cost_usd=0.25, output_tokens=10, latency_ms=5.0),
        row("r", "a", quality=0.25, cost_usd=0.5, output_tokens=30, latency_ms=7.0),
        row("r", "b", quality=0.25),
    )
    assert same(made.quality, [[0.25, 0.25]])
    assert same(made.cost_usd, [[0.75, NAN]])
    assert same(made.output_tokens, [[40.0, NAN]])
    assert same(made.latency_ms, [[12.0, NAN]])
    assert not made.error.any()


def test_an_error_and_then_an_answer_is_that_answer() -> None:
    made = matrix(
        row("r", "a", status="error", latency_ms=900.0, timestamp="2025-03-01T12:00:00Z"),
        row("r", "a", quality=1.0, cost_usd=0.5, latency_ms=100.0, timestamp="2025-03-01T12:00:01Z"),
        row("newest first", "a", cost_usd=0.5, timestamp="2025-03-01T12:00:01Z"),
        row("newest first", "a", status="error", timestamp="2025-03-01T12:00:00Z"),
        row("answer without a cost", "a", quality=1.0),
        row("answer without a cost", "a", status="error", cost_usd=0.25),
    )
    assert same(made.quality[:, 0], [1.0, NAN, 1.0])  # nobody judged the second
    assert same(made.cost_usd[:, 0], [0.5, 0.5, NAN])  # the third is for the tokens to tell
    assert same(made.latency_ms[:, 0], [1000.0, NAN, NAN])
    assert made.error.tolist() == [[False], [False], [False]]


def test_an_error_costs_nothing_unless_the_log_says_so() -> None:
    made = matrix(
        row("r", "a", status="error"),
        row("s", "a", status="error", cost_usd=0.5),
        row("t", "a", status="error", input_tokens=5, output_tokens=9),
        row("u", "a", quality=1.0),
    )
    assert same(made.cost_usd[:, 0], [0.0, 0.5, NAN, NAN])
    assert made.error[:, 0].tolist() == [True, True, True, False]


def chains(failed: int, answered: int, both: int = 0) -> list[dict[str, Any]]:
    """Requests to a that b was asked after in `failed` cases, that answered in others, and that both were asked at once."""
    rows = [row(f"f{n}", "a", status="error", propensity=0.5) for n in range(failed)]
    rows += [row(f"f{n}", "b", quality=1.0, cost_usd=0.25) for n in range(failed)]
    rows += [row(f"o{n}", "a", quality=1.0, propensity=0.5) for n in range(answered)]
    return rows + [row(f"b{n}", name, quality=1.0) for n in range(both) for name in "ab"]


def test_what_answered_after_a_failure_was_not_chosen() -> None:
    made = matrix(*chains(failed=2, answered=8))
    assert same(made.quality[:3], [[0, NAN], [0, NAN], [1, NAN]])  # a is at .8, not at 1
    assert same(made.propensity[:3], [[0.5, NAN], [0.5, NAN], [0.5, NAN]])
    assert same(made.cost_usd[:3], [[0, 0.25], [0, 0.25], [NAN, NAN]])
    assert made.attempted[:3].tolist() == [[True, False]] * 3
    assert made.chained[:3].tolist() == [[False, True], [False, True], [False, False]]
    assert not made.complete().any()


def test_a_failure_among_requests_tried_on_all_is_no_chain() -> None:
    evaluated = matrix(*chains(failed=2, answered=0, both=8))
    assert evaluated.attempted.all()
    assert not evaluated.chained.any()
    assert same(evaluated.quality[:2], [[0, 1], [0, 1]])
    # Two in ten of what answered was tried on both: two of ten failures are as many as chance makes, eight are chains.
    assert not matrix(*chains(failed=2, answered=32, both=8), *failures(8)).chained.any()
    assert matrix(*chains(failed=8, answered=32, both=8), *failures(2)).chained.sum() == 8


def failures(n: int) -> list[dict[str, Any]]:
    return [row(f"alone{k}", "a", status="error") for k in range(n)]


def test_a_chain_of_three_and_one_that_its_own_propensity_denies() -> None:
    answered = [row(f"o{n}", "a", quality=1.0) for n in range(9)]
    chain = [row("r", "a", status="error"), row("r", "b", status="error"), row("r", "c", quality=1.0)]
    assert matrix(*chain, *answered).chained[0].tolist() == [False, True, True]
    chain[2]["propensity"] = 0.5
    assert not matrix(*chain, *answered).chained.any()


def test_a_chain_in_a_log_without_times_begins_with_the_candidate_that_was_chosen() -> None:
    answered = [row(f"o{n}", "z", quality=1.0) for n in range(9)]
    sorted_by_name = [row("r", "b", quality=1.0), row("r", "z", status="error", propensity=1.0)]
    made = matrix(*sorted_by_name, *answered)
    assert made.candidates == ("b", "z")
    assert made.chained[0].tolist() == [True, False]


def test_errors_of_a_candidate_nobody_judged_do_not_make_it_one_that_always_fails() -> None:
    made = matrix(row("r", "a", status="error"), row("s", "a"), row("t", "b", status="error"))
    assert same(made.quality, [[NAN, NAN], [NAN, NAN], [NAN, 0]])


def test_an_unjudged_attempt_was_an_attempt() -> None:
    made = matrix(row("r", "a", cost_usd=0.1), row("r", "b", quality=1.0, cost_usd=0.1))
    assert same(made.quality, [[NAN, 1.0]])
    assert made.attempted.tolist() == [[True, True]]


def test_an_error_is_an_outcome_of_quality_zero() -> None:
    made = matrix(row("r", "a", status="error"), row("s", "a", quality=1.0))
    assert same(made.quality, [[0.0], [1.0]])


def test_complete_asks_for_quality_and_cost_of_every_candidate() -> None:
    made = matrix(
        row("whole", "a", quality=1.0, cost_usd=0.1),
        row("whole", "b", quality=0.0, cost_usd=0.0),
        row("unjudged", "a", quality=1.0, cost_usd=0.1),
        row("unjudged", "b", cost_usd=0.1),
        row("uncosted", "a", quality=1.0),
        row("uncosted", "b", quality=1.0, cost_usd=0.1),
        row("untried", "a", quality=1.0, cost_usd=0.1),
    )
    assert made.complete().tolist() == [True, False, False, False]


def test_candidates_fix_the_columns_and_leave_the_rest_out() -> None:
    made = matrix(
        row("r1", "a", quality=1.0),
        row("r1", "c", quality=0.5),
        row("r2", "b", quality=1.0),
        candidates=["c", "a", "z"],
    )
    assert made.candidates == ("c", "a", "z")
    assert made.request_id.tolist() == ["r1"]
    assert same(made.quality, [[0.5, 1.0, NAN]])
    assert made.attempted.tolist() == [[True, True, False]]


def test_messages_become_the_request_and_its_text() -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    made = build_matrix(
        validate(
            pd.DataFrame(
                [
                    {"request_id": "m", "candidate": "a", "messages": messages, "workflow": "chat", "session_id": "s"},
                    {"request_id": "p", "candidate": "a", "prompt": "How?"},
                ]
            ),
            source="test",
            format="test",
        ).frame
    )
    conversation, plain = made.requests
    assert isinstance(conversation, RouteRequest)
    assert conversation.prompt is None
    assert (conversation.workflow, conversation.session_id) == ("chat", "s")
    assert "Why?" in made.texts[0]
    assert (plain.prompt, plain.messages, plain.workflow, plain.session_id) == ("How?", None, None, None)
    assert made.texts[1] == "How?"
    assert made.workflow.tolist() == ["chat", None]
    assert made.session_id.tolist() == ["s", None]


def test_a_request_of_which_any_row_is_held_out_is_held_out() -> None:
    made = matrix(
        row("r1", "a", split="train"),
        row("r1", "b", split="test"),
        row("r2", "a", split="train"),
        row("r3", "a"),
        row("r4", "a"),
        row("r4", "b", split="test"),
    )
    assert made.given_split.tolist() == ["test", "train", None, "test"]


def test_timestamps_are_utc_without_a_zone_and_may_be_missing() -> None:
    made = matrix(row("r1", "a", timestamp="2025-03-01T12:00:00+02:00"), row("r2", "a"))
    assert made.timestamp[0] == np.datetime64("2025-03-01T10:00:00")
    assert np.isnat(made.timestamp[1])


@pytest.mark.parametrize("rows", [np.array([2, 0]), np.array([True, False, True])])
def test_take_keeps_every_part_in_step(rows: Any) -> None:
    made = matrix(*[row(f"r{n}", "a", quality=n / 4, cost_usd=n, workflow=f"w{n}") for n in range(3)])
    part = made.take(rows)
    order = [2, 0] if rows.dtype != bool else [0, 2]
    assert part.request_id.tolist() == [f"r{n}" for n in order]
    assert part.texts.tolist() == [f"prompt r{n}" for n in order]
    assert part.workflow.tolist() == [f"w{n}" for n in order]
    assert part.quality[:, 0].tolist() == [n / 4 for n in order]
    assert [request.workflow for request in part.requests] == part.workflow.tolist()
    assert part.candidates == made.candidates
    assert len(part.attempted) == len(part) == 2


attempts = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from("abc"), st.none() | st.floats(0, 1)), min_size=1, max_size=25
)


@settings(deadline=None, max_examples=30)
@given(attempts)
def test_each_cell_is_its_last_answer(made: list[tuple[int, str, float | None]]) -> None:
    # The output tokens number the attempts, so that no two rows are identical.
    rows = [row(f"r{r}", c, quality=q, output_tokens=n) for n, (r, c, q) in enumerate(made)]
    result = matrix(*rows)
    for r, request in enumerate(result.request_id):
        for c, candidate in enumerate(result.candidates):
            tried = [
                (n, q) for n, (number, name, q) in enumerate(made) if f"r{number}" == request and name == candidate
            ]
            assert result.attempted[r, c] == bool(tried)
            assert result.quality[r, c] == pytest.approx(
                tried[-1][1] if tried and tried[-1][1] is not None else NAN, nan_ok=True
            )
            assert result.output_tokens[r, c] == pytest.approx(sum(n for n, _ in tried) if tried else NAN, nan_ok=True)
