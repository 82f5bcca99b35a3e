"""The simulated log is not in the wheel: where it is absent, a run without --data says what is missing."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages
from typer.testing import CliRunner

from tests.conftest import ROOT
from training.cli.main import app


def test_a_run_without_data_asks_for_it_where_the_simulation_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "training.simulation.simulate", None)
    monkeypatch.chdir(ROOT)
    result = CliRunner().invoke(app, ["run", "--out", str(tmp_path / "models"), "--cache", str(tmp_path / "cache")])
    assert result.exit_code == 2
    assert "the simulated log is in the repository, not in the installed package" in result.stderr
    assert "--data" in result.stderr


def test_the_wheel_holds_no_simulation_and_no_benchmark() -> None:
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    packages = set(find_packages(str(ROOT), include=found["include"], exclude=found["exclude"]))
    assert {"training.logs.sources.otel", "serving.bundle"} <= packages
    assert not any(name.startswith(("training.simulation", "benchmarks", "tests")) for name in packages)
