"""LiteLLM's payloads and SpendLogs: facts of each field, totals to the cent, dirty exports, and the database by URL."""

from __future__ import annotations

import csv
import datetime as dt
import json
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import orjson
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import JSONB

from tests.examples import examples
from tests.patience import until
from tests.postgres_server import PASSWORD, engine_of, needs_postgres, own_database
from training.logs.io import database
from training.logs.outcomes import OutcomeError
from training.logs.sources import reading
from training.logs.sources.litellm import payload as litellm_payload
from training.logs.sources.litellm import spend as litellm_spend

START = 1_780_000_000.25
CANARY = "the canary sings of orchids"
# The keys of LiteLLM's StandardLoggingMetadata.
METADATA = (
    "user_api_key_hash",
    "user_api_key_alias",
    "user_api_key_spend",
    "user_api_key_max_budget",
    "user_api_key_budget_reset_at",
    "user_api_key_user_spend",
    "user_api_key_user_max_budget",
    "user_api_key_team_spend",
    "user_api_key_team_max_budget",
    "user_api_key_org_id",
    "user_api_key_org_alias",
    "user_api_key_team_id",
    "user_api_key_project_id",
    "user_api_key_project_alias",
    "user_api_key_user_id",
    "user_api_key_user_email",
    "user_api_key_team_alias",
    "user_api_key_end_user_id",
    "user_api_key_request_route",
    "user_api_key_auth_metadata",
    "spend_logs_metadata",
    "requester_ip_address",
    "user_agent",
    "requester_metadata",
    "requester_custom_headers",
    "prompt_management_metadata",
    "mcp_tool_call_metadata",
    "vector_store_request_metadata",
    "routing_decision",
    "kubernetes_pod_routing",
    "applied_guardrails",
    "usage_object",
    "cold_storage_object_key",
    "team_alias",
    "team_id",
    "used_client_oauth_token",
    "is_silent_experiment",
)


def payload(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A record with exactly the fields that LiteLLM's type requires."""
    fields: dict[str, Any] = {
        "id": f"chatcmpl-{number}",
        "trace_id": f"trace-{number}",
        "session_id": "",
        "litellm_call_id": f"call-{number}",
        "call_type": "acompletion",
        "stream": True,
        "response_cost": 0.001 * number,
        "cost_breakdown": {"input_cost": 0.0004 * number, "output_cost": 0.0006 * number, "total_cost": 0.001 * number},
        "autorouter_savings": None,
        "autorouter_savings_estimate": None,
        "autorouter_baseline_observation": None,
        "response_cost_failure_debug_info": None,
        "status": "success",
        "status_fields": {"llm_api_status": "success", "guardrail_status": "not_run"},
        "custom_llm_provider": "openai",
        "total_tokens": 120 + number,
        "prompt_tokens": 100,
        "completion_tokens": 20 + number,
        "startTime": START + number,
        "endTime": START + number + 1.5,
        "completionStartTime": START + number + 0.25,
        "response_time": 0.25,
        "model_map_information": {"model_map_key": "gpt-4o-mini", "model_map_value": None},
        "model": "openai/gpt-4o-mini",
        "model_id": "deployment-1",
        "model_group": "small",
        "api_base": "https://api.openai.com",
        "metadata": dict.fromkeys(METADATA),
        "cache_hit": None,
        "cache_key": None,
        "saved_cache_cost": 0.0,
        "request_tags": ["User-Agent: openai", "User-Agent: openai/1.9", "triage"],
        "end_user": "",
        "requester_ip_address": None,
        "user_agent": None,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"{CANARY} {number}"}],
        "response": {"id": f"chatcmpl-{number}", "choices": [{"message": {"role": "assistant", "content": "hi"}}]},
        "error_str": None,
        "error_information": None,
        "model_parameters": {"temperature": 0.1},
        "hidden_params": {"model_id": "deployment-1", "cache_key": None, "response_cost": None},
        "guardrail_information": None,
        "standard_built_in_tools_params": None,
    }
    return fields | changes


