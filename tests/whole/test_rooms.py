"""The house: a room imports only rooms below it, no two files import each other, and no room or file grows out of hand."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from tests.conftest import ROOT

PACKAGES = ("benchmarks", "training", "serving")
LONGEST = 350
MOST_FILES = 12


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    """The contracts of pyproject.toml, on the packages in a folder."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "200"}
    return subprocess.run([*command, "--no-cache"], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The packages and their contracts in a folder where they may be damaged."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_room_imports_only_rooms_below_it() -> None:
    done = linted(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("training/measure/metrics.py", "from training.learn import learn"),
        ("training/logs/cells.py", "import training.cli.main"),
        ("training/quality/scores.py", "from training.prices import catalogue"),
        ("training/learn/heads/select.py", "from serving.runtime import pipeline"),
        ("serving/decide/policy.py", "from serving.store import engine"),
        ("serving/bundle/manifest.py", "from training import config"),
    ],
)
def test_an_import_that_runs_upwards_is_found(copied: Path, file: str, line: str) -> None:
    assert (copied / file).exists()
    with (copied / file).open("a", encoding="utf-8") as source:
        source.write(f"\n\ndef upwards() -> None:\n    {line}\n")
    done = linted(copied)
    assert done.returncode == 1
    assert file.removesuffix(".py").replace("/", ".") in done.stdout


def test_a_room_without_a_floor_is_found(copied: Path) -> None:
    (copied / "training" / "attic").mkdir()
    (copied / "training" / "attic" / "__init__.py").write_text('"""Things."""\n', encoding="utf-8")
    done = linted(copied)
    assert done.returncode == 1
    assert "attic" in done.stdout


def test_no_two_files_import_each_other() -> None:
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    pairs = {
        tuple(sorted((module, imported)))
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if module in graph.find_modules_directly_imported_by(imported)
    }
    assert pairs == set()


def test_no_folder_and_no_file_is_too_large_to_be_looked_through() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
    folders = {str(path.parent.relative_to(ROOT)): len(list(path.parent.glob("*.py"))) for path in files}
    assert {name: count for name, count in folders.items() if count > MOST_FILES} == {}


def test_every_package_says_what_it_is_for() -> None:
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")):
        assert path.read_text(encoding="utf-8").startswith('"""'), path


def test_the_picture_of_the_rooms_is_the_imports() -> None:
    rooms = runpy.run_path(str(ROOT / "docs" / "rooms.py"))
    document = rooms["DOCUMENT"].read_text(encoding="utf-8")
    assert "flowchart TD" in document
    assert document == rooms["written"](document), "python -m docs.rooms draws it again"
