"""Nothing of a candidates' group is served but the rows of those who may answer, whatever a client sends or a router says."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import httpx
import orjson
import pytest
from fastapi import HTTPException
from litellm.exceptions import BadRequestError, ServiceUnavailableError

from serving.client import Route, RouteRefusedError
from serving.client.answers import route_of, unavailable
from serving.client.errors import RouterFailedError
from serving.client.exchange import MOST_ANSWER_BYTES, content_of
from serving.integrations.litellm import plugin as plugins
from serving.integrations.litellm.decided import found
from serving.integrations.litellm.plugin import OutcomeRouter
from serving.integrations.litellm.refusals import RefusedError
from serving.integrations.litellm.request.access import Access, _of_key
from serving.integrations.litellm.request.constraints import demands
from serving.integrations.litellm.request.said import bodies_of, keep, metadata_of, strip, strip_metadata
from serving.integrations.litellm.settings import LiteLLMSettings
from tests.fake_bundle import LARGE, OPEN, SMALL

GROUP, OTHER = "outcome-router/auto", "gpt-4o-prod"
HELLO = [{"role": "user", "content": "hello"}]
ABOUT_THE_TEXT = RouteRefusedError(422, {"status": 422, "errors": [{"field": "messages.0.role"}]})


class FakeDecider:
    """Says what it is told to: a route, or what it raises."""

    reference: str | None = LARGE

    def __init__(self, says: Route | Exception, names: Sequence[str] = (SMALL, OPEN, LARGE)) -> None:
        self.says, self.bodies = says, list[Mapping[str, Any]]()
        self.catalogue: dict[str, dict[str, Any]] = {
            name: {"name": name, "trains_on_data": name == LARGE} for name in names
        }

    async def decide(self, body: Mapping[str, Any]) -> Route:
        self.bodies.append(body)
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    async def known(self) -> None:
        pass

    async def feedback(self, said: Sequence[Mapping[str, Any]]) -> list[str | Mapping[str, Any]]:
        return ["recorded"] * len(said)

    async def close(self) -> None:
        pass


def called(row: str) -> str:
    """The LLM that a row calls."""
    return f"openai/{row.replace('/', '-')}"


class FakeRouter:
    """LiteLLM's Router as the plug-in asks it."""

    def __init__(self, **groups: Sequence[str]) -> None:
        self.groups = {GROUP: [SMALL, OPEN, LARGE], OTHER: ["own"], **groups}

    @property
    def model_names(self) -> list[str]:
        return list(self.groups)

    @property
    def model_list(self) -> list[dict[str, Any]]:
        return [row for group in self.groups for row in self.get_model_list(group)]

    def get_model_info(self, name: str) -> dict[str, Any] | None:
        return next((row for row in self.model_list if row["model_info"]["id"] == name), None)

    def get_model_list(self, model_name: str) -> list[dict[str, Any]]:
        named = self.groups.get(model_name, ())
        return [
            {"model_name": model_name, "model_info": {"id": one}, "litellm_params": {"model": called(one)}}
            for one in named
        ]


def key(*names: str, **demanded: Any) -> Any:
    """A key that may use these candidates."""
    return SimpleNamespace(names=names, token="t", metadata={"outcome_router": demanded}, model_copy=None)


def answering(model: str, *fallbacks: str, **document: Any) -> Route:
    return Route("d-1", model, 0.5, fallbacks, "best_value", 0.1, "b", 1.0, None, document)


@pytest.fixture(autouse=True)
def _rights_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    async def permitted(_self: Access, given: Any, _router: Any, _group: str, names: Sequence[str]) -> frozenset[str]:
        return frozenset(names) if given is None else frozenset(names) & frozenset(given.names)

    monkeypatch.setattr(Access, "permitted", permitted)


async def _served(
    decider: FakeDecider, given: Any, body: Mapping[str, Any], router: FakeRouter, *, call_type: str, group: str
) -> list[str]:
    plugin = OutcomeRouter(LiteLLMSettings(groups=("gpt-*",)), decider)
    data: dict[str, Any] = {"model": group, "metadata": {"user_api_key_auth": given}, **body}
    if "metadata" in body:
        data["metadata"] = {"user_api_key_auth": given, "requester_metadata": body["metadata"]}
    await plugin.async_pre_call_hook(given, None, data, call_type)
    served = str(data["model"])
    rows = router.get_model_list(served)
    left = await plugin.async_filter_deployments(served, rows, data.get("messages"), data)
    return [row["model_info"]["id"] for row in left]


