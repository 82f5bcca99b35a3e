"""Hard rules are hard for every prompt: what it takes is counted, whatever was learnt about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.serving.attacks.conftest import Attacked, running

AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
PDF = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}}
VIDEO = {"type": "video_url", "video_url": {"url": "https://example.org/film"}}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """SMALL and OPEN take no audio, PDF and video, LARGE does."""
    candidates = tuple(
        one.model_copy(update=dict.fromkeys(("audio", "pdf", "video"), one.name == LARGE))
        for one in fake_bundle.CANDIDATES
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_bundle, "CANDIDATES", candidates)
        folder = tmp_path_factory.mktemp("hard")
        with running(fake_bundle.build(folder / "models"), folder) as started:
            yield started


def ruled_out(answer: dict[str, Any]) -> dict[str, str | None]:
    return {one["model"]: one["ruled_out"] for one in answer["candidates"]}


def test_a_long_prompt_goes_nowhere_that_its_input_alone_is_too_dear_for(service: Attacked) -> None:
    prompt = "hello " * 100_000  # 170,000 counted tokens: LARGE's window holds them, at .85 USD
    assert service.route(prompt=prompt)["model"] == LARGE
    refused = service.post("/v1/route", {"prompt": prompt, "max_cost_usd": 0.05})
    assert refused.status_code == 422
    assert "acme/large (max_cost_usd)" in refused.json()["detail"]


def test_a_prompt_goes_nowhere_that_it_does_not_fit(service: Attacked) -> None:
    refused = service.post("/v1/route", {"prompt": "hello " * 300_000})
    assert refused.status_code == 422
    assert refused.json()["detail"].count("context_window") == 3


def test_no_expected_cost_falls_with_length(service: Attacked) -> None:
    costs: dict[str, list[float]] = {SMALL: [], OPEN: [], LARGE: []}
    for words in (1, 10, 100, 1_000, 10_000, 100_000):
        for one in service.route(prompt="hello " * words)["candidates"]:
            costs[one["model"]].append(one["expected_cost_usd"])
    for falls_never in costs.values():
        assert falls_never == sorted(falls_never)


def test_what_a_message_carries_beside_its_text_takes_room(service: Attacked) -> None:
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "f", "arguments": '{"text": "' + "word " * 60_000 + '"}'},
    }
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    found = ruled_out(service.route(messages=messages))
    assert found == {SMALL: "context_window", OPEN: "context_window", LARGE: None}


@pytest.mark.parametrize(("part", "rule"), [(AUDIO, "audio"), (PDF, "pdf"), (VIDEO, "video")])
@pytest.mark.parametrize("nested", [False, True])
def test_media_go_to_who_takes_them(service: Attacked, part: dict[str, Any], rule: str, nested: bool) -> None:
    content = [{"type": "tool_result", "content": [part]}] if nested else [{"type": "text", "text": "hello"}, part]
    answer = service.route(messages=[{"role": "user", "content": content}])
    assert ruled_out(answer) == {SMALL: rule, OPEN: rule, LARGE: None}
    assert answer["reason"] == "only_eligible"


# --- what a body says, by whichever name ---

OUTPUT = ("max_output_tokens", "max_completion_tokens", "max_tokens")


def of(service: Attacked, **body: Any) -> dict[str, str | None]:
    return ruled_out(service.route(**{"prompt": "hello", **body}))


@pytest.mark.parametrize("name", OUTPUT)
@pytest.mark.parametrize("others", [None, 1])
def test_null_hides_no_limit_and_the_largest_counts(service: Attacked, name: str, others: int | None) -> None:
    assert of(service, **{**dict.fromkeys(OUTPUT, others), name: 5_000})[SMALL] == "context_window"


def test_null_is_no_demand_and_no_error(service: Attacked) -> None:
    fields = ("allow", "deny", "requires", "privacy", "tools", "response_format", "messages", "workflow", "session_id")
    assert set(of(service, **dict.fromkeys(fields)).values()) == {None}
    assert set(of(service, privacy={"regions": None}).values()) == {None}


@pytest.mark.parametrize("field", ["tools", "functions"])
def test_definitions_of_tools_take_room_in_the_window(service: Attacked, field: str) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "what it does " * 2_000}}
    out = of(service, **{field: [tool]})
    assert (out[SMALL], out[OPEN], out[LARGE]) == ("context_window", "context_window", None)


def test_a_schema_takes_room_in_the_window(service: Attacked) -> None:
    schema = {
        "name": "x",
        "schema": {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(2_000)}},
    }
    out = of(service, response_format={"type": "json_schema", "json_schema": schema})
    assert (out[SMALL], out[OPEN], out[LARGE]) == ("context_window", "context_window", None)


def test_what_is_asked_for_is_seen_in_the_shape(service: Attacked) -> None:
    assert of(service, functions=[{"name": "f"}])[SMALL] == "tools"
    assert of(service, response_format={"type": "json_schema"})[SMALL] == "json_schema"
    for capability in ("audio", "pdf", "video"):
        assert of(service, requires=[capability]) == {SMALL: capability, OPEN: capability, LARGE: None}
