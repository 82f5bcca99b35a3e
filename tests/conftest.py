"""What tests share: the environment, a full training run on the default log, a PostgreSQL, `router-train`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests import browser, environment, postgres_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

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
BEFORE = pytest.StashKey[set[tuple[str, int]]]()
PUBLIC_DATA = Path(os.environ.get("BENCH_DATA", ROOT.parent / "shared" / "data"))


# What takes longest starts first, so that no worker is left with it at the end; the rest in the order of the files.
LONGEST = (
    "trained",
    "tests/benchmarks/test_loop.py",
    "tests/training/dataset/test_encoders.py",
    "tests/training/publish/test_promote.py",
    "tests/serving/runtime",
    "tests/serving/integrations/litellm",
    "tests/whole/test_kill.py",
    "tests/whole",
    "tests/benchmarks",
    "tests/training/evaluate",
    "tests/training/learn",
)


def group_of(item: pytest.Item) -> str | None:
    """Whose tests one worker runs, for it makes once what they share: a fixture of this file, or a module's own."""
    shared = {
        name: found[-1].baseid
        for name, found in item._fixtureinfo.name2fixturedefs.items()  # type: ignore[attr-defined]
        if found[-1].scope in ("module", "session")
    }
    if "postgres" in shared or "postgresql" in item.nodeid:  # these ask for the fixture by its name
        return "postgres"
    if "trained" in shared:
        return "trained"
    if "chromium" in shared:
        return "browser"
    module = item.nodeid.partition("::")[0]
    return module if module in shared.values() else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """For workers of pytest-xdist: groups, and the order in which they are given out."""
    if not hasattr(config, "workerinput"):
        return
    places = {}
    for item in items:
        group = group_of(item)
        if group is not None:
            item.add_marker(pytest.mark.xdist_group(group))
        names = (group or item.nodeid, item.nodeid)
        places[item] = next(
            (n for n, long in enumerate(LONGEST) if any(x.startswith(long) for x in names)), len(LONGEST)
        )
    items.sort(key=places.__getitem__)


def left_behind() -> set[tuple[str, int]]:
    """(name, time of change) of what is beside the code, where a run that is told nothing else writes; no caches."""
    beside = [path for path in ROOT.iterdir() if not path.name.startswith((".", "__")) and path.suffix != ".egg-info"]
    inside = [path for name in ("data", "models", "mlruns", "notebooks") for path in (ROOT / name).rglob("[!._]*")]
    changed = {(str(path.relative_to(ROOT)), path.lstat().st_mtime_ns) for path in inside if not path.is_dir()}
    return changed | {(path.name, 0) for path in beside}


def pytest_sessionstart(session: pytest.Session) -> None:
    session.stash[BEFORE] = left_behind()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A test that leaves something in the checkout fails the run."""
    if hasattr(session.config, "workerinput") or BEFORE not in session.stash:
        return
    if left := sorted({name for name, _ in left_behind() ^ session.stash[BEFORE]}):
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        reporter.write_line(f"Tests made, changed or removed in the checkout: {', '.join(left)}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


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
    command = [sys.executable, "-m", "training.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1800, check=False)


def router_train_here(*arguments: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The same in this process: importing what training needs takes longer than most runs that tests make.

    What `router-train` does not foresee is raised.
    """
    from typer.testing import CliRunner

    from training.cli.main import app

    with chdir(folder):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


# Settings of a run of training whose figures nobody looks at.
QUICK = (
    "fit.estimators=workflow-table,ridge",
    "evaluate.splits=false",
    "evaluate.resamples=50",
    "calibrate.method=sigmoid",
)


def setting(*values: str) -> list[str]:
    """The options of `router-train` that set these."""
    return [word for value in values for word in ("--set", value)]


def tracked_in(folder: Path) -> list[str]:
    """The options that keep a run's tracking inside a folder."""
    mlruns = folder / "mlruns"
    return setting(f"tracking.uri=sqlite:///{mlruns / 'mlflow.db'}", f"tracking.artifacts={mlruns / 'artifacts'}")


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """What a test, or a library in it, puts into the environment is gone after it."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache whose embeddings are this test's own; encoders are made once for all tests and runs."""
    encoders = ROOT / ".cache" / "encoders"
    encoders.mkdir(parents=True, exist_ok=True)
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "encoders").symlink_to(encoders.resolve())
    return folder


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


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A headless Chromium that a module's tests share; those that ask for it are skipped where there is none.

    No longer than that: while it is there an event loop runs in this thread, and no other test could run one of its own.
    """
    with browser.launched() as started:
        yield started
