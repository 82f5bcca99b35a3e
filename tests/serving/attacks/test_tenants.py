"""Tenants are apart: a key sees its own, is bound to its workflows, and learns nobody else's name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_bundle import LARGE, OPEN
from tests.serving.attacks.conftest import Attacked, bearer, key_rules, running

BUDGET = "budget = { day_usd = 5.0 }"
RULES = f"""
[default.budget]
day_usd = 100.0

[workflows.medical]
self_hosted = true
{BUDGET}

[workflows.legal]
deny = ["acme/small"]
{BUDGET}

{key_rules("clinic", "clinic", f'workflows = ["medical"]{chr(10)}{BUDGET}')}
{key_rules("firm", "firm", 'workflows = ["medical", "legal", "other"]')}
{key_rules("app", "app", BUDGET)}
{key_rules("root", "root", "admin = true")}
"""


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("tenants")
    with running(bundle, folder, rules=RULES, metrics_token="scraper", shadow=bundle) as service:
        yield service


def ruled_out(service: Attacked, key: str, **body: object) -> dict[str, str | None]:
    answer = service.route(key, prompt="hello", **body)
    return {one["model"]: one["ruled_out"] for one in answer["candidates"]}


@pytest.mark.parametrize("tag", [{}, {"workflow": None}, {"workflow": "medical"}])
def test_a_bound_key_cannot_shed_its_workflows_rules(service: Attacked, tag: dict[str, object]) -> None:
    assert service.route("clinic", prompt="hello", **tag)["model"] == OPEN
    assert ruled_out(service, "clinic", **tag)[LARGE] == "self_hosted"


def test_an_untagged_request_is_under_the_rules_of_all(service: Attacked) -> None:
    out = ruled_out(service, "firm")
    assert set(out.values()) == {None, "denied", "self_hosted"}
    assert ruled_out(service, "firm", workflow="legal")[LARGE] is None
    assert set(ruled_out(service, "firm", workflow="other").values()) == {None}


@pytest.mark.parametrize("tag", ["legal", "Medical", "medical ", "", "nobody-knows-this-canary"])
def test_a_bound_key_is_refused_other_workflows(service: Attacked, tag: str) -> None:
    answer = service.post("/v1/route", {"prompt": "hello", "workflow": tag}, "clinic")
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    assert answer.json()["type"] == "urn:outcome-router:forbidden-workflow"
    assert "canary" not in answer.text
    body = {"requests": [{"prompt": "hello"}, {"prompt": "hello", "workflow": tag}, {"prompt": "hello"}]}
    first, second, third = service.post("/v1/route/batch", body, "clinic").json()["results"]
    assert (first["model"], second["status"], third["model"]) == (OPEN, 403, OPEN)
    assert second["instance"] == "/v1/route/batch#1"


def test_a_key_without_workflows_may_use_any(service: Attacked) -> None:
    assert set(ruled_out(service, "app").values()) == {None}
    assert ruled_out(service, "app", workflow="medical")[LARGE] == "self_hosted"


@pytest.mark.parametrize(
    ("key", "scopes"),
    [
        ("clinic", ["default", "workflow:medical", "key:clinic"]),
        ("firm", ["default", "workflow:medical", "workflow:legal"]),
        ("app", ["default", "key:app"]),
        ("root", ["default", "workflow:medical", "workflow:legal", "key:clinic", "key:app"]),
    ],
)
def test_a_key_sees_the_budgets_that_are_its_own(service: Attacked, key: str, scopes: list[str]) -> None:
    seen = {one["scope"] for one in service.get("/v1/budgets", key).json()["budgets"]}
    assert seen == set(scopes)


def test_only_an_administrator_compares_the_shadow(service: Attacked) -> None:
    assert service.get("/v1/shadow", "app").status_code == 403
    assert service.get("/v1/shadow").status_code == 401
    assert service.get("/v1/shadow", "root").status_code == 200


@pytest.mark.parametrize(("secret", "names"), [(None, 0), ("app", 0), ("wrong", 0), ("root", 2), ("scraper", 2)])
def test_metrics_name_keys_only_to_who_may_know_them(service: Attacked, secret: str | None, names: int) -> None:
    service.route("clinic", prompt="hello")
    answer = service.client.get("/metrics", headers=bearer(secret))
    assert answer.status_code == 200
    lines = [line for line in answer.text.splitlines() if line.startswith("router_budget_left_usd{")]
    assert sum('"key:' in line for line in lines) == names
    assert sum('"key:' not in line for line in lines) == 3
    assert ("clinic" in answer.text) == (names > 0)
    assert "router_decisions_total" in answer.text
