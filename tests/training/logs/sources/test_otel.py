"""OpenTelemetry GenAI spans: built with the protocol's own types and written as each of the encodings that occur."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, MessageToJson
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from tests.examples import examples
from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.repeated.repeats import concat
from training.logs.sources import reading
from training.logs.sources.importer import ImportOptions
from training.logs.sources.otel import genai

TRACE = bytes(range(16))
START = 1_760_000_000_123_456_789
PARTS = [
    {"role": "user", "parts": [{"type": "text", "content": "Weather in Paris?"}]},
    {
        "role": "assistant",
        "parts": [{"type": "tool_call", "id": "c1", "name": "weather", "arguments": {"at": "Paris"}}],
    },
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "rainy"}]},
]
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather in Paris?"},
    {
        "role": "assistant",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"at": "Paris"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "rainy"},
]


def value(plain: Any) -> AnyValue:
    if isinstance(plain, bool):
        return AnyValue(bool_value=plain)
    if isinstance(plain, int):
        return AnyValue(int_value=plain)
    if isinstance(plain, float):
        return AnyValue(double_value=plain)
    if isinstance(plain, str):
        return AnyValue(string_value=plain)
    if isinstance(plain, list):
        return AnyValue(array_value=ArrayValue(values=[value(item) for item in plain]))
    return AnyValue(kvlist_value=KeyValueList(values=pairs(plain)))


def pairs(attributes: dict[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=key, value=value(plain)) for key, plain in attributes.items()]


def event(name: str, **attributes: Any) -> Span.Event:
    return Span.Event(name=name, attributes=pairs(attributes), time_unix_nano=START)


def evaluation(name: str, **attributes: Any) -> dict[str, Any]:
    return {"gen_ai.evaluation.name": name} | {f"gen_ai.evaluation.score.{k}": v for k, v in attributes.items()}


def span(number: int, **changes: Any) -> Span:
    """A chat span that took 1,500 ms; `attributes` are added, and taken out where None."""
    attributes = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        "gen_ai.response.id": f"chatcmpl-{number}",
        "gen_ai.usage.input_tokens": 100 + number,
        "gen_ai.usage.output_tokens": 10,
        "gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": f"q{number}"}]}]),
    } | changes.pop("attributes", {})
    fields = {
        "trace_id": TRACE,
        "span_id": number.to_bytes(8, "big"),
        "name": "chat gpt-4o-mini",
        "kind": Span.SPAN_KIND_CLIENT,
        "start_time_unix_nano": START,
        "end_time_unix_nano": START + 1_500_000_000,
    } | changes
    return Span(attributes=pairs({k: v for k, v in attributes.items() if v is not None}), **fields)


def request(*spans: Span) -> ExportTraceServiceRequest:
    resource = Resource(attributes=pairs({"service.name": "support-bot"}))
    return ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(resource=resource, scope_spans=[ScopeSpans(spans=spans)])]
    )


def logs(*records: LogRecord) -> bytes:
    message = ExportLogsServiceRequest(resource_logs=[ResourceLogs(scope_logs=[ScopeLogs(log_records=records)])])
    return json.dumps(MessageToDict(message)).encode() + b"\n"


def line(*spans: Span) -> bytes:
    return json.dumps(MessageToDict(request(*spans))).encode() + b"\n"


def as_otlp(message: Any) -> Any:
    """The protocol's own JSON encoding of what protobuf writes: hex ids and numbers for enums."""
    if isinstance(message, list):
        return [as_otlp(item) for item in message]
    if not isinstance(message, dict):
        return message
    enums = {"SPAN_KIND_CLIENT": 3, "STATUS_CODE_ERROR": 2}
    ids = ("traceId", "spanId", "parentSpanId")
    return {
        key: base64.b64decode(cell).hex()
        if key in ids
        else enums.get(cell, cell)
        if isinstance(cell, str)
        else as_otlp(cell)
        for key, cell in message.items()
    }


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def read(path: Path, **options: Any) -> Outcomes:
    return concat(list(genai.read(path, ImportOptions(**options))))


