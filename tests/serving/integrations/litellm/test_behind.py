"""Existing groups: which candidate stands behind one, and what is recorded of its calls that are not routed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client import REGISTRY

from serving.client import RouteRefusedError
from serving.integrations.litellm import counters
from serving.integrations.litellm.asking import Asking, Call
from serving.integrations.litellm.decided import Decided
from serving.integrations.litellm.deciders import InProcess, OverHttp
from serving.integrations.litellm.rows import behind
from serving.integrations.litellm.settings import LiteLLMSettings
from serving.integrations.litellm.told.envelopes import Outcome, Sure
from serving.integrations.litellm.told.log_events import outcome_of_log, served_by
from serving.integrations.litellm.told.to_router import feedback_of
from serving.runtime.pipeline import Service
from serving.settings import Settings
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from training.logs.sources import reading

CATALOGUE: Mapping[str, Mapping[str, Any]] = {
    "claude-opus": {"aliases": ("opus-prod",)},
    "a/llama": {"aliases": ()},
    "b/llama": {"aliases": ()},
    "openai/gpt-4o": {},
}


def row(model: str = "openai/x", **info: Any) -> dict[str, Any]:
    return {"litellm_params": {"model": model}, "model_info": {"id": "0f3a", **info}}


@pytest.mark.parametrize(
    ("rows", "candidate"),
    [
        ([row("anthropic/claude-opus")], "claude-opus"),
        ([row("claude-opus")], "claude-opus"),
        ([row("azure/Opus-Prod")], "claude-opus"),
        ([row("azure/gpt-4o")], "openai/gpt-4o"),
        ([row(id="claude-opus")], "claude-opus"),
        ([row("openai/gpt-4o", outcome_router="claude-opus")], "claude-opus"),
        ([row("openrouter/b/llama")], "b/llama"),
        ([row("groq/llama")], None),  # which of the two is not known
        ([row("anthropic/claude-opus"), row("azure/opus-prod")], "claude-opus"),
        ([row("anthropic/claude-opus"), row("openai/gpt-4o")], None),
        ([row("anthropic/claude-opus"), row()], None),
        ([row()], None),
        ([], None),
    ],
)
def test_the_candidate_behind_a_group(rows: Sequence[Mapping[str, Any]], candidate: str | None) -> None:
    assert behind(rows, CATALOGUE) == candidate


class Rows:
    """LiteLLM's Router with the candidates' rows, and the group `chat` with a deployment of this model."""

    def __init__(self, model: str) -> None:
        self.groups = {"outcome-router/auto": [row(id=name) for name in (SMALL, OPEN, LARGE)], "chat": [row(model)]}

    def get_model_list(self, model_name: str) -> list[dict[str, Any]]:
        return self.groups.get(model_name, [])


def service_at(folder: Path) -> Service:
    made = Service(Settings(bundle=str(fake_bundle.build(folder)), store=str(folder / "decisions.db")))
    made.start()
    return made


async def _asked(settings: LiteLLMSettings, service: Service, model: str, **body: Any) -> Decided | None:
    data = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], **body}
    return await Asking(settings, InProcess(settings, load=lambda: service)).about(
        Call(data, "chat", None, Rows(model))
    )


@pytest.fixture
def settings() -> LiteLLMSettings:
    return LiteLLMSettings(groups=("chat",), share=0.0)


def logged(decided: Decided, deployment: str = "0f3a", cost: float = 0.5) -> dict[str, Any]:
    """LiteLLM's log event of the call."""
    payload = {
        "metadata": {"spend_logs_metadata": {"outcome_router": dict(decided)}}, "model_id": deployment, "model_group": "chat",
        "response_cost": cost, "prompt_tokens": 10, "completion_tokens": 20, "startTime": 1.0, "endTime": 2.0,
    }  # fmt: skip
    left = {"metadata": {"spend_logs_metadata": {"outcome_router": decided}}}
    return {"standard_logging_object": payload, "litellm_params": left}


def test_what_is_shadowed_is_a_row_of_the_candidate_that_served_and_can_be_trained_on(
    settings: LiteLLMSettings, tmp_path: Path
) -> None:
    service = service_at(tmp_path)
    decided = asyncio.run(_asked(settings, service, f"any/{LARGE}", cost_quality=0))
    assert decided is not None
    assert (decided.stays, decided["model"], decided["held_back"], decided["propensity"]) == (True, LARGE, SMALL, 1.0)
    assert (decided["stays"], decided["picked"]) == (True, LARGE)
    assert decided["held_back_cost_usd"] is not None
    told = outcome_of_log(logged(decided), None, failed=False, candidate_of=lambda one: one)
    assert told.model == LARGE
    said = feedback_of(Outcome(told, Sure.LOGGED))
    assert "model" not in said
    asyncio.run(InProcess(settings, load=lambda: service).feedback([said]))
    service.close()
    frame = reading.read([str(tmp_path / "decisions.db")]).frame
    assert frame[["candidate", "propensity", "cost_usd", "status"]].to_numpy().tolist() == [
        [LARGE, 1.0, 0.5, "success"]
    ]


