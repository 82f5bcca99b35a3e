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


def test_repeated_attempts_are_averaged_over_what_is_known() -> None:
    made = matrix(
        row("r", "a", quality=1.0, cost_usd=0.25, output_tokens=10),
        row("r", "a", quality=0.0, cost_usd=0.5, output_tokens=30),
        row("r", "a", cost_usd=0.75),
        row("r", "b", quality=0.25),
    )
    assert same(made.quality, [[0.5, 0.25]])
    assert same(made.cost_usd, [[0.5, NAN]])
    assert same(made.output_tokens, [[20.0, NAN]])


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


@settings(deadline=None)
@given(attempts)
def test_each_cell_is_the_mean_of_its_judged_attempts(made: list[tuple[int, str, float | None]]) -> None:
    # The output tokens number the attempts, so that no two rows are identical.
    rows = [row(f"r{r}", c, quality=q, output_tokens=n) for n, (r, c, q) in enumerate(made)]
    result = matrix(*rows)
    for r, request in enumerate(result.request_id):
        for c, candidate in enumerate(result.candidates):
            tried = [q for number, name, q in made if f"r{number}" == request and name == candidate]
            judged = [q for q in tried if q is not None]
            assert result.attempted[r, c] == bool(tried)
            assert result.quality[r, c] == pytest.approx(np.mean(judged) if judged else NAN, nan_ok=True)
