"""Calls that the router's plug-in decided, in LiteLLM's own logs: the same outcomes as in the router's store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.training.logs.sources.test_litellm import payload
from training.logs.outcomes import Outcomes
from training.logs.repeated import repeats
from training.logs.sources.litellm import payload as litellm_payload

DECIDED = {
    "decision_id": "d1",
    "model": "acme/small",
    "ranks": ["acme/small", "acme/large"],
    "propensity": 0.9,
    "held_back": None,
    "picked": "acme/small",
}


def read(tmp_path: Path, *records: dict[str, Any]) -> Outcomes:
    path = tmp_path / "calls.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return repeats.concat(litellm_payload.read(path))


def call(number: int = 1, decided: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A record of LiteLLM's with what the plug-in wrote into it."""
    record = payload(number, **{"model": "openai/gpt-small", "model_group": "outcome-router/auto", **changes})
    record["metadata"] = {
        **record["metadata"],
        "spend_logs_metadata": {"outcome_router": {**DECIDED, **(decided or {})}},
    }
    return record


def told(table: Outcomes) -> list[tuple[Any, ...]]:
    frame = table.frame[["request_id", "candidate", "propensity", "status"]].astype(object)
    return [tuple(None if pd.isna(cell) else cell for cell in row) for row in frame.itertuples(index=False)]


def test_the_row_names_the_candidate_and_the_decision_the_request(tmp_path: Path) -> None:
    assert told(read(tmp_path, call(model_id="acme/small"))) == [("d1", "acme/small", 0.9, "success")]


def test_a_row_of_another_name_is_the_candidate_that_it_serves(tmp_path: Path) -> None:
    decided = {"rows": {"small-in-europe": "acme/small"}}
    assert told(read(tmp_path, call(decided=decided, model_id="small-in-europe")))[0][1] == "acme/small"
    assert told(read(tmp_path, call(model_id="0f3a")))[0][1] == "acme/small"


def test_another_rank_that_answered_is_an_error_of_the_chosen_one(tmp_path: Path) -> None:
    found = told(read(tmp_path, call(decided={"picked": "acme/large"}, model_id="acme/large")))
    assert found == [("d1", "acme/small", 0.9, "error"), ("d1", "acme/large", None, "success")]


def test_the_first_failure_is_of_its_own_row_whoever_was_picked_later(tmp_path: Path) -> None:
    found = told(read(tmp_path, call(decided={"picked": "acme/large"}, model_id="acme/small", status="failure")))
    assert found == [("d1", "acme/small", 0.9, "error")]


def test_a_call_that_was_held_back_is_of_the_group_that_served_it(tmp_path: Path) -> None:
    decided = {"model": "gpt-4o-prod", "held_back": "acme/small", "propensity": 0.7, "picked": "gpt-4o-prod"}
    found = told(read(tmp_path, call(decided=decided, model="gpt-4o-2024-11-20", model_id="9d2c")))
    assert found == [("d1", "gpt-4o-prod", 0.7, "success")]


def test_what_a_client_says_it_decided_is_not_read(tmp_path: Path) -> None:
    record = payload(1)
    record["metadata"] = {**record["metadata"], "requester_metadata": {"outcome_router": DECIDED}}
    assert told(read(tmp_path, record))[0][0] != "d1"


@pytest.mark.parametrize("store_first", [True, False])
def test_an_outcome_that_the_routers_store_tells_too_counts_once(tmp_path: Path, store_first: bool) -> None:
    log = read(tmp_path, call(model_id="acme/small"), call(2, decided={"decision_id": "d2"}, model_id="acme/small"))
    store = Outcomes(
        frame=log.frame.iloc[:1].assign(cost_usd=0.5, quality=1.0),
        skipped=log.skipped,
        rows_read=1,
        formats=("decisions",),
        origin=log.origin.iloc[:1],
        beside=log.beside.iloc[:1],
    )
    both = repeats.concat([store, log] if store_first else [log, store])
    assert sorted(both.frame["request_id"]) == ["d1", "d2"]
    assert both.reasons["outcome that another log tells too"] == 1
    assert 0.5 in set(both.frame["cost_usd"])
