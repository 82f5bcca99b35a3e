"""Each source's export trains a router with one command (Langfuse's and a mapped table's are in their own tests)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import QUICK, router_train_here, setting

PRICES = {"gpt-4o-mini": 0.0002, "gpt-4o": 0.004}
TOPICS = ("invoices", "refunds", "contracts", "deliveries", "passwords", "holidays", "meetings")


def attempts() -> list[dict[str, Any]]:
    """240 requests on two LLMs each; the cheap one fails every third."""
    return [
        {"n": n, "model": model, "cost": cost, "good": model == "gpt-4o" or n % 3 > 0,
         "prompt": f"Question {n} about {TOPICS[n % 7]}, in {n % 11} words.", "at": 1_767_225_600 + 60 * n}
        for n in range(240)
        for model, cost in PRICES.items()
    ]  # fmt: skip


def openai_pairs(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "request_id": f"r{one['n']}",
        "quality": float(one["good"]),
        "request": {"model": one["model"], "messages": [{"role": "user", "content": one["prompt"]}]},
        "response": {
            "id": f"chatcmpl-{one['n']}-{one['model']}", "object": "chat.completion", "created": one["at"],
            "model": one["model"],
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "."}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
        },
    }  # fmt: skip


def openrouter(one: dict[str, Any]) -> dict[str, Any]:
    pair = openai_pairs(one)
    pair["response"] |= {"id": f"gen-{one['n']}-{one['model']}", "provider": "OpenAI"}
    pair["response"]["usage"]["cost"] = one["cost"]
    return pair


def litellm(one: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"call-{one['n']}-{one['model']}", "trace_id": f"t{one['n']}", "call_type": "acompletion", "status": "success",
        "model": one["model"], "model_group": one["model"], "custom_llm_provider": "openai", "response_cost": one["cost"],
        "prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15, "startTime": one["at"], "endTime": one["at"] + 1.5,
        "response_time": 1.5, "cache_hit": False, "request_tags": [], "end_user": "",
        "messages": [{"role": "user", "content": one["prompt"]}], "response": {}, "metadata": {"quality": float(one["good"])},
    }  # fmt: skip


def otel(one: dict[str, Any]) -> dict[str, Any]:
    def text(key: str, value: str) -> dict[str, Any]:
        return {"key": key, "value": {"stringValue": value}}

    messages = [{"role": "user", "parts": [{"type": "text", "content": one["prompt"]}]}]
    usage = [("gen_ai.usage.input_tokens", 12), ("gen_ai.usage.output_tokens", 3)]
    span = {
        "traceId": f"{one['n']:032x}", "spanId": f"{2 * one['n'] + (one['model'] == 'gpt-4o') + 1:016x}", "name": "chat",
        "startTimeUnixNano": str(one["at"] * 10**9), "endTimeUnixNano": str(one["at"] * 10**9 + 10**9),
        "attributes": [
            text("gen_ai.operation.name", "chat"), text("gen_ai.request.model", one["model"]),
            text("gen_ai.input.messages", json.dumps(messages)),
            {"key": "gen_ai.usage.cost", "value": {"doubleValue": one["cost"]}},
            *({"key": key, "value": {"intValue": str(value)}} for key, value in usage),
        ],
        "events": [{
            "name": "gen_ai.evaluation.result", "timeUnixNano": str(one["at"] * 10**9),
            "attributes": [
                text("gen_ai.evaluation.name", "good"),
                {"key": "gen_ai.evaluation.score.value", "value": {"doubleValue": float(one["good"])}},
            ],
        }],
    }  # fmt: skip
    return {"resourceSpans": [{"resource": {"attributes": []}, "scopeSpans": [{"scope": {}, "spans": [span]}]}]}


@pytest.mark.parametrize(
    ("write", "format"),
    [(openai_pairs, "openai"), (openrouter, "openrouter"), (litellm, "litellm"), (otel, "otel")],
)
def test_its_export_trains_a_router(tmp_path: Path, write: Callable[[dict[str, Any]], Any], format: str) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(write(one)) + "\n" for one in attempts()))
    prices = tmp_path / "prices.toml"
    prices.write_text(
        "".join(
            f'[[candidate]]\nname = "{name}"\ninput_usd_per_mtok = {price}\noutput_usd_per_mtok = {4 * price}\n'
            for name, price in (("gpt-4o-mini", 0.15), ("gpt-4o", 2.5))
        )
    )
    quick = [*setting(*QUICK), "--no-track"]
    done = router_train_here("run", "--data", log, "--catalogue", prices, "--out", tmp_path / "models", *quick)
    assert done.returncode == 0, done.stderr
    assert f"480 rows read as {format}: 480 used, 0 skipped" in done.stdout
    assert (tmp_path / "models" / "current" / "manifest.json").is_file()