def served(
    monkeypatch: pytest.MonkeyPatch,
    says: Route | Exception,
    given: Any,
    body: Mapping[str, Any] | None = None,
    *,
    router: FakeRouter | None = None,
    call_type: str = "acompletion",
    group: str = GROUP,
    decider: FakeDecider | None = None,
) -> list[str]:
    """The rows that a call on a proxy is left with."""
    there = router or FakeRouter()
    monkeypatch.setattr(plugins, "_router_of_proxy", lambda: there)
    asked = decider or FakeDecider(says)
    sent = {"messages": HELLO} if body is None else body
    return asyncio.run(_served(asked, given, sent, there, call_type=call_type, group=group))


@pytest.mark.parametrize(
    "says",
    [
        ABOUT_THE_TEXT,
        RuntimeError("a fault"),
        unavailable(LARGE),
        unavailable("(no reference)"),
        answering(LARGE),
        answering(LARGE, OPEN),
        answering(LARGE, SMALL),
        answering("(no reference)"),
        answering("nobody's", "else"),
        answering(SMALL, LARGE, OPEN),
        answering(SMALL, candidates=[5]),
        answering(SMALL, candidates=5),
        answering(SMALL, candidates=[{"model": LARGE, "expected_cost_usd": 10**400}]),
        answering(SMALL, candidates=[{"model": LARGE, "expected_cost_usd": -1.0}]),
        answering(SMALL, held_back={"model": [5]}),
        answering(LARGE, held_back={"model": SMALL}),
    ],
    ids=repr,
)
def test_whatever_the_router_says_none_but_who_may_answer_is_served(
    monkeypatch: pytest.MonkeyPatch, says: Route | Exception
) -> None:
    assert served(monkeypatch, says, key(SMALL)) == [SMALL]
    assert served(monkeypatch, says, key(SMALL, OPEN, LARGE, deny=[LARGE, OPEN])) == [SMALL]
    with pytest.raises(HTTPException) as refused:
        served(monkeypatch, says, key())
    assert refused.value.status_code == 403


def test_an_unreadable_text_goes_to_the_reference_if_the_key_may_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert served(monkeypatch, ABOUT_THE_TEXT, key(SMALL, OPEN, LARGE)) == [LARGE]
    assert served(monkeypatch, ABOUT_THE_TEXT, key(SMALL, OPEN)) == [SMALL]
    assert served(monkeypatch, ABOUT_THE_TEXT, key(LARGE, SMALL, privacy={"no_training": True})) == [SMALL]


@pytest.mark.parametrize("body", [{"contents": [{"parts": []}]}, {"prompt": [1, 2]}, {}, {"input": [[1]]}], ids=repr)
@pytest.mark.parametrize("call_type", ["agenerate_content", "agenerate_content_stream", "aembedding", "unheard_of"])
def test_calls_that_the_plug_in_does_not_know_have_the_keys_rights_too(
    monkeypatch: pytest.MonkeyPatch, body: dict[str, Any], call_type: str
) -> None:
    assert served(monkeypatch, answering(LARGE), key(SMALL), body, call_type=call_type) == [SMALL]
    with pytest.raises(BadRequestError, match="may use none"):
        served(monkeypatch, answering(LARGE), key(), body, call_type=call_type)


def test_rows_that_name_no_candidate_have_the_keys_rights_too(monkeypatch: pytest.MonkeyPatch) -> None:
    router = FakeRouter(**{GROUP: ["row-1", "row-2"]})
    assert served(monkeypatch, answering(SMALL), key("row-1"), router=router) == ["row-1"]
    assert served(monkeypatch, answering(SMALL), key("row-1", "row-2", deny=["row-1"]), router=router) == ["row-2"]
    with pytest.raises(HTTPException) as refused:
        served(monkeypatch, answering(SMALL), key(), router=router)
    assert refused.value.status_code == 403


@pytest.mark.parametrize(
    "demanded",
    [
        {"deny": [{"a": 1}]}, {"requires": [[1]]}, {"allow": 5}, {"allow": [5]}, {"deny": ["x" * 129]},
        {"deny": [f"y{number}" for number in range(65)]}, {"privacy": 5}, {"privacy": "x"}, {"privacy": {"regions": 5}},
        {"privacy": {"regions": [{}]}}, {"privacy": {"no_training": 1}}, {"privacy": {"notraining": True}},
        {"no_training": True}, {"data_collection": "deny"}, {"zdr": True}, {"max_cost_usd": float("nan")},
        {"max_cost_usd": "1e9"}, {"quality_target": True}, {"max_cost_usd": 10**400},
    ],
    ids=lambda one: repr(one)[:40],
)  # fmt: skip
@pytest.mark.parametrize("where", ["body", "metadata"])
def test_what_is_no_demand_is_refused_with_and_without_a_router(
    monkeypatch: pytest.MonkeyPatch, demanded: dict[str, Any], where: str
) -> None:
    said = demanded if where == "body" else {"metadata": {"outcome_router": demanded}}
    for says in (answering(LARGE), unavailable(LARGE)):
        with pytest.raises(HTTPException) as refused:
            served(monkeypatch, says, key(SMALL, LARGE, max_cost_usd=1.0), {"messages": HELLO, **said})
        assert refused.value.status_code == 422
    # An existing group's call stays where it was.
    assert served(monkeypatch, answering(LARGE), key(SMALL), {"messages": HELLO, **said}, group=OTHER) == ["own"]


