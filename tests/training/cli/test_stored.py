"""`router-train store prune` does what `router-serve prune` does."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from serving.store.engine import open_engine
from serving.store.tables import DECISIONS
from tests.patience import until
from tests.serving.store.rows import decision, stored
from training.cli.main import app


def test_a_store_is_pruned(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = str(tmp_path / "d.db")
    engine = open_engine(store)
    with engine.begin() as connection:
        connection.execute(DECISIONS.insert(), [decision("old"), decision("new", at=time.time())])
    engine.dispose()
    options = ["store", "prune", "--data", store, "--older-than", "400d"]
    assert CliRunner().invoke(app, [*options, "--dry-run"]).exit_code == 0
    assert "1970-01: 1 decisions" in capfd.readouterr().out
    assert len(stored(store, DECISIONS)) == 2
    assert CliRunner().invoke(app, [*options, "--batch", "1"]).exit_code == 0
    assert [row["id"] for row in stored(store, DECISIONS)] == ["new"]
    assert CliRunner().invoke(app, [*options[:-1], "soon"]).exit_code == 2
    assert "'soon' arrived; expected days, as 400d" in capfd.readouterr().err


def test_who_ends_the_command_has_the_pruning_end_in_its_own_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended, child = tmp_path / "begun", tmp_path / "ended", tmp_path / "child"
    child.write_text(f"#!/bin/sh\ntrap 'touch {ended}; exit 0' TERM\ntouch {begun}\nwhile :; do sleep 0.05; done\n")
    child.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(child))

    def end(*_: object) -> None:
        raise SystemExit(143)

    before = signal.signal(signal.SIGUSR1, end)
    try:
        asking = Thread(target=lambda: (until(begun.exists), os.kill(os.getpid(), signal.SIGUSR1)))
        asking.start()
        done = CliRunner().invoke(app, ["store", "prune", "--data", "d.db", "--older-than", "400d"])
        asking.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert done.exit_code == 143
    assert ended.exists()
