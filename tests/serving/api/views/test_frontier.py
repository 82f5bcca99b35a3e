"""The frontier of the served bundle, and the volume that it is used at."""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving.api.views.frontier import FrontierResponse
from serving.bundle.manifest import BundleError
from serving.runtime.live import Live
from serving.store.engine import open_engine
from serving.store.tables import DECISIONS
from tests import fake_bundle
from tests.patience import until
from tests.serving.api.views.rules import get, serving, with_frontier
from tests.serving.attacks.conftest import bearer
from tests.serving.store.rows import decision

DAY = 86_400.0
OF_LOG = {"requests_a_month": 3_000.0, "days": 60.0, "requests": 6_000, "cost_usd": 12.5}
LINES = [
    {"workflow": "medical", "requests": 5},
    {"workflow": "legal", "requests": 7},
    {"workflow": None, "requests": 9},
]
FRONTIER = {
    "schema": 2,
    "version": "fake-1",
    "simulated": True,
    "why_not": None,
    "sweep": [{"knob": 0.0, "cost_usd": 2.0}, {"knob": float("inf"), "cost_usd": 1.0}],
    "workflows": LINES,
    "profiles": [{"candidate": "acme/small", "best": LINES[:2], "worst": LINES[1:]}],
    "log": OF_LOG,
}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """fake-2 without a frontier, fake-0 with another, fake-1 that is served."""
    root = tmp_path / "models"
    fake_bundle.build(root, "fake-2")
    with_frontier(fake_bundle.build(root, "fake-0"), {**FRONTIER, "version": "fake-0", "log": None})
    with_frontier(fake_bundle.build(root, "fake-1"), FRONTIER)
    return root


def asked(client: TestClient, key: str | None = None, **params: str) -> dict[str, Any]:
    document: dict[str, Any] = get(client, "/v1/frontier", key, **params)
    FrontierResponse.model_validate(document)
    return document


def refused(client: TestClient, status: int, key: str | None = None, **params: str) -> str:
    answer = client.get("/v1/frontier", headers=bearer(key), params=params)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    return str(answer.json()["detail"])


def decided(folder: Path, *rows: dict[str, Any]) -> None:
    """Decisions in the store before a service is there; `age` is in days."""
    engine = open_engine(str(folder / "decisions.db"))
    made = []
    for number, row in enumerate(rows):
        age = row.pop("age")
        made.append(decision(f"d{number}", at=time.time() - age * DAY, **row))
    with engine.begin() as connection:
        connection.execute(DECISIONS.insert(), made)
    engine.dispose()


def test_it_is_the_bundles_own_with_the_logs_volume_before_there_are_decisions(models: Path, tmp_path: Path) -> None:
    with serving(models / "current", tmp_path, rules="") as client:
        document = asked(client)
    seen = document.pop("seen")
    # What is infinite has no number in JSON.
    assert document == {**FRONTIER, "sweep": [FRONTIER["sweep"][0], {"knob": None, "cost_usd": 1.0}]}  # type: ignore[index]
    assert seen == {"requests_a_month": 3_000.0, "days": 60.0, "decisions": 6_000, "from": "log", "scope": "all"}


def test_the_volume_is_that_of_the_last_whole_weeks_in_the_store(models: Path, tmp_path: Path) -> None:
    decided(tmp_path, {"age": 40}, {"age": 20}, {"age": 14}, {"age": 1}, {"age": 0})  # today is not over
    with serving(models / "current", tmp_path, rules="") as client:
        seen = asked(client)["seen"]
    assert (seen["from"], seen["scope"], seen["decisions"], seen["days"]) == ("store", "all", 2, 14)
    assert seen["requests_a_month"] == pytest.approx(2 / 14 * 30.4375)


def test_a_part_of_a_working_week_is_not_taken_for_a_week(models: Path, tmp_path: Path) -> None:
    today = datetime.now(UTC)
    at_work = [age for age in range(1, 21) if (today - timedelta(days=age)).weekday() < 5]
    decided(tmp_path, *({"age": age} for age in [*at_work, 20] for _ in range(100)))
    with serving(models / "current", tmp_path, rules="") as client:
        seen = asked(client)["seen"]
    assert seen["requests_a_month"] == pytest.approx(100 * 5 / 7 * 30.4375), "whatever day it is"


@pytest.mark.parametrize(("age", "decisions"), [(0.5, 6), (6.0, 1_200)])
def test_less_than_a_week_is_no_month(models: Path, tmp_path: Path, age: float, decisions: int) -> None:
    decided(tmp_path, *({"age": age} for _ in range(decisions)))
    with serving(models / "current", tmp_path, rules="") as client:
        seen = asked(client)["seen"]
    assert (seen["from"], seen["requests_a_month"], seen["decisions"]) == ("log", 3_000.0, 6_000)


