"""kill -9 in the middle of load: whatever feedback was acknowledged is in the store, and the service starts again."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from serving.store.engine import open_engine
from serving.store.tables import DECISIONS, FEEDBACK
from tests import fake_bundle
from tests.conftest import ROOT
from tests.patience import PATIENCE, reserved_port, until
from tests.postgres_server import needs_postgres, own_database
from training.logs.sources import reading

THREADS = 6


@dataclass
class Load:
    """Threads that route and feed back until the server is gone; what they were told, with the quality they gave."""

    base: str
    decided: list[str] = field(default_factory=list)
    acknowledged: dict[str, float] = field(default_factory=dict)
    other: list[int] = field(default_factory=list)  # statuses but 200
    broken: int = 0  # calls that the end of the server cut off

    def run(self, number: int, over: threading.Event) -> None:
        with httpx.Client(base_url=self.base, timeout=PATIENCE) as client:
            try:
                while not over.is_set():
                    self._one(client, number)
            except httpx.TransportError:
                self.broken += 1

    def _one(self, client: httpx.Client, number: int) -> None:
        asked = [{"prompt": f"hello {number} {len(self.decided)}"} for _ in range(3)]
        results = self._told(client, "/v1/route/batch", {"requests": asked})["results"]
        ids = [one["id"] for one in results]
        self.decided += ids
        self._fed_back(client, {"decision_id": ids[0], "quality": 0.25}, {ids[0]: 0.25})
        many = [{"decision_id": one, "accepted": True} for one in ids[1:]]
        self._fed_back(client, {"feedback": many}, dict.fromkeys(ids[1:], 1.0))

    def _fed_back(self, client: httpx.Client, body: object, given: dict[str, float]) -> None:
        if self._told(client, "/v1/feedback", body).get("recorded") == len(given):
            self.acknowledged |= given

    def _told(self, client: httpx.Client, path: str, body: object) -> dict[str, Any]:
        response = client.post(path, json=body)
        if response.status_code != 200:
            self.other.append(response.status_code)
        document: dict[str, Any] = response.json()
        return document


def start(bundle: Path, store: str, port: int) -> subprocess.Popen[bytes]:
    """`router-serve`, ready."""
    code = "from serving.cli import main; main()"
    options = ["--bundle", str(bundle), "--store", store, "--port", str(port), "--log-level", "warning"]
    server = subprocess.Popen([sys.executable, "-c", code, *options], cwd=ROOT)
    try:
        until(lambda: ready(port) or server.poll() is not None, "the server is ready")
        assert server.poll() is None, "the server ended by itself"
    except BaseException:
        server.kill()
        server.wait()
        raise
    return server


def ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def killed_twice(bundle: Path, store: str, port: int) -> Load:
    """Load on three servers, one after the other; the first two are killed in the middle of it."""
    load = Load(f"http://127.0.0.1:{port}")
    for kill in (True, True, False):
        server = start(bundle, store, port)
        done, before = threading.Event(), len(load.acknowledged)
        threads = [threading.Thread(target=load.run, args=(number, done)) for number in range(THREADS)]
        try:
            for thread in threads:
                thread.start()
            until(lambda before=before: len(load.acknowledged) > before + 150, "150 are acknowledged")
            if kill:
                server.send_signal(signal.SIGKILL)
                server.wait(timeout=PATIENCE)
        finally:
            done.set()
            for thread in threads:
                thread.join(PATIENCE)
            server.terminate()
            server.wait(timeout=PATIENCE)
    return load


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def test_no_acknowledged_feedback_is_lost(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    bundle = fake_bundle.build(tmp_path / "models")
    store = str(tmp_path / "decisions.db")
    if kind == "postgresql":
        store = own_database(request.getfixturevalue("postgres"))
    with reserved_port() as port:
        load = killed_twice(bundle, store, port)
    assert load.other == [], "statuses but 200"
    assert load.broken > 0, "the kill fell into no call"
    engine = open_engine(store)
    with engine.connect() as connection:
        stored = dict(connection.execute(sa.select(FEEDBACK.c.decision_id, FEEDBACK.c.quality)).tuples().all())
        decided = set(connection.scalars(sa.select(DECISIONS.c.id)))
    engine.dispose()
    assert len(load.acknowledged) > 450
    assert {key: stored.get(key) for key in load.acknowledged} == load.acknowledged
    assert load.acknowledged.keys() <= decided, "feedback came on disk before its decision"
    outcomes = reading.read([store])
    judged = outcomes.frame.set_index("request_id")["quality"]
    assert judged[list(load.acknowledged)].to_dict() == load.acknowledged
