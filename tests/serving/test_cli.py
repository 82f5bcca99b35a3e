"""`router-serve`: where its settings come from, and how it gives up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from starlette.testclient import TestClient
from typer.testing import CliRunner

from serving.api import app as app_module
from serving.settings import Settings
from tests import fake_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_PORT", "9001")
    monkeypatch.setenv("ROUTER_BUNDLE", "elsewhere")
    assert (Settings().port, Settings().bundle, Settings().host) == (9001, "elsewhere", "127.0.0.1")


def serve(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, standard error, and what uvicorn would have been run with."""
    ran: dict[str, Any] = {}
    monkeypatch.setattr(app_module.logging, "basicConfig", lambda **_: None)  # the test run's logging stays as it is
    monkeypatch.setattr(app_module.uvicorn, "run", lambda app, **options: ran.update(options, app=app))
    cli = typer.Typer()
    cli.command()(app_module.serve)
    result = CliRunner().invoke(cli, list(arguments))
    return result.exit_code, result.stderr, ran


def test_router_serve_takes_options_over_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_PORT", "9001")
    monkeypatch.setenv("ROUTER_HOST", "0.0.0.0")
    code, _, ran = serve(monkeypatch, "--bundle", str(folder), "--port", "9002")
    assert code == 0
    assert (ran["host"], ran["port"], ran["access_log"]) == ("0.0.0.0", 9002, False)
    with TestClient(ran["app"]) as client:
        assert client.get("/readyz").status_code == 200


def test_router_serve_without_a_bundle_exits_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, error, ran = serve(monkeypatch, "--bundle", str(tmp_path))
    assert (code, ran) == (2, {})
    assert error.startswith(f"router-serve: {tmp_path} is not a bundle: it has no manifest.json.")
    assert error.count("\n") == 1


def test_router_serve_names_a_wrong_setting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_PORT", "many")
    code, error, ran = serve(monkeypatch, "--bundle", str(folder))
    assert (code, ran) == (2, {})
    assert error.startswith("router-serve: port: ")
    assert error.count("\n") == 1
