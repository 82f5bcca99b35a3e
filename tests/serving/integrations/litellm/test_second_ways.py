"""Ways to a candidate other than its group: names of rows, fallbacks, lists of models, bodies that the router cannot read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.serving.integrations.litellm.proxy import EXISTING, GROUP, ROWS, Proxy, configuration, needs_proxy, running
from tests.serving.integrations.litellm.upstreams import serving

pytestmark = needs_proxy
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}
BY_MODEL = f"openai/{LARGE.replace('/', '-')}"
AT_ONCE = {"timeout": 0.0001}  # the first attempt comes to nothing
TWICE = f"{GROUP},{GROUP}"
# The router's own rules: one candidate for nobody, one workflow that stays at home.
RULES = '[default]\ndeny = ["acme/small"]\n[workflows.medical]\nself_hosted = true\n'


@pytest.fixture(scope="module")
def one_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("ways")
    bundle = fake_bundle.build(folder / "models")
    rules = folder / "rules.toml"
    rules.write_text(RULES)
    environment = {
        "ROUTER_BUNDLE": str(bundle),
        "ROUTER_POLICIES": str(rules),
        "ROUTER_LITELLM_GROUPS": f"acme/*,{EXISTING}",  # a glob that matches the ids of rows too
        "ROUTER_LITELLM_SHARE": "0",
    }
    with serving(*ROWS, EXISTING) as upstreams:
        config = configuration(upstreams, num_retries=0, fallbacks=[{EXISTING: [GROUP]}])
        with running(folder / "proxy", config, upstreams, **environment) as started:
            yield started


@pytest.fixture
def proxy(one_proxy: Proxy) -> Proxy:
    one_proxy.upstreams.forget()
    one_proxy.keys(
        **{
            "sk-deny": {"metadata": {"outcome_router": {"deny": [LARGE]}}},
            "sk-home": {"metadata": {"outcome_router": {"privacy": {"self_hosted": True}}}},
        }
    )
    return one_proxy


@pytest.mark.parametrize(
    "body",
    [
        {"model": LARGE},
        {"model": BY_MODEL},
        {"model": BY_MODEL, "specific_deployment": True},
        {"fallbacks": [LARGE], **AT_ONCE},
        {"fallbacks": [BY_MODEL], **AT_ONCE},
        {"fallbacks": [{"model": LARGE, "timeout": 60}], **AT_ONCE},
        {"fallbacks": [{"model": BY_MODEL, "timeout": 60, "specific_deployment": True}], **AT_ONCE},
        {"fallbacks": [{"model": GROUP, "timeout": 60, "fallbacks": [LARGE]}], **AT_ONCE},
        {"fallbacks": [{GROUP: [LARGE]}], **AT_ONCE},
        {"context_window_fallbacks": [{GROUP: [{"model": LARGE}]}]},
        {"content_policy_fallbacks": [{"*": [LARGE]}]},
        {"model": EXISTING, "fallbacks": [{"model": LARGE, "timeout": 60}], **AT_ONCE},
    ],
    ids=str,
)
@pytest.mark.parametrize("key", ["sk-deny", "sk-home"])
def test_no_name_gets_a_key_the_row_that_it_may_not_use(proxy: Proxy, key: str, body: dict[str, Any]) -> None:
    assert proxy.ask("hello", key=key, **body).status_code == 403
    assert proxy.upstreams.asked() == []


def test_a_row_that_the_key_may_use_is_still_called_by_its_names(proxy: Proxy) -> None:
    assert proxy.ask("hello", key="sk-home", model=OPEN).status_code == 200
    assert proxy.ask("hello", model=BY_MODEL).status_code == 200
    assert proxy.ask("hello", key="sk-deny", fallbacks=[{"model": OPEN, "timeout": 60}], **AT_ONCE).status_code == 200
    assert set(proxy.upstreams.asked()) == {OPEN, LARGE}


def test_fields_of_the_router_do_not_reach_a_row_that_is_called_by_its_name(proxy: Proxy) -> None:
    extra = {"model": "else", "models": ["else"]}
    answer = proxy.ask("hello", model=LARGE, max_cost_usd=5, provider={"order": ["x"]}, extra_body=extra)
    assert answer.status_code in (200, 422)
    answer = proxy.ask("hello", model=LARGE, max_cost_usd=5, provider={"order": ["x"]}, route="fallback")
    assert answer.status_code == 200
    for sent in proxy.upstreams[LARGE].bodies:
        assert sent["model"] != "else"
        assert not {"max_cost_usd", "provider", "models", "route"} & set(sent)


@pytest.mark.parametrize("entry", [{"models": ["x"]}, {"provider": {"order": ["x"]}}, {"extra_body": {"deny": ["x"]}}])
@pytest.mark.parametrize("model", [GROUP, LARGE])
def test_a_fallback_that_demands_something_is_refused(proxy: Proxy, model: str, entry: dict[str, Any]) -> None:
    refused = proxy.ask("hello", fallbacks=[{"model": model, **entry}])
    assert (refused.status_code, "goes into the body" in refused.text) == (422, True)


def test_a_fallback_does_not_name_another_llm(proxy: Proxy) -> None:
    entry = {"model": GROUP, "timeout": 60, "route": "fallback", "extra_body": {"model": "else", "route": "x"}}
    assert proxy.ask("hello", key="sk-deny", fallbacks=[entry], **AT_ONCE).status_code == 200
    sent = proxy.upstreams[OPEN].bodies[0]
    assert sent["model"] != "else"
    assert "route" not in str(sent)


@pytest.mark.parametrize("model", [TWICE, f"{GROUP},{EXISTING}", f"{EXISTING}, {LARGE}", f"{EXISTING},{BY_MODEL}"])
def test_a_list_of_models_with_candidates_is_refused(proxy: Proxy, model: str) -> None:
    refused = proxy.ask("hello", model=model, privacy={"self_hosted": True})
    assert (refused.status_code, "list of models" in refused.text) == (422, True)
    assert proxy.upstreams.asked() == []


@pytest.mark.parametrize(
    "said",
    [
        {"privacy": {"self_hosted": True}},
        {"metadata": {"outcome_router": {"privacy": {"self_hosted": True}}}},
        {"litellm_metadata": {"outcome_router": {"allow": [OPEN]}}},
        {"deny": ["acme/*"]},
        {"extra_body": {"deny": ["acme/*"]}},
    ],
    ids=str,
)
def test_what_a_client_demands_holds_on_a_fallback_into_the_candidates(proxy: Proxy, said: dict[str, Any]) -> None:
    """Of a group that stays: the demands are out of the body by then."""
    proxy.upstreams[EXISTING].dead = True
    assert proxy.ask("hello", model=EXISTING, **said).status_code == 200
    assert set(proxy.upstreams.asked()) == {EXISTING, OPEN}


def test_a_client_cannot_write_what_was_kept(proxy: Proxy) -> None:
    proxy.upstreams[EXISTING].dead = True
    answer = proxy.ask("hello", model=EXISTING, metadata={"outcome_router_demands": {"deny": ["*"]}})
    assert answer.status_code == 200
    assert set(proxy.upstreams.asked()) == {EXISTING, LARGE}


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": {"outcome_router": {"deny": ["acme/*"]}}, "litellm_metadata": {"a": 1}},
        {"litellm_metadata": {"outcome_router": {"deny": ["acme/*"]}}},
        {"extra_body": {"privacy": {"self_hosted": True}}},
        {"extra_body": {"provider": {"ignore": ["acme"]}}},
    ],
    ids=str,
)
def test_demands_are_read_wherever_a_client_may_write_them(proxy: Proxy, body: dict[str, Any]) -> None:
    assert proxy.ask("hello", **body).status_code == 200
    assert proxy.upstreams.asked() == [OPEN]
    assert not {"privacy", "provider"} & set(proxy.upstreams[OPEN].bodies[0])


@pytest.mark.parametrize(
    ("body", "named"),
    [({"provider": [{"zdr": True}]}, "provider"), ({"privcy": {"no_training": True}}, "privacy")],
)
def test_a_demand_that_nobody_reads_is_refused(proxy: Proxy, body: dict[str, Any], named: str) -> None:
    refused = proxy.ask("hello", **body)
    assert (refused.status_code, named in refused.text) == (422, True)
    assert proxy.ask("hello", min_tokens=1, provider="azure", safety_identifier="x").status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "tools": [TOOL] * 1100}),
        ("/v1/chat/completions", {"messages": [{"role": 5, "content": "hi"}]}),
        ("/v1/completions", {"prompt": ["hello", "x"]}),
        ("/v1/completions", {"prompt": [1, 2, 3]}),
        ("/v1/embeddings", {"input": ["hello", "x"]}),
    ],
    ids=lambda one: repr(one)[:60],
)
def test_the_routers_own_rules_hold_for_a_body_that_it_cannot_read(
    proxy: Proxy, path: str, body: dict[str, Any]
) -> None:
    asked = {"model": GROUP, "workflow": "medical", **body}
    answer = proxy.post(path, asked)
    assert answer.status_code == 200, answer.text
    assert set(proxy.upstreams.asked()) == {OPEN}
    proxy.upstreams.forget()
    refused = proxy.post(path, {**asked, "allow": [SMALL]})
    assert refused.status_code in (400, 422)
    assert "no candidate is eligible" in refused.text
    assert proxy.upstreams.asked() == []


def test_a_spent_budget_holds_for_a_body_that_the_router_cannot_read(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[default.budget]\nday_usd = 0.0\nat_limit = "reject"\n')
    environment = {"ROUTER_BUNDLE": str(fake_bundle.build(tmp_path / "models")), "ROUTER_POLICIES": str(rules)}
    environment["ROUTER_STORE"] = f"sqlite:///{tmp_path / 'router.db'}"
    with (
        serving(*ROWS, EXISTING) as upstreams,
        running(tmp_path / "proxy", configuration(upstreams), upstreams, **environment) as proxy,
    ):
        assert proxy.ask("hello").status_code == 402
        assert proxy.ask("hello", tools=[TOOL] * 1100).status_code == 402
        assert upstreams.asked() == []
