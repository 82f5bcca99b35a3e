"""Tools, tool_choice and response_format travel beside the outcomes where they are asked for, from every log that has them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from training.logs.redact import Redactor
from training.logs.sources import reading
from training.logs.sources.importer import DEFAULT, ImportOptions
from training.logs.validate import validate

FUNCTION = {"name": "look_up", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": FUNCTION}]
FORMAT = {"type": "json_object"}
ASKED = {"tools": TOOLS, "tool_choice": "auto", "response_format": FORMAT}
WANTED = replace(DEFAULT, parameters=True)
ROW = {"request_id": "r", "candidate": "small", "prompt": "hi", "quality": 1}
MESSAGES = [{"role": "user", "content": "hi"}]
PAYLOAD = {
    "id": "c", "call_type": "acompletion", "model": "small", "response_cost": 0.1, "startTime": 1760000000,
    "messages": MESSAGES, "status": "success", "request_tags": [], "metadata": {},
}  # fmt: skip
SPEND = {
    "request_id": "c", "call_type": "acompletion", "model": "small", "spend": 0.1, "startTime": "2026-01-01T00:00:00",
    "proxy_server_request": {"messages": MESSAGES, "temperature": 1, **ASKED},
}  # fmt: skip
ANSWER = {"id": "x", "object": "chat.completion", "model": "small", "choices": [{"message": {"content": "yes"}}]}
OBSERVATION = {
    "id": "o", "trace_id": "t", "type": "GENERATION", "start_time": "2026-01-01T00:00:00Z", "level": "DEFAULT",
    "model": "small", "parent_observation_id": None, "input": {"messages": MESSAGES, "tools": TOOLS},
    "model_parameters": {"response_format": FORMAT},
}  # fmt: skip
SAID = [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]
DEFINED = [{"type": "function", **FUNCTION}]
SPAN = {
    "traceId": "5b8efff798038103d269b633813fc60c", "spanId": "eee19b7ec3c1b174", "name": "chat",
    "attributes": [
        {"key": "gen_ai.operation.name", "value": {"stringValue": "chat"}},
        {"key": "gen_ai.request.model", "value": {"stringValue": "small"}},
        {"key": "gen_ai.input.messages", "value": {"stringValue": json.dumps(SAID)}},
        {"key": "gen_ai.tool.definitions", "value": {"stringValue": json.dumps(DEFINED)}},
    ],
}  # fmt: skip
SPANS = {"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {}, "spans": [SPAN]}]}]}


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (ROW | ASKED, ASKED),
        (ROW | {"parameters": {**ASKED, "temperature": 1}}, ASKED),
        (ROW | {"parameters": json.dumps({"tools": TOOLS}), "tool_choice": "none"}, {"tools": TOOLS, "tool_choice": "none"}),
        (PAYLOAD | {"model_parameters": {"stream": True, **ASKED}}, ASKED),
        (PAYLOAD | {"optional_params": {"tools": TOOLS}}, {"tools": TOOLS}),
        (SPEND, ASKED),
        ({"request": {"model": "small", "messages": MESSAGES, **ASKED}, "response": ANSWER}, ASKED),
        ({"request": {"model": "small", "input": "hi", "tools": DEFINED}, "response": ANSWER}, {"tools": TOOLS}),
        (OBSERVATION, {"tools": TOOLS, "response_format": FORMAT}),
        (SPANS, {"tools": TOOLS}),
    ],
)  # fmt: skip
def test_parameters_are_read_where_they_are_asked_for(record: dict[str, Any], found: Any, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    table = reading.read([path], options=WANTED)
    assert [json.loads(text) for text in table.beside["parameters"]] == [found]
    table = reading.read([path])
    assert "parameters" not in table.beside or table.beside["parameters"].isna().all()


def test_a_mapped_field_holds_them(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(json.dumps({"llm": "small", "asked": {"messages": MESSAGES, **ASKED}}) + "\n", encoding="utf-8")
    options = ImportOptions(mapping={"candidate": "llm", "messages": "asked.messages", "parameters": "asked"})
    table = reading.read([path], options=replace(options, parameters=True))
    assert [json.loads(text) for text in table.beside["parameters"]] == [ASKED]
    assert "parameters" not in reading.read([path], options=options).beside


def test_a_batchs_requests_have_them(tmp_path: Path) -> None:
    asked = {
        "custom_id": "1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "small", "messages": MESSAGES, **ASKED},
    }
    answered = {"id": "b", "custom_id": "1", "response": {"status_code": 200, "body": ANSWER}, "error": None}
    (tmp_path / "in.jsonl").write_text(json.dumps(asked) + "\n", encoding="utf-8")
    (tmp_path / "out.jsonl").write_text(json.dumps(answered) + "\n", encoding="utf-8")
    table = reading.read([tmp_path], options=WANTED)
    assert [json.loads(text) for text in table.beside["parameters"]] == [ASKED]


def test_arrays_of_parquet_are_lists(tmp_path: Path) -> None:
    pd.DataFrame([ROW | {"tools": TOOLS}, ROW | {"request_id": "s", "tools": None}]).to_parquet(
        tmp_path / "log.parquet"
    )
    table = reading.read([tmp_path / "log.parquet"], options=WANTED)
    assert json.loads(table.beside["parameters"][0]) == {"tools": TOOLS}
    assert table.beside["parameters"].isna().tolist() == [False, True]


def test_parameters_are_masked() -> None:
    said = {"tools": [{"type": "function", "function": {"name": "f", "description": "mail ann@example.com"}}]}
    table = validate(pd.DataFrame([ROW | {"parameters": json.dumps(said)}]), source="log", format="test")
    masked = Redactor().outcomes(table).beside["parameters"][0]
    assert "ann@example.com" not in masked
    assert json.loads(masked)["tools"][0]["function"]["name"] == "f"
