"""What shows things shows nobody another's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.patience import PATIENCE, until
from tests.serving.attacks.conftest import Attacked, bearer, key_rules, running

VIEWS = (
    "/v1/me",
    "/v1/bundles",
    "/v1/frontier",
    "/v1/live/snapshot",
    "/v1/savings",
    "/v1/savings?by=key",
    "/v1/budgets",
)
# Of whoever has a key of their own none of this may be seen by another.
CANARIES = ("canary-workflow", "victim", "root")
RULES = f"""
{key_rules("victim", "victim", "budget = { day_usd = 5.0 }")}
{key_rules("spy", "spy")}
{key_rules("bound", "bound", 'workflows = ["its-own"]')}
{key_rules("root", "root", "admin = true")}

[workflows.canary-workflow]
budget = {{ day_usd = 5.0 }}
"""


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("views")
    with running(bundle, folder, rules=RULES, live_seconds=0.2, shadow=bundle) as service:
        for workflow in ("canary-workflow", None):
            made = service.route("victim", prompt="hello", workflow=workflow)
            told = {"decision_id": made["id"], "cost_usd": 1.0, "accepted": True}
            service.post("/v1/feedback", told, "victim").raise_for_status()
        until(lambda: service.get("/v1/live/snapshot", "root").json()["total_decisions"] == 2, "it is in the store")
        yield service


@pytest.mark.parametrize("key", ["spy", "bound"])
@pytest.mark.parametrize("path", VIEWS)
def test_nothing_of_another_is_shown(service: Attacked, path: str, key: str) -> None:
    answer = service.get(path, key)
    assert answer.status_code in (200, 404), answer.text
    seen = answer.text.replace(str(service.store), "")
    assert [name for name in CANARIES if name in seen] == []
    assert service.get(path).status_code == 401


@pytest.mark.parametrize("key", ["spy", "bound"])
def test_no_number_of_another_is_shown(service: Attacked, key: str) -> None:
    seen = service.get("/v1/live/snapshot", key).json()
    while seen["note"] is not None:  # something is still being summed
        seen = service.get("/v1/live/snapshot", key).json()
    numbers = {name: seen[name] for name in ("total_decisions", "decisions_per_minute", "shares", "reasons", "saved")}
    assert numbers == {"total_decisions": 0, "decisions_per_minute": 0.0, "shares": {}, "reasons": {}, "saved": None}
    assert {seen["cost"][name] for name in ("expected_usd", "actual_usd", "costed", "reference_expected_usd")} == {0}
    assert not any(value for minute in seen["series"] for name, value in minute.items() if name != "minute")
    assert (seen["abstentions"], seen["faults"]) == ([], [])


def test_the_stream_shows_what_the_snapshot_does(service: Attacked) -> None:
    with (
        httpx.Client(base_url=service.url, timeout=PATIENCE) as client,
        client.stream("GET", "/v1/live", headers=bearer("spy")) as response,
    ):
        line = next(one for one in response.iter_lines() if one.startswith("data: ") and '"note":null' in one)
    assert json.loads(line.removeprefix("data: "))["total_decisions"] == 0
    assert [name for name in CANARIES if name in line] == []


@pytest.mark.parametrize("headers", [{"X-Key": "root"}, {"Cookie": "key=root"}, {"Authorization": "Basic root"}])
def test_a_key_is_taken_from_its_header_alone(service: Attacked, headers: dict[str, str]) -> None:
    for path in ("/v1/live", "/v1/live?key=root", "/v1/me?key=root"):
        assert service.client.get(path, headers=headers).status_code == 401