def test_a_span_becomes_an_outcome(tmp_path: Path) -> None:
    attributes = {
        "gen_ai.input.messages": json.dumps(PARTS),
        "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be brief."}]),
        "gen_ai.conversation.id": "conv-1",
        "gen_ai.usage.cost": 0.0125,
    }
    one = span(1, attributes=attributes, events=[event("gen_ai.evaluation.result", **evaluation("ok", value=0.75))])
    path = write(tmp_path / "traces.jsonl", line(one))
    assert [importer for importer in reading.IMPORTERS if importer.recognises(path)] == [genai]
    result = reading.read([path])
    assert result.formats == ("otel",)
    row = result.frame.iloc[0]
    assert row["request_id"].startswith(f"{TRACE.hex()}/")
    assert row["candidate"] == "gpt-4o-mini"
    assert row["messages"] == CHAT
    assert (row["input_tokens"], row["output_tokens"], row["cost_usd"]) == (101, 10, 0.0125)
    assert row["latency_ms"] == 1500.0
    assert row["timestamp"].isoformat() == "2025-10-09T08:53:20.123457+00:00"
    assert (row["session_id"], row["workflow"], row["status"]) == ("conv-1", "support-bot", "success")
    assert row["quality"] == 0.75


@pytest.mark.parametrize("encoding", ["lines", "otlp", "document", "pretty", "snake", "array", "gzip"])
def test_every_encoding_reads_as_the_same_table(tmp_path: Path, encoding: str) -> None:
    spans = [span(1), span(2, status=Status(code=Status.STATUS_CODE_ERROR)), span(3)]
    message = request(*spans)
    plain = MessageToDict(message)
    contents = {
        "lines": ("t.jsonl", b"".join(line(one) for one in spans)),
        "otlp": ("t.jsonl", json.dumps(as_otlp(plain)).encode()),
        "document": ("t.json", json.dumps(plain).encode()),
        "pretty": ("t.json", MessageToJson(message).encode()),
        "snake": ("t.json", MessageToJson(message, preserving_proto_field_name=True).encode()),
        "array": ("t.json", json.dumps([MessageToDict(request(one)) for one in spans]).encode()),
        "gzip": ("t.jsonl.gz", gzip.compress(line(*spans))),
    }
    result = reading.read([write(tmp_path / contents[encoding][0], contents[encoding][1])])
    assert result.rows_read == 3
    assert result.frame["request_id"].nunique() == 3
    assert result.frame["request_id"].str.startswith(f"{TRACE.hex()}/").all()
    assert result.frame["input_tokens"].tolist() == [101, 102, 103]
    assert result.frame["status"].tolist() == ["success", "error", "success"]
    assert result.frame["quality"].fillna(-1).tolist() == [-1.0, 0.0, -1.0]
    assert [messages[0]["content"] for messages in result.frame["messages"]] == ["q1", "q2", "q3"]


def test_a_failure_and_the_fallback_s_answer_are_one_request(tmp_path: Path) -> None:
    failed = span(1, attributes=_said("hello"), status=Status(code=Status.STATUS_CODE_ERROR))
    fallback = span(2, attributes={**_said("hello"), "gen_ai.request.model": "gpt-4o"})
    frame = read(write(tmp_path / "t.jsonl", line(failed, fallback))).frame
    first, second = frame["request_id"]
    assert first == second
    assert frame["status"].tolist() == ["error", "success"]


def test_a_service_that_nobody_named_is_no_workflow(tmp_path: Path) -> None:
    named = request(span(1))
    named.resource_spans[0].resource.attributes[0].value.string_value = "unknown_service:python"
    frame = read(write(tmp_path / "t.jsonl", json.dumps(MessageToDict(named)).encode())).frame
    assert frame["workflow"].isna().all()


def _said(text: str) -> dict[str, Any]:
    return {"gen_ai.input.messages": json.dumps([{"role": "user", "parts": [{"type": "text", "content": text}]}])}


