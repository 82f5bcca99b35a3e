"""Running the service: readiness, time limits, metrics, logs, traces, several workers, stopping."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, func, select
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.runtime.logs import JsonLines
from serving.runtime.metrics import _forget_the_dead
from serving.runtime.pipeline import Service
from serving.settings import Settings
from serving.store.tables import DECISIONS, FEEDBACK
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN
from tests.patience import PATIENCE, reserved_port, until

ROOT = Path(__file__).parents[3]
CANARY = "canary-5f1d-never-to-be-logged"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@contextmanager
def served(service: Service) -> Iterator[TestClient]:
    with TestClient(create_app(service.settings, service)) as client:
        yield client


def metric(text: str, line: str) -> float:
    """The value of the metric with exactly these labels; raises KeyError."""
    return {one.rpartition(" ")[0]: float(one.rpartition(" ")[2]) for one in text.splitlines() if one[:1] != "#"}[line]


# --- readiness and time limits ---


def test_not_ready_before_it_is_warm_and_after_it_stops(folder: Path) -> None:
    app = create_app(Settings(bundle=str(folder)))
    before = TestClient(app).get("/readyz")  # without the context, startup has not run
    assert (before.status_code, before.headers["content-type"]) == (503, "application/problem+json")
    with TestClient(app) as client:
        assert client.get("/readyz").status_code == 200
    assert TestClient(app).get("/readyz").status_code == 503
    assert TestClient(app).get("/healthz").json() == {"status": "ok", "bundle": None}


@contextmanager
def held(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the encoder one that is too slow for the event loop, and gives nothing until the block ends."""
    service.live.current = replace(service.live.current, inline=False)
    encoder = service.live.current.router.encoder
    encode = encoder.encode
    go = threading.Event()

    def wait(texts: Any) -> Any:
        assert go.wait(PATIENCE)
        return encode(texts)

    monkeypatch.setattr(encoder, "encode", wait)
    try:
        yield
    finally:
        go.set()


