"""A decision is answered whatever fails around it, one of a batch leaves the others alone, and nothing is held twice."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.bundle.request import RouteRequest
from serving.decide.decision import Decision, Reason
from serving.decide.policy import Policy
from serving.runtime.pipeline import Service, UndecidedError
from serving.settings import Settings
from serving.store.tables import DECISIONS
from tests import fake_bundle
from tests.fake_bundle import LARGE
from tests.patience import PATIENCE, until


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture
def service(folder: Path, tmp_path: Path) -> Iterator[Service]:
    rules = tmp_path / "policies.toml"
    rules.write_text("[default.budget]\nday_usd = 1.0\n")
    settings = Settings(
        bundle=str(folder), shadow=str(folder), store=str(tmp_path / "d.db"), policies=rules, embed_wait_ms=100
    )
    made = Service(settings)
    yield made
    made.close()


def fail(*_: object, **__: object) -> Any:
    raise RuntimeError("broken on the canary-prompt")


def metric(text: str, line: str) -> float:
    return sum(float(one.rpartition(" ")[2]) for one in text.splitlines() if one.startswith(line + " "))


@pytest.mark.parametrize(
    ("part", "of", "name"),
    [
        ("session", "conversations", "went"),
        ("session", "conversations", "id_of"),
        ("session", "conversations", "before"),
        ("store", "store", "decided"),
        ("shadow", "shadow", "ask"),
        ("drift", "drift", "decided"),
        ("metrics", "metrics", "decided"),
    ],
)
def test_a_part_that_fails_is_counted_and_said_once_and_the_answer_is_given(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    part: str,
    of: str,
    name: str,
) -> None:
    with TestClient(create_app(service.settings, service)) as client:
        reserved = client.get("/v1/budgets").json()["budgets"][0]["reserved_usd"]
        monkeypatch.setattr(getattr(service, of), name, fail)
        answers = [client.post("/v1/route", json={"prompt": "hello", "session_id": "s"}) for _ in range(3)]
        assert {(one.status_code, one.json()["reason"]) for one in answers} == {(200, "best_value")}
        expected = sum(one.json()["expected_cost_usd"] for one in answers)
        until(
            lambda: abs(client.get("/v1/budgets").json()["budgets"][0]["reserved_usd"] - reserved - expected) < 1e-8,
            "each is held once",
        )
        assert metric(client.get("/metrics").text, f'router_record_failures_total{{part="{part}"}}') == 3
        monkeypatch.undo()
    said = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert said == [f"recording a decision failed: {part}"]


def test_an_integer_that_no_database_knows_and_half_a_character_are_stored(service: Service, tmp_path: Path) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "hello", "seed": 10**30},
        {"role": "user", "content": "\ud800 and more"},
    ]
    _, decision = asyncio.run(service.route(service.case(RouteRequest(messages=messages), Policy(), None)))
    assert decision.reason is Reason.BEST_VALUE
    service.close()
    engine = create_engine(f"sqlite:///{tmp_path / 'd.db'}")
    with engine.connect() as connection:
        [stored] = connection.scalars(select(DECISIONS.c.messages))
    engine.dispose()
    assert json.loads(stored) == messages


# --- batches ---


def reasons(service: Service, prompts: list[str]) -> list[str]:
    answers = service.route_batch([service.case(RouteRequest(prompt), Policy(), None) for prompt in prompts])
    return [answer[1].reason.value if isinstance(answer, tuple) else type(answer).__name__ for answer in answers]


def encoding(service: Service, monkeypatch: pytest.MonkeyPatch, instead: Any, *, inline: bool) -> None:
    """Has the encoder do something else first, which is given the texts."""
    service.live.current = replace(service.live.current, inline=inline)
    encoder = service.live.current.router.encoder
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda texts: (instead(texts), encode(texts))[1])


@pytest.mark.parametrize("inline", [True, False])
def test_a_text_that_cannot_be_embedded_leaves_the_rest_of_its_batch(
    service: Service, monkeypatch: pytest.MonkeyPatch, inline: bool
) -> None:
    encoding(service, monkeypatch, lambda texts: fail() if "theorem" in texts else None, inline=inline)
    service.embedding._seconds = PATIENCE
    assert reasons(service, ["hello", "theorem", "sum"]) == ["best_value", "fault", "best_value"]


def test_a_batch_waits_no_longer_than_one_request_and_is_answered(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reasons(service, ["sum"]) == ["best_value"]
    go = threading.Event()
    encoding(service, monkeypatch, lambda _: go.wait(PATIENCE), inline=False)
    try:
        assert reasons(service, ["hello", "sum", "theorem"]) == ["timeout", "best_value", "timeout"], "one was known"
    finally:
        go.set()


def test_a_decision_that_fails_is_its_own_items(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    router = service.live.current.router
    decide, without = router.decide, router.decide_without_estimates

    def sometimes(request: Any, *rest: Any) -> Decision:
        return fail() if request.text in ("sum", "of") else decide(request, *rest)

    def never(request: Any, *rest: Any) -> Decision:
        return fail() if request.text == "of" else without(request, *rest)

    monkeypatch.setattr(router, "decide", sometimes)
    monkeypatch.setattr(router, "decide_without_estimates", never)
    assert reasons(service, ["hello", "sum", "of", "two"]) == [
        "best_value",
        "fault",
        UndecidedError.__name__,
        "best_value",
    ]


# --- the end ---


def test_what_waits_at_the_end_is_answered(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    go, begun = threading.Event(), threading.Event()

    def wait(_: object) -> None:
        begun.set()
        go.wait(PATIENCE)

    encoding(service, monkeypatch, wait, inline=False)
    service.embedding._seconds = PATIENCE
    cases = [service.case(RouteRequest(f"hello {number}"), Policy(), None) for number in range(8)]

    async def stopped() -> list[tuple[str, Decision]]:
        asked = [asyncio.create_task(service.route(case)) for case in cases]
        await asyncio.to_thread(begun.wait, PATIENCE)
        service.embedding.close()
        go.set()
        return await asyncio.gather(*asked)

    answers = asyncio.run(stopped())
    assert {decision.candidate for _, decision in answers if decision.reason is Reason.TIMEOUT} == {LARGE}
    assert {decision.reason for _, decision in answers} <= {Reason.TIMEOUT, Reason.BEST_VALUE}
