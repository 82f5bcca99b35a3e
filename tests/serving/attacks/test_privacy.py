"""Nothing of a request's text is written anywhere where it may not be kept, or may not be trained on."""

from __future__ import annotations

import gzip
import json
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select

from serving.store.tables import DECISIONS
from tests import fake_bundle
from tests.fake_bundle import SMALL
from tests.patience import PATIENCE, until
from tests.serving.attacks.conftest import Attack

CANARY = "canary-0b7e-never-to-be-written"
KEPT = "wren-51aa-may-be-written"
RULES = """
[workflows.medical]
zero_retention = true

[workflows.school]
no_training = true
"""


@pytest.fixture(scope="module")
def discreet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of candidates that keep nothing and are not trained on."""
    known = {"zero_retention": True, "trains_on_data": False}
    with pytest.MonkeyPatch.context() as patch:
        candidates = tuple(one.model_copy(update=known) for one in fake_bundle.CANDIDATES)
        patch.setattr(fake_bundle, "CANDIDATES", candidates)
        return fake_bundle.build(tmp_path_factory.mktemp("discreet"))


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Takes traces by OTLP: where, and what has come."""
    came: list[bytes] = []

    class Takes(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            came.append(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Takes)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", came
    server.shutdown()
    thread.join(PATIENCE)
    server.server_close()


def asked(**more: Any) -> dict[str, Any]:
    """A request with the canary wherever a client can put it."""
    return {
        "messages": [
            {"role": "system", "content": CANARY},
            {"role": "user", "content": [{"type": "text", "text": CANARY}], "name": CANARY, "seen": {CANARY: 10**30}},
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": CANARY}}]},
            {"role": "user", "content": f"{CANARY} \ud83d"},
        ],
        "session_id": CANARY,
        "workflow": CANARY,
        "deny": [SMALL],
        "metadata": {"note": CANARY},
        **more,
    }


def test_nothing_of_it_is_written(
    attacked: Attack, discreet: Path, collector: tuple[str, list[bytes]], tmp_path: Path
) -> None:
    pytest.importorskip("opentelemetry.instrumentation.fastapi")
    url, traces = collector
    service = attacked(
        bundle=discreet,
        shadow=discreet,
        rules=RULES,
        log_level="debug",
        otel=True,
        environment={"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "100"},
    )
    private: list[dict[str, Any]] = [
        asked(privacy={"zero_retention": True}),
        asked(privacy={"no_training": True}),
        asked(workflow="medical"),
        asked(workflow="school"),
        asked(workflow="medical", tools=[{"type": "function", "function": {"name": CANARY}}]),
    ]
    bodies = [json.dumps(one).encode() for one in private]  # half a surrogate pair, as a client that cuts text sends it
    for body in bodies:
        answer = service.post(f"/v1/route?prompt={CANARY}", body)
        assert answer.status_code == 200, answer.text
    batch = service.post("/v1/route/batch", b'{"requests": [' + b",".join(bodies) + b"]}")
    assert [one.get("status") for one in batch.json()["results"]] == [None] * 5
    service.post(f"/v1/route?prompt={CANARY}", b"{" + CANARY.encode())
    service.route(prompt=KEPT, session_id="told", workflow="made-up")
    until(lambda: any(b"POST /v1/route" in one for one in traces), "traces")
    service.process.terminate()
    service.process.join(PATIENCE)
    assert service.process.exitcode in (0, -signal.SIGTERM)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path, content in files.items() if CANARY.encode() in content} == set()
    assert not any(CANARY.encode() in one for one in traces)
    assert any(KEPT.encode() in content for content in files.values()), "what may be kept is, where this looks"
    assert f"prompts are stored in sqlite:///{service.store}, except" in service.log.read_text()
    rows = stored(service.store)
    assert [row.session_id for row in rows if row.prompt == KEPT] == ["told"]
    hashes = {row.session_id for row in rows if row.prompt is None}
    assert len(rows) == 11
    assert len(hashes) == 1, "one session, by its hash"
    assert {row.workflow for row in rows} == {"made-up", "medical", "school", None}
    assert all(row.shadow_candidate is not None for row in rows)


def stored(store: Path | str) -> list[Any]:
    engine = create_engine(f"sqlite:///{store}")
    with engine.connect() as connection:
        rows = list(connection.execute(select(DECISIONS)))
    engine.dispose()
    return rows


@pytest.mark.parametrize("demand", [{"zero_retention": True}, {"no_training": True}, {"regions": ["eu"]}])
def test_a_demand_that_stands_where_it_would_be_ignored_is_refused(attacked: Attack, demand: dict[str, Any]) -> None:
    refused = attacked().post("/v1/route", {"prompt": "hello", **demand})
    assert refused.status_code == 422
    assert "privacy: {...}" in refused.text