@pytest.mark.parametrize(
    ("attributes", "events"),
    [
        ({"gen_ai.input.messages": [{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]}, []),
        ({"gen_ai.prompt": '[{"role": "user", "content": "hi"}]'}, []),
        ({"gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": "hi"}, []),
        ({}, [event("gen_ai.content.prompt", **{"gen_ai.prompt": '[{"role": "user", "content": "hi"}]'})]),
        ({}, [event("gen_ai.user.message", content="hi")]),
        ({}, [event("gen_ai.user.message", **{"gen_ai.event.content": '{"content": "hi"}'})]),
        (
            {},
            [
                event(
                    "gen_ai.client.inference.operation.details",
                    **{"gen_ai.input.messages": '[{"role": "user", "parts": [{"type": "text", "content": "hi"}]}]'},
                )
            ],
        ),
    ],
)
def test_each_way_to_record_a_prompt_gives_the_same_messages(
    tmp_path: Path, attributes: dict[str, Any], events: list[Span.Event]
) -> None:
    one = span(1, attributes={"gen_ai.input.messages": None} | attributes, events=events)
    frame = reading.read([write(tmp_path / "t.jsonl", line(one))]).frame
    assert frame["messages"].tolist() == [[{"role": "user", "content": "hi"}]]


def test_plain_text_prompts_images_and_older_token_names(tmp_path: Path) -> None:
    parts = [{"type": "text", "content": "What is it?"}, {"type": "blob", "modality": "image", "content": "aGk="}]
    older = {
        "gen_ai.operation.name": None,
        "gen_ai.request.model": None,
        "gen_ai.input.messages": None,
        "gen_ai.prompt": "plain text",
        "gen_ai.usage.input_tokens": None,
        "gen_ai.usage.output_tokens": None,
        "gen_ai.usage.prompt_tokens": 7,
        "gen_ai.usage.completion_tokens": 8,
    }
    image = {"gen_ai.input.messages": json.dumps([{"role": "user", "parts": parts}])}
    frame = reading.read(
        [write(tmp_path / "t.jsonl", line(span(1, attributes=older), span(2, attributes=image)))]
    ).frame
    assert frame["prompt"][0] == "plain text"
    assert frame["candidate"][0] == "gpt-4o-mini-2024-07-18"
    assert (frame["input_tokens"][0], frame["output_tokens"][0]) == (7, 8)
    assert [part["type"] for part in frame["messages"][1][0]["content"]] == ["text", "image_url"]


def test_spans_that_are_no_generation_are_counted(tmp_path: Path) -> None:
    http = Span(trace_id=TRACE, span_id=b"h" * 8, name="GET /", attributes=pairs({"http.request.method": "GET"}))
    spans = [span(1)] + [
        span(n, attributes={"gen_ai.operation.name": name})
        for n, name in enumerate(["embeddings", "execute_tool", "invoke_agent"], start=2)
    ]
    unprompted = span(9, attributes={"gen_ai.input.messages": None})
    content = line(*spans, http, unprompted) + json.dumps({"resourceSpans": []}).encode() + b"\n"
    result = reading.read([write(tmp_path / "t.jsonl", content)])
    expected = {"operation is no generation": 3, "not a GenAI span": 1, "no prompt": 1, "no spans": 1}
    assert result.reasons == expected
    assert (len(result.frame), result.rows_read) == (1, 7)


def test_counts_and_sums_are_those_of_the_source(tmp_path: Path) -> None:
    costs = [round(0.0001 * number + 0.00003, 8) for number in range(200)]
    lines = [line(span(number, attributes={"gen_ai.usage.cost": cost})) for number, cost in enumerate(costs, start=1)]
    result = reading.read([write(tmp_path / "t.jsonl", b"".join(lines))])
    assert (result.rows_read, len(result.frame)) == (200, 200)
    assert result.frame["cost_usd"].sum() == pytest.approx(sum(costs), abs=1e-9)
    assert result.frame["input_tokens"].sum() == sum(100 + number for number in range(1, 201))
    assert result.frame["output_tokens"].sum() == 2_000


def test_a_dirty_export_is_counted_to_the_last_row(tmp_path: Path) -> None:
    good = MessageToDict(request(span(1)))
    broken_span = {"resourceSpans": [{"scopeSpans": [{"spans": ["text", None, {"attributes": "x"}]}]}, 5]}
    rows = [
        json.dumps(good).encode(),
        json.dumps(good).encode(),  # a collector's retry
        json.dumps(good).encode()[:80],
        line(span(2, attributes={"gen_ai.usage.cost": -1.0})).strip(),
        line(span(3, attributes={"gen_ai.usage.input_tokens": "many"})).strip(),
        line(span(4, end_time_unix_nano=START - 1)).strip(),
        line(span(5, attributes={"gen_ai.input.messages": '[{"no": "role"}]'})).strip(),
        json.dumps(broken_span).encode(),
        '{"resourceSpans": "caf\xe9"}'.encode("latin-1"),
    ]
    result = reading.read([write(tmp_path / "t.jsonl", b"\n".join(rows))])
    assert len(result.frame) == 1
    assert result.rows_read == len(result.frame) + len(result.skipped) == 12
    assert result.reasons == {
        "not a span": 4,
        "duplicate row": 1,
        "unreadable line": 1,
        "cost_usd is negative": 1,
        "input_tokens is not a number": 1,
        "latency_ms is negative": 1,
        "messages is not a list of messages": 1,
        "not a GenAI span": 1,
    }


def test_evaluations_are_found_as_events_log_records_and_spans(tmp_path: Path) -> None:
    judged = span(1, events=[event("gen_ai.evaluation.result", **evaluation("helpful", value=0.25))])
    judge = Span(trace_id=TRACE, span_id=b"j" * 8, parent_span_id=(2).to_bytes(8, "big"))
    judge.attributes.extend(pairs(evaluation("helpful", value=0.5)))
    named = evaluation("helpful", value=1) | {"gen_ai.response.id": "chatcmpl-3"}
    by_span = LogRecord(
        trace_id=TRACE, span_id=(4).to_bytes(8, "big"), attributes=pairs(evaluation("helpful", value=0.0))
    )
    by_response = LogRecord(event_name="gen_ai.evaluation.result", attributes=pairs(named))
    write(tmp_path / "traces.jsonl", line(judged, span(2), span(3), span(4), span(5), judge))
    write(tmp_path / "logs.jsonl", logs(by_span, by_response))
    result = reading.read([tmp_path])
    assert result.frame["quality"].fillna(-1).tolist() == [0.25, 0.5, 1.0, 0.0, -1.0]
    assert result.reasons == {"not a GenAI span": 1}


def test_the_evaluation_is_chosen_by_name_and_rescaled(tmp_path: Path) -> None:
    scores = [
        event("gen_ai.evaluation.result", **evaluation("stars", value=4)),
        event("gen_ai.evaluation.result", **evaluation("verdict", label="pass")),
    ]
    path = write(tmp_path / "t.jsonl", line(span(1, events=scores), span(2, events=scores[:1])))
    with pytest.raises(OutcomeError, match=r"choose its name: stars \(2\), verdict \(1\)"):
        read(path)
    with pytest.raises(OutcomeError, match=r"no evaluation is named 'other'; found: stars \(2\)"):
        read(path, score_name="other")
    with pytest.raises(OutcomeError, match=r"labels without a score; .*: pass \(1\)"):
        read(path, score_name="verdict")
    with pytest.raises(OutcomeError, match="two different numbers"):
        read(path, score_range=(1.0, 1.0))
    assert read(path, score_name="stars", score_range=(1.0, 5.0)).frame["quality"].tolist() == [0.75, 0.75]
    mapped = read(path, score_name="verdict", score_mapping={"pass": 1.0}).frame["quality"]
    assert mapped.fillna(-1).tolist() == [1.0, -1.0]


def test_what_holds_no_spans_is_refused_with_a_hint(tmp_path: Path) -> None:
    path = write(tmp_path / "logs.jsonl", logs(LogRecord(attributes=pairs(evaluation("ok", value=1)))))
    with pytest.raises(OutcomeError, match="give the file with the spans beside it"):
        reading.read([path])
    truncated = write(tmp_path / "whole.json", MessageToJson(request(span(1))).encode()[:-40])
    with pytest.raises(OutcomeError, match="not valid JSON"):
        reading.read([truncated])


def test_reports_carry_no_prompt_text(tmp_path: Path) -> None:
    canary = "canary-5f1e"
    spans = [
        span(1),
        span(2, attributes={"gen_ai.input.messages": canary}),
        span(3, attributes={"gen_ai.operation.name": f"chat {canary} " + "x" * 40}),
        span(4, attributes={"gen_ai.usage.cost": -1.0, "gen_ai.prompt": canary}),
    ]
    result = reading.read([write(tmp_path / "t.jsonl", line(*spans))])
    assert len(result.skipped) == 3
    assert canary not in result.skipped.to_csv()


ATTRIBUTE = st.sampled_from(
    ["gen_ai.operation.name", "gen_ai.request.model", "gen_ai.input.messages", "gen_ai.usage.cost", "gen_ai.prompt"]
)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["stringValue", "arrayValue", "kvlistValue", "values", "key", "value", "attributes", "spans"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
SPAN = st.fixed_dictionaries(
    {"attributes": st.lists(st.fixed_dictionaries({"key": ATTRIBUTE, "value": ANY}), max_size=4)},
    optional={"traceId": ANY, "spanId": ANY, "events": ANY, "status": ANY, "startTimeUnixNano": ANY},
)
REQUEST = st.fixed_dictionaries(
    {
        "resourceSpans": ANY
        | st.lists(
            st.fixed_dictionaries({"scopeSpans": st.lists(st.fixed_dictionaries({"spans": st.lists(SPAN | ANY)}))})
        )
    }
)


@examples(20)
@given(st.lists(REQUEST.map(lambda one: json.dumps(one).encode()) | st.binary(max_size=20), max_size=6))
def test_every_row_is_used_or_skipped(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    cleaned = [one.replace(b"\n", b"").replace(b"\r", b"") for one in lines]
    path = write(tmp_path_factory.mktemp("otel") / "t.jsonl", line(span(1)) + b"\n".join(cleaned))
    result = reading.read([path])
    assert result.rows_read == len(result.frame) + len(result.skipped)
    rows = set(result.origin["row"]) | set(result.skipped["row"])
    assert rows == {1} | {place for place, one in enumerate(cleaned, start=2) if one.strip()}