def spend(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A row with the columns of the table LiteLLM_SpendLogs, in its schema's order; JSON columns as objects."""
    start = dt.datetime(2026, 6, 1, 12, 0, number % 60)
    fields: dict[str, Any] = {
        "request_id": f"chatcmpl-{number}",
        "call_type": "acompletion",
        "api_key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
        "spend": 0.001 * number,
        "total_tokens": 120 + number,
        "prompt_tokens": 100,
        "completion_tokens": 20 + number,
        "startTime": start,
        "endTime": start + dt.timedelta(milliseconds=1500),
        "request_duration_ms": 1500,
        "completionStartTime": start,
        "model": "openai/gpt-4o-mini",
        "model_id": "deployment-1",
        "model_group": "small",
        "custom_llm_provider": "openai",
        "api_base": "https://api.openai.com",
        "user": "default_user_id",
        "metadata": {"status": "success", "spend_logs_metadata": {"routing_decision": {"propensity": 0.25}}},
        "cache_hit": "None",
        "cache_key": "Cache OFF",
        "request_tags": ["User-Agent: openai", "workflow:triage"],
        "team_id": "",
        "organization_id": "",
        "end_user": "",
        "requester_ip_address": None,
        "messages": {},
        "response": {"choices": []},
        "session_id": f"trace-{number}",
        "status": "success",
        "mcp_namespaced_tool_name": None,
        "agent_id": None,
        "proxy_server_request": {"model": "small", "messages": [{"role": "user", "content": f"{CANARY} {number}"}]},
    }
    return fields | changes


def lines(records: list[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(record) + b"\n" for record in records)


def nested_as_text(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()} for row in rows]


def csv_bytes(rows: list[dict[str, Any]]) -> bytes:
    return pd.DataFrame(nested_as_text(rows)).to_csv(index=False, quoting=csv.QUOTE_ALL).encode()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def read_payloads(tmp_path: Path, *records: dict[str, Any]) -> Any:
    return reading.read([write(tmp_path / "calls.jsonl", lines(list(records)))])


def read_rows(tmp_path: Path, *rows: dict[str, Any]) -> Any:
    return reading.read([write(tmp_path / "rows.jsonl", lines(list(rows)))])


# --- payloads: facts ---


def test_a_payload_is_one_outcome(tmp_path: Path) -> None:
    result = read_payloads(tmp_path, payload(2))
    row = result.frame.iloc[0].to_dict()
    assert result.formats == ("litellm",)
    assert row["request_id"].startswith("trace-2:")
    assert row["messages"] == payload(2)["messages"]
    assert row["candidate"] == "openai/gpt-4o-mini"
    assert (row["cost_usd"], row["input_tokens"], row["output_tokens"]) == (0.002, 100, 22)
    assert row["latency_ms"] == pytest.approx(1500), "start to end; response_time is the first token of a stream"
    assert row["timestamp"] == pd.Timestamp(START + 2, unit="s", tz="UTC")
    assert (row["session_id"], row["workflow"], row["status"]) == ("trace-2", "triage", "success")
    assert np.isnan(row["quality"])
    assert np.isnan(row["propensity"])


def test_calls_of_a_trace_with_one_prompt_are_tries_of_one_request(tmp_path: Path) -> None:
    failed = payload(1, trace_id="t", status="failure", model="openai/gpt-4o", response_cost=0.0, response={})
    fallback = payload(2, trace_id="t", messages=failed["messages"])
    next_step = payload(3, trace_id="t")
    other_trace = payload(4, messages=failed["messages"])
    frame = read_payloads(tmp_path, failed, fallback, next_step, other_trace).frame
    first, second, third, fourth = frame["request_id"]
    assert first == second
    assert len({first, third, fourth}) == 3
    assert frame["session_id"].tolist() == ["t", "t", "t", "trace-4"]
    assert frame["status"].tolist() == ["error", "success", "success", "success"]
    assert frame.loc[0, "quality"] == 0.0


def test_without_a_trace_a_call_is_its_own_request(tmp_path: Path) -> None:
    frame = read_payloads(tmp_path, payload(1, trace_id=None), payload(2, trace_id="")).frame
    assert frame["request_id"].tolist() == ["chatcmpl-1", "chatcmpl-2"]
    assert frame["session_id"].isna().all()


def test_the_converted_table_keeps_the_identifiers_that_judgements_join_on() -> None:
    records = reading.files.Records(pd.DataFrame([payload(7)]), [1], [])
    table = litellm_payload.convert(records, litellm_payload.SETTING).table
    assert table.loc[0, "try_id"] == "chatcmpl-7"
    assert table.loc[0, "trace_id"] == "trace-7"


@pytest.mark.parametrize(
    ("tags", "workflow"),
    [
        (["a", "b"], "a"),
        (["a", "workflow:b"], "b"),
        (["User-Agent: x", "Credential: y", "z"], "z"),
        (["User-Agent: x"], None),
        ([], None),
        (None, None),
        ([3, "z"], "z"),
    ],
)
def test_the_workflow_is_a_tag_of_the_sender(tmp_path: Path, tags: Any, workflow: str | None) -> None:
    frame = read_payloads(tmp_path, payload(1, request_tags=tags)).frame
    assert frame["workflow"].astype(object).where(frame["workflow"].notna(), None).tolist() == [workflow]


@pytest.mark.parametrize("place", ["", "requester_metadata", "spend_logs_metadata"])
def test_what_the_sender_put_into_the_metadata_is_found_where_litellm_moves_it(tmp_path: Path, place: str) -> None:
    own = {"routing_decision": {"propensity": 0.5}, "session_id": "s", "quality": 0.75, "quality_source": "thumb"}
    frame = read_payloads(tmp_path, payload(1, metadata={place: own} if place else own)).frame
    assert frame[["propensity", "session_id", "quality"]].to_numpy().tolist() == [[0.5, "s", 0.75]]
    assert frame["quality_source"].tolist() == ["thumb"]


@pytest.mark.parametrize(("routed", "propensity"), [("small", 0.5), ("openai/gpt-4o-mini", 0.5), ("large", None)])
def test_a_fallback_does_not_have_the_propensity_of_the_decision(
    tmp_path: Path, routed: str, propensity: float | None
) -> None:
    metadata = {"routing_decision": {"propensity": 0.5, "routed_model": routed}}
    frame = read_payloads(tmp_path, payload(1, metadata=metadata)).frame
    found = frame["propensity"].iloc[-1]
    assert found == propensity if propensity else np.isnan(found)
    if propensity is None:
        failed, answered = frame.to_dict("records")
        assert (failed["candidate"], failed["status"], failed["propensity"], failed["quality"]) == (
            "large",
            "error",
            0.5,
            0,
        )
        assert np.isnan(failed["cost_usd"])
        assert failed["request_id"] == answered["request_id"]
    else:
        assert len(frame) == 1


def test_a_cost_that_litellm_could_not_tell_is_none(tmp_path: Path) -> None:
    unpriced = payload(1, response_cost=0.0, response_cost_failure_debug_info={"error_str": "no price", "model": "x"})
    frame = read_payloads(tmp_path, unpriced, payload(2, response_cost=0.0)).frame
    assert frame["cost_usd"].isna().tolist() == [True, False]


def test_a_prompt_that_is_text_stays_text_and_a_blank_model_is_its_group(tmp_path: Path) -> None:
    frame = read_payloads(tmp_path, payload(1, messages="[not a list", model="")).frame
    assert frame.loc[0, "prompt"] == "[not a list"
    assert frame.loc[0, "candidate"] == "small"


SKIPPED: dict[str, tuple[str, dict[str, Any]]] = {
    "cache": ("cache hit is no outcome of a candidate", {"cache_hit": True}),
    "cache as text": ("cache hit is no outcome of a candidate", {"cache_hit": "True"}),
    "embedding": ("call completes no text", {"call_type": "aembedding"}),
    "no call type": ("call completes no text", {"call_type": ""}),
    "refused": ("refused before it reached a candidate", {"call_type": "", "status": "failure"}),
    "internal": ("call that LiteLLM made for itself", {"metadata": {"internal_call_origin": "autorouter_classifier"}}),
    "redacted": ("prompt redacted by the proxy", {"messages": [{"role": "user", "content": "redacted-by-litellm"}]}),
    "withheld": ("prompt redacted by the proxy", {"messages": {}}),
    "cut": ("prompt cut by the proxy", {"messages": f"{CANARY}... (litellm_truncated skipped 9 chars) ...end"}),
    "null": ("no prompt", {"messages": None}),
    "no list": ("messages is not a list of messages", {"messages": 5}),
    "status": ("status is neither success nor error", {"status": "meh"}),
    "no candidate": ("no candidate", {"model": None, "model_group": None}),
    "negative cost": ("cost_usd is negative", {"response_cost": -0.1}),
    "wrong cost": ("cost_usd is not a number", {"response_cost": {"usd": 1}}),
    "wrong tokens": ("input_tokens is not a number", {"prompt_tokens": "many"}),
    "ends before it starts": ("latency_ms is negative", {"endTime": START}),
    "wrong trace": ("request_id is not text", {"trace_id": ["a"]}),
    "wrong date": ("timestamp is not a date", {"startTime": "yesterday"}),
}


@pytest.mark.parametrize("case", SKIPPED)
def test_what_is_no_outcome_is_counted_with_its_reason_and_without_its_prompt(tmp_path: Path, case: str) -> None:
    reason, changes = SKIPPED[case]
    result = read_payloads(tmp_path, payload(1), payload(2, **changes))
    assert result.reasons == {reason: 1}
    assert (len(result.frame), result.rows_read) == (1, 2)
    assert result.skipped["row"].tolist() == [2]
    assert CANARY not in result.skipped.to_csv()


def test_a_prompt_in_a_shifted_cell_is_only_measured(tmp_path: Path) -> None:
    result = read_payloads(tmp_path, payload(1), payload(2, call_type=CANARY))
    assert result.skipped["value"].tolist() == [f"text, {len(CANARY)} characters"]


def test_the_same_record_twice_counts_once(tmp_path: Path) -> None:
    result = read_payloads(tmp_path, payload(1), payload(1))
    assert (len(result.frame), result.reasons) == (1, {"duplicate row": 1})


def test_a_call_that_litellm_logs_twice_milliseconds_apart_counts_once(tmp_path: Path) -> None:
    again = {"startTime": START + 0.002, "endTime": START + 2.25}
    result = read_payloads(tmp_path, payload(1), payload(1, **again), payload(2, **again))
    assert (len(result.frame), result.reasons) == (2, {"duplicate row": 1})
    assert result.skipped["row"].tolist() == [2]


def test_a_log_without_any_prompt_says_which_setting_to_change(tmp_path: Path) -> None:
    redacted = [payload(n, messages=[{"role": "user", "content": "redacted-by-litellm"}]) for n in (1, 2)]
    with pytest.raises(OutcomeError, match=r"2 of the 3 rows .* turn_off_message_logging: false"):
        read_payloads(tmp_path, *redacted, payload(3, cache_hit=True))
    with pytest.raises(OutcomeError, match=r"2 of the 2 rows .* general_settings: store_prompts_in_spend_logs: true"):
        read_rows(tmp_path, spend(1, proxy_server_request={}), spend(2, proxy_server_request="{}"))


# --- payloads: totals, damage, the real thing ---


def assert_totals(frame: pd.DataFrame, n: int, cost: float, tokens: tuple[int, int]) -> None:
    assert len(frame) == n
    assert round(frame["cost_usd"].sum(), 9) == round(cost, 9)
    assert (int(frame["input_tokens"].sum()), int(frame["output_tokens"].sum())) == tokens


@pytest.mark.parametrize("name", ["calls.jsonl", "calls.json", "calls.csv", "calls.parquet"])
def test_a_clean_export_has_the_totals_of_its_source(tmp_path: Path, name: str) -> None:
    records = [payload(n) for n in range(1, 51)]
    path = tmp_path / name
    if name.endswith("parquet"):
        pd.DataFrame(nested_as_text(records)).to_parquet(path)
    else:
        contents = {"calls.jsonl": lines(records), "calls.json": orjson.dumps(records), "calls.csv": csv_bytes(records)}
        path.write_bytes(contents[name])
    result = reading.read([path])
    assert result.skipped.empty
    total = sum(record["response_cost"] for record in records)
    assert_totals(result.frame, 50, total, (5000, sum(record["completion_tokens"] for record in records)))
    assert result.frame["messages"].tolist() == [record["messages"] for record in records]
    pd.testing.assert_frame_equal(result.frame, read_payloads(tmp_path, *records).frame)


def test_truncated_lines_and_mixed_encodings_are_counted(tmp_path: Path) -> None:
    good = lines([payload(1), payload(2)])
    latin = lines([payload(3, messages="caf\u00e9")]).decode().encode("latin-1")
    result = reading.read([write(tmp_path / "calls.jsonl", good + b'{"id": "cut\n' + latin + b"[1]\n")])
    assert result.reasons == {"unreadable line": 2}
    assert (len(result.frame), result.rows_read) == (3, 5)
    assert result.frame.loc[2, "prompt"] == "caf\ufffd"


@pytest.fixture(scope="module")
def litellm() -> Any:
    """Imported only for those who ask: that takes longer than the rest of the tests here."""
    return pytest.importorskip("litellm")


def test_the_payloads_here_have_the_fields_that_litellm_requires(litellm: Any) -> None:
    from litellm.types.utils import StandardLoggingMetadata, StandardLoggingPayload

    required = StandardLoggingPayload.__annotations__.keys() - StandardLoggingPayload.__optional_keys__
    assert payload().keys() == required
    assert set(METADATA) == StandardLoggingMetadata.__annotations__.keys()


def test_what_litellm_itself_logs_is_imported(litellm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What grades and buys answers in this process has it log no messages.
    monkeypatch.setattr(litellm, "turn_off_message_logging", False)
    from litellm.integrations.custom_logger import CustomLogger

    written: list[str] = []  # by LiteLLM's threads

    class Log(CustomLogger):
        def write(self, kwargs: Any, **_: Any) -> None:
            written.append(json.dumps(kwargs["standard_logging_object"], default=str) + "\n")

        log_success_event = log_failure_event = write

    prompt = [{"role": "user", "content": CANARY}]
    refusal = litellm.RateLimitError("too many", "openai", "gpt-4o")
    metadata = {"tags": ["workflow:greeting"], "session_id": "s-1"}
    before, litellm.callbacks = litellm.callbacks, [Log()]
    try:
        litellm.completion(model="gpt-4o-mini", messages=prompt, mock_response="hi", metadata=metadata)
        litellm.text_completion(model="gpt-3.5-turbo-instruct", prompt="Say hi.", mock_response="hi")
        with pytest.raises(litellm.RateLimitError):
            litellm.completion(model="gpt-4o", messages=prompt, mock_response=refusal, metadata=metadata)
        until(lambda: len(written) >= 3, "LiteLLM has logged three calls")
    finally:
        litellm.callbacks = before
    logged = {record["id"]: record for record in map(json.loads, written)}.values()
    path = write(tmp_path / "calls.jsonl", "".join(written).encode())
    result = reading.read([path])
    # LiteLLM logs a text completion twice where two of its threads meet.
    assert (result.formats, len(result.frame)) == (("litellm",), 3)
    assert result.reasons in ({}, {"duplicate row": 1})
    assert result.rows_read == len(written)
    by_model = result.frame.set_index("candidate")
    assert by_model.loc["gpt-4o-mini", "messages"] == prompt
    assert by_model.loc["gpt-4o-mini", "workflow"] == "greeting"
    assert by_model.loc["gpt-4o", "status"] == "error"
    assert by_model.loc["gpt-4o", "request_id"] == by_model.loc["gpt-4o-mini", "request_id"]
    assert by_model.loc["gpt-4o", "session_id"] == "s-1"
    assert 0 < result.frame["cost_usd"].sum() == pytest.approx(sum(record["response_cost"] for record in logged))
    assert result.frame["output_tokens"].sum() == sum(record["completion_tokens"] for record in logged) > 0


# --- SpendLogs: facts ---


def test_a_row_of_spend_logs_is_one_outcome(tmp_path: Path) -> None:
    result = read_rows(tmp_path, spend(3))
    row = result.frame.iloc[0].to_dict()
    assert result.formats == ("litellm-spend",)
    assert row["request_id"].startswith("trace-3:")
    assert row["messages"] == [{"role": "user", "content": f"{CANARY} 3"}]
    assert (row["candidate"], row["cost_usd"]) == ("openai/gpt-4o-mini", 0.003)
    assert (row["input_tokens"], row["output_tokens"], row["latency_ms"]) == (100, 23, 1500)
    assert row["timestamp"] == pd.Timestamp("2026-06-01 12:00:03", tz="UTC")
    assert (row["session_id"], row["workflow"], row["propensity"]) == ("trace-3", "triage", 0.25)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"input": "hi", "instructions": "Be brief."}, [("system", "Be brief."), ("user", "hi")]),
        ({"messages": [{"role": "user", "content": "hi"}], "system": "Be."}, [("system", "Be."), ("user", "hi")]),
        ({"messages": [{"role": "user", "content": "hi"}]}, [("user", "hi")]),
    ],
)
def test_the_prompt_is_that_of_the_request_s_body(tmp_path: Path, body: Any, expected: list[tuple[str, str]]) -> None:
    messages = read_rows(tmp_path, spend(1, proxy_server_request=body)).frame.loc[0, "messages"]
    assert [(message["role"], message["content"]) for message in messages] == expected


