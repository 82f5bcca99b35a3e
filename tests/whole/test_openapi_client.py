"""A client that is generated from the OpenAPI document calls every endpoint of a running service, and reads each answer."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from docs.api import document
from tests import fake_bundle
from tests.conftest import ROOT
from tests.serving.attacks.conftest import key_rules, running

PROGRAMS = ROOT / ".venv-openapi" / "bin"
KEY = "an operator's key"
# The bundle that nobody trained was not measured.
NOT_THERE = {"/v1/frontier": 404}


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "PYTHONPATH": ""}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_generated_client_calls_every_endpoint(tmp_path: Path) -> None:
    if not (PROGRAMS / "openapi-python-client").exists():
        pytest.skip("no .venv-openapi, in which a client is generated: make .venv-openapi/.ready")
    api = document()
    (tmp_path / "openapi.json").write_text(json.dumps(api))
    generated = run(
        PROGRAMS / "openapi-python-client", "generate", "--path", "openapi.json", "--meta", "none",
        "--output-path", "client/router_client", folder=tmp_path,
    )  # fmt: skip
    assert "WARNING" not in generated.stdout + generated.stderr, generated.stdout
    streams = [
        path
        for path, operations in api["paths"].items()
        for operation in operations.values()
        if "text/event-stream" in operation["responses"]["200"].get("content", {})
    ]
    shadow = fake_bundle.build(tmp_path / "shadow", "fake-2")
    rules = key_rules("operator", KEY, "admin = true")
    with running(fake_bundle.build(tmp_path / "models"), tmp_path, rules=rules, shadow=shadow) as service:
        calls = ROOT / "tests" / "openapi_calls.py"
        called = run(PROGRAMS / "python", calls, tmp_path / "client", service.url, KEY, *streams, folder=tmp_path)
    lines = [json.loads(line) for line in called.stdout.splitlines()]
    expected = {(method, path) for path, operations in api["paths"].items() for method in operations}
    assert {(method, path) for method, path, _, _ in lines} == expected
    assert {path: status for _, path, status, _ in lines if status != 200} == {
        path: status for path, status in NOT_THERE.items() if path in api["paths"]
    }
    read = {path: read_as for _, path, _, read_as in lines}
    assert read["/v1/route"] == "RouteResponse"
    assert read["/v1/feedback"] == "FeedbackResponse"
    assert {path for path, read_as in read.items() if read_as in ("NoneType", "Problem")} <= NOT_THERE.keys()
