"""Request and response pairs, built with the openai package's own types, and the Batch API's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletion, ChatCompletionMessage
from openai.types.chat.chat_completion import Choice
from openai.types.responses import Response, ResponseUsage
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from tests.examples import examples
from training.logs.outcomes import OutcomeError
from training.logs.repeated.repeats import concat
from training.logs.sources import openai, reading
from training.logs.sources.importer import ImportOptions


def completion(number: int, model: str = "gpt-4o-mini-2024-07-18", **usage: Any) -> dict[str, Any]:
    message = ChatCompletionMessage(role="assistant", content=f"answer {number}")
    counts = {"prompt_tokens": 10 + number, "completion_tokens": 5, "total_tokens": 15 + number} | usage
    whole = ChatCompletion(
        id=f"chatcmpl-{number}",
        object="chat.completion",
        created=1_760_000_000 + number,
        model=model,
        choices=[Choice(index=0, finish_reason="stop", message=message)],
        usage=CompletionUsage(**counts),
    )
    return whole.model_dump(mode="json")


def chat(number: int, model: str = "gpt-4o-mini", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": f"q{number}"}]} | fields


def pair(number: int, **fields: Any) -> dict[str, Any]:
    return {"request": chat(number), "response": completion(number)} | fields


def asked(number: int, custom_id: str | None = None, url: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id or f"r-{number}", "method": "POST", "url": url, "body": chat(number, **body)}


def answered(number: int, custom_id: str | None = None, **changes: Any) -> dict[str, Any]:
    response = {"status_code": 200, "request_id": f"req-{number}", "body": completion(number)}
    line = {"id": f"batch_req_{number}", "custom_id": custom_id or f"r-{number}", "response": response, "error": None}
    return line | changes


def write(path: Path, lines: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines))
    return path


def test_a_pair_becomes_an_outcome(tmp_path: Path) -> None:
    fields = {"quality": 0.5, "latency_ms": 321, "session_id": "s", "workflow": "mail", "propensity": 0.2}
    result = reading.read([write(tmp_path / "log.jsonl", [pair(1, **fields)])])
    assert result.formats == ("openai",)
    row = result.frame.iloc[0]
    assert row["messages"] == [{"role": "user", "content": "q1"}]
    assert (row["request_id"], row["candidate"]) == ("chatcmpl-1", "gpt-4o-mini")
    assert (row["input_tokens"], row["output_tokens"]) == (11, 5)
    assert row["timestamp"].timestamp() == 1_760_000_001
    assert {name: row[name] for name in fields} == fields
    assert result.frame["cost_usd"].isna().all()


@pytest.mark.parametrize(
    "record",
    [
        pair(1),
        {"input": chat(1), "output": completion(1)},
        {"request": json.dumps(chat(1)), "response": json.dumps(completion(1))},
        {"request": chat(1), "response": {"status_code": 200, "body": completion(1)}},
        {**chat(1), "response": completion(1)},
        {**chat(1), **completion(1)},
        {"messages": chat(1)["messages"], "response": completion(1)},
        {"request": chat(1), "response": [{**completion(1), "usage": None}, {"usage": completion(1)["usage"]}]},
    ],
)
def test_each_shape_of_a_pair_reads_as_the_same_outcome(tmp_path: Path, record: dict[str, Any]) -> None:
    path = write(tmp_path / "log.jsonl", [record])
    frame = concat(list(openai.read(path, ImportOptions(answers=True)))).frame
    assert frame["messages"].tolist() == [[{"role": "user", "content": "q1"}]]
    assert frame["candidate"].str.startswith("gpt-4o-mini").all()
    assert frame[["input_tokens", "output_tokens"]].to_numpy().tolist() == [[11, 5]]
    assert frame["request_id"].tolist() == ["chatcmpl-1"]
    assert [importer for importer in reading.IMPORTERS if importer.recognises(path)] == [openai]


def test_an_answer_may_be_bare_text(tmp_path: Path) -> None:
    rows = [{"messages": chat(n)["messages"], "model": "m", "response": "text"} for n in range(2)]
    result = reading.read([write(tmp_path / "log.jsonl", rows)])
    assert result.frame["candidate"].tolist() == ["m", "m"]
    assert result.frame["request_id"].tolist() == ["log-1", "log-2"]


def test_responses_and_completions_are_read_too(tmp_path: Path) -> None:
    usage = ResponseUsage(
        input_tokens=3,
        output_tokens=4,
        total_tokens=7,
        input_tokens_details=InputTokensDetails.model_construct(cached_tokens=0),
        output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
    )
    made = Response.model_construct(
        id="resp_1", created_at=1_760_000_000.0, model="gpt-5", object="response", output=[]
    )
    response = {**made.model_dump(mode="json"), "usage": usage.model_dump(mode="json"), "status": "completed"}
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "function_call", "name": "f"},
    ]
    rows = [
        {"request": {"model": "gpt-5", "instructions": "Be brief.", "input": "hi"}, "response": response},
        {"request": {"model": "gpt-5", "input": items}, "response": {**response, "id": "resp_2"}},
        {"request": {"model": "old", "prompt": ["hi"]}, "response": {"id": "cmpl-1", "choices": [{"text": "yes"}]}},
    ]
    frame = reading.read([write(tmp_path / "log.jsonl", rows)]).frame
    assert [message["role"] for message in frame["messages"][0]] == ["system", "user"]
    assert frame["messages"][1][0] == items[0]
    assert frame["input_tokens"].fillna(-1).tolist() == [3, 3, -1]
    assert frame["prompt"][2] == "hi"


def test_errors_are_outcomes_and_other_calls_are_not(tmp_path: Path) -> None:
    embedding = {"object": "list", "data": [], "model": "text-embedding-3-small"}
    rows = [
        pair(1),
        {"request": chat(2), "response": None, "error": {"message": "overloaded"}},
        {"request": chat(3), "response": {"error": {"code": 502}}},
        {"request": chat(4), "response": {"status_code": 500, "body": {}}},
        {"request": chat(5), "response": None},
        {"request": {"model": "text-embedding-3-small", "input": "x"}, "response": embedding},
        {"request": "lost", "response": completion(6)},
    ]
    result = reading.read([write(tmp_path / "log.jsonl", rows)])
    assert result.frame["status"].tolist() == ["success", "error", "error", "error"]
    assert result.frame["quality"].fillna(-1).tolist() == [-1.0, 0.0, 0.0, 0.0]
    assert result.reasons == {"no response": 1, "not a chat request": 1, "request is not an object": 1}


def test_counts_and_sums_are_those_of_the_source(tmp_path: Path) -> None:
    rows = [pair(n, response=completion(n, cost=0.001 * n + 0.00001)) for n in range(100)]
    result = reading.read([write(tmp_path / "log.jsonl", rows)])
    usages = [row["response"]["usage"] for row in rows]
    assert (len(result.frame), result.rows_read) == (100, 100)
    assert result.frame["input_tokens"].sum() == sum(usage["prompt_tokens"] for usage in usages)
    assert result.frame["output_tokens"].sum() == sum(usage["completion_tokens"] for usage in usages)
    assert result.frame["cost_usd"].sum() == pytest.approx(sum(usage["cost"] for usage in usages), abs=1e-9)


def test_a_batch_is_joined_with_its_requests(tmp_path: Path) -> None:
    error = {
        "id": "batch_req_9",
        "custom_id": "r-3",
        "response": None,
        "error": {"code": "server_error", "message": "x"},
    }
    refused = answered(4, response={"status_code": 400, "request_id": "x", "body": {"error": {"message": "y"}}})
    expired = {"id": "e", "custom_id": "r-5", "response": None, "error": {"code": "batch_expired", "message": "late"}}
    embedding = answered(6, response={"status_code": 200, "request_id": "x", "body": {"object": "list", "data": []}})
    requests = [asked(n) for n in range(1, 6)] + [asked(6, url="/v1/embeddings")]
    write(tmp_path / "input.jsonl", requests)
    write(tmp_path / "batch_1_output.jsonl", [answered(2), answered(1), refused, answered(7), embedding])
    write(tmp_path / "batch_1_error.jsonl", [error, expired])
    result = reading.read([tmp_path])
    assert result.formats == ("openai",)
    frame = result.frame.sort_values("request_id", ignore_index=True)
    assert [messages[0]["content"] for messages in frame["messages"]] == ["q1", "q2", "q3", "q4"]
    assert frame["status"].tolist() == ["success", "success", "error", "error"]
    assert frame["candidate"].tolist() == ["gpt-4o-mini"] * 4
    assert frame["input_tokens"].fillna(-1).tolist() == [11, 12, -1, -1]
    reasons = {"no request with this custom_id": 1, "request was not run": 1, "not a chat request": 1}
    assert result.reasons == reasons
    assert result.rows_read == 7
    assert len(reading.read([tmp_path / "batch_1_output.jsonl"]).frame) == 3


def test_a_batch_is_given_as_its_input_and_its_output(tmp_path: Path) -> None:
    requests = write(tmp_path / "in" / "requests.jsonl", [asked(1), asked(2)])
    answers = write(tmp_path / "out" / "answers.jsonl", [answered(2), answered(1)])
    for given_in_order in ([requests, answers], [answers, requests]):
        frame = reading.read(given_in_order).frame
        assert sorted(message[0]["content"] for message in frame["messages"]) == ["q1", "q2"]
    with pytest.raises(OutcomeError, match="holds the requests of a batch, not its answers"):
        reading.read([requests])


def test_one_custom_id_in_several_batches_is_told_apart(tmp_path: Path) -> None:
    write(tmp_path / "a_input.jsonl", [asked(1, "x"), asked(2, "y"), asked(3, "z")])
    write(tmp_path / "b_input.jsonl", [asked(1, "x", model="gpt-4o"), asked(5, "z"), asked(2, "y")])
    large = {"status_code": 200, "request_id": "x", "body": completion(2, "gpt-4o-2024-08-06")}
    output = [answered(1, "x"), answered(1, "x", response=large), answered(2, "y"), answered(3, "z")]
    result = reading.read([write(tmp_path / "out.jsonl", output)])
    assert result.frame["candidate"].tolist() == ["gpt-4o-mini", "gpt-4o", "gpt-4o-mini"]
    assert result.frame["request_id"].nunique() == 2
    assert result.frame["request_id"][0] == result.frame["request_id"][1]
    assert result.reasons == {"custom_id has several requests": 1}


def test_half_a_batch_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(OutcomeError, match="give the batch's input file"):
        reading.read([write(tmp_path / "output" / "o.jsonl", [answered(1)])])
    with pytest.raises(OutcomeError, match="not its answers; give the output file as well"):
        reading.read([write(tmp_path / "input" / "i.jsonl", [asked(1)])])


def test_a_dirty_log_is_counted_to_the_last_row(tmp_path: Path) -> None:
    rows = [
        pair(1),
        pair(1),
        json.dumps(pair(2)).encode()[:50],
        pair(3, request=chat(3, messages=None)),
        pair(4, cost_usd=-0.1),
        pair(5, quality="good"),
        pair(6, response=completion(6) | {"usage": {"prompt_tokens": "many"}}),
        json.dumps(pair(7), ensure_ascii=False).replace("q7", "caf\xe9").encode("latin-1"),
        pair(8, request=None),
        b"[1]",
    ]
    result = reading.read([write(tmp_path / "log.jsonl", rows)])
    assert result.frame["messages"].map(lambda m: m[0]["content"]).tolist() == ["q1", "caf\ufffd"]
    assert result.rows_read == len(result.frame) + len(result.skipped) == len(rows)
    assert result.reasons["duplicate row"] == 1
    assert result.reasons["unreadable line"] == 2
    assert "caf" not in result.skipped.to_csv()


def test_other_tools_records_are_left_to_their_importers(tmp_path: Path) -> None:
    rows = [
        {**chat(1), "response": completion(1), "call_type": "acompletion", "response_cost": 0.1},
        {"request_id": "1", **chat(1), "response": "text"},
        {"input": chat(1), "output": {"role": "assistant", "content": "yes"}, "traceId": "t"},
    ]
    for number, row in enumerate(rows):
        assert not openai.recognises(write(tmp_path / f"{number}.jsonl", [row]))


CELL = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3)
NESTED = st.recursive(
    CELL,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["messages", "content", "role", "choices", "usage", "model", "body", "error", "data", "input"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
FIELDS = [
    "request",
    "response",
    "input",
    "output",
    "messages",
    "choices",
    "error",
    "quality",
    "id",
    "custom_id",
    "status",
]
RECORD = st.dictionaries(st.sampled_from(FIELDS), NESTED, max_size=5).map(lambda record: json.dumps(record).encode())


@examples(20)
@given(st.lists(RECORD | st.binary(max_size=20), max_size=6), st.booleans())
def test_every_line_is_used_or_skipped(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], batch: bool
) -> None:
    folder = tmp_path_factory.mktemp("pairs")
    cleaned = [one.replace(b"\n", b"").replace(b"\r", b"") for one in lines]
    path = write(folder / "log.jsonl", [answered(1) if batch else pair(1), *cleaned])
    if batch:
        write(folder / "input.jsonl", [asked(1), *cleaned])
    result = concat(list(openai.read(path)))
    assert result.rows_read == len(result.frame) + len(result.skipped)
    assert result.rows_read == 1 + sum(bool(one.strip()) for one in cleaned)