def test_a_text_completion_and_an_old_row_have_their_prompts(tmp_path: Path) -> None:
    text = spend(1, call_type="atext_completion", proxy_server_request={"prompt": "Once"})
    old = spend(2, messages=[{"role": "user", "content": "old"}], status=None, metadata={"status": "failure"})
    del old["proxy_server_request"]
    frame = read_rows(tmp_path, text, old).frame
    assert frame.loc[0, "prompt"] == "Once"
    assert frame.loc[1, "messages"] == [{"role": "user", "content": "old"}]
    assert frame["status"].tolist() == ["success", "error"]


def test_failures_without_a_call_type_count_only_if_an_llm_failed(tmp_path: Path) -> None:
    def failed(provider: str) -> dict[str, Any]:
        return {"status": "failure", "error_information": {"error_class": "X", "llm_provider": provider}}

    rows = [spend(n, call_type="", status="failure", metadata=failed(p)) for n, p in ((1, "openai"), (2, ""))]
    result = read_rows(tmp_path, *rows)
    assert result.frame["status"].tolist() == ["error"]
    assert result.reasons == {"refused before it reached a candidate": 1}


def test_a_spend_log_is_no_canonical_log(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / "a.jsonl", lines([payload(1)])),
        write(tmp_path / "b.jsonl", lines([spend(1)])),
        write(tmp_path / "c.csv", csv_bytes([spend(1)])),
    ]
    owners = [litellm_payload, litellm_spend, litellm_spend]
    for path, owner in zip(paths, owners, strict=True):
        assert [importer for importer in reading.IMPORTERS if importer.recognises(path)] == [owner]


