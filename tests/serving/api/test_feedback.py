"""POST /v1/feedback: what is answered is what is on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.api.documents import FeedbackResponse
from serving.runtime.pipeline import Service
from serving.settings import Settings
from serving.store.engine import open_engine
from serving.store.tables import DECISIONS, FEEDBACK
from serving.store.writer import StoreFullError
from tests import fake_bundle
from tests.fake_bundle import LARGE
from tests.patience import PATIENCE, until

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture
def client(folder: Path, tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(bundle=folder, store=str(tmp_path / "d.db"), max_batch=4))) as client:
        yield client


def rows(tmp_path: Path, table: sa.Table) -> list[dict[str, Any]]:
    engine = open_engine(str(tmp_path / "d.db"))
    with engine.connect() as connection:
        found = [dict(row) for row in connection.execute(sa.select(table).order_by("at")).mappings()]
    engine.dispose()
    return found


def decide(client: TestClient) -> str:
    """The id of a new decision."""
    identifier: str = client.post("/v1/route", json={"prompt": "hello"}).json()["id"]
    return identifier


def told(client: TestClient, body: object) -> tuple[int, int]:
    response = client.post("/v1/feedback", json=body)
    assert response.status_code == 200, response.text
    answer = FeedbackResponse.model_validate_json(response.content)
    return answer.recorded, answer.repeated


def test_a_decision_and_its_feedback_meet_in_the_store(client: TestClient, tmp_path: Path) -> None:
    body = {"prompt": "hello", "workflow": "easy", "session_id": "s-1", "max_tokens": 50}
    answer = client.post("/v1/route", json=body).json()
    given = {"decision_id": answer["id"], "accepted": True, "cost_usd": 0.002, "input_tokens": 5, "output_tokens": 7}
    assert told(client, given | {"latency_ms": 120.5, "model": LARGE}) == (1, 0)
    (decided,), (said,) = rows(tmp_path, DECISIONS), rows(tmp_path, FEEDBACK)
    assert decided["id"] == said["decision_id"] == answer["id"]
    assert (decided["prompt"], decided["workflow"], decided["session_id"]) == ("hello", "easy", "s-1")
    assert (decided["candidate"], decided["propensity"], decided["bundle"]) == (answer["model"], 1.0, "fake-1")
    assert (decided["knob"], decided["operating_point"], decided["reason"]) == (20.0, "balanced", "best_value")
    assert decided["expected_cost_usd"] == answer["expected_cost_usd"]
    assert answer["confidence"] == pytest.approx(decided["confidence"], rel=1e-5), "six digits of it"
    assert (said["candidate"], said["quality"], said["cost_usd"], said["latency_ms"]) == (LARGE, 1.0, 0.002, 120.5)
    assert (said["input_tokens"], said["output_tokens"], said["error"]) == (5, 7, False)


def test_a_conversation_is_stored_as_it_came(client: TestClient, tmp_path: Path) -> None:
    identifier = client.post("/v1/route", json={"messages": [{"role": "user", "content": "hé\0llo"}]}).json()["id"]
    told(client, {"decision_id": identifier})  # what came before is on disk once this is
    (decided,) = rows(tmp_path, DECISIONS)
    assert decided["prompt"] is None
    assert decided["messages"] == '[{"role":"user","content":"hé\\u0000llo"}]'


def test_each_decision_of_a_batch_is_stored(client: TestClient, tmp_path: Path) -> None:
    asked = {
        "requests": [{"prompt": "hello"}, {"prompt": "prove", "workflow": "hard"}, {"prompt": "a", "allow": ["x"]}]
    }
    results = client.post("/v1/route/batch", json=asked).json()["results"]
    ids = [one["id"] for one in results[:2]]
    assert told(client, {"feedback": [{"decision_id": one, "quality": 0.5} for one in ids]}) == (2, 0)
    assert {row["id"] for row in rows(tmp_path, DECISIONS)} == set(ids)


def test_feedback_again_changes_nothing(client: TestClient, tmp_path: Path) -> None:
    first, second = decide(client), decide(client)
    assert told(client, {"decision_id": first, "quality": 0.25}) == (1, 0)
    assert told(client, {"decision_id": first, "quality": 0.25}) == (0, 1)
    assert told(client, {"feedback": [{"decision_id": one} for one in (second, first, second)]}) == (1, 2)
    found = {row["decision_id"]: row["quality"] for row in rows(tmp_path, FEEDBACK)}
    assert found == {first: 0.25, second: None}


@pytest.mark.parametrize(
    ("given", "quality"),
    [
        ({}, None),
        ({"quality": 0.3}, 0.3),
        ({"accepted": True}, 1.0),
        ({"accepted": False}, 0.0),
        ({"error": True}, 0.0),
        ({"error": True, "quality": 1.0}, 0.0),
        ({"error": True, "accepted": True}, 0.0),
    ],
)
def test_quality_by_hand(client: TestClient, tmp_path: Path, given: dict[str, Any], quality: float | None) -> None:
    told(client, {"decision_id": decide(client), **given})
    (row,) = rows(tmp_path, FEEDBACK)
    assert (row["quality"], row["error"]) == (quality, given.get("error", False))


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "decision_id"),
        ({"decision_id": ""}, "decision_id"),
        ({"decision_id": "a\0"}, "decision_id"),
        ({"decision_id": "a", "quality": 1.5}, "quality"),
        ({"decision_id": "a", "quality": 1, "accepted": True}, "accepted"),
        ({"decision_id": "a", "cost_usd": -1}, "cost_usd"),
        ({"decision_id": "a", "costs": 1}, "costs"),
        ({"decision_id": "a", "input_tokens": 0.5}, "input_tokens"),
        ({"feedback": []}, "feedback"),
        ({"feedback": [{"decision_id": "a"}] * 5}, "feedback"),
        ({"feedback": [{"decision_id": "a"}, {"quality": 1}]}, "feedback.1.decision_id"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_stored(
    client: TestClient, tmp_path: Path, body: dict[str, Any], field: str
) -> None:
    response = client.post("/v1/feedback", json=body)
    assert (response.status_code, response.headers["content-type"]) == (422, PROBLEM)
    assert [error["field"] for error in response.json()["errors"]] == [field]
    assert rows(tmp_path, FEEDBACK) == []


@pytest.mark.parametrize("number", [b"1e999", b"NaN", b"-Infinity"])
def test_no_infinite_cost_spends_a_budget(client: TestClient, number: bytes) -> None:
    response = client.post("/v1/feedback", content=b'{"decision_id": "a", "cost_usd": ' + number + b"}")
    assert (response.status_code, response.headers["content-type"]) == (422, PROBLEM)


@pytest.mark.parametrize("body", [b"", b"{", b'{"feedback"', b'{"decision_id": "a"} {"feedback": 1}'])
def test_what_is_no_json_is_a_400(client: TestClient, body: bytes) -> None:
    response = client.post("/v1/feedback", content=body)
    assert (response.status_code, response.headers["content-type"]) == (400, PROBLEM)


def test_a_model_named_feedback_is_no_batch(client: TestClient) -> None:
    assert told(client, {"decision_id": decide(client), "model": "feedback"}) == (1, 0)


def test_a_full_store_is_a_503_to_be_tried_again(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreFullError("3 rows wait to be written, of at most 3")

    service: Service = client.app.state.service  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        patched.setattr(service.store, "feedback", full)
        response = client.post("/v1/feedback", json={"decision_id": "a"})
    assert (response.status_code, response.headers["content-type"]) == (503, PROBLEM)
    assert response.headers["retry-after"] == "1"
    assert "3 rows wait" in response.json()["detail"]
    assert told(client, {"decision_id": decide(client)}) == (1, 0)


def test_what_is_not_on_disk_in_time_is_a_503_and_counted_once_it_is(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "policies.toml").write_text("[default.budget]\nday_usd = 10.0\n")
    options = {"bundle": folder, "store": str(tmp_path / "d.db"), "feedback_seconds": 0.2}
    with TestClient(create_app(Settings(**options))) as client:
        warm, late = decide(client), decide(client)
        # Both are on disk once the first one's feedback is; a slow disk takes longer than .2 s, and a repetition is the same.
        until(lambda: client.post("/v1/feedback", json={"decision_id": warm}).status_code == 200)
        locker = sa.create_engine(f"sqlite:///{tmp_path / 'd.db'}", poolclass=sa.NullPool)
        with locker.connect() as connection:
            connection.exec_driver_sql("begin immediate")
            response = client.post("/v1/feedback", json={"decision_id": late, "cost_usd": 0.5})
            assert response.status_code == 503
            connection.rollback()
        client.app.state.service.store.close(PATIENCE)  # type: ignore[attr-defined]
        assert "0.5" in next(
            line for line in client.get("/metrics").text.splitlines() if "actual" in line and "#" not in line
        )
    assert {row["decision_id"] for row in rows(tmp_path, FEEDBACK)} == {warm, late}


def test_without_a_store_there_is_no_feedback(folder: Path) -> None:
    with TestClient(create_app(Settings(bundle=folder))) as client:
        response = client.post("/v1/feedback", json={"decision_id": "a"})
    assert (response.status_code, response.headers["content-type"]) == (404, PROBLEM)
    assert "ROUTER_STORE" in response.json()["detail"]


def test_prompts_are_kept_only_if_they_may(folder: Path, tmp_path: Path) -> None:
    options = {"bundle": folder, "store": str(tmp_path / "d.db"), "store_prompts": False}
    with TestClient(create_app(Settings(**options))) as client:
        client.post("/v1/route", json={"prompt": "my secret"})
        client.post("/v1/route", json={"messages": [{"role": "user", "content": "my secret"}]})
    assert [(row["prompt"], row["messages"]) for row in rows(tmp_path, DECISIONS)] == [(None, None)] * 2
    assert b"secret" not in (tmp_path / "d.db").read_bytes()


def test_a_decision_that_is_not_stored_is_still_made(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.app.state.service.store, "most_waiting", 0)  # type: ignore[attr-defined]
    assert client.post("/v1/route", json={"prompt": "hello"}).json()["model"] == LARGE
    assert client.app.state.service.store.dropped == 1  # type: ignore[attr-defined]


def test_a_weak_quality_is_stored_with_its_source_until_somebody_judges(client: TestClient, tmp_path: Path) -> None:
    identifier = decide(client)
    weak = {"decision_id": identifier, "quality": 0.0, "source": "retried"}
    assert told(client, weak) == (1, 0)
    assert told(client, weak) == (0, 1)
    (row,) = rows(tmp_path, FEEDBACK)
    assert (row["quality"], row["quality_source"]) == (0.0, "retried")
    assert told(client, {"decision_id": identifier, "accepted": True, "source": "thumb"}) == (1, 0)
    assert told(client, {**weak, "replace": True}) == (0, 1)
    (row,) = rows(tmp_path, FEEDBACK)
    assert (row["quality"], row["quality_source"]) == (1.0, "thumb")


def test_a_source_says_where_a_quality_is_from(client: TestClient) -> None:
    body = {"decision_id": decide(client), "source": "cut"}
    for wrong in (body, {**body, "quality": 0.5, "source": "hunch"}, {**body, "quality": 0.5, "source": ""}):
        response = client.post("/v1/feedback", json=wrong)
        assert response.status_code == 422
        assert "source" in response.text
    assert client.post("/v1/feedback", json={**body, "error": True}).status_code == 200


@pytest.mark.parametrize("several", [False, True])
def test_a_misspelt_field_is_told_with_the_one_that_may_be_meant(client: TestClient, several: bool) -> None:
    one = {"decision_id": "d", "acepted": True}
    refused = client.post("/v1/feedback", json={"feedback": [one]} if several else one)
    assert refused.status_code == 422
    assert "acepted: Extra inputs are not permitted; did you mean accepted?" in refused.json()["detail"]
    strange = client.post("/v1/feedback", json={"decision_id": "d", "colour": 1})
    assert strange.json()["detail"].endswith("colour: Extra inputs are not permitted")
