"""`router-train` itself: light to ask for help, one set of options for every command that reads a log, errors as messages."""

from __future__ import annotations

import errno
import runpy
import sqlite3
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import typer

from tests.conftest import ROOT, router_train_here
from training.cli import logs as cli_logs
from training.cli.main import app
from training.cli.options import LogOptions, Settings
from training.logs import rescale
from training.quality import checks

HEAVY = (
    "lightgbm", "litellm", "matplotlib", "mlflow", "numpy", "onnx", "onnxruntime", "pandas", "pyarrow", "scipy",
    "sklearn", "sqlalchemy", "tiktoken", "tokenizers", "torch",
)  # fmt: skip
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
READ_A_LOG = ("run", "inspect", "import", "catalogue", "evaluate")


ASKED_TO_END = """
import os, signal, sys, time
from pathlib import Path
from training.cli import main
from training.engine.run_folder import run_folder

@main.app.command("hold")
def hold(folder: Path) -> None:
    with run_folder(folder):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # in the middle of removing

main.main()
"""


def test_a_command_that_is_asked_to_end_removes_what_workers_shared(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    done = subprocess.run(
        [sys.executable, "-c", ASKED_TO_END, "hold", shared], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (143, "")
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from training.cli.main import app; app(sys.argv[1:], standalone_mode=False); "
        f"print('HEAVY', sorted(set({HEAVY}) & set(sys.modules)), [n for n in sys.modules if n.startswith('training')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "Usage:" in done.stdout
    assert "HEAVY [] ['training', 'training.cli'" in done.stdout
    assert "training.config" not in done.stdout.partition("HEAVY")[2]


def options(command: str) -> dict[str, object]:
    """Every option of a command with its help."""
    return {parameter.name: (parameter.opts, parameter.help) for parameter in COMMANDS[command].params}


@pytest.mark.parametrize("command", READ_A_LOG)
def test_every_command_that_reads_a_log_takes_every_option_on_logs(command: str) -> None:
    shared = [one.name for group in (LogOptions, Settings) for one in fields(group)]
    assert {"data", "format", "map", "scores", "score_rule", "check", "judge", "redact", "allow_pickle"} <= set(shared)
    assert {name: options(command)[name] for name in shared} == {name: options("run")[name] for name in shared}


def test_the_help_names_every_rule_and_check() -> None:
    helps = {name: str(shown) for name, shown in options("inspect").items()}
    assert "fit.half_life_days=60" in helps["overrides"]
    assert "training/params.toml" in helps["overrides"]
    assert rescale.NAMES in helps["score_rule"]
    assert checks.NAMES in helps["check"]


def test_the_package_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "training.cli", "bundles", "--out", "nowhere"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "error: nowhere has no bundle. `router-train run` writes one.\n"


def test_the_module_is_router_train_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["router-train", "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "training" / "cli" / "main.py"), run_name="__main__")
    assert ended.value.code == 0
    assert "inspect" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "models/x"), "models/x: No space left on device. Make room"),
        (OSError(errno.EFBIG, "File too large"), "File too large. Make room, or give other places"),
        (OSError(errno.EIO, "Input/output error"), None),
        (sqlite3.OperationalError("no such table"), None),
    ],
)
def test_a_disk_that_is_full_is_one_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception, told: str | None
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(cli_logs, "simulated_log", full)
    arguments = "simulate", tmp_path / "log.jsonl"
    if told is None:
        with pytest.raises(type(error)):
            router_train_here(*arguments)
        return
    done = router_train_here(*arguments)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())


def test_a_full_cache_is_one_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        database = sqlite3.connect(tmp_path / "cache.sqlite")
        database.execute("pragma max_page_count = 2")
        database.execute("create table embedding (vector blob)")
        database.execute("insert into embedding values (?)", (b"x" * 100_000,))

    monkeypatch.setattr(cli_logs, "simulated_log", full)
    done = router_train_here("simulate", tmp_path / "log.jsonl")
    assert done.returncode == 2
    assert "database or disk is full. Make room" in " ".join(done.stderr.split())
