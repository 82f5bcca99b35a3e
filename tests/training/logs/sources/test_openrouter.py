"""OpenRouter's generation records and responses, field by field as its API reference has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from training.logs.outcomes import OutcomeError
from training.logs.repeated.repeats import concat
from training.logs.sources import openai, openrouter, reading


def generation(number: int, **changes: Any) -> dict[str, Any]:
    record = {
        "id": f"gen-{number}",
        "api_type": "completions",
        "app_id": 12345,
        "cache_discount": None,
        "cancelled": False,
        "created_at": f"2026-03-01T10:00:{number % 60:02d}.433273+00:00",
        "data_region": "global",
        "external_user": "user-123",
        "finish_reason": "stop",
        "generation_time": 1200,
        "http_referer": None,
        "is_byok": False,
        "latency": 1250,
        "model": "openai/gpt-4o-mini",
        "moderation_latency": 50,
        "native_finish_reason": "stop",
        "native_tokens_cached": 3,
        "native_tokens_completion": 25,
        "native_tokens_completion_images": 0,
        "native_tokens_prompt": 100 + number,
        "native_tokens_reasoning": 5,
        "num_media_prompt": None,
        "origin": "https://openrouter.ai/",
        "provider_name": "OpenAI",
        "request_id": None,
        "response_cache_source_id": None,
        "router": None,
        "session_id": "session-1",
        "streamed": True,
        "tokens_completion": 20,
        "tokens_prompt": 90,
        "total_cost": 0.0015,
        "upstream_id": "chatcmpl-1",
        "upstream_inference_cost": 0.0012,
        "usage": 0.0015,
    }
    return record | changes


def logged(number: int, **changes: Any) -> dict[str, Any]:
    usage = {
        "prompt_tokens": 194,
        "completion_tokens": 2,
        "total_tokens": 196,
        "cost": 0.95,
        "cost_details": {"upstream_inference_cost": None},
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    response = {
        "id": f"gen-{number}",
        "provider": "OpenAI",
        "model": "openai/gpt-4o-mini",
        "object": "chat.completion",
        "created": 1_760_000_000,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}],
        "usage": usage | changes.pop("usage", {}),
    }
    asked = {"model": "openrouter/auto", "messages": [{"role": "user", "content": f"q{number}"}]}
    return {"request": asked, "response": response | changes}


def write(path: Path, lines: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\n".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in lines))
    return path


def test_responses_alone_carry_their_cost(tmp_path: Path) -> None:
    byok = {"is_byok": True, "cost": 0.05, "cost_details": {"upstream_inference_cost": 1.0}}
    path = write(tmp_path / "log.jsonl", [logged(1), logged(2, usage=byok)])
    assert [importer for importer in reading.IMPORTERS if importer.recognises(path)] == [openrouter]
    result = reading.read([path])
    assert result.formats == ("openrouter",)
    assert result.frame["candidate"].tolist() == ["openai/gpt-4o-mini"] * 2
    assert result.frame["cost_usd"].tolist() == [0.95, 1.05]
    assert result.frame["input_tokens"].tolist() == [194, 194]
    assert result.frame["request_id"].tolist() == ["gen-1", "gen-2"]


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_generation_record_says_more_than_its_response(tmp_path: Path, wrapped: bool) -> None:
    record = generation(1)
    write(tmp_path / "generations.jsonl", [{"data": record} if wrapped else record])
    write(tmp_path / "requests.jsonl", [logged(1)])
    result = reading.read([tmp_path])
    assert (result.rows_read, result.reasons) == (1, {})
    row = result.frame.iloc[0]
    assert row["messages"] == [{"role": "user", "content": "q1"}]
    assert (row["cost_usd"], row["latency_ms"], row["session_id"]) == (0.0015, 1250, "session-1")
    assert (row["input_tokens"], row["output_tokens"]) == (101, 25)
    assert row["timestamp"].isoformat() == "2026-03-01T10:00:01.433273+00:00"
    pd_frame = reading.read([tmp_path / "requests.jsonl"]).frame
    assert pd_frame["cost_usd"].tolist() == [0.0015]


def test_stored_content_is_a_logged_request_too(tmp_path: Path) -> None:
    stored = {
        "input": {"messages": [{"role": "user", "content": "hi"}]},
        "output": {"completion": "yes", "reasoning": None},
    }
    write(tmp_path / "content.jsonl", [{"id": "gen-1", **stored}])
    write(tmp_path / "generations.jsonl", [generation(1)])
    frame = reading.read([tmp_path]).frame
    assert frame["messages"].tolist() == [[{"role": "user", "content": "hi"}]]
    assert frame["candidate"].tolist() == ["openai/gpt-4o-mini"]


def test_what_is_no_outcome_is_counted(tmp_path: Path) -> None:
    records = [
        generation(1),
        generation(2, cancelled=True),
        generation(3, response_cache_source_id="gen-1"),
        generation(4, api_type="embeddings"),
        generation(5, finish_reason="error"),
        generation(6, is_byok=True, total_cost=0.1, upstream_inference_cost=0.2),
        generation(7),
        generation(1),
        {"id": "gen-8"},
        b'{"id": "gen-9", "total',
    ]
    write(tmp_path / "generations.jsonl", records)
    write(tmp_path / "a.jsonl", [logged(n) for n in (1, 2, 3)])
    write(tmp_path / "b.jsonl", [logged(n) for n in (4, 5, 6)])
    result = reading.read([tmp_path])
    assert result.reasons == {
        "generation was cancelled": 1,
        "answered from a cache": 1,
        "not a chat request": 1,
        "no request with this generation id": 1,
        "duplicate generation": 1,
        "not a generation record": 1,
        "unreadable line": 1,
    }
    assert result.frame["status"].tolist() == ["success", "error", "success"]
    assert result.frame["cost_usd"].tolist() == pytest.approx([0.0015, 0.0015, 0.3])
    assert result.rows_read == len(result.frame) + len(result.skipped) == 6 + 4


def test_counts_and_sums_are_those_of_the_source(tmp_path: Path) -> None:
    records = [generation(n, total_cost=0.00017 * n) for n in range(150)]
    write(tmp_path / "generations.jsonl", records)
    write(tmp_path / "requests.jsonl", [logged(n) for n in range(150)])
    result = reading.read([tmp_path])
    assert (len(result.frame), result.rows_read) == (150, 150)
    assert result.frame["cost_usd"].sum() == pytest.approx(sum(record["total_cost"] for record in records), abs=1e-9)
    assert result.frame["input_tokens"].sum() == sum(record["native_tokens_prompt"] for record in records)
    assert result.frame["output_tokens"].sum() == 25 * 150


def test_generations_without_prompts_say_what_to_put_beside_them(tmp_path: Path) -> None:
    path = write(tmp_path / "generations.jsonl", [generation(1)])
    for source in (path, tmp_path):
        with pytest.raises(OutcomeError, match="OpenRouter returns no prompts with them; put a JSONL file"):
            reading.read([source])
    write(tmp_path / "requests.jsonl", [logged(1)])
    with pytest.raises(OutcomeError, match=r"give .*requests\.jsonl"):
        reading.read([path])


def test_pairs_of_other_services_are_not_openrouters(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", [logged(1, id="chatcmpl-1")])
    assert not openrouter.recognises(path)
    assert openai.recognises(path)
    assert not openai.recognises(write(tmp_path / "own.jsonl", [logged(1)]))


VALUE = st.none() | st.booleans() | st.integers(-2, 2) | st.text(max_size=3)
GENERATION = st.builds(
    lambda number, changes: generation(number, **changes),
    st.integers(1, 4),
    st.dictionaries(st.sampled_from(sorted(generation(1))), VALUE, max_size=3),
).map(lambda record: json.dumps(record).encode())
PAIR = st.builds(
    lambda number, changes: logged(number, **changes),
    st.integers(1, 4),
    st.dictionaries(st.sampled_from(["id", "model", "choices", "created", "error"]), VALUE, max_size=2),
).map(lambda record: json.dumps(record).encode())
JUNK = st.binary(max_size=20).map(lambda one: one.replace(b"\n", b"").replace(b"\r", b""))


@examples(20)
@given(st.lists(GENERATION | JUNK, max_size=5), st.lists(PAIR | JUNK, max_size=5))
def test_every_pair_and_every_generation_is_used_or_skipped(
    tmp_path_factory: pytest.TempPathFactory, records: list[bytes], pairs: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("openrouter")
    write(folder / "generations.jsonl", [generation(90), *records])
    path = write(folder / "log.jsonl", [logged(90), *pairs])
    result = concat(list(openrouter.read(path)))
    assert result.rows_read == len(result.frame) + len(result.skipped)
    of_pairs = {source.endswith("log.jsonl") for source in result.origin["source"]}
    assert of_pairs == {True}
    numbers = set(result.origin["row"]) | set(result.skipped.loc[result.skipped["source"] == str(path), "row"])
    assert numbers == {1} | {place for place, one in enumerate(pairs, start=2) if one.strip()}
