"""What the plug-in says of names that nobody has, of calls that are not decided on, and of who answers instead."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import HTTPException

from serving.bundle.manifest import BundleError, open_bundle
from serving.client.answers import unavailable
from serving.integrations.litellm import plugin as plugins
from serving.integrations.litellm.deciders import InProcess, OverHttp
from serving.integrations.litellm.plugin import OutcomeRouter
from serving.integrations.litellm.request.constraints import demands
from serving.integrations.litellm.rows import unmapped
from serving.integrations.litellm.settings import LiteLLMSettings
from serving.integrations.litellm.standing import Instead, strange_groups
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.serving.integrations.litellm.test_rights import GROUP, HELLO, OTHER, FakeDecider, FakeRouter, answering, key

AWAY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _rights_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    async def permitted(_self: Any, given: Any, _router: Any, _group: str, names: Any) -> frozenset[str]:
        return frozenset(names) & frozenset(given.names)

    monkeypatch.setattr("serving.integrations.litellm.request.access.Access.permitted", permitted)
    monkeypatch.setattr(plugins, "_router_of_proxy", lambda: FakeRouter())


def call(plugin: OutcomeRouter, group: str, given: Any, **body: Any) -> None:
    data = {"model": group, "messages": HELLO, "metadata": {"user_api_key_auth": given}, **body}
    asyncio.run(plugin.async_pre_call_hook(given, None, data, "acompletion"))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if one.name.startswith("serving.")]


def test_calls_that_are_not_decided_on_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    plugin = OutcomeRouter(LiteLLMSettings(groups=("gpt-*",), share=0), FakeDecider(answering(SMALL)))
    for _ in range(3):
        call(plugin, OTHER, key())
    (line,) = lines(caplog)
    assert line == (
        f"outcome-router: {OTHER}: calls of keys that may use no candidate are served and not decided on, in shadow mode too; "
        f"give those keys {GROUP} as well"
    )
    call(plugin, OTHER, key(SMALL), deny=["*"])  # its own doing
    assert len(lines(caplog)) == 1


def test_a_group_that_nobody_has_is_told_once_with_the_one_that_may_be_meant(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = LiteLLMSettings(groups=("gpt-4o-prd", "gpt-*", "zzz"))
    plugin = OutcomeRouter(settings, FakeDecider(answering(SMALL)))
    for _ in range(2):
        call(plugin, "else", key(SMALL))
    assert lines(caplog) == [
        "outcome-router: ROUTER_LITELLM_GROUPS=gpt-4o-prd: LiteLLM has no such model group, so none of its calls is decided "
        f"on; did you mean {OTHER}?",
        "outcome-router: ROUTER_LITELLM_GROUPS=zzz: LiteLLM has no such model group, so none of its calls is decided on",
    ]


@pytest.mark.parametrize(
    ("settings", "names", "said"),
    [
        (LiteLLMSettings(group="outcome-router/atuo"), [GROUP], [f"did you mean {GROUP}?"]),
        (
            LiteLLMSettings(groups=("chat",)),
            ["chat"],
            ["ROUTER_LITELLM_GROUP=outcome-router/auto: LiteLLM has no such"],
        ),
        (LiteLLMSettings(), ["chat"], ["it has no rows of candidates"]),
        (LiteLLMSettings(), ["outcome-router/sql"], []),
        (LiteLLMSettings(groups=("openai/gpt-4o", "cha?")), [GROUP, "openai/*", "chat"], []),
    ],
)
def test_groups_are_held_against_litellms(settings: LiteLLMSettings, names: list[str], said: list[str]) -> None:
    found = list(strange_groups(settings, SimpleNamespace(model_names=names)))
    assert len(found) == len(said)
    assert all(part in line for part, line in zip(said, found, strict=True))


def test_an_alias_of_a_group_is_one() -> None:
    router = SimpleNamespace(model_names=[GROUP, "chat"], model_group_alias={"alias": "chat"})
    assert list(strange_groups(LiteLLMSettings(groups=("alias",)), router)) == []


def test_a_router_without_models_yet_is_looked_at_later(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plugin = OutcomeRouter(LiteLLMSettings(groups=("zzz",)), FakeDecider(answering(SMALL)))
    monkeypatch.setattr(plugins, "_router_of_proxy", lambda: SimpleNamespace(model_names=[], get_model_info=None))
    plugin.attach(SimpleNamespace(model_names=[]))
    assert lines(caplog) == []
    plugin.attach(FakeRouter())
    assert "ROUTER_LITELLM_GROUPS=zzz" in lines(caplog)[0]


def test_who_answers_instead_is_named_and_told_from_existing_groups() -> None:
    instead = Instead(LiteLLMSettings(groups=("chat",)))
    assert instead.said(None) == (
        f"calls of chat are served as before, and of {GROUP} its first row answers (ROUTER_LITELLM_REFERENCE names another), "
        "or the next that the key may use"
    )
    assert f"of {GROUP} {LARGE} answers, or the first row where it has none" in instead.said(LARGE)
    instead.served = (SMALL, OPEN)
    for reference in (None, LARGE):
        assert f"of {GROUP} {SMALL}, its first row, answers" in instead.said(reference)
    assert f"of {GROUP} {OPEN} answers, or the next" in instead.said(OPEN)
    assert Instead(LiteLLMSettings()).said(None).startswith(f"of {GROUP} its first row answers")


def test_a_router_that_is_away_from_the_start_is_told_with_the_row(caplog: pytest.LogCaptureFixture) -> None:
    settings = LiteLLMSettings(ROUTER_URL=AWAY, groups=("gpt-*",))  # type: ignore[call-arg]
    plugin = OutcomeRouter(settings, OverHttp(settings))
    call(plugin, GROUP, key(SMALL))
    (line,) = [one for one in lines(caplog) if "gave no decision" in one]
    assert line.startswith(f"outcome-router: the router at {AWAY} gave no decision (ConnectError")
    assert f"calls of gpt-* are served as before, and of {GROUP} {SMALL}, its first row, answers" in line
    assert line.endswith(", 1 request since the last such line")
    assert all(one.startswith("outcome-router: ") for one in lines(caplog))


def test_a_bundle_that_cannot_be_loaded_is_told_with_what_becomes_of_calls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fake_bundle.build(tmp_path)
    decider = InProcess(LiteLLMSettings(groups=("chat",)), load=lambda: open_bundle(tmp_path / "curent"))
    asyncio.run(decider.decide({"prompt": "hello"}))
    (line,) = lines(caplog)
    assert line.startswith(f"outcome-router: no decisions: {tmp_path / 'curent'} is not a bundle: ")
    assert f"Did you mean {tmp_path / 'current'}?" in line
    assert "calls of chat are served as before" in line
    with pytest.raises(BundleError) as refused:
        open_bundle(tmp_path / "elsewhere")
    assert "Did you mean" not in str(refused.value)


def test_an_administrators_slip_is_told_as_his(caplog: pytest.LogCaptureFixture) -> None:
    plugin = OutcomeRouter(LiteLLMSettings(groups=("gpt-*",)), FakeDecider(answering(SMALL)))
    slip = key(SMALL, denny=[LARGE])
    with pytest.raises(HTTPException) as refused:
        call(plugin, GROUP, slip)
    said = refused.value.detail["error"]  # type: ignore[index]
    assert refused.value.status_code == 422
    assert "in the metadata of the key: outcome_router.denny: expected one of" in said
    assert said.endswith("did you mean deny?")
    slip.key_alias = "sales"
    for _ in range(2):
        call(plugin, OTHER, slip)
    (line,) = lines(caplog)
    assert line.startswith(
        "outcome-router: no decision on calls of existing groups (of the key sales): in the metadata of the key: "
    )
    assert "did you mean deny?" in line


def test_a_teams_slip_and_a_clients_are_told_apart() -> None:
    wrong = {"outcome_router": {"max_cost_usd": "much"}}
    with pytest.raises(Exception, match=r"^in the metadata of the team: max_cost_usd: expected a number$"):
        demands([{}], [], [None, wrong])
    with pytest.raises(Exception, match=r"^max_cost_usd: expected a number$"):
        demands([{}], [wrong], [None, None])


@pytest.mark.parametrize("said", [{"allow": ["swift-minni"]}, {"allow": [SMALL], "deny": ["*", "swift-minni"]}])
def test_a_misspelt_candidate_is_named_where_it_leaves_nobody(said: dict[str, Any]) -> None:
    plugin = OutcomeRouter(LiteLLMSettings(), FakeDecider(unavailable(SMALL)))
    with pytest.raises(HTTPException) as refused:
        call(plugin, GROUP, key(SMALL, OPEN), **said)
    assert f"swift-minni matches no candidate; there are {SMALL}, {OPEN}" in str(refused.value.detail)
    with pytest.raises(HTTPException) as many:
        call(plugin, GROUP, key(SMALL), allow=[f"no-{number}" for number in range(64)])
    assert "no-19 and 44 more match no candidate" in str(many.value.detail)


def test_a_misspelt_reference_is_told_with_the_one_that_may_be_meant() -> None:
    rows = [{"model_info": {"id": name}} for name in (SMALL, LARGE)]
    said = unmapped(GROUP, rows, {}, "acme/larg")
    assert said is not None
    assert said.endswith(f"the reference acme/larg has no row: while the router does not answer, {SMALL} does; "
                         f"did you mean {LARGE}?")  # fmt: skip
