"""Feedback merges: what comes later is added, what contradicts is said, and each key settles its own decisions alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from serving.store.tables import FEEDBACK
from tests.fake_bundle import LARGE
from tests.patience import PATIENCE, until
from tests.serving.attacks.conftest import Attacked, key_rules, running

BUDGET = "budget = { day_usd = 5.0 }"
RULES = "".join(key_rules(name, name, BUDGET) for name in ("a", "b", "c", "d", "e", "f")) + key_rules("free", "free")
PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with running(bundle, tmp_path_factory.mktemp("feedback"), rules=RULES) as service:
        yield service


def decided(service: Attacked, key: str = "free") -> str:
    return str(service.route(key, prompt="hello")["id"])


def told(service: Attacked, body: object, key: str = "free") -> httpx.Response:
    return service.post("/v1/feedback", body, key)


def stored(service: Attacked, decision: str) -> dict[str, Any]:
    engine = sa.create_engine(f"sqlite:///{service.store}")
    with engine.connect() as connection:
        rows = connection.execute(sa.select(FEEDBACK).where(FEEDBACK.c.decision_id == decision)).mappings().all()
    engine.dispose()
    (row,) = rows
    return dict(row)


def spent(service: Attacked, key: str) -> float:
    (line,) = [one for one in service.get("/v1/budgets", key).json()["budgets"] if one["scope"] == f"key:{key}"]
    return float(line["spent_usd"])


def settled(service: Attacked, key: str, usd: float) -> None:
    """Waits until a key's budget shows that so much is spent: a figure for people, which may come after the answer."""
    until(lambda: spent(service, key) == pytest.approx(usd), f"{usd} USD are spent by {key}")


def conflict(answer: httpx.Response) -> list[str]:
    assert (answer.status_code, answer.headers["content-type"]) == (409, PROBLEM)
    document = answer.json()
    assert document["type"] == "urn:outcome-router:feedback-conflict"
    fields: list[str] = document["fields"]
    assert all(field in document["detail"] for field in fields)
    return fields


def test_what_comes_later_is_added(service: Attacked) -> None:
    decision = decided(service, "a")
    assert told(service, {"decision_id": decision, "cost_usd": 0.25}, "a").json()["results"] == ["recorded"]
    assert told(service, {"decision_id": decision, "quality": 0.75, "latency_ms": 12}, "a").status_code == 200
    row = stored(service, decision)
    assert (row["cost_usd"], row["quality"], row["latency_ms"]) == (0.25, 0.75, 12)
    settled(service, "a", 0.25)
    again = told(service, {"decision_id": decision, "cost_usd": 0.25, "quality": 0.75}, "a")
    assert again.json() == {"recorded": 0, "repeated": 1, "results": ["repeated"]}
    settled(service, "a", 0.25)


def test_another_value_is_a_conflict_unless_it_replaces(service: Attacked) -> None:
    decision = decided(service, "b")
    told(service, {"decision_id": decision, "cost_usd": 0.25, "quality": 0.75, "model": LARGE}, "b")
    body = {"decision_id": decision, "cost_usd": 0.5, "quality": 0.75, "model": "other", "latency_ms": 7}
    assert sorted(conflict(told(service, body, "b"))) == ["cost_usd", "model"]
    assert stored(service, decision)["latency_ms"] is None  # all of it, or nothing
    settled(service, "b", 0.25)
    assert told(service, {**body, "replace": True}, "b").json()["recorded"] == 1
    row = stored(service, decision)
    assert (row["cost_usd"], row["candidate"], row["latency_ms"], row["quality"]) == (0.5, "other", 7, 0.75)
    settled(service, "b", 0.5)
    assert conflict(told(service, {"decision_id": decision, "accepted": True}, "b")) == ["quality"]


def test_each_of_a_batch_has_its_own_answer(service: Attacked) -> None:
    first, second = decided(service), decided(service)
    told(service, {"decision_id": second, "quality": 0.5})
    batch = [
        {"decision_id": first, "cost_usd": 0.25},
        {"decision_id": "nobody"},
        {"decision_id": first, "quality": 1},
        {"decision_id": second, "quality": 0.25},
        {"decision_id": first, "quality": 1.0},
    ]
    answer = told(service, {"feedback": batch})
    assert answer.status_code == 200
    document = answer.json()
    kept, unknown, added, other, again = document["results"]
    assert (kept, added, again) == ("recorded", "recorded", "repeated")
    assert (document["recorded"], document["repeated"]) == (2, 1)
    assert (unknown["status"], unknown["instance"]) == (404, "/v1/feedback#1")
    assert (other["status"], other["fields"], other["instance"]) == (409, ["quality"], "/v1/feedback#3")
    assert (stored(service, first)["quality"], stored(service, second)["quality"]) == (1.0, 0.5)


def test_nobody_settles_the_decision_of_another_key(service: Attacked) -> None:
    decision = decided(service, "c")
    before = spent(service, "c")
    answer = told(service, {"decision_id": decision, "cost_usd": 4.0}, "d")
    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
    assert answer.json()["type"] == "urn:outcome-router:unknown-decision"
    assert (spent(service, "c"), spent(service, "d")) == (before, 0.0)
    # what there is and is not one's own is answered as what there is not
    nowhere = told(service, {"decision_id": "0" * 32, "cost_usd": 4.0}, "d").json()
    assert answer.json()["detail"].replace(decision, "") == nowhere["detail"].replace("0" * 32, "")
    assert told(service, {"decision_id": decision, "cost_usd": 0.125}, "c").status_code == 200
    settled(service, "c", 0.125)


def test_an_unknown_decision_counts_for_nothing(service: Attacked) -> None:
    def counted() -> list[str]:
        lines = service.get("/metrics").text.splitlines()
        return [line for line in lines if line.startswith(("router_feedback_total", "router_actual_cost"))]

    before = counted()
    assert told(service, {"decision_id": "nobody", "cost_usd": 1e4, "accepted": True}).status_code == 404
    assert counted() == before


def test_a_failure_is_said_or_not(service: Attacked) -> None:
    decision = decided(service)
    told(service, {"decision_id": decision, "cost_usd": 0.1})
    assert told(service, {"decision_id": decision, "error": True}).status_code == 200
    row = stored(service, decision)
    assert (row["error"], row["quality"]) == (True, 0.0)
    assert conflict(told(service, {"decision_id": decision, "error": False})) == ["error"]


def test_halves_that_come_together_make_one(service: Attacked) -> None:
    decisions = [decided(service, "e") for _ in range(16)]
    halves = [{"decision_id": one, **half} for one in decisions for half in ({"cost_usd": 0.125}, {"quality": 0.5})]

    def send(half: dict[str, Any]) -> int:
        with httpx.Client(base_url=service.url, timeout=PATIENCE) as client:
            return client.post("/v1/feedback", json=half, headers={"Authorization": "Bearer e"}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, halves * 2)) == {200}
    rows = [stored(service, one) for one in decisions]
    assert {(row["cost_usd"], row["quality"]) for row in rows} == {(0.125, 0.5)}
    settled(service, "e", 2.0)
