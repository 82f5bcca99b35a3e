"""Live figures as server-sent events, of real `router-serve` processes."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.api.views.live.documents import LiveResponse
from tests.fake_bundle import LARGE
from tests.patience import PATIENCE, until
from tests.serving.api.views.rules import RULES, rewritten
from tests.serving.attacks.conftest import Attack, Attacked, attacked, bearer, bundle, running

__all__ = ["attacked", "bundle"]  # fixtures


class Watching:
    """An open stream: its events as they come."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self._lines = response.iter_lines()
        self.retry = next(self._lines)
        assert next(self._lines) == ""

    def event(self) -> tuple[str, dict[str, Any]]:
        """The next event that is no beat; raises StopIteration where the stream ends."""
        found: dict[str, str] = {}
        while True:
            line = next(self._lines)
            if line == "" and "data" in found:
                return found["event"], json.loads(found["data"])
            name, _, value = line.partition(": ")
            found[name] = value

    def until(self, what: str, holds: Any) -> dict[str, Any]:
        """The first snapshot for which something holds."""
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            name, data = self.event()
            assert name == "snapshot", data
            if holds(data):
                return data
        raise TimeoutError(what)


@contextmanager
def watching(service: Attacked, key: str | None = None, source: str = "127.0.0.1") -> Iterator[Watching]:
    """A stream, as a proxy on this machine has it for `source`."""
    with (
        httpx.Client(base_url=service.url, timeout=PATIENCE) as client,
        client.stream("GET", "/v1/live", headers={**bearer(key), "X-Forwarded-For": source}) as response,
    ):
        if response.status_code != 200:
            raise AssertionError(response.read().decode())
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-accel-buffering"] == "no"
        yield Watching(response)


def refused(service: Attacked, key: str | None = None) -> httpx.Response:
    answer = service.get("/v1/live", key)
    assert answer.headers["content-type"] == "application/problem+json"
    return answer