def test_a_group_of_nobody_that_is_known_is_recorded_by_its_name(settings: LiteLLMSettings, tmp_path: Path) -> None:
    service = service_at(tmp_path)
    decided = asyncio.run(_asked(settings, service, "openai/else"))
    service.close()
    assert decided is not None
    assert (decided.stays, decided["model"], decided["picked"]) == (True, "chat", "chat")
    assert served_by(decided, "0f3a", "chat", lambda one: one) == "chat"


def test_a_call_that_left_the_group_was_served_elsewhere(settings: LiteLLMSettings, tmp_path: Path) -> None:
    service = service_at(tmp_path)
    decided = asyncio.run(_asked(settings, service, f"any/{LARGE}"))
    service.close()
    assert decided is not None
    assert served_by(decided, "77", "backup", lambda _: "77") == "77"


@pytest.mark.parametrize("model", ["openai/else", f"any/{SMALL}"])
@pytest.mark.parametrize(
    "demand", [{"privacy": {"regions": ["moon"]}}, {"max_cost_usd": 1e-9}, {"deny": ["chat"]}, {"deny": [SMALL]}]
)
def test_in_shadow_mode_nothing_moves(
    settings: LiteLLMSettings, tmp_path: Path, model: str, demand: dict[str, Any]
) -> None:
    service = service_at(tmp_path)
    try:
        decided = asyncio.run(_asked(settings, service, model, **demand))
    except RouteRefusedError:
        decided = None  # the call goes on without
    service.close()
    assert decided is None or decided.stays


def test_what_was_spent_is_counted_beside_what_was_expected() -> None:
    def sums() -> list[float]:
        names = ("priced", "cost_usd", "expected_cost_usd", "reference_cost_usd")
        return [REGISTRY.get_sample_value(f"router_litellm_held_back_{name}_total") or 0.0 for name in names]

    before = sums()
    counters.count_held_back(0.5, 0.1, 0.4)
    counters.count_held_back(None, 0.1, 0.4)
    counters.count_held_back(0.5, None, 0.4)
    assert [now - then for now, then in zip(sums(), before, strict=True)] == pytest.approx([1, 0.5, 0.1, 0.4])


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


def test_over_http_the_candidates_are_known_before_the_first_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    decider, clock = OverHttp(LiteLLMSettings(ROUTER_URL="http://127.0.0.1:9")), Clock()  # type: ignore[call-arg]
    asked: list[float] = []

    async def content(*_: Any) -> bytes:
        asked.append(clock.now)
        if len(asked) < 6:
            raise OSError("away")
        return orjson.dumps({"candidates": [{"name": LARGE}], "reference": LARGE})

    monkeypatch.setattr("serving.integrations.litellm.deciders.content_of", content)
    monkeypatch.setattr("serving.integrations.litellm.deciders.time", clock)

    async def calls() -> None:
        for _ in range(300):
            await decider.known()
            await asyncio.sleep(0)
            clock.now += 1.0
        await decider.close()

    asyncio.run(calls())
    assert [then - asked[0] for then in asked] == [0, 5, 15, 35, 75, 135]  # twice as long each time, up to a minute
    assert list(decider.catalogue) == [LARGE]


def test_over_http_a_router_that_hangs_is_waited_for_once_and_not_at_all_while_the_breaker_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = LiteLLMSettings(ROUTER_URL="http://127.0.0.1:9")  # type: ignore[call-arg]
    waits: list[float] = []

    async def wait_for(*_: Any) -> None:
        waits.append(1.0)
        raise TimeoutError

    async def hangs(*_: Any) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("serving.integrations.litellm.deciders.content_of", hangs)
    monkeypatch.setattr("serving.integrations.litellm.deciders.asyncio.wait_for", wait_for)

    async def calls(decider: OverHttp) -> None:
        for _ in range(10):
            await decider.known()
            decider._not_asked_until = float("-inf")
        await decider.close()

    asyncio.run(calls(OverHttp(settings)))
    assert waits == [1.0]
    opened = OverHttp(settings)
    with opened._client._breaker.attempt() as attempt:
        assert attempt is not None
        attempt.alive = False
    asyncio.run(calls(opened))
    assert waits == [1.0]
