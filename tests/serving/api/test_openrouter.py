"""A body made for OpenRouter: what its fields do here, and what is said where they are wrong or contradict each other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.api.bodies.route import RouteBody
from serving.decide.endpoints import Group, Preferences
from serving.settings import Settings
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """For the workflow "tight" a rule denies the small one."""
    rules = tmp_path_factory.mktemp("rules") / "policies.toml"
    rules.write_text('[workflows.tight]\ndeny = ["*/small"]\n')
    folder = fake_bundle.build(tmp_path_factory.mktemp("models"))
    with TestClient(create_app(Settings(bundle=str(folder), store=None, policies=rules))) as client:
        yield client


def routed(client: TestClient, **body: Any) -> dict[str, Any]:
    response = client.post("/v1/route", json={"prompt": "hello", **body})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def refused(client: TestClient, **body: Any) -> list[dict[str, str]]:
    response = client.post("/v1/route", json={"prompt": "hello", **body})
    assert response.status_code == 422, response.text
    errors: list[dict[str, str]] = response.json()["errors"]
    return errors


def ruled_out(answer: dict[str, Any]) -> list[str | None]:
    return [one["ruled_out"] for one in answer["candidates"]]


def test_models_are_who_may_answer_and_the_order_of_the_fallbacks(client: TestClient) -> None:
    answer = routed(client, models=["acme/small:free", "acme/large:nitro"])
    assert (answer["model"], answer["fallbacks"]) == (LARGE, [SMALL])
    assert ruled_out(answer) == [None, "not_allowed", None]
    for names in ([OPEN, SMALL, LARGE], ["small", "medium", "large"]):
        fallbacks = routed(client, models=names)["fallbacks"]
        assert [name.rpartition("/")[2] for name in fallbacks] == [
            name.rpartition("/")[2] for name in names if not name.endswith("large")
        ]


def test_model_beside_models_is_the_first_of_them(client: TestClient) -> None:
    answer = routed(client, model="open/medium", models=[SMALL, LARGE])
    assert (answer["model"], answer["fallbacks"]) == (LARGE, [OPEN, SMALL])
    assert ruled_out(routed(client, model="openrouter/auto", models=[SMALL]))[1:] == ["not_allowed"] * 2
    assert ruled_out(routed(client, model=SMALL)) == [None] * 3, "by itself it is what every body has"
    assert ruled_out(routed(client, model=["x"], models=[SMALL]))[0] is None


def test_a_price_that_is_too_high_or_not_known_rules_out(client: TestClient) -> None:
    price = {"prompt": 1, "completion": "2.5", "request": 7}
    assert ruled_out(routed(client, provider={"max_price": price})) == [None, "max_price", "max_price"]
    assert ruled_out(routed(client, provider={"max_price": {"completion": 20}})) == [None, "max_price", None]
    response = client.post("/v1/route", json={"prompt": "hello", "provider": {"max_price": {"prompt": 0}}})
    assert set(response.json()["ruled_out"].values()) == {"max_price"}


@pytest.mark.parametrize(
    ("provider", "rules"),
    [
        ({"only": ["acme"]}, [None, "not_allowed", None]),
        ({"only": ["Open"]}, ["not_allowed", None, "not_allowed"]),
        ({"ignore": ["acme"]}, ["denied", None, "denied"]),
        ({"only": [], "ignore": [], "order": []}, [None, None, None]),
        ({"order": ["open"]}, [None, None, None]),
        ({"order": ["open"], "allow_fallbacks": True}, [None, None, None]),
        ({"order": ["open"], "allow_fallbacks": False}, ["not_allowed", None, "not_allowed"]),
        ({"zdr": True, "only": ["acme"]}, None),
        ({"max_latency": 1}, ["x", "x", "x"]),
        ({"sort": "price", "quantizations": ["int4"], "require_parameters": True}, [None, None, None]),
        ("azure", [None, None, None]),
        (None, [None, None, None]),
    ],
)
def test_what_is_asked_of_providers(client: TestClient, provider: Any, rules: list[str | None] | None) -> None:
    if rules is None:
        response = client.post("/v1/route", json={"prompt": "hello", "provider": provider})
        assert response.json()["ruled_out"] == {SMALL: "zero_retention", OPEN: "not_allowed", LARGE: "zero_retention"}
        return
    if "x" in rules:
        answer = routed(client, provider=provider)
        assert ruled_out(answer) == [None, "max_latency_ms", "max_latency_ms"]
        return
    assert ruled_out(routed(client, provider=provider)) == rules


def test_without_fallbacks_the_answer_has_none(client: TestClient) -> None:
    answer = routed(client, provider={"allow_fallbacks": False}, models=[SMALL, LARGE])
    assert (answer["model"], answer["fallbacks"]) == (LARGE, [])
    assert routed(client, provider={"allow_fallbacks": True})["fallbacks"] == routed(client)["fallbacks"]


def test_a_preferred_latency_is_no_bound(client: TestClient) -> None:
    """Expected are 200 and 900 ms, thrice that at the 95th percentile, and nothing of the open one."""
    answer = routed(client, provider={"preferred_max_latency": 0.5})
    assert (answer["model"], answer["fallbacks"]) == (SMALL, [LARGE, OPEN])
    assert ruled_out(answer) == [None] * 3
    assert routed(client, provider={"preferred_max_latency": {"p50": 0.9, "p90": 2.7}})["model"] == LARGE
    assert routed(client, provider={"preferred_max_latency": {"p50": 0.9, "p99": 2.6}})["model"] == SMALL
    assert routed(client, provider={"preferred_max_latency": {"p50": 0.01}})["model"] == LARGE, "nobody is"
    assert routed(client, provider={"preferred_max_latency": {}})["model"] == LARGE


def test_a_latency_that_is_named_as_a_bound_is_one(client: TestClient) -> None:
    for latency in (0.6, {"p90": 0.6}, {"p50": 0.6, "p99": 60}):
        assert ruled_out(routed(client, provider={"max_latency": latency})) == [
            None,
            "max_latency_ms",
            "max_latency_ms",
        ]
    both = RouteBody.model_validate({"prompt": "x", "max_latency_ms": 100, "provider": {"max_latency": 5}}).policy()
    assert both.max_latency_ms == 100


def test_the_tradeoff_runs_the_other_way(client: TestClient) -> None:
    """0 is quality there and 10 the cheapest; `cost_quality` has them the other way round."""

    def traded(place: float) -> dict[str, Any]:
        return routed(client, plugins=[{"id": "auto-router", "cost_quality_tradeoff": place}])

    best, cheap = traded(0), traded(10)
    assert (best["model"], cheap["model"]) == (LARGE, SMALL)
    assert best["expected_cost_usd"] > 100 * cheap["expected_cost_usd"]
    assert best["confidence"] > cheap["confidence"]
    costs = [traded(place)["expected_cost_usd"] for place in range(11)]
    assert (max(costs), min(costs)) == (costs[0], costs[-1])
    for place in (0, 2.5, 7, 10):
        asked, ours = traded(place), routed(client, cost_quality=10 - place)
        assert {**asked, "id": ours["id"]} == ours


def test_what_the_auto_router_allows(client: TestClient) -> None:
    def allowed(*names: str, **more: Any) -> list[str | None]:
        return ruled_out(
            routed(client, plugins=[{"id": "web"}, 3, {"id": "auto-router", "allowed_models": names, **more}])
        )

    assert allowed("acme/*") == [None, "not_allowed", None]
    assert allowed("open/medium", "*/small") == [None, None, "not_allowed"]
    assert allowed("acme/*", enabled=False) == [None, None, None]
    both = routed(client, models=[SMALL, OPEN], plugins=[{"id": "auto-router", "allowed_models": ["acme/*"]}])
    assert ruled_out(both) == [None, "not_allowed", "not_allowed"]


def test_the_servers_rules_only_tighten(client: TestClient) -> None:
    answer = routed(client, workflow="tight", models=[SMALL, LARGE], provider={"max_price": {"prompt": 5}})
    assert ruled_out(answer) == ["denied", "not_allowed", None]


def test_a_batch_has_them_for_each(client: TestClient) -> None:
    bodies = [
        {"prompt": "hello", "models": [SMALL]},
        {"prompt": "hello", "provider": {"only": ["none"]}},
        {"prompt": "a"},
    ]
    first, second, third = client.post("/v1/route/batch", json={"requests": bodies}).json()["results"]
    assert (first["model"], first["fallbacks"]) == (SMALL, [])
    assert second["status"] == 422
    assert ruled_out(third) == [None] * 3
    beside = client.post("/v1/route/batch", json={"requests": bodies, "models": [SMALL]})
    assert beside.json()["errors"][0]["field"] == "models"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"models": SMALL}, "models"),
        ({"models": [3]}, "models.0"),
        ({"models": [""]}, "models.0"),
        ({"models": ["x" * 257]}, "models.0"),
        ({"models": ["x"] * 65}, "models"),
        ({"provider": [{"zdr": True}]}, "provider"),
        ({"provider": True}, "provider"),
        ({"provider": {"only": "acme"}}, "provider.only"),
        ({"provider": {"order": ["x" * 129]}}, "provider.order.0"),
        ({"provider": {"ignore": ["x"] * 65}}, "provider.ignore"),
        ({"provider": {"allow_fallbacks": "no"}}, "provider.allow_fallbacks"),
        ({"provider": {"max_price": 3}}, "provider.max_price"),
        ({"provider": {"max_price": {"prompt": -1}}}, "provider.max_price.prompt"),
        ({"provider": {"max_price": {"completion": "cheap"}}}, "provider.max_price.completion"),
        ({"provider": {"max_price": {"completion": "nan"}}}, "provider.max_price.completion"),
        ({"provider": {"max_price": {"completion": True}}}, "provider.max_price.completion"),
        ({"provider": {"preferred_max_latency": "fast"}}, "provider.preferred_max_latency"),
        ({"provider": {"preferred_max_latency": True}}, "provider.preferred_max_latency"),
        ({"provider": {"preferred_max_latency": 0}}, "provider.preferred_max_latency"),
        ({"provider": {"max_latency": {"p90": "1"}}}, "provider.max_latency.p90"),
        ({"plugins": {"id": "auto-router"}}, "plugins"),
        ({"plugins": [{"id": "web"}] * 65}, "plugins"),
        (
            {"plugins": [{"id": "web"}, {"id": "auto-router", "cost_quality_tradeoff": 11}]},
            "plugins.1.cost_quality_tradeoff",
        ),
        ({"plugins": [{"id": "auto-router", "cost_quality_tradeoff": "7"}]}, "plugins.0.cost_quality_tradeoff"),
        ({"plugins": [{"id": "auto-router", "allowed_models": "acme/*"}]}, "plugins.0.allowed_models"),
        ({"plugins": [{"id": "auto-router", "enabled": 1}]}, "plugins.0.enabled"),
    ],
)
def test_a_field_of_a_wrong_type_is_named(client: TestClient, body: dict[str, Any], field: str) -> None:
    assert refused(client, **body)[0]["field"] == field


ROUTER = {"id": "auto-router", "cost_quality_tradeoff": 3}


@pytest.mark.parametrize(
    ("body", "field", "said"),
    [
        ({"plugins": [ROUTER], "cost_quality": 5}, "plugins.0.cost_quality_tradeoff", "and cost_quality; both arrived"),
        ({"plugins": [ROUTER], "quality_target": 0.9}, "plugins.0.cost_quality_tradeoff", "and quality_target; both"),
        (
            {"plugins": [ROUTER, {**ROUTER, "cost_quality_tradeoff": 4}]},
            "plugins.1.id",
            "auto-router arrived before it too",
        ),
        (
            {"provider": {"only": ["acme"], "ignore": ["Acme"]}},
            "provider.only",
            "the 1 that arrived, are in provider.ignore",
        ),
        ({"provider": {"only": ["a/x", "a"], "ignore": ["a"]}}, "provider.only", "the 2 that arrived"),
        (
            {"provider": {"order": ["a"], "ignore": ["a"], "allow_fallbacks": False}},
            "provider.order",
            "allow_fallbacks is false",
        ),
        (
            {"provider": {"order": ["a"], "only": ["acme"], "allow_fallbacks": False}},
            "provider.order",
            "none of the 1 that arrived is in provider.only",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(client: TestClient, body: dict[str, Any], field: str, said: str) -> None:
    [error] = refused(client, **body)
    assert error["field"] == field
    assert said in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"plugins": [{**ROUTER, "enabled": False}], "cost_quality": 5},
        {"plugins": [ROUTER, {**ROUTER, "enabled": False}]},
        {"provider": {"order": ["acme"], "ignore": ["acme"]}},
        {"provider": {"only": ["acme", "open"], "ignore": ["acme"]}},
        {"provider": {"order": ["acme/turbo", "acme"], "only": ["acme"], "allow_fallbacks": False}},
        {"provider": {"allow_fallbacks": False}},
    ],
)
def test_what_only_looks_like_it_is_not(client: TestClient, body: dict[str, Any]) -> None:
    routed(client, **body)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"models": ["secret-model"]}, "models: the one that arrived is not a candidate's name or alias"),
        ({"provider": {"only": ["secret"]}}, "provider.only: the one that arrived is not a provider"),
        ({"provider": {"order": ["secret"], "allow_fallbacks": False}}, "provider.order: the one that arrived"),
        ({"plugins": [{"id": "auto-router", "allowed_models": ["secret/*"]}]}, "plugins.0.allowed_models: the one"),
        ({"models": [OPEN], "provider": {"only": ["acme"]}}, "models and provider.only have no candidate in common"),
        ({"provider": {"ignore": ["acme", "open"]}}, "provider.ignore leaves none of them"),
    ],
)
def test_who_is_left_by_nobody_is_told_by_which_field(client: TestClient, body: dict[str, Any], said: str) -> None:
    response = client.post("/v1/route", json={"prompt": "hello", **body})
    assert response.status_code == 422
    assert response.json()["ruled_out"].keys() == {SMALL, OPEN, LARGE}
    assert said in response.json()["detail"]
    assert "secret" not in response.text


def test_a_slip_inside_provider_is_told(client: TestClient) -> None:
    answer = routed(client, provider={"ingore": ["acme"], "max_prices": {}, "sort": "price", "zdr": False})
    assert answer["warnings"] == [
        "provider.ingore: did you mean provider.ignore?",
        "provider.max_prices: did you mean provider.max_price?",
    ]


def test_what_comes_of_a_body() -> None:
    body = {
        "prompt": "x",
        "model": "a",
        "models": ["b:free"],
        "provider": {"order": ["p"], "only": ["p", "q"], "preferred_max_latency": {"p50": 1, "p75": 3, "p99": 2}},
    }
    policy = RouteBody.model_validate(body).policy()
    assert policy.endpoints is not None
    assert policy.endpoints.models == (Group("model and models", ("a", "b:free")),)
    assert policy.endpoints.only == (Group("provider.only", ("p", "q")),)
    assert policy.preferences == Preferences(
        models=("a", "b:free"), providers=("p",), latency_ms=1000.0, latency_p95_ms=2000.0
    )
    plain = RouteBody.model_validate(
        {"prompt": "x", "provider": {"zdr": True, "sort": "price"}, "plugins": []}
    ).policy()
    assert (plain.endpoints, plain.preferences, plain.zero_retention) == (None, None, True)


def test_the_documentation_has_them(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert {"models", "provider", "plugins", "share", "otherwise"} <= schemas["RouteBody"]["properties"].keys()
    assert {"order", "only", "ignore", "allow_fallbacks", "max_price"} <= schemas["Provider"]["properties"].keys()
    assert schemas["AutoRouter"]["properties"]["cost_quality_tradeoff"]["description"].startswith(
        "From 0, quality alone"
    )
