"""What the router is asked about a call: its text, its demands, its session."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.api.bodies.route import RouteBody
from serving.integrations.litellm.refusals import RefusedError
from serving.integrations.litellm.request.body import session_of, shape, workflow_of
from serving.integrations.litellm.request.constraints import demands
from tests.fake_bundle import LARGE, OPEN, SMALL

ALL = (SMALL, OPEN, LARGE)
USER = {"role": "user", "content": "hello"}


def admin(**fields: Any) -> dict[str, Any]:
    return {"outcome_router": fields}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"messages": [USER]}, {"messages": [USER]}),
        ({"prompt": "hello"}, {"prompt": "hello"}),
        ({"prompt": ["hello"]}, {"prompt": "hello"}),
        ({"input": "hello"}, {"prompt": "hello"}),
        ({"input": "hello", "instructions": "Be terse."}, {"messages": [{"role": "system", "content": "Be terse."}, USER]}),
        ({"input": [USER]}, {"messages": [USER]}),
        ({"messages": [USER], "system": [{"type": "text", "text": "Be terse."}]},
         {"messages": [{"role": "system", "content": [{"type": "text", "text": "Be terse."}]}, USER]}),
        ({"messages": [USER], "max_tokens": 5, "tools": []}, {"messages": [USER], "max_tokens": 5}),
        ({"input": "hello", "text": {"format": {"type": "json_schema", "name": "a", "schema": {}}}},
         {"prompt": "hello", "response_format": {"type": "json_schema", "name": "a", "schema": {}}}),
    ],
)  # fmt: skip
def test_every_api_says_the_same(data: dict[str, Any], expected: dict[str, Any]) -> None:
    assert shape(data) == expected
    RouteBody.model_validate(expected)


@pytest.mark.parametrize(
    ("said", "stored"),
    [
        ({}, True),
        ({"turn_off_message_logging": False, "no-log": False, "metadata": None}, True),
        ({"metadata": {"headers": {"x-litellm-enable-message-redaction": ""}, "logging": 5}}, True),
        ({"turn_off_message_logging": True}, False),
        ({"turn_off_message_logging": "True"}, False),
        ({"no-log": True}, False),
        ({"metadata": {"requester_metadata": {"turn_off_message_logging": True}}}, False),
        ({"litellm_metadata": {"user_api_key_metadata": {"turn_off_message_logging": True}}}, False),
        ({"metadata": {"user_api_key_team_metadata": {"logging": [
            5, {"callback_name": "langfuse", "callback_vars": {"turn_off_message_logging": "true"}}]}}}, False),
        ({"proxy_server_request": {"headers": {"LiteLLM-Enable-Message-Redaction": "true"}}}, False),
        ({"metadata": {"headers": {"x-litellm-enable-message-redaction": "1"}}}, False),
    ],
)  # fmt: skip
def test_what_litellm_is_not_to_log_is_not_stored(said: dict[str, Any], stored: bool) -> None:
    body = shape({"prompt": "hello", **said})
    assert body == ({"prompt": "hello"} if stored else {"prompt": "hello", "store_prompt": False})
    assert RouteBody.model_validate(body).policy().store_prompt is stored


def test_what_litellm_logs_of_nobody_is_stored_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "litellm", SimpleNamespace(turn_off_message_logging=True))
    assert shape({"prompt": "hello"}) == {"prompt": "hello", "store_prompt": False}


@pytest.mark.parametrize("data", [{}, {"prompt": [1, 2]}, {"prompt": ["a", "b"]}, {"messages": []}, {"input": 5}])
def test_what_has_no_one_text_is_not_asked_about(data: dict[str, Any]) -> None:
    assert shape(data) is None


def test_limits_of_all_sides_tighten() -> None:
    client = {"max_cost_usd": 0.5, "quality_target": 0.8, "deny": ["a/*"], "privacy": {"regions": ["eu", "us"]}}
    key = admin(max_cost_usd=0.1, quality_target=0.9, deny=["b/*"], privacy={"zero_retention": True, "regions": ["eu"]})
    team = admin(max_cost_usd=0.3, quality_target=0.7)
    found = demands([client], [], [key, team]).fields
    assert found["max_cost_usd"] == 0.1
    assert found["quality_target"] == 0.9
    assert set(found["deny"]) == {"a/*", "b/*"}
    assert found["privacy"] == {"regions": ["eu"], "zero_retention": True}


def test_a_client_cannot_trade_the_administrators_aim_for_another_kind() -> None:
    assert demands([{"cost_quality": 0}], [], [admin(quality_target=0.9)]).fields == {"quality_target": 0.9}
    assert demands([{"quality_target": 0.1}], [], [admin(cost_quality=8)]).fields == {"cost_quality": 8}
    assert demands([{}], [], [admin(cost_quality=8), admin(quality_target=0.9)]).fields == {"quality_target": 0.9}


def test_regions_that_two_sides_accept_apart_leave_none() -> None:
    client = {"privacy": {"regions": ["us"]}}
    assert demands([client], [], [admin(privacy={"regions": ["eu"]})]).fields["privacy"]["regions"] == ["(none)"]


def test_a_candidate_has_to_match_every_allow() -> None:
    asked = demands(
        [{"allow": ["acme/*"]}], [admin(allow=["*/small", "*/large"])], [admin(allow=[LARGE]), admin(deny=[SMALL])]
    )
    assert asked.allowed(ALL) == (LARGE,)


def test_the_share_is_not_the_clients_to_set() -> None:
    assert demands([{"share": 0, "otherwise": LARGE}], [admin(share=0)], []).fields == {}


@given(
    client=st.fixed_dictionaries(
        {}, optional={"allow": st.lists(st.sampled_from([*ALL, "*"])), "deny": st.lists(st.sampled_from(ALL))}
    ),
    key=st.fixed_dictionaries(
        {}, optional={"allow": st.lists(st.sampled_from([*ALL, "acme/*"])), "deny": st.lists(st.sampled_from(ALL))}
    ),
)
def test_no_client_widens_what_its_key_leaves(client: dict[str, Any], key: dict[str, Any]) -> None:
    alone = set(demands([{}], [], [{"outcome_router": key}]).allowed(ALL))
    assert set(demands([client], [], [{"outcome_router": key}]).allowed(ALL)) <= alone
    assert set(demands([{}], [{"outcome_router": client}], [{"outcome_router": key}]).allowed(ALL)) <= alone


def test_the_workflow_is_read_of_tags_as_the_importer_reads_it() -> None:
    assert workflow_of(["User-Agent: curl", "a", "workflow:sql"]) == "sql"
    assert workflow_of(["User-Agent: curl", "a"]) == "a"
    assert workflow_of(None) is None


def test_sessions_are_their_keys_own_and_not_those_that_the_proxy_makes_up() -> None:
    one, other = session_of({"session_id": "s"}, {}, "key-1"), session_of({"session_id": "s"}, {}, "key-2")
    assert one is not None
    assert one != other
    assert session_of({"session_id": "s"}, {}, "key-1") == one
    assert session_of({"prompt_cache_key": "s"}, {}, "key-1") == one
    assert session_of({"proxy_server_request": {"headers": {"X-Claude-Code-Session-Id": "s"}}}, {}, "key-1") == one
    assert session_of({}, {"requester_metadata": {"user_id": "user_1_account__session_s"}}, "key-1") == one
    assert session_of({"litellm_session_id": "made"}, {"litellm_session_id_generated": True}, "key-1") is None


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"privcy": {"no_training": True}}, "outcome_router.privcy"),
        ({"alow": ["small*"]}, "outcome_router.alow"),
        ('{"deny": ["*"]', "no JSON"),
        (["deny"], "expected an object"),
    ],
)
def test_what_is_no_demand_where_demands_stand_is_refused(said: Any, named: str) -> None:
    """Passed over, it would not be kept: of a client, and of an administrator."""
    for client, key in ((said, {}), (None, {"outcome_router": said})):
        with pytest.raises(RefusedError, match=named) as refused:
            demands([{"messages": [USER]}], [{"outcome_router": client}], [key])
        assert refused.value.status == 422