@pytest.fixture(scope="module")
def service(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("live")
    with running(bundle, folder, rules=RULES, live_seconds=0.2, live_streams=8, trusted_proxies="127.0.0.1") as service:
        yield service


def test_a_snapshot_comes_at_once_and_then_what_is_new(service: Attacked) -> None:
    with watching(service, "root") as stream:
        assert stream.retry == "retry: 2000"
        name, first = stream.event()
        assert name == "snapshot"
        first = first if first["note"] is None else stream.until("all is summed", lambda one: one["note"] is None)
        LiveResponse.model_validate(first)
        assert (first["from"], first["scope"], first["bundle"]) == ("store", "all", "fake-1")
        for _ in range(3):
            service.route("app", prompt="hello")
        wanted = first["total_decisions"] + 3
        later = stream.until(
            "three more", lambda one: min(one["total_decisions"], sum(one["reasons"].values())) >= wanted
        )
    assert later["decisions_per_minute"] >= 3
    assert later["shares"] == {LARGE: 1.0}
    assert later["reasons"]["best_value"] >= 3
    assert later["cost"]["expected_usd"] > first["cost"]["expected_usd"]
    assert sum(one["decisions"] for one in later["series"]) == later["total_decisions"]
    assert len(later["series"]) == 60
    assert {line["scope"] for line in later["budgets"]} == {"workflow:medical", "key:app", "key:other"}
    assert later["latency_ms"]["p50"] > 0
    assert later["queue_rows"] is not None


def test_feedback_moves_what_was_really_paid(service: Attacked) -> None:
    decision = service.route("app", prompt="hello")
    with watching(service, "root") as stream:
        before = stream.until("all is summed", lambda one: one["note"] is None)["cost"]
        service.post("/v1/feedback", {"decision_id": decision["id"], "cost_usd": 1.25}, "app").raise_for_status()
        after = stream.until("the cost", lambda one: one["cost"]["costed"] == before["costed"] + 1)["cost"]
    assert after["actual_usd"] == pytest.approx(before["actual_usd"] + 1.25)
    assert after["expected_of_costed_usd"] > before["expected_of_costed_usd"]


def test_a_key_sees_its_own_alone(service: Attacked) -> None:
    mine = service.route("other", prompt="hello", workflow="mine-canary")
    service.route("clinic", prompt="hello", workflow="medical")
    odd = {"prompt": "hello", "workflow": "canary", "max_cost_usd": 1e-12}
    service.post("/v1/route", odd, "app")
    service.route("app", prompt="hello", workflow="canary")
    with watching(service, "other") as stream:
        seen = stream.until(
            "its decision", lambda one: one["note"] is None and one["total_decisions"] and one["reasons"]
        )
    LiveResponse.model_validate(seen)
    assert (seen["total_decisions"], seen["scope"], seen["from"]) == (1, "key", "store")
    assert sum(one["decisions"] for one in seen["series"]) == 1
    assert seen["cost"]["expected_usd"] == pytest.approx(mine["expected_cost_usd"], rel=1e-5)
    assert [line["scope"] for line in seen["budgets"]] == ["key:other"]
    assert [seen[name] for name in ("drift", "problems", "latency_ms", "queue_rows", "shadow")] == [None] * 5
    text = json.dumps(seen).replace("mine-canary", "")
    assert [name for name in ("canary", "app", "clinic", "root") if name in text] == []
    assert service.get("/v1/live/snapshot", "other").json()["total_decisions"] == 1


def test_who_is_no_key_sees_nothing(service: Attacked) -> None:
    for key in (None, "nobody"):
        assert refused(service, key).status_code == 401
        assert service.get("/v1/live/snapshot", key).status_code == 401


def test_a_body_is_refused(service: Attacked) -> None:
    for content in (b"x", iter([b"x"])):
        answer = service.client.request("GET", "/v1/live", headers=bearer("root"), content=content)
        assert answer.status_code == 400, answer.text


def test_above_the_bound_it_is_refused_and_who_leaves_makes_room(service: Attacked) -> None:
    with ExitStack() as open_ones:
        streams = [open_ones.enter_context(watching(service, "app")) for _ in range(2)]
        answer = refused(service, "app")  # a quarter of them, and the others can still watch
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        for number in range(6):  # and one address has no more, whoever sees everything from there
            streams.append(open_ones.enter_context(watching(service, "root", f"192.0.2.{number // 2}")))
            if number == 1:
                with pytest.raises(AssertionError, match="by one key or address"):
                    open_ones.enter_context(watching(service, "root", "192.0.2.0"))
        for key in ("root", "other"):
            assert refused(service, key).status_code == 503
        assert all(stream.event()[0] == "snapshot" for stream in streams)
        assert service.get("/v1/live/snapshot", "other").status_code == 200

    def again() -> bool:
        try:
            with watching(service, "app") as stream:
                return stream.event()[0] == "snapshot"
        except AssertionError:
            return False

    until(again, "a place is free again")


def test_a_key_that_is_taken_away_ends_its_streams(attacked: Attack, tmp_path: Path) -> None:
    service = attacked(rules=RULES, live_seconds=0.2, watch_seconds=0.2)
    with watching(service, "app") as own, watching(service, "root") as all_of_it:
        assert (own.event()[0], all_of_it.event()[0]) == ("snapshot", "snapshot")
        rewritten(tmp_path / "policies-0.toml", {"other": "other", "root": "root"})
        for stream, said in ((own, "not known any more"), (all_of_it, "has changed")):  # root is no admin now
            name, data = stream.event()
            while name == "snapshot":
                name, data = stream.event()
            assert name == "end"
            assert said in data["why"]
            with pytest.raises(StopIteration):
                stream.event()
    assert refused(service, "app").status_code == 401


@pytest.mark.parametrize("workers", [1, 2])
def test_open_streams_do_not_hold_up_a_stop(attacked: Attack, workers: int) -> None:
    service = attacked(workers=workers)
    with ExitStack() as open_ones:
        streams = [open_ones.enter_context(watching(service)) for _ in range(4)]
        assert all(stream.event()[0] == "snapshot" for stream in streams)
        os.kill(service.pid, signal.SIGTERM)
        service.process.join(PATIENCE)
        assert service.process.exitcode is not None, service.log.read_text()
        for stream in streams:
            name, data = stream.event()
            while name == "snapshot":
                name, data = stream.event()
            assert (name, data["why"]) == ("end", "The service is being stopped.")
    # Of a stream that is waited for uvicorn says, after 15 s, that it is cancelled.
    log = service.log.read_text()
    assert [line for line in log.splitlines() if "Traceback" in line or "graceful shutdown exceeded" in line] == []


def test_several_workers_say_the_same(attacked: Attack) -> None:
    service = attacked(workers=2, live_seconds=0.2)
    # Each request is on a connection of its own, for whichever worker takes it.
    apart = httpx.Limits(max_keepalive_connections=0)

    def told(one: dict[str, Any]) -> tuple[Any, ...]:
        return one["total_decisions"], one["problems"], one["reasons"]

    with httpx.Client(base_url=service.url, limits=apart, timeout=PATIENCE) as client:
        for _ in range(20):
            client.post("/v1/route", json={"prompt": "hello"}).raise_for_status()
            assert client.post("/v1/route", json={"prompt": 1}).status_code == 422
        wanted = 20, {"422": 20}, {"best_value": 20}
        until(
            lambda: all(told(client.get("/v1/live/snapshot").json()) == wanted for _ in range(8)),
            "the same figures from each",
        )


def test_without_a_store_the_metrics_tell(attacked: Attack) -> None:
    service = attacked(rules=RULES, store="", live_seconds=0.2)
    assert refused(service, "app").status_code == 403
    with watching(service, "root") as stream:
        first = stream.event()[1]
        LiveResponse.model_validate(first)
        assert (first["from"], first["total_decisions"], first["series"]) == ("metrics", 0, [])
        assert "ROUTER_STORE is empty" in first["note"]
        for _ in range(5):
            service.route("app", prompt="hello")
        later = stream.until("five decisions", lambda one: one["total_decisions"] == 5)
        assert later["decisions_per_minute"] > 0
        assert (later["shares"], later["reasons"]) == ({LARGE: 1.0}, {"best_value": 5})
        assert later["cost"]["expected_usd"] == pytest.approx(later["cost"]["reference_expected_usd"])
        assert later["saved"]["counterfactual"].startswith(f"all to {LARGE}")