def dirty(records: list[dict[str, Any]], kind: str) -> bytes:
    return csv_bytes(records) if kind == "csv" else lines(records)


JUNK = st.one_of(
    st.none(), st.text(max_size=8), st.integers(-5, 5), st.floats(), st.booleans(), st.lists(st.text(max_size=3)),
    st.dictionaries(st.text(max_size=3), st.integers(-9, 9), max_size=2), st.just("{"), st.just("[1"), st.just("True"),
)  # fmt: skip


@settings(examples(20), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), make=st.sampled_from([payload, spend]), kind=st.sampled_from(["jsonl", "csv"]))
def test_every_row_of_a_dirty_export_is_used_or_skipped(tmp_path: Path, data: Any, make: Any, kind: str) -> None:
    names = sorted(make())
    changes = st.dictionaries(st.sampled_from(names), JUNK, max_size=6)
    numbers = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    records = [make(9), *(make(number, **data.draw(changes)) for number in numbers)]
    for record in records:
        for name, cell in record.items():
            record[name] = None if isinstance(cell, float) and not np.isfinite(cell) else cell
    content = dirty(records, kind)
    if cut := data.draw(st.booleans()) and kind == "jsonl":
        content += b'{"id": "cu'
    result = reading.read([write(tmp_path / f"log.{kind}", content)])
    assert result.rows_read == len(records) + bool(cut)
    assert len(result.frame) + len(result.skipped) == result.rows_read
    assert len(result.frame) >= 1
    assert CANARY not in result.skipped.to_csv()


