"""Serving stands alone: it imports neither training nor what only training needs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "sklearn", "lightgbm", "pandas", "mlflow", "onnx", "training", "typer")


def test_the_app_loads_nothing_heavy() -> None:
    code = "import sys, serving.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "onnxruntime" in loaded
    assert loaded.isdisjoint(HEAVY), loaded & set(HEAVY)


@pytest.mark.parametrize("path", sorted((ROOT / "serving").glob("**/*.py")), ids=lambda path: path.name)
def test_no_file_of_serving_imports_training(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            imported.add((node.module or "").partition(".")[0])
    assert "training" not in imported


def test_the_environment_is_read_by_the_settings_alone() -> None:
    paths = (ROOT / "serving").glob("**/*.py")
    sources = {str(path.relative_to(ROOT / "serving")): path.read_text(encoding="utf-8") for path in paths}
    settings = {"settings.py", "integrations/litellm/settings.py"}
    assert {name for name, source in sources.items() if "BaseSettings" in source} == settings
    assert {name for name, source in sources.items() if "os.environ" in source or "getenv" in source} <= settings