def test_no_client_takes_back_what_an_administrator_demands_of_privacy(monkeypatch: pytest.MonkeyPatch) -> None:
    given = key(LARGE, SMALL, privacy={"no_training": True, "regions": ["eu"]})
    with pytest.raises(HTTPException) as refused:
        served(monkeypatch, unavailable(LARGE), given)
    assert refused.value.status_code == 503
    for said in ({}, {"no_training": False}, {"regions": None}, {"regions": ["eu", "us"]}):
        both = demands(
            [{"privacy": said}], [], [{"outcome_router": {"privacy": {"no_training": True, "regions": ["eu"]}}}]
        )
        assert both.fields["privacy"] == {"no_training": True, "regions": ["eu"]}
    kept = demands([{"privacy": {"regions": ["eu"]}}], [], [{"outcome_router": {"privacy": {"regions": None}}}])
    assert kept.fields["privacy"]["regions"] == ["eu"]


class Unread(list[str]):
    """A list that must not be gone through."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("it was read")


@pytest.mark.parametrize("name", ["allow", "deny"])
def test_lists_are_measured_before_they_are_read(name: str) -> None:
    with pytest.raises(RefusedError, match="at most 64"):
        demands([{name: Unread(["[a-z]*x"] * 65)}], [], [])


def test_more_candidates_than_a_list_takes_are_all_held_to_the_keys_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"c{number}" for number in range(100)]
    router = FakeRouter(**{GROUP: names})
    decider = FakeDecider(answering("c99", "c98"), names)
    assert served(monkeypatch, decider.says, key(*names[:99]), router=router, decider=decider) == ["c98"]
    assert decider.bodies[0]["deny"] == ["c99"]
    assert "allow" not in decider.bodies[0]
    decider.reference = "c60"
    assert served(monkeypatch, decider.says, key(*names[:5]), router=router, decider=decider) == ["c0"]
    assert decider.bodies[1]["allow"] == names[:5]


def test_names_too_long_for_a_list_do_not_open_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["x" * 129, "y" * 129]
    router, decider = FakeRouter(**{GROUP: names}), FakeDecider(answering("y" * 129), names)
    assert served(monkeypatch, decider.says, key(names[0]), router=router, decider=decider) == [names[0]]


def test_a_request_that_says_no_key_on_a_proxy_is_served_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    there = FakeRouter()
    monkeypatch.setattr(plugins, "_router_of_proxy", lambda: there)
    plugin = OutcomeRouter(LiteLLMSettings(), FakeDecider(answering(LARGE)))
    for metadata in ({}, {"user_api_key_auth": {"models": []}}):
        with pytest.raises(BadRequestError, match="whose key"):
            asyncio.run(
                plugin.async_filter_deployments(GROUP, there.get_model_list(GROUP), HELLO, {"metadata": metadata})
            )


def test_rights_that_cannot_be_found_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any) -> frozenset[str]:
        raise RuntimeError

    monkeypatch.setattr(Access, "permitted", broken)
    with pytest.raises(HTTPException) as refused:
        served(monkeypatch, answering(SMALL), key(SMALL))
    assert refused.value.status_code == 503


def test_a_fault_of_the_filter_leaves_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(plugins, "fitting", broken)
    assert served(monkeypatch, answering(SMALL, OPEN), key(SMALL, OPEN)) == [SMALL]
    monkeypatch.setattr(plugins, "picked", broken)
    with pytest.raises(ServiceUnavailableError):
        served(monkeypatch, answering(SMALL), key(SMALL))


def test_an_existing_group_goes_to_none_but_who_may_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert served(monkeypatch, answering(SMALL, LARGE), key(SMALL), group=OTHER) == [SMALL]
    for says in (answering(LARGE), answering("(no reference)"), unavailable(LARGE), RuntimeError(), ABOUT_THE_TEXT):
        assert served(monkeypatch, says, key(SMALL), group=OTHER) == ["own"]


@pytest.mark.parametrize("group", ["outcome-router/zz1", "gpt-zz1"])
def test_a_name_that_litellm_has_no_rows_for_is_not_asked_about(monkeypatch: pytest.MonkeyPatch, group: str) -> None:
    decider = FakeDecider(answering(SMALL))
    assert served(monkeypatch, decider.says, key(SMALL), group=group, decider=decider) == []
    assert decider.bodies == []


def test_a_row_that_is_called_by_its_id_is_its_keys_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for given in (key(SMALL), key(SMALL, LARGE, deny=[LARGE])):
        with pytest.raises(HTTPException) as refused:
            served(monkeypatch, answering(SMALL), given, group=LARGE)
        assert refused.value.status_code == 403
    assert served(monkeypatch, answering(SMALL), key(LARGE), group=LARGE) == []  # there is no group of that name
    router = FakeRouter(**{LARGE: ["own"]})
    assert served(monkeypatch, answering(SMALL), key(SMALL), group=LARGE, router=router) == ["own"]


def test_metrics_name_groups_as_they_are_set() -> None:
    settings = LiteLLMSettings(groups=("gpt-*",))
    said = [settings.label(one) for one in (GROUP, "outcome-router/zz1", "gpt-zz1")]
    assert said == [GROUP, "outcome-router/*", "gpt-*"]


def test_openrouters_fields_do_not_reach_a_candidate_in_extra_body() -> None:
    extra = {"models": [LARGE], "model": LARGE, "provider": {}, "deny": [], "top_k": 5}
    data = {"extra_body": extra, "models": [LARGE]}
    strip(data, routed=True)
    assert data == {"extra_body": {"top_k": 5}}
    assert "models" in extra
    kept = {"extra_body": extra}
    strip(kept, routed=False)
    assert kept["extra_body"] is extra


def test_a_number_beyond_every_float_is_no_answer() -> None:
    said = {"id": "a", "model": "m", "fallbacks": [], "reason": "r"}
    with pytest.raises(RouterFailedError):
        route_of(orjson.dumps(said)[:-1] + b',"expected_cost_usd":1' + b"0" * 400 + b"}")


def test_what_was_decided_for_an_own_group_names_those_alone_who_may_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_router_of_proxy", FakeRouter)
    plugin = OutcomeRouter(LiteLLMSettings(), FakeDecider(answering(LARGE, SMALL)))
    data = {"model": GROUP, "messages": HELLO, "metadata": {"user_api_key_auth": key(SMALL)}}
    asyncio.run(plugin.async_pre_call_hook(key(SMALL), None, data, "acompletion"))
    decided = found(data)
    assert decided is not None
    assert (decided["ranks"], decided["model"], decided["expected_cost_usd"]) == ([SMALL], SMALL, None)


def test_no_more_of_the_candidates_is_read_than_an_answer_may_have() -> None:
    async def read(content: bytes) -> bytes:
        transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
        async with httpx.AsyncClient(transport=transport, base_url="http://router") as http:
            return await content_of(http, "/v1/candidates")

    assert asyncio.run(read(b"{}")) == b"{}"
    with pytest.raises(ValueError, match="longer than"):
        asyncio.run(read(b" " * (MOST_ANSWER_BYTES + 1)))


def test_rights_are_remembered_for_all_of_a_key_that_they_depend_on() -> None:
    plain, configured = SimpleNamespace(token="t", config={}), SimpleNamespace(token="t", config={"model_list": []})
    assert _of_key(plain) != _of_key(configured)


def test_where_another_group_calls_the_same_llm_its_row_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its callers' key says nothing of the candidate, and gets no row of it."""
    there = FakeRouter()
    there.get_model_list = lambda model_name: [  # type: ignore[method-assign]
        {"model_name": model_name, "model_info": {"id": one}, "litellm_params": {"model": called(LARGE)}}
        for one in there.groups.get(model_name, ())
    ]
    monkeypatch.setattr(plugins, "_router_of_proxy", lambda: there)
    plugin = OutcomeRouter(LiteLLMSettings(), FakeDecider(answering(LARGE)))
    data = {"model": called(LARGE), "messages": HELLO, "metadata": {}}
    asyncio.run(plugin.async_pre_call_hook(key(SMALL), None, data, "acompletion"))
    left = asyncio.run(plugin.async_filter_deployments(called(LARGE), there.model_list, HELLO, data))
    assert [row["model_info"]["id"] for row in left] == ["own"]


def test_what_is_kept_of_demands_is_an_empty_object_to_a_log() -> None:
    data: dict[str, Any] = {"deny": [LARGE], "metadata": {"outcome_router": {"allow": [SMALL]}}}
    keep(data)
    strip(data, routed=True)
    strip_metadata(data)
    assert orjson.loads(orjson.dumps(data, default=str)) == {"metadata": {"outcome_router_demands": {}}}
    held = copy.deepcopy(data)
    read = demands(bodies_of(held), metadata_of(held), [])
    assert (read.fields["deny"], read.allow) == ([LARGE], ((SMALL,),))
