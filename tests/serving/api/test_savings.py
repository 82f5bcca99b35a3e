"""GET /v1/savings: as JSON and as CSV, to whom which decisions, and what the decisions rest on is stored as they are made."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DataError
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.api.views.savings import SavingsResponse
from serving.bundle.request import read
from serving.settings import Settings
from serving.store import savings as of_store
from serving.store.tables import DECISIONS
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.serving.attacks.conftest import bearer, key_rules
from tests.serving.store.rows import stored

RULES = key_rules("app", "app") + key_rules("other", "other") + key_rules("root", "root", "admin = true")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture
def client(folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    (tmp_path / "policies.toml").write_text(RULES)
    settings = Settings(bundle=folder, store=str(tmp_path / "d.db"), policies=tmp_path / "policies.toml", explore=0.2)
    with TestClient(create_app(settings)) as client:
        yield client


def decide(client: TestClient, key: str, *, cost_usd: float = 0.002, **body: Any) -> dict[str, Any]:
    """A decision, once feedback on it is on disk."""
    answer: dict[str, Any] = client.post("/v1/route", json={"prompt": "hello", **body}, headers=bearer(key)).json()
    told = {"decision_id": answer["id"], "quality": 1.0, "cost_usd": cost_usd, "judge_cost_usd": 0.5}
    assert client.post("/v1/feedback", json=told, headers=bearer(key)).status_code == 200
    return answer


def asked(client: TestClient, key: str, query: str = "") -> SavingsResponse:
    response = client.get(f"/v1/savings{query}", headers=bearer(key))
    assert response.status_code == 200, response.text
    return SavingsResponse.model_validate_json(response.content)


def test_a_key_sees_what_is_its_own_and_one_that_administers_everything(client: TestClient) -> None:
    for key, tag in (("app", "easy"), ("app", "secret"), ("other", "hard")):
        decide(client, key, workflow=tag)
    assert {one.name for one in asked(client, "root", "?by=workflow").lines} == {"easy", "secret", "hard"}
    assert {one.name for one in asked(client, "root", "?by=key").lines} == {"app", "other"}
    own = asked(client, "other", "?by=key")
    assert [(one.name, one.decisions) for one in own.lines] == [("other", 1)]
    assert (own.total.decisions, own.total.judged, own.total.routing_costs.judge_usd) == (1, 1, 0.5)
    text = client.get("/v1/savings?by=workflow&format=csv", headers=bearer("other")).text
    assert "hard" in text
    assert "secret" not in text
    assert client.get("/v1/savings").status_code == 401


def test_csv_has_the_figures_of_the_document(client: TestClient) -> None:
    for tag in ("easy", "=cmd()"):
        decide(client, "app", workflow=tag)
    found = asked(client, "app", "?by=workflow")
    response = client.get("/v1/savings?by=workflow", headers={**bearer("app"), "Accept": "text/csv"})
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="savings-by-workflow.csv"'
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert {row["name"] for row in rows} == {"easy", "'=cmd()"}
    assert [float(row["saved_usd"]) for row in rows] == [one.saved_usd for one in found.lines]
    assert [float(row["routing_costs_judge_usd"]) for row in rows] == [0.5, 0.5]
    as_json = client.get("/v1/savings?format=json", headers={**bearer("app"), "Accept": "text/csv"})
    assert as_json.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("query", "field"),
    [("from=x", "from"), ("to=-1", "to"), ("from=9&to=8", "from"), ("from=0", "from"), ("by=model", "by"),
     ("format=xml", "format"), (f"from={'1' * 65}", "from")],
)  # fmt: skip
def test_a_parameter_that_is_wrong_is_named(client: TestClient, query: str, field: str) -> None:
    response = client.get(f"/v1/savings?{query}", headers=bearer("app"))
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert [one["field"] for one in response.json()["errors"]] == [field]


def test_nothing_is_told_where_nothing_is_stored(folder: Path) -> None:
    with TestClient(create_app(Settings(bundle=folder, store=None))) as client:
        assert client.get("/v1/savings").status_code == 404


def test_a_store_that_takes_too_long_is_said(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    decide(client, "app")
    monkeypatch.setattr(of_store, "STATEMENT_SECONDS", -1.0)
    monkeypatch.setattr(of_store, "_STEPS", 1)
    answer = client.get("/v1/savings", headers=bearer("app"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert answer.json()["detail"].startswith("The store did not answer in time")
    monkeypatch.undo()
    assert asked(client, "app").total.decisions == 1


def test_a_store_that_cannot_sum_is_said(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_named: object) -> None:
        raise DataError("SELECT", {}, ValueError("value out of range: underflow"))

    decide(client, "app")
    monkeypatch.setattr(of_store, "asked", refuse)
    answer = client.get("/v1/savings", headers=bearer("app"))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert answer.json()["detail"].startswith("The store cannot sum the savings now")
    assert "underflow" not in answer.text


def test_a_decision_keeps_what_the_reference_would_have_cost_and_whom_it_passed_over(
    client: TestClient, tmp_path: Path
) -> None:
    answers = [decide(client, "app", workflow="easy", models=[SMALL, LARGE]) for _ in range(60)]
    rows = {row["id"]: row for row in stored(str(tmp_path / "d.db"), DECISIONS)}
    explored = 0
    for answer in answers:
        row, costs = rows[answer["id"]], {one["model"]: one["expected_cost_usd"] for one in answer["candidates"]}
        assert (row["reference"], row["reference_expected_cost_usd"]) == (LARGE, pytest.approx(costs[LARGE], rel=1e-5))
        assert row["reference_input_usd"] == pytest.approx(read("hello").said * 5.0 / 1e6)
        if row["reason"] == "explore":
            explored += 1
            assert row["instead_candidate"] not in (None, row["candidate"])
            assert row["instead_expected_cost_usd"] == pytest.approx(costs[row["instead_candidate"]], rel=1e-5)
        else:
            assert (row["instead_candidate"], row["instead_expected_cost_usd"]) == (None, None)
    assert explored, "a fifth of 60 explore: none does once in 650,000 runs"
    assert {row["candidate"] for row in rows.values()} <= {SMALL, OPEN, LARGE}
