"""Live figures over a real application, on SQLite and on PostgreSQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving.api.views.live import paced
from serving.api.views.live.documents import LiveResponse
from serving.api.views.live.figures import _quantile, _sample
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.patience import until
from tests.serving.api.views.rules import get, serving
from tests.serving.attacks.conftest import bearer
from tests.serving.store.conftest import url

__all__ = ["url"]  # a fixture

NO_CANDIDATE = "[default]\nno_candidate = 'acme/large'\n[workflows.hard]\nmax_latency_ms = 1\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def _without_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What took long to find is found again at once: on a slow machine these tests would mostly wait (`paced`)."""
    monkeypatch.setattr(paced, "_REST", 0.0)


def routed(client: TestClient, key: str | None = None, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/route", json={"prompt": "hello", **body}, headers=bearer(key))
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def settled(client: TestClient, decisions: int, key: str | None = None, *, saved: bool = False) -> dict[str, Any]:
    """A snapshot with so many decisions, and what was `saved`: its parts need not be of one moment."""
    found: dict[str, Any] = {}

    def there() -> bool:
        found.update(get(client, "/v1/live/snapshot", key))
        known = found["note"] is None and (found["saved"] is not None or not saved)
        return known and (found["total_decisions"], sum(found["reasons"].values())) == (decisions, decisions)

    until(there, "the decisions are told")
    LiveResponse.model_validate(found)
    return found


def test_what_was_decided_is_told(bundle: Path, url: str, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, rules=NO_CANDIDATE, store=url, live_seconds=0.2) as client:
        plain = [routed(client, allow=[SMALL]) for _ in range(2)]
        held = routed(client, share=0.0, otherwise="made-up")
        nobody = routed(client, workflow="hard")
        costs = {"cost_usd": 0.004}
        for one in plain:
            client.post("/v1/feedback", json={"decision_id": one["id"], **costs}).raise_for_status()
        until(lambda: get(client, "/v1/live/snapshot")["abstentions"], "the abstention")
        shown = settled(client, 4)
    assert (held["reason"], nobody["reason"]) == ("held_back", "no_candidate")
    assert shown["shares"] == {SMALL: 0.5, "(other)": 0.25, LARGE: 0.25}
    assert shown["reasons"] == {"only_eligible": 2, "held_back": 1, "no_candidate": 1}
    assert shown["decisions_per_minute"] == 4.0
    assert [one["id"] for one in shown["abstentions"]] == [nobody["id"]]
    assert (shown["abstentions"][0]["workflow"], shown["abstentions"][0]["model"]) == ("hard", LARGE)
    assert shown["faults"] == []
    cost = shown["cost"]
    assert (cost["costed"], cost["actual_usd"]) == (2, pytest.approx(0.008))
    assert cost["expected_of_costed_usd"] == pytest.approx(2 * plain[0]["expected_cost_usd"], rel=1e-4)
    assert shown["at"] - cost["since"] == pytest.approx(86_400.0, abs=60)
    assert sum(one["decisions"] for one in shown["series"]) == 4
    assert sum(one["actual_usd"] or 0.0 for one in shown["series"]) == pytest.approx(0.008)


def test_what_was_saved_says_against_what(bundle: Path, url: str, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, rules="", store=url, live_seconds=0.2) as client:
        assert settled(client, 0)["saved"] is None
        one = routed(client, allow=[OPEN])
        client.post("/v1/feedback", json={"decision_id": one["id"], "cost_usd": 0.001}).raise_for_status()
        shown = settled(client, 1, saved=True)
    assert shown["cost"]["reference_expected_usd"] == pytest.approx(0.00601, rel=0.01)
    assert shown["saved"]["counterfactual"] == f"all to {LARGE}, by its prompts alone"
    assert shown["saved"]["method"] == "prompt alone"
    # Nothing tells what the reference's answers cost, so that nothing bounds what was saved from above.
    assert (shown["saved"]["usd"], shown["saved"]["high"]) == (pytest.approx(0.00501, rel=0.01), None)
    assert shown["saved"]["low"] < 0


def test_faults_are_told(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(bundle, tmp_path, rules="", live_seconds=0.2) as client:
        router = client.app.state.service.live.current.router  # type: ignore[attr-defined]

        def broken(*_: object) -> None:
            raise RuntimeError("as an error in the engine")

        monkeypatch.setattr(router, "decide", broken)
        one = routed(client, workflow="w")
        until(lambda: get(client, "/v1/live/snapshot")["faults"], "the fault")
        shown = settled(client, 1)
    assert one["reason"] == "fault"
    assert [(fault["id"], fault["reason"], fault["model"]) for fault in shown["faults"]] == [
        (one["id"], "fault", LARGE)
    ]
    assert shown["cost"]["expected_usd"] == pytest.approx(one["expected_cost_usd"] or 0.0, rel=1e-4)


def test_a_key_is_shown_its_own_rows_on_either_database(bundle: Path, url: str, tmp_path: Path) -> None:
    with serving(bundle, tmp_path, store=url, live_seconds=0.2) as client:
        for key, times in (("app", 3), ("other", 2), ("clinic", 1)):
            for _ in range(times):
                one = routed(client, key, workflow="medical", max_cost_usd=1.0)
                told = {"decision_id": one["id"], "cost_usd": 1.0}
                client.post("/v1/feedback", json=told, headers=bearer(key)).raise_for_status()
        for key, times in (("root", 6), ("app", 3), ("other", 2), ("clinic", 1)):
            shown = settled(client, times, key)
            assert shown["cost"]["actual_usd"] == pytest.approx(times)
            assert sum(one["decisions"] for one in shown["series"]) == times
            assert shown["scope"] == ("all" if key == "root" else "key")


def test_drift_and_what_went_wrong_are_the_servers(bundle: Path, tmp_path: Path) -> None:
    drifting = {"drift_prompts": 5, "drift_feedback": 1, "drift_psi": 0.125}
    with serving(bundle, tmp_path, live_seconds=0.2, **drifting) as client:
        assert settled(client, 0, "root")["drift"]["psi"] is None
        for _ in range(6):
            one = routed(client, "app")
        client.post("/v1/feedback", json={"decision_id": one["id"], "accepted": False}, headers=bearer("app"))
        client.post("/v1/route", json={}, headers=bearer("app"))
        until(lambda: get(client, "/v1/live/snapshot", "root")["drift"]["calibration_error"], "drift is measured")
        shown = settled(client, 6, "root")
        own = settled(client, 6, "app")
    assert shown["drift"]["psi"] > 0.5
    assert shown["drift"]["calibration_error"] == pytest.approx(one["confidence"], abs=1e-4)
    assert shown["drift"]["thresholds"] == {"psi": 0.125, "novel_share": 0.2, "calibration_error": 0.1}
    assert shown["problems"] == {"422": 1}
    assert 0 < shown["latency_ms"]["p50"] <= shown["latency_ms"]["p99"]
    assert [own[name] for name in ("drift", "problems", "latency_ms", "queue_rows")] == [None] * 4


def test_a_quantile_is_straight_within_its_bucket() -> None:
    head = "# TYPE router_stage_seconds histogram\n"
    counts = (("0.001", 0), ("0.002", 10), ("0.005", 20), ("+Inf", 20))
    lines = (f'router_stage_seconds_bucket{{le="{le}",stage="total"}} {count}.0\n' for le, count in counts)
    sample = _sample((head + "".join(lines)).encode())
    assert _quantile(sample, "total", 0.25) == pytest.approx(1.5)
    assert _quantile(sample, "total", 0.75) == pytest.approx(3.5)
    assert _quantile(sample, "total", 1.0) == pytest.approx(5.0)
    assert _quantile(sample, "encode", 0.5) is None


def test_what_is_above_the_last_bound_is_at_the_last_bound() -> None:
    line = 'router_stage_seconds_bucket{{le="{}",stage="total"}} {}.0\n'
    document = "# TYPE router_stage_seconds histogram\n" + line.format("1.0", 1) + line.format("+Inf", 10)
    assert _quantile(_sample(document.encode()), "total", 0.9) == 1_000.0
