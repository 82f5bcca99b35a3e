"""The sampling frame: who can be asked again, what that costs, and what is known already."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from serving.bundle.catalogue import Candidate
from tests.training.evidence.logs import CACHE, CATALOGUE, PARAMS, frame_of, of_rows, table
from training.evidence.frame import EvidenceError, sampling_frame
from training.logs.validate import validate

CHEAP, DEAR = "gpt-6-luna", "claude-opus-5-5"


def row(number: int, candidate: str, **rest: object) -> dict[str, object]:
    return {
        "request_id": f"r{number}",
        "prompt": f"What is {number} times seven?",
        "candidate": candidate,
        "input_tokens": 20,
        "output_tokens": 10,
        **rest,
    }


def test_what_cannot_be_asked_again_is_left_out_and_counted() -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}
    spoken = [{"role": "user", "content": [sound, {"type": "text", "text": "What is this?"}]}]
    rows = [
        row(0, CHEAP),
        row(1, DEAR),
        row(2, CHEAP, prompt="Write to user@example.com, please."),
        row(3, CHEAP, prompt="Call [REDACTED] back."),
        row(4, CHEAP, prompt=None, messages=spoken),
        row(5, CHEAP, prompt="word " * 2_000_000),
        row(6, CHEAP, quality=1.0),
        row(6, DEAR, quality=1.0),
        row(7, CHEAP, prompt=None),
    ]
    found = frame_of(of_rows(*rows))
    assert found.matrix.request_id[found.sendable].tolist() == ["r0", "r1"]
    assert found.left_out == {
        "masked": 2,
        "needs what not every candidate is known to do": 1,
        "too long for a candidate": 1,
        "every outcome is known": 1,
        "no prompt": 1,
    }


def test_a_log_of_one_candidate_is_planned_for_with_those_that_are_named() -> None:
    log = of_rows(*(row(number, DEAR) for number in range(40)))
    with pytest.raises(EvidenceError, match="one candidate only"):
        frame_of(log)
    found = frame_of(log, CHEAP)
    assert found.names == tuple(sorted((CHEAP, DEAR)))
    cost = dict(zip(found.names, found.cost_usd.mean(axis=0), strict=True))
    # As long an answer, at the other price.
    assert cost[CHEAP] / cost[DEAR] == pytest.approx(
        CATALOGUE[CHEAP].cost_usd(20, 10) / CATALOGUE[DEAR].cost_usd(20, 10), rel=0.05
    )


def test_who_is_unknown_or_has_no_price_is_told() -> None:
    log = of_rows(row(0, DEAR), row(1, CHEAP))
    with pytest.raises(EvidenceError, match="--candidate nobody: neither the log nor the catalogue knows it"):
        frame_of(log, "nobody")
    catalogue = {**CATALOGUE, "bare": Candidate(name="bare")}
    with pytest.raises(EvidenceError, match="bare has no price"):
        sampling_frame(log, PARAMS, catalogue, CACHE, others=["bare"])
    with pytest.raises(EvidenceError, match="--only nobody: the log has"):
        sampling_frame(log, PARAMS, CATALOGUE, CACHE, only=["nobody", CHEAP])


def test_a_log_of_which_nothing_can_be_sent_is_refused() -> None:
    log = of_rows(row(0, DEAR, prompt="a <PERSON>"), row(1, CHEAP, prompt="b [REDACTED]"))
    with pytest.raises(EvidenceError, match=r"none of 2 requests can be asked again \(masked: 2\)"):
        frame_of(log)


def test_an_answer_that_nobody_judged_is_there_to_be_graded() -> None:
    rows = [
        row(number, DEAR, answer=f"It is {7 * number}.", quality=None if number % 2 else 1.0) for number in range(8)
    ]
    log = validate(pd.DataFrame(rows, dtype=object), source="log", format="canonical")
    found = frame_of(log, CHEAP)
    dear = found.names.index(DEAR)
    assert found.answers[1, dear] == "It is 7."
    assert found.answered[:, dear].tolist() == [False, True] * 4
    assert not found.answered[:, 1 - dear].any()


def test_expected_costs_are_about_what_answers_cost() -> None:
    found = frame_of(table(2_000, judged=1.0))
    logged, seen = found.matrix.cost_usd, np.isfinite(found.matrix.cost_usd)
    for column in range(len(found.names)):
        rows = seen[:, column]
        assert found.cost_usd[rows, column].mean() == pytest.approx(logged[rows, column].mean(), rel=0.15)
