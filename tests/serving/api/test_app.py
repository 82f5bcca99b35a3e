"""The HTTP endpoint: what it answers, and that no body of any kind makes it fail or repeat what it was sent."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.api.bodies.route import RouteBody
from serving.api.documents import (
    BatchResponse,
    BundleResponse,
    CandidatesResponse,
    HealthResponse,
    Problem,
    RouteResponse,
)
from serving.api.parsing import without_lone_surrogates
from serving.bundle.manifest import BundleError
from serving.decide.decision import Reason
from serving.decide.router import Router
from serving.runtime.pipeline import Service
from serving.settings import Settings
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL

PROBLEM = "application/problem+json"
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(bundle=folder, max_batch=4, max_body_bytes=2_000_000))) as client:
        yield client


def problem_of(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    Problem.model_validate_json(response.content)
    document: dict[str, Any] = response.json()
    assert document["status"] == status
    return document


def test_a_decision_by_hand(client: TestClient) -> None:
    response = client.post("/v1/route", json={"prompt": "hello", "quality_target": 0.8})
    assert response.status_code == 200
    answer = RouteResponse.model_validate_json(response.content)
    # knob 100: .7311 - .0040, .8808 - .1, .9820 - .6006
    assert (answer.model, answer.fallbacks) == (OPEN, [SMALL, LARGE])
    assert answer.confidence == pytest.approx(0.880797, abs=1e-5)
    assert answer.expected_cost_usd == pytest.approx(0.001)
    assert (answer.operating_point, answer.quality_target, answer.knob) == ("q0.8", 0.8, 100.0)
    assert answer.bundle == fake_bundle.VERSION
    assert [one.model for one in answer.candidates] == [SMALL, OPEN, LARGE]
    assert [one.expected_latency_ms for one in answer.candidates] == [200.0, None, 900.0]


def test_http_gives_what_python_gives(client: TestClient, folder: Path) -> None:
    decision = Router.load(folder).route("prove the theorem")
    answer = client.post("/v1/route", json={"prompt": "prove the theorem"}).json()
    assert (answer["model"], answer["confidence"]) == (decision.candidate, pytest.approx(decision.confidence, rel=1e-5))
    assert tuple(answer["fallbacks"]) == decision.fallbacks


def test_an_openai_body_is_taken_as_it_is(client: TestClient) -> None:
    body = {
        "model": "auto",
        "temperature": 0.2,
        "stream": True,
        "max_tokens": 2_000,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "hello"}], "name": "ann"},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]},
            {"role": "tool", "tool_call_id": "1", "content": "42"},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
    }
    answer = client.post("/v1/route", json=body).json()
    assert [one["ruled_out"] for one in answer["candidates"]] == ["context_window", None, None]
    del body["max_tokens"]
    answer = client.post("/v1/route", json=body).json()
    assert [one["ruled_out"] for one in answer["candidates"]] == ["tools", None, None]
    del body["tools"]
    answer = client.post("/v1/route", json=body).json()
    assert [one["ruled_out"] for one in answer["candidates"]] == ["json_schema", None, None]


@pytest.mark.parametrize("name", ["max_output_tokens", "max_completion_tokens", "max_tokens"])
@pytest.mark.parametrize("others", [None, 1, 0])
def test_the_largest_output_limit_counts_whatever_it_is_called(
    client: TestClient, name: str, others: int | None
) -> None:
    names = ("max_output_tokens", "max_completion_tokens", "max_tokens")
    body = {"prompt": "hello", **(dict.fromkeys(names, others or None) if others != 0 else {}), name: 5_000}
    answer = client.post("/v1/route", json=body).json()
    assert answer["candidates"][0]["ruled_out"] == "context_window"


def test_null_is_as_if_it_were_not_there(client: TestClient) -> None:
    bare = client.post("/v1/route", json={"prompt": "hello"}).json()
    fields = RouteBody.model_fields.keys() - {"prompt"}
    answer = client.post("/v1/route", json={"prompt": "hello", **dict.fromkeys(fields)})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {**bare, "id": answer.json()["id"]}
    privacy = {"prompt": "hello", "privacy": {"regions": None}}
    assert client.post("/v1/route", json=privacy).json()["model"] == bare["model"]


def test_at_most_twenty_wrong_fields_are_named(client: TestClient) -> None:
    body = {"prompt": 1, "privacy": {f"{number}": 1 for number in range(500)}}
    response = client.post("/v1/route", json=body)
    document = problem_of(response, 422)
    assert len(document["errors"]) == 20
    assert document["detail"].endswith("(and 500 more)")
    assert len(response.content) < 4_096


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["prompt"]),
        ({"prompt": None}, ["prompt"]),
        ({"prompt": "a", "messages": [{"content": "b"}]}, ["prompt"]),
        ({"prompt": 3}, ["prompt"]),
        ({"messages": "hello"}, ["messages"]),
        ({"messages": []}, ["messages"]),
        ({"messages": ["hello"]}, ["messages.0"]),
        ({"messages": [{"role": "user", "content": 3}]}, ["messages.0.content"]),
        ({"messages": [{"content": ["a"] * 1_001}]}, ["messages.0.content"]),
        ({"messages": [{"content": [1] * 1_001}, {"content": 1}]}, ["messages.0.content.0"]),
        ({"prompt": "a", "tools": [{}] * 1_025}, ["tools"]),
        ({"prompt": "a", "workflow": "w" * 257, "session_id": "s" * 257}, ["workflow", "session_id"]),
        ({"prompt": "a", "deny": ["d" * 129]}, ["deny.0"]),
        ({"prompt": "a", "allow": ["a"] * 65}, ["allow"]),
        ({"prompt": "a", "privacy": {"x" * 1_000: 1}}, ["privacy." + "x" * 64]),
        ({"messages": [{"content": "a"}, {"content": {"text": "b"}}]}, ["messages.1.content"]),
        ({"messages": [{"content": ["a", 3]}]}, ["messages.0.content.1"]),
        ({"messages": [{"role": 1, "content": "a"}]}, ["messages.0.role"]),
        ({"prompt": "a", "quality_target": 0}, ["quality_target"]),
        ({"prompt": "a", "quality_target": 1.01}, ["quality_target"]),
        ({"prompt": "a", "quality_target": "high", "deny": "acme"}, ["deny", "quality_target"]),
        ({"prompt": "a", "deny": [""]}, ["deny.0"]),
        ({"prompt": "a", "max_tokens": 0}, ["max_tokens"]),
        ({"prompt": "a", "tools": [1]}, ["tools.0"]),
        ({"prompt": "a", "response_format": {}}, ["response_format.type"]),
        ([], [""]),
    ],
)
def test_a_wrong_field_is_named(client: TestClient, body: object, fields: list[str]) -> None:
    document = problem_of(client.post("/v1/route", json=body), 422)
    assert [error["field"] for error in document["errors"]] == fields
    assert document["instance"] == "/v1/route"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"prompt": "\xc3"}',
        b'{"prompt": "a"} b',
    ],
    ids=["empty", "cut", "not utf-8", "cut utf-8", "trailing"],
)
def test_a_body_that_is_not_json_is_a_400(client: TestClient, body: bytes) -> None:
    assert problem_of(client.post("/v1/route", content=body), 400)["title"] == "Malformed JSON"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "more than 20,000 JSON values"),
        (b'{"prompt": "a", "other": ' + b"[" * 150 + b"]" * 150 + b"}", "deeper than 128 levels"),
        (b'{"prompt": "a", "max_tokens": ' + b"9" * 10_000 + b"}", "a number of 400 digits or more"),
        (b'{"prompt": "a", "other": [' + b"1," * 20_000 + b"1]}", "more than 20,000 JSON values"),
    ],
    ids=["very deep", "deep", "long number", "many"],
)
def test_json_that_is_too_much_is_a_422(client: TestClient, body: bytes, said: str) -> None:
    document = problem_of(client.post("/v1/route", content=body), 422)
    assert said in document["detail"]
    assert [one["field"] for one in document["errors"]] == [""]


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": ""}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\\udc00\\ud83d\\ude00 \\\\ud800"}',
        b'{"messages": [{"role": "user", "content": "\\ud83d"}], "workflow": "\\ud83d", "deny": ["\\ud83d"]}',
        b'{"prompt": "a", "temperature": NaN, "top_p": Infinity}',
        '{"prompt": "你好，世界 — مرحبا — здравствуйте — 🙂"}'.encode(),
        b'{"prompt": "\\u0000"}',
        json.dumps({"prompt": "x" * 150_000}).encode(),
        json.dumps({"prompt": "世" * 60_000}).encode(),
        json.dumps({"messages": [IMAGE]}).encode(),
        json.dumps({"messages": [{"role": "tool", "content": None}]}).encode(),
        json.dumps({"messages": [{"role": "user", "content": []}]}).encode(),
        json.dumps({"messages": [{"role": "user", "content": [{"type": "text", "text": 3}, {}]}]}).encode(),
        json.dumps({"messages": [{}]}).encode(),
    ],
)
def test_any_prompt_gets_a_decision_in_valid_json(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/route", content=body)
    assert response.status_code == 200, response.text
    RouteResponse.model_validate_json(response.content)


@given(body=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: json.dumps({"prompt": text}).encode()))
def test_no_body_is_a_server_error(client: TestClient, body: bytes) -> None:
    assert client.post("/v1/route", content=body).status_code in (200, 400, 422)


@given(st.text(st.characters(), max_size=20))
def test_lone_surrogates_alone_are_replaced(text: str) -> None:
    cleaned = json.loads(without_lone_surrogates(json.dumps(text).encode()))
    assert cleaned == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def test_a_prompt_no_context_window_holds_says_so(client: TestClient) -> None:
    document = problem_of(client.post("/v1/route", json={"prompt": "word " * 200_000}), 422)
    assert set(document["ruled_out"].values()) == {"context_window"}


def test_no_eligible_candidate_has_each_candidates_rule(client: TestClient) -> None:
    document = problem_of(client.post("/v1/route", json={"messages": [IMAGE], "deny": [LARGE]}), 422)
    assert document["type"] == "urn:outcome-router:no-eligible-candidate"
    assert document["ruled_out"] == {SMALL: "vision", OPEN: "vision", LARGE: "denied"}
    assert "errors" not in document


def test_a_batch_has_a_result_for_each_request(client: TestClient) -> None:
    bodies = [{"prompt": "hello"}, {"prompt": "hello", "allow": ["none"]}, {"prompt": "hello", "quality_target": 0.99}]
    response = client.post("/v1/route/batch", json={"requests": bodies})
    assert response.status_code == 200
    first, second, third = BatchResponse.model_validate_json(response.content).results
    assert isinstance(first, RouteResponse)
    assert first.model == client.post("/v1/route", json=bodies[0]).json()["model"]
    assert isinstance(second, Problem)
    assert second.ruled_out is not None
    assert second.ruled_out.keys() == {SMALL, OPEN, LARGE}
    assert second.instance == "/v1/route/batch#1"
    assert isinstance(third, RouteResponse)
    assert third.reason == "reference"


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "requests"),
        ([{"prompt": "a"}] * 5, "requests"),
        ([{"prompt": "a"}, {}], "requests.1.prompt"),
        ([{"prompt": "a"}, {"prompt": 1}], "requests.1.prompt"),
        ([{"messages": [{"content": 1}]}], "requests.0.messages.0.content"),
    ],
)
def test_an_invalid_batch_names_the_field(client: TestClient, requests: list[object], field: str) -> None:
    document = problem_of(client.post("/v1/route/batch", json={"requests": requests}), 422)
    assert [error["field"] for error in document["errors"]] == [field]


def test_a_body_that_is_too_long_is_refused_announced_or_not(client: TestClient) -> None:
    body = json.dumps({"prompt": "x" * 2_000_000}).encode()
    problem_of(client.post("/v1/route", content=body), 413)
    chunks = (body[start : start + 65_536] for start in range(0, len(body), 65_536))
    problem_of(client.post("/v1/route", content=chunks), 413)
    fits = (b'{"prompt": ', b'"hello"', b"}")
    assert client.post("/v1/route", content=iter(fits)).status_code == 200


def test_unknown_paths_and_methods_are_problems(client: TestClient) -> None:
    assert problem_of(client.get("/nope"), 404)["instance"] == "/nope"
    response = client.get("/v1/route")
    problem_of(response, 405)
    assert response.headers["allow"] == "POST"


def test_what_the_bundle_says_of_itself(client: TestClient) -> None:
    bundle = BundleResponse.model_validate_json(client.get("/v1/bundle").content)
    assert (bundle.version, bundle.simulated, bundle.metrics) == (fake_bundle.VERSION, True, {"aiq": 0.8})
    assert [point["name"] for point in bundle.operating_points] == [point.name for point in fake_bundle.POINTS]
    assert bundle.knobs[-1] is None  # JSON has no infinity
    listed = CandidatesResponse.model_validate_json(client.get("/v1/candidates").content)
    assert listed.reference == LARGE
    assert {one.name: one.cost_from for one in listed.candidates} == {SMALL: "tokens", OPEN: "logged", LARGE: "tokens"}


def test_health(client: TestClient) -> None:
    for path in ("/healthz", "/readyz"):
        health = HealthResponse.model_validate_json(client.get(path).content)
        assert (health.status, health.bundle) == ("ok", fake_bundle.VERSION)


def test_before_startup_it_is_alive_and_not_ready(folder: Path) -> None:
    unstarted = TestClient(create_app(Settings(bundle=folder)))
    assert unstarted.get("/healthz").json() == {"status": "ok", "bundle": None}
    assert unstarted.get("/readyz").headers["retry-after"] == "1"
    problem_of(unstarted.get("/readyz"), 503)
    problem_of(unstarted.post("/v1/route", json={"prompt": "a"}), 503)


def test_startup_without_a_bundle_is_a_bundle_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"), TestClient(create_app(Settings(bundle=tmp_path))):
        pass


def test_a_decision_that_fails_goes_to_the_reference_and_is_logged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("inside")

    with TestClient(create_app(Settings(bundle=folder))) as client:
        monkeypatch.setattr(Router, "decide", fail)
        response = client.post("/v1/route", json={"prompt": "my secret"})
    decision = RouteResponse.model_validate_json(response.content)
    assert (decision.model, decision.reason, decision.confidence) == (LARGE, Reason.FAULT, None)
    assert "inside" in caplog.text
    assert "my secret" not in caplog.text


def test_a_batch_that_fails_goes_to_the_reference_and_is_logged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("inside")

    with TestClient(create_app(Settings(bundle=folder))) as client:
        body = {"requests": [{"prompt": "my secret"}, {"prompt": "my secret", "allow": ["none"]}]}
        monkeypatch.setattr(Router, "route_each", fail)
        alone, _ = client.post("/v1/route/batch", json=body).json()["results"]
        assert alone["reason"] == "best_value"  # each is decided by itself where they cannot be together
        monkeypatch.setattr(Router, "decide", fail)
        decided, refused = client.post("/v1/route/batch", json=body).json()["results"]
    assert (decided["model"], decided["reason"], decided["confidence"]) == (LARGE, "fault", None)
    assert refused["ruled_out"][LARGE] == "not_allowed"
    assert "inside" in caplog.text
    assert "my secret" not in caplog.text


def test_an_unexpected_error_says_nothing_and_is_logged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("inside")

    with TestClient(create_app(Settings(bundle=folder))) as client:
        monkeypatch.setattr(Service, "case", fail)
        response = client.post("/v1/route", json={"prompt": "my secret"})
    problem_of(response, 500)
    assert "inside" not in response.text
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert "inside" in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": "my secret", "quality_target": 7}',
        b'{"prompt": ["my secret"]}',
        b'{"messages": ["my secret"]}',
        b'{"messages": [{"content": {"text": "my secret"}}]}',
        b'{"prompt": "my secret"',
        b'{"prompt": "my secret", "messages": [{"content": "my secret"}]}',
        b'{"prompt": "my secret", "allow": ["none"]}',
        b'{"prompt": "my secret"}',
    ],
)
def test_what_was_sent_is_neither_echoed_nor_logged(
    client: TestClient, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    with caplog.at_level(logging.DEBUG):
        response = client.post("/v1/route", content=body)
    assert "secret" not in response.text
    assert "secret" not in caplog.text


def test_a_client_that_leaves_is_no_error(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def leave() -> list[object]:
        app, sent = create_app(Settings(bundle=folder)), []
        messages: AsyncIterator[dict[str, object]] = iterate(
            {"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}
        )
        scope = {"type": "http", "method": "POST", "path": "/v1/route", "headers": [], "query_string": b""}
        async with app.router.lifespan_context(app):
            await app({**scope, "app": app}, messages.__anext__, lambda message: sent.append(message))  # type: ignore[arg-type, return-value]
        return sent

    assert asyncio.run(leave()) == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def iterate(*messages: dict[str, object]) -> AsyncIterator[dict[str, object]]:
    for message in messages:
        yield message


def test_the_documentation_has_every_model_example_and_error(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    route = document["paths"]["/v1/route"]["post"]
    assert set(route["responses"]) == {
        "200",
        "400",
        "401",
        "402",
        "403",
        "408",
        "409",
        "413",
        "422",
        "429",
        "500",
        "503",
    }
    assert PROBLEM in route["responses"]["422"]["content"]
    prompt, chat = schemas["RouteBody"]["examples"]
    assert client.post("/v1/route", json=prompt).status_code == 200
    chosen = client.post("/v1/route", json=chat).json()
    assert chosen["model"] == OPEN  # the example denies acme/*
    RouteResponse.model_validate_json(json.dumps(schemas["RouteResponse"]["examples"][0]))
    Problem.model_validate(schemas["Problem"]["examples"][0])
    assert list(document["components"]["securitySchemes"]) == ["API key"], "what /docs has its Authorize button for"
    wanted = {part.rpartition("/")[2] for part in json.dumps(document).split('"') if part.startswith("#/components/")}
    assert wanted <= schemas.keys()


def test_the_documentation_comes_from_nowhere_else(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(loaded) >= 2
    for one in loaded:
        assert one.startswith("/"), one
        assert client.get(one).status_code == 200, one
    assert client.get("/redoc").status_code == 404


def test_the_root_says_what_answers_here(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    document = answer.json()
    assert document["bundle"] == fake_bundle.VERSION
    for link in ("documentation", "openapi", "health", "metrics"):
        assert client.get(document[link]).status_code == 200


def test_numbers_have_six_significant_digits(client: TestClient) -> None:
    answer = client.post("/v1/route", json={"prompt": "hello world, prove the theorem"}).json()
    numbers = [
        answer["confidence"],
        answer["expected_cost_usd"],
        *(one["expected_cost_usd"] for one in answer["candidates"]),
    ]
    assert [float(f"{value:.6g}") for value in numbers] == numbers
