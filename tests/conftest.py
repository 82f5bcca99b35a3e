"""What tests share: the environment, a full training run on the default log, a PostgreSQL, `router-train`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import environment, postgres_server

environment.settle()

# The same examples on every machine, however long one takes. HYPOTHESIS_PROFILE=random looks for others.
settings.register_profile(
    "suite",
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("random", settings.get_profile("suite"), derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

ROOT = Path(__file__).parents[1]
PUBLIC_DATA = Path(os.environ.get("BENCH_DATA", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class Trained:
    """A finished `router-train run`: what it printed and where its bundles are."""

    output: str
    models: Path

    @property
    def bundle(self) -> Path:
        return self.models / "current"


def router_train(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs `router-train` as a user does, from the project's folder."""
    command = [sys.executable, "-m", "training.cli.main", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)


def tracked_in(folder: Path) -> list[str]:
    """The options that keep a run's tracking inside a folder."""
    return [
        "--set",
        f"tracking.uri=sqlite:///{folder / 'mlruns' / 'mlflow.db'}",
        "--set",
        f"tracking.artifacts={folder / 'mlruns' / 'artifacts'}",
    ]


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """What a test, or a library in it, puts into the environment is gone after it."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """`make train` with nothing set: the default simulated log, every estimator, MLflow."""
    folder = tmp_path_factory.mktemp("trained")
    finished = router_train("run", "--out", folder / "models", *tracked_in(folder))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return Trained(finished.stdout, folder / "models")


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of public outcome data; tests that need it are skipped where it is absent."""
    if not (PUBLIC_DATA / "routerbench").is_dir():
        pytest.skip(f"no public outcome data in {PUBLIC_DATA} (set BENCH_DATA to where RouterBench and RouteLLM's are)")
    return PUBLIC_DATA


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL, with a password, of a PostgreSQL that all tests share."""
    with postgres_server.running() as url:
        yield url
