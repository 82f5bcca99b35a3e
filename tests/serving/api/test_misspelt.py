"""A field that is spelt nearly like one that is read is told: ignored in silence, a limit would not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.api.bodies.route import BatchBody, RouteBody
from serving.settings import Settings
from tests import fake_bundle

OPENAI: dict[str, Any] = {
    "model": "m", "temperature": 1, "top_p": 1, "n": 1, "stop": "x", "seed": 1, "stream": True, "store": True, "user": "me",
    "metadata": {"a": 1}, "logit_bias": {}, "logprobs": True, "top_logprobs": 1, "presence_penalty": 0,
    "frequency_penalty": 0, "tool_choice": "auto", "function_call": "auto", "parallel_tool_calls": False, "modalities": [],
    "prediction": None, "reasoning_effort": "low", "service_tier": "auto", "stream_options": {}, "verbosity": "low",
    "web_search_options": {}, "prompt_cache_key": "k", "min_tokens": 1, "max_new_tokens": 1, "safety_identifier": "s",
    "audio": {}, "object": "x",
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "meant"),
    [
        ("quality_traget", "quality_target"), ("max_cost", "max_cost_usd"), ("max_token", "max_tokens"),
        ("sesion_id", "session_id"), ("workflows", "workflow"), ("require", "requires"), ("DENY", "deny"),
        ("maxCostUsd", "max_cost_usd"),
    ],
)  # fmt: skip
def test_a_slip_of_the_pen_is_told(field: str, meant: str) -> None:
    assert RouteBody.model_validate({"prompt": "x", field: 1}).misspelt == (f"{field}: did you mean {meant}?",)


@pytest.mark.parametrize(
    "field",
    [
        "zero_retenton", "zeroRetention", "ZERO_RETENTION", "privcy", "no_trainig", "zero_data_retention", "Zero-Retention",
        " zero_retention", "Regions", "regoins", "ZDR",
    ],
)  # fmt: skip
def test_a_slip_in_what_is_demanded_of_privacy_is_refused(field: str) -> None:
    """Told afterwards, it would come too late: the prompt is stored, and sent to whom it should not be."""
    with pytest.raises(ValidationError, match="nothing reads this; did you mean"):
        RouteBody.model_validate({"prompt": "x", field: True})


@pytest.mark.parametrize(
    "body", [{"zeroRetention": None}, {"self_host": False}, {"region": "eu"}, {"no_tracing": True}]
)
def test_what_demands_nothing_or_means_something_else_is_not_refused(body: dict[str, Any]) -> None:
    RouteBody.model_validate({"prompt": "x", **body})


def test_what_an_llm_takes_is_no_slip() -> None:
    assert RouteBody.model_validate({"prompt": "x", **OPENAI}).misspelt == ()


def test_not_many_and_no_long_names_are_looked_at() -> None:
    many = {f"max_tokens{n}": n for n in range(10_000)}
    assert len(RouteBody.model_validate({"prompt": "x", **many}).misspelt) == 32
    assert RouteBody.model_validate({"prompt": "x", "quality_target" + "_" * 10**6: 1}).misspelt == ()


def test_a_slip_about_privacy_is_found_behind_many_other_names() -> None:
    with pytest.raises(ValidationError, match="did you mean zero_retention"):
        RouteBody.model_validate(
            {"prompt": "x", **{f"{letter}{n}": n for n in range(2_000) for letter in "apzsn"}, "zero_retenton": True}
        )


@pytest.mark.parametrize(
    ("provider", "demanded"),
    [
        ({"zdr": True}, (True, False)),
        ({"data_collection": "deny"}, (False, True)),
        ({"zdr": True, "data_collection": "deny", "order": ["a"]}, (True, True)),
        ({"zdr": False, "data_collection": "allow"}, (False, False)),
        ({"ZDR": True, "dataCollection": "Deny"}, (True, True)),
        ({"zdr": "true", "data_colection": "deny"}, (True, True)),
        ({"zero_retention": 1, "no_training": True}, (True, True)),
        ({"zdr": "no", "allow_fallbacks": True, "only": ["deny"], "sort": "price"}, (False, False)),
        ("azure", (False, False)),
        (None, (False, False)),
    ],
)
def test_what_openrouter_is_asked_of_privacy_is_asked_here(provider: object, demanded: tuple[bool, bool]) -> None:
    policy = RouteBody.model_validate({"prompt": "x", "provider": provider}).policy()
    assert (policy.zero_retention, policy.no_training) == demanded


@pytest.mark.parametrize("demand", [{"zdr": True}, {"data_collection": "deny"}, {"zero_retention": True}])
def test_a_demand_beside_the_object_that_it_belongs_in_is_refused(demand: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"this goes into privacy: .*, or where OpenRouter has it into provider"):
        RouteBody.model_validate({"prompt": "x", **demand})
    RouteBody.model_validate({"prompt": "x", "data_collection": "allow", "zdr": None})


@pytest.mark.parametrize("name", ["Provider", "providers", "provder"])
def test_a_slip_in_the_name_of_provider_is_refused_where_it_demands_something(name: str) -> None:
    with pytest.raises(ValidationError, match="did you mean provider"):
        RouteBody.model_validate({"prompt": "x", name: {"zdr": True}})
    RouteBody.model_validate({"prompt": "x", name: {"order": ["azure"]}})
    RouteBody.model_validate({"prompt": "x", name: "azure"})


@pytest.mark.parametrize("field", ["privacy", "provider", "max_cost_usd", "deny", "zdr", "workflow"])
def test_what_is_demanded_of_a_whole_batch_is_refused(field: str) -> None:
    """Nobody looks for it there, and a prompt that may not be kept would be."""
    with pytest.raises(ValidationError, match="this goes into each of the requests"):
        BatchBody.model_validate({"requests": [{"prompt": "x"}], field: {"zdr": True}})
    BatchBody.model_validate({"requests": [{"prompt": "x"}], "model": "m", "stream": False, field: None})


def test_the_answer_says_it(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(bundle=str(fake_bundle.build(tmp_path))))) as client:
        told = ["quality_traget: did you mean quality_target?"]
        body = {"prompt": "hello", "quality_traget": 0.99}
        assert client.post("/v1/route", json=body).json()["warnings"] == told
        batch = client.post("/v1/route/batch", json={"requests": [{"prompt": "hello"}, body]}).json()["results"]
        assert [one["warnings"] for one in batch] == [[], told]
        refused = client.post("/v1/route", json={"promt": "hello"})
        assert refused.status_code == 422
        assert "neither arrived (promt: did you mean prompt?)" in refused.json()["detail"]
