"""A shadow bundle: what it would have decided is stored and compared, and its failures are its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.api.documents import ShadowResponse
from serving.runtime.pipeline import Service
from serving.settings import Settings
from serving.store import queries
from serving.store.tables import DECISIONS
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.patience import PATIENCE, until


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A live bundle, and a shadow whose balanced point is the cheapest candidate."""
    live = fake_bundle.build(tmp_path / "live")
    points = (fake_bundle.POINTS[0].model_copy(update={"knob": float("inf")}), *fake_bundle.POINTS[1:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_bundle, "POINTS", points)
        return live, fake_bundle.build(tmp_path / "shadow", "shadow-1")


@pytest.fixture
def service(folders: tuple[Path, Path], tmp_path: Path) -> Iterator[Service]:
    live, shadow = folders
    made = Service(Settings(bundle=str(live), shadow=str(shadow), store=str(tmp_path / "decisions.db")))
    yield made
    made.close()


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(create_app(service.settings, service)) as client:
        yield client


def stored(service: Service, count: int, *, shadowed: bool = False) -> list[Any]:
    """The decisions, once so many are in the store, and what the shadow said of each."""
    assert service.store is not None
    engine = service.store.engine

    def rows() -> list[Any]:
        with engine.connect() as connection:
            found = list(connection.execute(select(DECISIONS).order_by(DECISIONS.c.at)))
        return [row for row in found if row.shadow_bundle is not None or not shadowed]

    until(lambda: len(rows()) >= count, f"{count} decisions are stored")
    found = rows()
    assert len(found) == count
    return found


def held(service: Service, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Keeps the shadow from deciding until the event is set."""
    assert service.shadow is not None
    router, go = service.shadow.live.current.router, threading.Event()
    decide = router.decide

    def wait(*arguments: Any) -> Any:
        assert go.wait(PATIENCE)
        return decide(*arguments)

    monkeypatch.setattr(router, "decide", wait)
    return go


def metric(client: TestClient, line: str) -> float:
    """The value of a metric with these labels; 0 where it is not there."""
    lines = client.get("/metrics").text.splitlines()
    return sum(float(one.rpartition(" ")[2]) for one in lines if one.startswith(line + " "))


def test_would_be_decisions_are_stored_and_compared(client: TestClient, service: Service) -> None:
    # knob 20: .7311 - .0008, .8808 - .02, .9820 - .1201
    answers = [client.post("/v1/route", json={"prompt": "hello"}).json() for _ in range(3)]
    answers.append(client.post("/v1/route", json={"prompt": "hello", "workflow": "hard"}).json())
    assert {one["bundle"] for one in answers} == {fake_bundle.VERSION}
    rows = stored(service, 4, shadowed=True)
    assert {row.shadow_bundle for row in rows} == {"shadow-1"}
    assert {row.shadow_candidate for row in rows} == {SMALL}
    assert all(row.candidate in (OPEN, LARGE) for row in rows)
    response = client.get("/v1/shadow")
    answer = ShadowResponse.model_validate_json(response.content)
    assert (answer.bundle, answer.shadow, answer.hours) == (fake_bundle.VERSION, "shadow-1", 24.0)
    assert answer.total is not None
    assert (answer.total.decisions, answer.total.agreement) == (4, 0.0)
    assert [(one.workflow, one.decisions) for one in answer.workflows] == [(None, 3), ("hard", 1)]
    live_usd = [one["expected_cost_usd"] for one in answers]
    assert answer.total.live_cost_usd == pytest.approx(sum(live_usd) / 4)
    assert answer.workflows[0].live_cost_usd == pytest.approx(live_usd[0])
    # 2 counted tokens at 0.1 USD, 100 tokens at 0.4 USD, both per million
    assert answer.total.shadow_cost_usd == pytest.approx((2 * 0.1 + 100 * 0.4) / 1e6, rel=1e-3)
    assert answer.workflows[0].shadow_confidence == pytest.approx(0.731059, abs=1e-5)
    assert metric(client, 'router_shadow_decisions_total{outcome="differs"}') == 4


def test_agreement_is_counted(client: TestClient, service: Service) -> None:
    for body in ({"prompt": "hello", "allow": [SMALL]}, {"prompt": "hello"}):
        client.post("/v1/route", json=body)
    stored(service, 2, shadowed=True)
    assert client.get("/v1/shadow").json()["total"]["agreement"] == 0.5
    assert metric(client, 'router_shadow_decisions_total{outcome="agrees"}') == 1


def test_what_a_session_decided_is_not_compared(client: TestClient, service: Service) -> None:
    client.post("/v1/route", json={"prompt": "hello", "session_id": "one", "allow": [OPEN]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "settings", service.settings.model_copy(update={"session_margin": 10.0}))
        assert client.post("/v1/route", json={"prompt": "hello", "session_id": "one"}).json()["reason"] == "session"
    stored(service, 2, shadowed=True)
    assert client.get("/v1/shadow").json()["total"]["decisions"] == 1, "the first, which had one choice only"


def test_a_failing_shadow_hurts_nobody(client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    assert service.shadow is not None

    def fail(*_: object) -> None:
        raise RuntimeError("broken on the canary-prompt")

    monkeypatch.setattr(service.shadow.live.current.router, "decide", fail)
    for _ in range(3):
        answer = client.post("/v1/route", json={"prompt": "hello"})
        assert (answer.status_code, answer.json()["reason"]) == (200, "best_value")
    rows = stored(service, 3)
    assert [row.shadow_bundle for row in rows] == [None] * 3
    assert metric(client, 'router_shadow_decisions_total{outcome="failed"}') == 3
    assert client.get("/v1/shadow").json()["total"] is None


def test_a_slow_shadow_is_not_waited_for(client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    go = held(service, monkeypatch)
    for _ in range(4):
        assert client.post("/v1/route", json={"prompt": "hello"}).status_code == 200
    assert [row.shadow_bundle for row in stored(service, 4)] == [None] * 4, "there before the shadow has answered"
    go.set()
    assert len(stored(service, 4, shadowed=True)) == 4


def test_the_shadow_finishes_before_the_store_closes(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = held(service, monkeypatch)
    with TestClient(create_app(service.settings, service)) as client:
        for _ in range(5):
            client.post("/v1/route", json={"prompt": "hello"})
        go.set()  # all five still wait
    engine = create_engine(f"sqlite:///{tmp_path / 'decisions.db'}")
    with engine.connect() as connection:
        shadowed = connection.scalars(select(DECISIONS.c.shadow_candidate)).all()
    engine.dispose()
    assert shadowed == [SMALL] * 5


def test_another_encoder_embeds_for_itself(client: TestClient, service: Service) -> None:
    assert service.shadow is not None
    shadow = service.shadow.live.current
    shadow.router.manifest.files["encoder.onnx"] = "another"
    client.post("/v1/route", json={"prompt": "hello"})
    stored(service, 1, shadowed=True)
    assert shadow.embeddings.get("hello") is not None


def test_there_has_to_be_a_shadow_and_a_store(folders: tuple[Path, Path], tmp_path: Path) -> None:
    live, shadow = map(str, folders)
    without = Settings(bundle=live, store=str(tmp_path / "a.db")), Settings(bundle=live, shadow=shadow)
    for settings, says in zip(without, ("ROUTER_SHADOW", "stores no decisions"), strict=True):
        with TestClient(create_app(settings)) as client:
            response = client.get("/v1/shadow")
            assert (response.status_code, says in response.json()["detail"]) == (404, True)
            assert client.post("/v1/route", json={"prompt": "hello"}).status_code == 200


def test_hours_that_are_none_are_a_problem(client: TestClient) -> None:
    response = client.get("/v1/shadow?hours=many")
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    assert response.json()["errors"][0]["field"] == "hours"
    assert "many" not in response.text


def test_a_comparison_names_the_busiest_workflows_alone(
    client: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "MOST", 2)
    for workflow in ("a", "a", "a", "b", "b", "c"):
        client.post("/v1/route", json={"prompt": "hello", "workflow": workflow})
    stored(service, 6, shadowed=True)
    answer = client.get("/v1/shadow").json()
    assert answer["total"]["decisions"] == 6
    assert [(one["workflow"], one["decisions"]) for one in answer["workflows"]] == [("a", 3), ("b", 2)]