def test_nothing_is_known_of_the_volume_without_a_store_and_dates(models: Path, tmp_path: Path) -> None:
    with serving(models / "fake-0", tmp_path, rules="", store="") as client:
        seen = asked(client)["seen"]
    assert seen == {"requests_a_month": None, "days": None, "decisions": 0, "from": None, "scope": "all"}


def test_a_key_that_may_not_administer_has_its_own_volume(models: Path, tmp_path: Path) -> None:
    decided(tmp_path, {"age": 7.0, "key": "app"}, *({"age": 7.0, "key": "other"} for _ in range(5)))
    with serving(models / "current", tmp_path) as client:
        assert asked(client, "root")["seen"]["decisions"] == 6
        own = asked(client, "app")["seen"]
        assert (own["decisions"], own["scope"], own["from"]) == (1, "key", "store")
        nothing = asked(client, "clinic")["seen"]  # nor the log's, which is everybody's
    assert nothing == {"requests_a_month": None, "days": None, "decisions": 0, "from": None, "scope": "key"}


def test_a_bound_key_sees_its_workflows_alone(models: Path, tmp_path: Path) -> None:
    with serving(models / "current", tmp_path) as client:
        own, all_of_it = asked(client, "clinic"), asked(client, "app")
    assert own["workflows"] == LINES[:1]
    assert own["profiles"] == [{"candidate": "acme/small", "best": LINES[:1], "worst": []}]
    assert "legal" not in json.dumps(own)
    assert (all_of_it["workflows"], all_of_it["profiles"]) == (FRONTIER["workflows"], FRONTIER["profiles"])


def test_the_logs_volume_and_cost_are_for_who_may_administer(models: Path, tmp_path: Path) -> None:
    with serving(models / "current", tmp_path) as client:
        all_of_it, others = asked(client, "root"), asked(client, "app")
    assert all_of_it["log"] == FRONTIER["log"]
    assert others["log"] is None


def test_the_served_one_is_kept_in_memory(models: Path, tmp_path: Path) -> None:
    with serving(models / "fake-1", tmp_path, rules="") as client:
        shutil.rmtree(models)
        assert asked(client)["version"] == "fake-1"


def test_another_version_is_for_who_may_administer(models: Path, tmp_path: Path) -> None:
    with serving(models / "current", tmp_path) as client:
        assert asked(client, "root", version="fake-0")["version"] == "fake-0"
        assert asked(client, "app", version="fake-1")["version"] == "fake-1"
        assert "may administer" in refused(client, 403, "app", version="fake-0")
        assert "API key" in refused(client, 401)
        for odd in ("fake-9", "../fake-0", "/etc", "current", "", "fake-0\x00"):
            assert "no bundle of this version" in refused(client, 404, "root", version=odd)
        assert "256" in refused(client, 422, "root", version="x" * 257)


def test_what_there_is_not_is_said(models: Path, tmp_path: Path) -> None:
    with serving(models / "fake-2", tmp_path, rules="") as client:
        assert "has no frontier.json" in refused(client, 404)
        (models / "fake-0" / "frontier.json").write_text("{}")
        assert "not the one that the manifest lists" in refused(client, 404, version="fake-0")
        (models / "fake-0" / "frontier.json").unlink()
        assert "is missing from the bundle" in refused(client, 404, version="fake-0")
        with_frontier(models / "fake-0", [1, 2])
        assert "is no JSON object" in refused(client, 404, version="fake-0")


def test_a_frontier_of_an_older_shape_is_answered_as_it_is(models: Path, tmp_path: Path) -> None:
    with_frontier(models / "fake-0", {"curves": [], "workflows": "none", "profiles": 3, "log": "odd"})
    with serving(models / "fake-0", tmp_path) as client:
        document = asked(client, "root")
        assert (document["curves"], document["version"], document["simulated"]) == ([], "fake-0", True)
        assert asked(client, "clinic")["workflows"] == []


def test_a_reload_brings_the_new_ones(models: Path, tmp_path: Path) -> None:
    with serving(models / "current", tmp_path, rules="") as client:
        assert asked(client)["version"] == "fake-1"
        (models / "current").unlink()
        (models / "current").symlink_to("fake-0")
        assert client.post("/v1/admin/reload").json()["changed"]
        until(lambda: asked(client)["version"] == "fake-0", "the other bundle's frontier")


def test_one_that_was_changed_is_refused_with_its_bundle(models: Path) -> None:
    (models / "fake-1" / "frontier.json").write_text("{}")
    with pytest.raises(BundleError, match=r"frontier\.json"):
        Live(str(models / "fake-1"), threads=1, context_margin=1.1, cache=1_000)