# --- databases ---

_JSON = ("metadata", "request_tags", "messages", "response", "proxy_server_request")
_WHOLE = ("total_tokens", "prompt_tokens", "completion_tokens", "request_duration_ms")
_DATES = ("startTime", "endTime", "completionStartTime")


def create_table(engine: sa.Engine, *, without: tuple[str, ...] = (), schema: str | None = None) -> sa.Table:
    """The table as LiteLLM's own migrations make it."""
    kinds: dict[str, Any] = dict.fromkeys(spend(), sa.Text)
    kinds |= dict.fromkeys(_JSON, sa.JSON().with_variant(JSONB(), "postgresql"))
    kinds |= dict.fromkeys(_WHOLE, sa.Integer) | dict.fromkeys(_DATES, sa.DateTime) | {"spend": sa.Double}
    columns = [sa.Column(name, kinds[name], primary_key=name == "request_id") for name in kinds if name not in without]
    table = sa.Table("LiteLLM_SpendLogs", sa.MetaData(), *columns, schema=schema)
    table.create(engine)
    return table


def insert(engine: sa.Engine, table: sa.Table, rows: list[dict[str, Any]]) -> None:
    kept = [{name: cell for name, cell in row.items() if name in table.columns} for row in rows]
    with engine.begin() as connection:
        connection.execute(sa.insert(table), kept)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[tuple[str, sa.Engine]]:
    url = f"sqlite:///{tmp_path / 'spend.db'}"
    engine = sa.create_engine(url)
    yield url, engine
    engine.dispose()


