"""A real proxy with the plug-in in its process: who is asked, by whose rights, and what is seen and logged of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.settings import Settings
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.serving.integrations.litellm.proxy import EXISTING, GROUP, ROWS, Proxy, configuration, needs_proxy, running
from tests.serving.integrations.litellm.upstreams import Upstreams, serving

pytestmark = needs_proxy
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def upstreams() -> Iterator[Upstreams]:
    with serving(*ROWS, EXISTING) as made:
        yield made


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def service(bundle: Path) -> Iterator[TestClient]:
    """The router by itself, which the same bodies are sent to."""
    with TestClient(create_app(Settings(bundle=str(bundle), store=""))) as client:
        yield client


@pytest.fixture(scope="module")
def one_proxy(bundle: Path, upstreams: Upstreams, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("proxy")
    with running(folder, configuration(upstreams), upstreams, ROUTER_BUNDLE=str(bundle)) as started:
        yield started


@pytest.fixture
def proxy(one_proxy: Proxy) -> Proxy:
    one_proxy.upstreams.forget()
    one_proxy.keys()
    return one_proxy


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"cost_quality": 0},
        {"quality_target": 0.8},
        {"allow": [OPEN]},
        {"deny": [LARGE], "workflow": "hard"},
        {"max_cost_usd": 0.002},
        {"privacy": {"self_hosted": True}},
        {"provider": {"ignore": ["acme"]}},
        {"models": [SMALL, OPEN]},
        {"plugins": [{"id": "auto-router", "cost_quality_tradeoff": 10}]},
        {"cost_quality": 0, "tools": [TOOL]},
        {"cost_quality": 0, "stream": True},
        {"cost_quality": 0, "stream": True, "tools": [TOOL]},
        {"cost_quality": 0, "max_tokens": 5000},
    ],
    ids=str,
)
def test_a_request_reaches_whom_the_router_would_choose(
    proxy: Proxy, service: TestClient, body: dict[str, Any]
) -> None:
    chosen = service.post("/v1/route", json={"messages": [{"role": "user", "content": "hello"}], **body}).json()
    answer = proxy.ask("hello", **body)
    assert answer.status_code == 200, answer.text
    assert proxy.upstreams.asked() == [chosen["model"]]
    assert answer.headers["x-router-model"] == chosen["model"]
    assert answer.headers["x-router-reason"] == chosen["reason"]
    assert float(answer.headers["x-router-confidence"]) == chosen["confidence"]
    assert ("data: [DONE]" in answer.text) is bool(body.get("stream"))
    assert ("look_up" in answer.text) is bool(body.get("tools"))
    sent = proxy.upstreams[chosen["model"]].bodies[0]
    assert set(sent) - {"stream_options", "extra_body"} <= {"model", "messages", "stream", "tools", "max_tokens"}


def test_what_was_decided_is_in_litellms_log(proxy: Proxy) -> None:
    answer = proxy.ask("hello", cost_quality=0, session_id="of-mine")
    record = proxy.record(answer.headers["x-router-decision-id"])
    assert (record["model"], record["ranks"][0], record["reference"]) == (SMALL, SMALL, LARGE)
    assert record["bundle"] == fake_bundle.VERSION
    assert 0 < record["expected_cost_usd"] < record["reference_cost_usd"]
    assert record["session"] not in (None, "of-mine")


@pytest.mark.parametrize("stream", [False, True])
def test_a_dead_upstream_falls_back_to_the_next_rank(proxy: Proxy, stream: bool) -> None:
    proxy.upstreams[SMALL].dead = True
    answer = proxy.ask("hello", cost_quality=0, stream=stream)
    assert answer.status_code == 200, answer.text
    ranks = proxy.record(answer.headers["x-router-decision-id"])["ranks"]
    assert ranks[0] == SMALL
    assert list(dict.fromkeys(proxy.upstreams.asked())) == [name for name in ROWS if name in ranks[:2]]
    assert len(proxy.upstreams[ranks[1]].bodies) == 1


def test_the_last_rank_answers_when_all_others_are_dead(proxy: Proxy) -> None:
    proxy.upstreams[SMALL].dead = proxy.upstreams[OPEN].dead = True
    assert proxy.ask("hello", cost_quality=0).status_code == 200
    assert sorted(proxy.upstreams.asked()) == sorted(ROWS)


def test_a_key_that_may_not_use_a_candidate_never_gets_it(proxy: Proxy) -> None:
    proxy.keys(**{"sk-few": {"models": [GROUP, SMALL, OPEN]}})
    assert proxy.ask("hello", key="sk-few").status_code == 200
    assert proxy.upstreams.asked() == [OPEN]
    proxy.upstreams[SMALL].dead = proxy.upstreams[OPEN].dead = True
    assert proxy.ask("hello", key="sk-few").status_code >= 500
    assert LARGE not in proxy.upstreams.asked()


def test_a_key_of_the_group_alone_may_use_all_of_its_rows(proxy: Proxy) -> None:
    proxy.keys(**{"sk-group": {"models": [GROUP]}})
    assert proxy.ask("hello", key="sk-group").headers["x-router-model"] == LARGE


def test_what_a_team_may_use_narrows_what_its_key_may(proxy: Proxy) -> None:
    team = {"team_id": "support", "team_models": [GROUP, SMALL]}
    proxy.keys(**{"sk-of-team": {"models": [GROUP], **team}, "sk-of-both": {"models": [GROUP, OPEN], **team}})
    assert proxy.ask("hello", key="sk-of-team").status_code == 200
    assert proxy.upstreams.asked() == [SMALL]
    refused = proxy.ask("hello", key="sk-of-both")
    assert refused.status_code == 403
    assert "may use none of the candidates" in refused.text
    assert proxy.upstreams.asked() == [SMALL]


def test_what_key_and_team_demand_holds_whatever_a_client_says(proxy: Proxy) -> None:
    proxy.keys(
        **{
            "sk-strict": {
                "models": [],
                "metadata": {"outcome_router": {"deny": [LARGE], "quality_target": 0.9}},
                "team_id": "support",
                "team_metadata": {"outcome_router": {"privacy": {"self_hosted": True}}},
            }
        }
    )
    for body in ({}, {"allow": [OPEN, LARGE], "deny": [], "privacy": {"self_hosted": False}}, {"cost_quality": 0}):
        assert proxy.ask("hello", key="sk-strict", **body).headers["x-router-model"] == OPEN
    refused = proxy.ask("hello", key="sk-strict", allow=[LARGE])
    assert refused.status_code == 403
    assert set(proxy.upstreams.asked()) == {OPEN}


def test_demands_may_stand_in_the_requests_metadata(proxy: Proxy) -> None:
    assert proxy.ask("hello", metadata={"outcome_router": {"cost_quality": 0}}).headers["x-router-model"] == SMALL
    assert proxy.ask("hello", metadata={"outcome_router": '{"allow": ["open/*"]}'}).headers["x-router-model"] == OPEN


def test_a_request_that_the_rules_let_nobody_answer_is_refused(proxy: Proxy) -> None:
    refused = proxy.ask("hello", privacy={"regions": ["moon"]})
    assert refused.status_code == 422
    assert "no candidate is eligible" in refused.text
    assert "region" in refused.text
    wrong = proxy.ask("hello", quality_target=7)
    assert wrong.status_code == 422
    assert "quality_target" in wrong.text
    assert proxy.upstreams.asked() == []


def test_what_a_client_claims_was_decided_is_not_believed(proxy: Proxy) -> None:
    claimed = {
        "outcome_router": {"decision_id": "forged", "model": SMALL, "ranks": [SMALL], "reason": "forged"},
        "own": 1,
    }
    for metadata, headers in (
        ({"metadata": {"spend_logs_metadata": claimed}}, None),
        ({"litellm_metadata": {"spend_logs_metadata": claimed}}, None),
        (
            {},
            {"x-litellm-spend-logs-metadata": '{"outcome_router": {"decision_id": "forged", "ranks": ["acme/small"]}}'},
        ),
    ):
        answer = proxy.ask("hello", headers=headers, **metadata)
        assert answer.headers["x-router-model"] == LARGE
        proxy.record(answer.headers["x-router-decision-id"])
        foreign = proxy.ask("hello", model=EXISTING, headers=headers, **metadata)
        assert foreign.status_code == 200
        assert not any(name.startswith("x-router") for name in foreign.headers)
    assert set(proxy.upstreams.asked()) == {LARGE, EXISTING}
    logged = [one["metadata"].get("spend_logs_metadata") or {} for one in proxy.calls()]
    assert "forged" not in str([one.get("outcome_router") for one in logged])


def test_other_groups_are_left_alone(proxy: Proxy) -> None:
    answer = proxy.ask("hello", model=EXISTING, provider={"order": ["acme"]})
    assert answer.status_code == 200
    assert proxy.upstreams.asked() == [EXISTING]
    assert proxy.upstreams[EXISTING].bodies[0]["provider"] == {"order": ["acme"]}


def test_the_responses_api_is_routed_too(proxy: Proxy) -> None:
    body = {"model": GROUP, "instructions": "You are terse.", "input": "hello", "cost_quality": 0}
    answer = proxy.post("/v1/responses", body)
    assert answer.status_code == 200, answer.text
    assert proxy.upstreams.asked() == [SMALL]
    assert answer.headers["x-router-model"] == SMALL
    assert "cost_quality" not in proxy.upstreams[SMALL].bodies[0]
    proxy.record(answer.headers["x-router-decision-id"])


def test_an_answer_is_gone_on_with_where_it_was_given(proxy: Proxy) -> None:
    first = proxy.post("/v1/responses", {"model": GROUP, "input": "hello", "cost_quality": 0}).json()
    body = {"model": GROUP, "input": "more", "previous_response_id": first["id"]}
    assert proxy.post("/v1/responses", body).status_code == 200
    assert proxy.upstreams.asked() == [SMALL, SMALL]


def test_anthropics_messages_are_routed_too(proxy: Proxy) -> None:
    metadata = {"outcome_router": {"cost_quality": 0}}
    body = {"model": GROUP, "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}], "metadata": metadata}
    answer = proxy.post("/v1/messages", body)
    assert answer.status_code == 200, answer.text
    assert proxy.upstreams.asked() == [SMALL]
    assert answer.headers["x-router-model"] == SMALL


_PART = {"type": "text", "text": "a"}
_GEMINI = {"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"max_tokens": 10**12}),
        ("/v1/chat/completions", {"tools": [TOOL] * 1100}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [_PART] * 1001}]}),
        ("/v1/chat/completions", {"messages": [{"role": 5, "content": "x"}]}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": {}}]}),
        ("/v1/chat/completions", {"metadata": {"outcome_router": {"deny": [{"a": 1}]}}}),
        ("/v1/chat/completions", {"metadata": {"outcome_router": {"requires": [[1]]}}}),
        ("/v1/chat/completions", {"metadata": {"tags": 5}, "enable_tag_filtering": True}),
        ("/v1/chat/completions", {"allow": ["*"] * 70}),
        ("/v1/chat/completions", {"model": LARGE}),
        ("/v1/responses", {"input": "hello", "max_output_tokens": 10**12}),
        ("/v1/messages", {"max_tokens": 5, "metadata": {"outcome_router": {"deny": [{}]}}}),
        (f"/v1beta/models/{GROUP}:generateContent", _GEMINI),
        (f"/v1beta/models/{GROUP}:streamGenerateContent", _GEMINI),
        (f"/models/{GROUP}:generateContent", _GEMINI),
    ],
    ids=lambda one: repr(one)[:50],
)
def test_no_body_gets_a_key_what_it_may_not_use(proxy: Proxy, path: str, body: dict[str, Any]) -> None:
    proxy.keys(**{"sk-one": {"models": [GROUP, SMALL]}})
    messages = [] if "input" in body or "contents" in body else [("messages", [{"role": "user", "content": "hello"}])]
    for _ in range(4):
        proxy.post(path, {"model": GROUP, **dict(messages), **body}, key="sk-one")
    assert set(proxy.upstreams.asked()) <= {SMALL}


def test_openrouters_fields_do_not_pass_in_extra_body(proxy: Proxy) -> None:
    extra = {"models": [SMALL, "else"], "model": "else", "provider": {"order": ["x"]}, "top_k": 5}
    assert proxy.ask("hello", cost_quality=0, extra_body=extra).status_code == 200
    sent = proxy.upstreams[SMALL].bodies[0]
    assert sent["model"] != "else"
    assert not {"models", "provider"} & (set(sent) | set(sent.get("extra_body") or ()))


def test_litellms_metrics_say_that_every_hook_is_called(proxy: Proxy) -> None:
    assert proxy.ask("hello").status_code == 200
    counted = dict(line.rsplit(" ", 1) for line in proxy.metrics().splitlines() if line.startswith("router_litellm_"))
    for hook in ("pre_call", "filter", "headers"):
        assert float(counted[f'router_litellm_hook_total{{hook="{hook}"}}']) >= 1
    assert float(counted['router_litellm_decisions_total{group="outcome-router/auto",reason="best_value"}']) >= 1
    assert not any(name.startswith("router_litellm_fault_total") for name in counted)


def test_a_request_that_the_router_cannot_read_goes_to_the_reference(proxy: Proxy) -> None:
    answer = proxy.post("/v1/completions", {"model": GROUP, "prompt": [1, 2, 3]})
    assert proxy.upstreams.asked()[:1] == [LARGE], answer.text
