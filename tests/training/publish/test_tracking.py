"""MLflow stays behind one door: training imports it in one file, serving in one other."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.conftest import ROOT


def imported(path: Path) -> set[str]:
    """The packages that a file imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_mlflow_is_imported_by_one_file_of_each() -> None:
    files = [path for room in ("training", "serving", "benchmarks") for path in (ROOT / room).rglob("*.py")]
    users = {path.relative_to(ROOT).as_posix() for path in files if "mlflow" in imported(path)}
    assert users == {"training/publish/tracking.py", "serving/runtime/sources.py"}