def test_a_database_has_the_totals_of_its_table_and_equals_its_export(
    sqlite: tuple[str, sa.Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, engine = sqlite
    rows = [spend(n) for n in range(1, 26)]
    insert(engine, create_table(engine), rows)
    monkeypatch.setattr(database, "_PARTITION", 10)
    assert [len(part.frame) for part in litellm_spend.read_url(url)] == [10, 10, 5]
    result = reading.read([url])
    assert_totals(result.frame, 25, sum(row["spend"] for row in rows), (2500, sum(20 + n for n in range(1, 26))))
    assert result.origin["row"].tolist() == list(range(1, 26))
    pd.testing.assert_frame_equal(result.frame, read_rows(tmp_path, *rows).frame)


def test_a_broken_json_cell_costs_its_row_only(sqlite: tuple[str, sa.Engine]) -> None:
    url, engine = sqlite
    insert(engine, create_table(engine, without=("request_duration_ms",)), [spend(1), spend(2)])
    with engine.begin() as connection:
        broken = """UPDATE "LiteLLM_SpendLogs" SET proxy_server_request = '{"mess' WHERE request_id = 'chatcmpl-2'"""
        connection.execute(sa.text(broken))
    result = reading.read([url])
    assert result.reasons == {"prompt redacted by the proxy": 1}
    assert result.frame["latency_ms"].tolist() == [1500.0]


def test_url_errors_say_what_to_do(sqlite: tuple[str, sa.Engine], tmp_path: Path) -> None:
    url, engine = sqlite
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE other (a int)"))
    with pytest.raises(OutcomeError, match="expected the table LiteLLM_SpendLogs, but it is not there; tables: other"):
        reading.read([url], "litellm-spend")
    with pytest.raises(OutcomeError, match="no such file"):
        reading.read([f"sqlite:///{tmp_path / 'missing.db'}"])
    assert not (tmp_path / "missing.db").exists(), "reading creates nothing"
    with pytest.raises(OutcomeError, match=r"schemes that can be read: .*postgresql"):
        reading.read([f"mysql://user:{PASSWORD}@host/db"])
    with pytest.raises(OutcomeError, match="schemes that can be read: gs, s3"):
        reading.read([url], format="canonical")
    create_table(engine, without=("spend",))
    with pytest.raises(OutcomeError, match="LiteLLM_SpendLogs lacks spend; it has agent_id, api_base"):
        reading.read([url])


def test_an_empty_table_and_one_without_prompts_are_errors(sqlite: tuple[str, sa.Engine]) -> None:
    url, engine = sqlite
    table = create_table(engine)
    with pytest.raises(OutcomeError, match="no usable outcome"):
        reading.read([url])
    insert(engine, table, [spend(n, proxy_server_request={}) for n in (1, 2)])
    with pytest.raises(OutcomeError, match=r"2 of the 2 rows .*store_prompts_in_spend_logs: true"):
        reading.read([url])


def test_several_importers_of_a_scheme_are_told_apart_by_looking(
    sqlite: tuple[str, sa.Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other:
        NAME, EXPECTS, COMPANIONS, SCHEMES = "other", "a table of others", frozenset[str](), frozenset({"sqlite"})
        recognises = staticmethod(lambda path: False)
        recognises_url = staticmethod(lambda url: False)
        read = read_url = staticmethod(lambda source: iter(()))

    url, engine = sqlite
    monkeypatch.setattr(reading, "IMPORTERS", (Other(), *reading.IMPORTERS))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE other (a int)"))
    with pytest.raises(OutcomeError, match=r"not recognised.*a table of others"):
        reading.read([url])
    insert(engine, create_table(engine), [spend(1)])
    assert reading.read([url]).formats == ("litellm-spend",)


def test_a_file_whose_name_looks_like_a_url_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("day:one.jsonl"), lines([payload(1)]))
    assert len(reading.read(["day:one.jsonl"]).frame) == 1


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{quote(PASSWORD, safe='')}@127.0.0.1:1/db",
        f"postgresql+psycopg://user:{PASSWORD}@127.0.0.1:1/db",
        f"postgres://user@127.0.0.1:1/db?password={quote(PASSWORD, safe='')}&connect_timeout=2",
        f"postgresql://user:{PASSWORD}@host:port/db",
    ],
)
def test_no_error_says_a_password(url: str) -> None:
    with pytest.raises(OutcomeError) as caught:
        reading.read([url])
    said = "".join(traceback.format_exception(caught.value))
    assert "postgres" in str(caught.value)
    for secret in (PASSWORD, quote(PASSWORD, safe="")):
        assert secret not in said


# --- PostgreSQL itself ---


@needs_postgres
def test_postgresql_is_read_as_the_proxy_writes_it(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_PARTITION", 500)
    own = own_database(postgres)
    engine = engine_of(own)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE SCHEMA proxy"))
    rows = [spend(n, startTime=dt.datetime(2026, 6, 1) + dt.timedelta(seconds=n)) for n in range(1, 1_201)]
    rows[4] |= {"cache_hit": "True"}
    insert(engine, create_table(engine, schema="proxy"), rows)
    url = f"{own}?schema=proxy&connection_limit=5&pool_timeout=10"
    parts = list(litellm_spend.read_url(url))
    assert [part.rows_read for part in parts] == [500, 500, 200]
    result = reading.read([url])
    assert result.reasons == {"cache hit is no outcome of a candidate": 1}
    cost = sum(row["spend"] for row in rows) - rows[4]["spend"]
    tokens = sum(row["completion_tokens"] for row in rows) - rows[4]["completion_tokens"]
    assert_totals(result.frame, 1_199, cost, (119_900, tokens))
    assert result.origin["source"].unique().tolist() == [f"{database.shown(url)} LiteLLM_SpendLogs"]
    assert "***" in database.shown(url)
    exported = read_rows(tmp_path, *(row | {"endTime": row["endTime"].isoformat()} for row in rows[:100]))
    pd.testing.assert_frame_equal(result.frame.head(99), exported.frame)


@needs_postgres
def test_of_postgresql_one_partition_is_held_at_a_time(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_PARTITION", 100)
    own = own_database(postgres)
    engine = engine_of(own)
    insert(engine, create_table(engine), [spend(n) for n in range(1, 102)])
    reading = litellm_spend.read_url(own)
    next(reading)
    with engine.connect() as connection:
        open_cursors = (
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'FETCH%' AND datname = current_database()"
        )
        assert connection.execute(sa.text(open_cursors)).scalar_one() == 1, "the rest of the rows waits on the server"
    assert [part.rows_read for part in reading] == [1]


@needs_postgres
def test_a_refused_password_is_not_repeated(postgres: str) -> None:
    wrong = sa.make_url(postgres).set(password="wr0ng-s3cret").render_as_string(hide_password=False)
    with pytest.raises(OutcomeError, match="password authentication failed") as caught:
        reading.read([wrong])
    assert "wr0ng-s3cret" not in str(caught.value)
