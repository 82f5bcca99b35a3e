"""The wheel holds what serving and training run on, and nothing that only the repository needs."""

from __future__ import annotations

import configparser
import sys
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from docs.first_hour import build_wheel
from tests.conftest import ROOT
from training.cli.main import app


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    return zipfile.Path(build_wheel(tmp_path_factory.mktemp("wheel")))


def names(wheel: zipfile.Path) -> set[str]:
    return {name for name in wheel.root.namelist() if not name.endswith("/")}


def test_every_file_of_serving_and_training_is_inside_but_the_simulation(wheel: zipfile.Path) -> None:
    expected = {
        path.relative_to(ROOT).as_posix()
        for room in ("serving", "training")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    simulated = {name for name in expected if name.startswith("training/simulation/")}
    assert simulated
    assert {name for name in names(wheel) if ".dist-info/" not in name} == expected - simulated
    assert {
        "training/params.toml",
        "training/prices/candidates.toml",
        "training/publish/templates/report.html.j2",
    } <= expected


def test_neither_benchmarks_nor_tests_nor_simulation_are_inside(wheel: zipfile.Path) -> None:
    assert {name.split("/")[0] for name in names(wheel) if ".dist-info/" not in name} == {"serving", "training"}
    assert not [name for name in names(wheel) if "simulation" in name or "benchmark" in name]


def test_each_command_is_inside(wheel: zipfile.Path) -> None:
    (metadata,) = (name for name in names(wheel) if name.endswith(".dist-info/entry_points.txt"))
    commands = configparser.ConfigParser()
    commands.read_string(wheel.joinpath(metadata).read_text(encoding="utf-8"))
    assert set(commands["console_scripts"]) == {"router-train", "router-serve"}
    for target in commands["console_scripts"].values():
        place = target.partition(":")[0].replace(".", "/")
        assert {f"{place}.py", f"{place}/__init__.py"} & names(wheel)


def test_without_the_simulation_the_command_asks_for_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "training.simulation.simulate", None)
    result = CliRunner().invoke(app, ["simulate", str(tmp_path / "log.jsonl")])
    assert result.exit_code == 2
    assert "give --data" in result.output