def test_a_decision_that_takes_too_long_is_the_references(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "policies.toml"
    rules.write_text(f'[workflows.hard]\ndeny = ["{LARGE}"]\n')
    service = Service(Settings(bundle=str(folder), embed_wait_ms=50, policies=rules))
    with served(service) as client, held(service, monkeypatch):
        answer = client.post("/v1/route", json={"prompt": "hello"}).json()
        assert (answer["model"], answer["reason"], answer["confidence"]) == (LARGE, "timeout", None)
        answer = client.post("/v1/route", json={"prompt": "theorem", "deny": ["acme/*"]}).json()
        assert (answer["model"], answer["reason"]) == (OPEN, "timeout")
        answer = client.post("/v1/route", json={"prompt": "of", "workflow": "hard"}).json()
        assert (answer["model"] == LARGE, answer["reason"]) == (False, "timeout")
        answer = client.post("/v1/route", json={"prompt": "sum", "allow": ["nobody/*"]})
        assert answer.status_code == 422
        assert answer.json()["ruled_out"].keys() == set(service.live.current.router.candidates)
        text = client.get("/metrics").text
    assert metric(text, f'router_decisions_total{{candidate="{LARGE}",reason="timeout"}}') == 1
    assert metric(text, 'router_problems_total{status="422"}') == 1


# --- metrics ---


def test_every_metric_is_there_and_counts(folder: Path, tmp_path: Path) -> None:
    rules = tmp_path / "policies.toml"
    rules.write_text('[default.budget]\nday_usd = 1.0\nat_limit = "warn"\n')
    with served(Service(Settings(bundle=str(folder), store=str(tmp_path / "d.db"), policies=rules))) as client:
        answer = client.post("/v1/route", json={"prompt": "hello"}).json()
        client.post("/v1/route", json={"prompt": 3})
        client.post("/v1/route/batch", json={"requests": [{"prompt": "hello"}]})
        client.post("/v1/feedback", json={"decision_id": answer["id"], "accepted": True, "cost_usd": 0.5})
        text = client.get("/metrics").text
    label = f'candidate="{answer["model"]}",reason="best_value"'
    assert metric(text, f"router_decisions_total{{{label}}}") == 2
    for stage, count in (("encode", 1), ("record", 2), ("total", 2), ("batch", 1)):
        assert metric(text, f'router_stage_seconds_count{{stage="{stage}"}}') == count
    assert metric(text, 'router_stage_seconds_count{stage="decide"}') >= 1
    expected = metric(text, f'router_expected_cost_usd_total{{candidate="{answer["model"]}"}}')
    assert expected == pytest.approx(2 * answer["expected_cost_usd"])
    assert metric(text, "router_actual_cost_usd_total") == 0.5
    assert metric(text, 'router_feedback_total{outcome="good"}') == 1
    assert metric(text, 'router_problems_total{status="422"}') == 1
    assert metric(text, f'router_bundle_info{{version="{fake_bundle.VERSION}"}}') == 1
    for name in ("router_drift_psi", "router_feedback_calibration_error", "router_novel_share"):
        assert metric(text, name) == 0
    assert metric(text, "router_store_queue_rows") >= 0
    assert metric(text, 'router_budget_left_usd{period="day",scope="default"}') < 1.0


def test_drift_is_measured_on_what_is_served(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(
        bundle=str(folder), store=str(tmp_path / "d.db"), drift_prompts=20, drift_feedback=10, watch_seconds=0.05
    )
    with served(Service(settings)) as client:
        answers = [client.post("/v1/route", json={"prompt": "prove"}).json() for _ in range(20)]
        feedback = [{"decision_id": one["id"], "accepted": False} for one in answers]
        client.post("/v1/feedback", json={"feedback": feedback})
        text = client.get("/metrics").text
        until(lambda: any("calibration_error" in one.getMessage() for one in caplog.records), "a warning")
    # all of 20 prompts in one of nine clusters
    assert metric(text, "router_drift_psi") > 1
    assert metric(text, "router_novel_share") == 0
    assert metric(text, "router_feedback_calibration_error") == pytest.approx(answers[0]["confidence"])
    warned = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert sum("psi" in one for one in warned) == 1
    assert sum("calibration_error" in one for one in warned) == 1


def test_the_turns_of_one_session_are_no_drift(folder: Path, tmp_path: Path) -> None:
    settings = Settings(bundle=str(folder), store=str(tmp_path / "d.db"), drift_prompts=20)
    with served(Service(settings)) as client:
        for _ in range(20):
            assert client.post("/v1/route", json={"prompt": "prove", "session_id": "one"}).status_code == 200
        text = client.get("/metrics").text
        assert metric(text, "router_drift_psi") == 0
        for place in range(20):
            client.post("/v1/route", json={"prompt": "prove", "session_id": f"s{place}"})
        assert metric(client.get("/metrics").text, "router_drift_psi") > 1


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="who is alive is read from /proc")
def test_the_gauges_of_a_worker_that_was_killed_go_and_its_counters_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = 2**22 + 1  # no process has so high a number
    for pid in (dead, os.getpid()):
        for kind in ("gauge_livesum", "gauge_livemax", "counter"):
            (tmp_path / f"{kind}_{pid}.db").touch()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    _forget_the_dead(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {
        f"counter_{dead}.db",
        *(f"{kind}_{os.getpid()}.db" for kind in ("gauge_livesum", "gauge_livemax", "counter")),
    }


# --- logs ---


def test_a_log_line_is_json_and_has_no_librarys_message() -> None:
    try:
        try:
            raise KeyError(CANARY)
        except KeyError as error:
            raise OSError(28, "No space left on device", "/data/decisions.db") from error
    except OSError:
        record = logging.LogRecord("a", logging.ERROR, "a.py", 1, "it failed", None, sys.exc_info())
    record.fields = {"id": "7"}
    line = json.loads(JsonLines().format(record))
    assert (line["level"], line["message"], line["id"]) == ("error", "it failed", "7")
    assert "KeyError" in line["traceback"]
    assert "No space left on device: '/data/decisions.db'" in line["traceback"]
    assert CANARY not in line["traceback"]


def test_a_decision_that_fails_is_the_references_and_its_log_has_no_prompt(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(Settings(bundle=str(folder)))

    def fail(texts: Any) -> Any:
        raise ValueError(f"cannot encode {texts}")

    with served(service) as client:
        monkeypatch.setattr(service.live.current.router.encoder, "encode", fail)
        answer = client.post("/v1/route", json={"prompt": CANARY}).json()
    assert (answer["model"], answer["reason"]) == (LARGE, "fault")
    lines = [JsonLines().format(record) for record in caplog.records if record.levelname == "ERROR"]
    assert len(lines) == 1
    assert "ValueError" in lines[0]
    assert CANARY not in lines[0]


# --- traces ---


def test_a_request_makes_a_span_without_its_prompt(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry import trace
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from opentelemetry.util._once import Once

    # A process takes one provider for good: whatever took it before, or comes after, this test has its own.
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())
    exporter = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    with TestClient(create_app(Settings(bundle=str(folder), otel=True))) as client:
        answer = client.post("/v1/route", json={"prompt": CANARY}).json()
        client.post("/v1/route", content=f'{{"prompt": "{CANARY}" 3}}'.encode())
        client.get("/readyz")
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == ["POST /v1/route"] * 2
    assert spans[0].attributes["router.candidate"] == answer["model"]
    assert spans[0].attributes["router.decision_id"] == answer["id"]
    assert CANARY not in "".join(span.to_json() for span in spans)


# --- a server of its own ---


@contextmanager
def server(folder: Path, log: Path, **settings: object) -> Iterator[tuple[httpx.Client, subprocess.Popen[bytes]]]:
    """`router-serve` in a process of its own, ready, and killed at the end if it still runs. It has no drift to warn of."""
    with reserved_port() as port:
        options = [
            f"--{name.replace('_', '-')}={value}"
            for name, value in {"bundle": folder, "port": port, **settings}.items()
        ]
        command = [sys.executable, "-c", "from serving.cli import main; main()", *options]
        never = dict.fromkeys(("ROUTER_DRIFT_PROMPTS", "ROUTER_DRIFT_FEEDBACK"), "1000000000")
        with log.open("wb") as stderr:
            environment = {**os.environ, **never, "TMPDIR": str(log.parent)}
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=stderr)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
                until(lambda: _ready(client) or process.poll() is not None, "ready")
                assert process.poll() is None, log.read_text()
                yield client, process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE)


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def rows_of(store: Path, table: Any) -> int:
    engine = create_engine(f"sqlite:///{store}")
    with engine.connect() as connection:
        rows = connection.scalar(select(func.count()).select_from(table))
    engine.dispose()
    return int(rows or 0)


def test_two_workers_share_metrics_and_stop_with_everything_written(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "decisions.db"
    acknowledged: set[str] = set()
    with server(folder, tmp_path / "log", workers=2, store=store) as (client, process):

        def send(number: int, times: int | None) -> None:
            """So many requests with their feedback; None: until the server is gone."""
            with httpx.Client(base_url=client.base_url, timeout=PATIENCE) as own:
                for _ in repeat(None, times) if times else repeat(None):
                    answer = own.post("/v1/route", json={"prompt": f"hello {number}"})
                    body = {"decision_id": answer.json()["id"], "accepted": True, "cost_usd": 0.001}
                    if own.post("/v1/feedback", json=body).status_code == 200:
                        acknowledged.add(body["decision_id"])

        with ThreadPoolExecutor(4) as pool:
            for one in [pool.submit(send, number, 25) for number in range(4)]:
                one.result()
        text = client.get("/metrics").text
        decided = sum(
            float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("router_decisions_total{")
        )
        assert decided == len(acknowledged) == 100
        assert metric(text, "router_actual_cost_usd_total") == pytest.approx(0.1)
        version = f'router_bundle_info{{version="{fake_bundle.VERSION}"}}'
        until(lambda: metric(client.get("/metrics").text, version) == 2, "both workers show their bundle")
        with ThreadPoolExecutor(4) as pool:
            for number in range(4):
                pool.submit(send, number, None)
            until(lambda: len(acknowledged) >= 150, "50 more are acknowledged")
            process.send_signal(signal.SIGTERM)  # in the middle of it
            code = process.wait(PATIENCE)
    log = (tmp_path / "log").read_text()
    assert code in (0, -signal.SIGTERM), log
    assert list(tmp_path.glob("router-metrics-*")) == []
    assert {json.loads(line)["level"] for line in log.splitlines()} == {"info"}, log
    engine = create_engine(f"sqlite:///{store}")
    with engine.connect() as connection:
        written = set(connection.scalars(select(FEEDBACK.c.decision_id)))
        decisions = set(connection.scalars(select(DECISIONS.c.id)))
    engine.dispose()
    assert acknowledged
    assert acknowledged <= written
    assert acknowledged <= decisions


def test_at_debug_level_every_line_is_json_and_none_has_a_prompt(folder: Path, tmp_path: Path) -> None:
    options = {"store": tmp_path / "decisions.db", "log_level": "debug", "shadow": folder}
    with server(folder, tmp_path / "log", **options) as (client, process):
        answer = client.post("/v1/route", json={"prompt": CANARY})
        client.post("/v1/route", json={"messages": [{"role": "user", "content": CANARY}], "tools": [{"name": CANARY}]})
        client.post("/v1/route", json={"prompt": {"text": CANARY}})
        client.post("/v1/route", json={"prompt": CANARY, "allow": ["nobody"]})
        client.post("/v1/route", content=f'{{"prompt": "{CANARY}'.encode())
        client.post("/v1/route/batch", json={"requests": [{"prompt": CANARY}, {"prompt": CANARY, "deny": ["*"]}]})
        client.post("/v1/feedback", json={"decision_id": answer.json()["id"], "accepted": True})
        checked = subprocess.run(
            _health_check(), env={**os.environ, "ROUTER_PORT": str(client.base_url.port)}, check=False
        )
        assert checked.returncode == 0
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)
        checked = subprocess.run(
            _health_check(), env={**os.environ, "ROUTER_PORT": str(client.base_url.port)}, check=False
        )
        assert checked.returncode != 0
    text = (tmp_path / "log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert CANARY not in text
    decided = [line for line in lines if line["message"] == "decided"]
    assert len(decided) == 3
    assert decided[0]["id"] == answer.json()["id"]
    assert decided[0]["reason"] == answer.json()["reason"]
    assert any("POST /v1/route" in line["message"] for line in lines)
    assert rows_of(tmp_path / "decisions.db", DECISIONS) == 3


def _health_check() -> list[str]:
    """The image's own check, run by this Python."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    check = next(line for line in dockerfile.splitlines() if line.strip().startswith("CMD ["))
    return [sys.executable, *json.loads(check.strip().removeprefix("CMD "))[1:]]
