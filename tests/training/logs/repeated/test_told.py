"""The router's store, LiteLLM's logs and Langfuse together: each outcome once, in any order, with every judgement."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from serving.integrations.langfuse.ids import parent_of
from tests.serving.store.rows import decision, feedback
from tests.training.logs.sources.test_decisions import fill
from tests.training.logs.sources.test_langfuse import export, observation, score
from tests.training.logs.sources.test_litellm_plugin import call
from training.logs.outcomes import Outcomes
from training.logs.repeated import repeats
from training.logs.sources import reading

Row = dict[str, Any]
CALLS = [call(number, decided={"decision_id": f"d{number}"}, model_id="acme/small") for number in range(1, 5)]
ELSEWHERE = "outcome that another log tells too"


def store(folder: Path) -> Path:
    """Four decisions, of which the first has a quality, the second a weak one, and the last no feedback."""
    made = [
        decision(f"d{n}", at=1.7e9 + n, prompt=None, messages=json.dumps(one["messages"]), candidate="acme/small")
        for n, one in enumerate(CALLS, 1)
    ]
    said: dict[int, Row] = {1: {"quality": 1.0}, 2: {"quality": 0.0, "source": "retried"}, 3: {}}
    told = [feedback(f"d{n}", cost_usd=0.001, **{"quality": None, **cells}) for n, cells in said.items()]
    return Path(fill(str(folder / "decisions.db"), made, told))


def litellm(folder: Path) -> Path:
    path = folder / "calls.jsonl"
    rows = [{**one, "response_cost": 0.002} for one in CALLS]
    rows[3]["metadata"] = {**rows[3]["metadata"], "quality": 0.25}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def generation(number: int, **cells: Any) -> Row:
    asked = json.dumps(CALLS[number - 1]["messages"])
    cells = {"provided_model_name": "gpt-small", "metadata": {}, "input": asked, **cells}
    return observation(f"{number:016x}", trace=f"{number:032x}", second=number, **cells)


def by_metadata(number: int) -> list[Row]:
    recorded = {"outcome_router": {"decision_id": f"d{number}", "picked": "acme/small"}}
    return [generation(number, metadata={"spend_logs_metadata": json.dumps(recorded)})]


def span(number: int, parent: str) -> Row:
    said = {"router_decision_id": f"d{number}", "router_answered": "acme/small"}
    cells = {"type": "SPAN", "name": "outcome-router", "parent_observation_id": parent, "metadata": said, "input": None}
    return observation(f"{number + 64:016x}", trace=f"{number:032x}", second=number, **cells)


def by_span(number: int) -> list[Row]:
    return [generation(number), span(number, f"{number:016x}")]


def by_trace(number: int) -> list[Row]:
    return [generation(number), span(number, parent_of(f"d{number}"))]


def undecided(number: int) -> list[Row]:
    return [generation(number)]


def langfuse(folder: Path, told: Callable[[int], list[Row]]) -> Path:
    scores = [
        score(f"s{n}", value, trace_id=f"{n:032x}", observation_id=f"{n:016x}")
        for n, value in enumerate([0.0, 1.0, 0.5], 1)
    ]
    export(folder / "langfuse", [row for number in range(1, 5) for row in told(number)], scores)
    return folder / "langfuse"


def counted(table: Outcomes) -> list[tuple[Any, ...]]:
    frame = table.frame.sort_values("request_id")
    assert table.rows_read == len(table.frame) + len(table.skipped)
    return list(zip(frame["request_id"], frame["candidate"], frame["quality"], frame["cost_usd"], strict=True))


@pytest.mark.parametrize("told", [by_metadata, by_span, by_trace])
def test_three_logs_of_one_traffic_are_one_in_any_order(tmp_path: Path, told: Callable[[int], list[Row]]) -> None:
    logs = [store(tmp_path), litellm(tmp_path), langfuse(tmp_path, told)]
    for order in permutations(logs):
        for table in (reading.read(order), repeats.concat(reading.stream(order))):
            assert counted(table) == [
                ("d1", "acme/small", 1.0, 0.001),
                ("d2", "acme/small", 1.0, 0.001),
                ("d3", "acme/small", 0.5, 0.001),
                ("d4", "acme/small", 0.25, 0.002),
            ]
            assert table.reasons[ELSEWHERE] == 8
            assert table.frame["quality_source"].isna().all()
            assert not [note for note in table.notes if "decision id" in note]


def test_litellm_and_langfuse_without_the_store_are_one_in_any_order(tmp_path: Path) -> None:
    logs = [litellm(tmp_path), langfuse(tmp_path, by_span)]
    for order in permutations(logs):
        found = [quality for _, _, quality, cost in counted(reading.read(order)) if cost == 0.002]
        assert found == [0.0, 1.0, 0.5, 0.25]


def test_a_trace_of_two_generations_says_not_which_was_decided(tmp_path: Path) -> None:
    def two(number: int) -> list[Row]:
        return [*by_trace(number), {**generation(number, input='"another"'), "id": f"{number + 128:016x}"}]

    table = reading.read([langfuse(tmp_path, two)])
    assert not set(table.frame["request_id"]) & {"d1", "d2", "d3", "d4"}


def test_generations_that_say_no_decision_are_noted_beside_the_store(tmp_path: Path) -> None:
    logs = [store(tmp_path), langfuse(tmp_path, undecided)]
    for order in permutations(logs):
        table = reading.read(order)
        assert len(table.frame) == 8
        assert [note for note in table.notes if "4 rows have no decision id" in note]
    assert not [note for note in reading.read(logs[1:]).notes if "decision id" in note]


def test_what_a_client_says_in_langfuse_is_not_believed(tmp_path: Path) -> None:
    def claimed(number: int) -> list[Row]:
        said = {"spend_logs_metadata": {"outcome_router": {"decision_id": f"d{number}"}}}
        return [generation(number, metadata={"requester_metadata": json.dumps(said)})]

    assert not set(reading.read([langfuse(tmp_path, claimed)]).frame["request_id"]) & {"d1", "d2", "d3", "d4"}
