"""`also` of an answer, and feedback on it, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.api.documents import RouteResponse
from serving.settings import Settings
from serving.store.tables import ALSO_FEEDBACK, DECISIONS, FEEDBACK
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.patience import PATIENCE
from tests.serving.store.rows import stored

CHEAP = {"prompt": "hello", "cost_quality": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture
def client(folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[TestClient]:
    rules = tmp_path / "policies.toml"
    rules.write_text(f"[also]\nshare = {getattr(request, 'param', 1.0)}\ndaily_usd = 5.0\n")
    store = str(tmp_path / "d.db")
    settings = Settings(bundle=folder, store=store, policies=rules, reserve_wait_ms=PATIENCE * 1e3)
    with TestClient(create_app(settings)) as client:
        yield client


def answered(document: dict[str, Any]) -> RouteResponse:
    return RouteResponse.model_validate(document)


def test_an_answer_says_who_is_to_be_asked_too(client: TestClient) -> None:
    found = answered(client.post("/v1/route", json=CHEAP).json())
    assert found.model == SMALL
    assert found.also is not None
    assert found.also.propensity == 0.5
    cost = {one.model: one.expected_cost_usd for one in found.candidates}
    assert found.also.expected_cost_usd == cost[found.also.model]


def test_so_does_each_of_a_batch_and_a_large_body(client: TestClient) -> None:
    private = {**CHEAP, "privacy": {"no_training": True}}
    results = client.post("/v1/route/batch", json={"requests": [CHEAP, private, CHEAP]}).json()["results"]
    assert [one.get("also") is not None for one in results] == [True, False, True]
    large = client.post("/v1/route", json={"prompt": "hello " * 8_000, "cost_quality": 0, "deny": [SMALL, OPEN]})
    assert answered(large.json()).also is None
    large = client.post("/v1/route", json={"prompt": "hello " * 8_000, "max_output_tokens": 10, "cost_quality": 0})
    assert large.status_code == 200


@pytest.mark.parametrize("client", [0.0], indirect=True)
def test_where_the_rule_is_off_it_is_null(client: TestClient) -> None:
    document = client.post("/v1/route", json=CHEAP).json()
    assert document["also"] is None


def test_feedback_takes_the_outcomes_of_both(client: TestClient, tmp_path: Path) -> None:
    found = answered(client.post("/v1/route", json=CHEAP).json())
    assert found.also is not None
    said = [
        {"decision_id": found.id, "accepted": False, "cost_usd": 0.0001},
        {"decision_id": found.id, "accepted": True, "cost_usd": 0.002, "model": found.also.model},
    ]
    answer = client.post("/v1/feedback", json={"feedback": said}).json()
    assert answer == {"recorded": 2, "repeated": 0, "results": ["recorded", "recorded"]}
    answer = client.post("/v1/feedback", json={"feedback": said[::-1]}).json()
    assert (answer["recorded"], answer["repeated"]) == (0, 2)
    conflict = client.post("/v1/feedback", json={**said[1], "accepted": False})
    assert (conflict.status_code, conflict.json()["fields"]) == (409, ["quality"])
    path = str(tmp_path / "d.db")
    [decided], [served], [other] = stored(path, DECISIONS), stored(path, FEEDBACK), stored(path, ALSO_FEEDBACK)
    assert (decided["candidate"], decided["also_candidate"]) == (SMALL, found.also.model)
    assert (served["quality"], served["candidate"], served["cost_usd"]) == (0.0, None, 0.0001)
    assert (other["quality"], other["candidate"], other["cost_usd"]) == (1.0, found.also.model, 0.002)


@pytest.mark.parametrize("said", [{"quality": 2}, {"cost_usd": -1}, {"cost_usd": 1e5}, {"input_tokens": 10**30}])
def test_what_no_feedback_may_be_that_on_another_may_not_be_either(client: TestClient, said: dict[str, Any]) -> None:
    found = answered(client.post("/v1/route", json=CHEAP).json())
    assert found.also is not None
    body = {"decision_id": found.id, "model": found.also.model, **said}
    assert client.post("/v1/feedback", json=body).status_code == 422


@pytest.mark.parametrize("model", ["acme/large\0", "\ud83d", "ACME/LARGE", " acme/large", "x" * 256])
def test_a_name_that_is_not_quite_that_one_is_another_s(client: TestClient, tmp_path: Path, model: str) -> None:
    """What is no candidate's name is a fallback's, as ever."""
    identifier = client.post("/v1/route", json={**CHEAP, "allow": [SMALL, LARGE]}).json()["id"]
    content = b'{"decision_id": "%s", "model": %s}' % (identifier.encode(), _escaped(model))
    assert client.post("/v1/feedback", content=content).status_code == 200
    assert stored(str(tmp_path / "d.db"), ALSO_FEEDBACK) == []
    assert len(stored(str(tmp_path / "d.db"), FEEDBACK)) == 1


def _escaped(text: str) -> bytes:
    return b'"' + b"".join(b"\\u%04x" % ord(one) for one in text) + b'"'


def test_drift_hears_of_the_decisions_own_answer_whatever_was_told_first(client: TestClient) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    found = answered(client.post("/v1/route", json=CHEAP).json())
    assert found.also is not None
    for model in (found.also.model, None):
        client.post("/v1/feedback", json={"decision_id": found.id, "quality": 1.0, "model": model})
    assert len(service.drift._judged) == 1


def test_drift_hears_of_judgements_and_of_no_weak_quality(client: TestClient) -> None:
    service = client.app.state.service  # type: ignore[attr-defined]
    found = answered(client.post("/v1/route", json=CHEAP).json())
    for source, heard in (("retried", 0), ("schema", 0), ("thumb", 1)):
        client.post("/v1/feedback", json={"decision_id": found.id, "quality": 0.0, "source": source})
        assert len(service.drift._judged) == heard
    counted = client.get("/metrics").text
    assert 'router_feedback_total{outcome="weak"} 2.0' in counted
    assert 'router_feedback_total{outcome="bad"} 1.0' in counted
