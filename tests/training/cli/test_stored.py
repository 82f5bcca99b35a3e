"""`router-train store prune` does what `router-serve prune` does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serving.store.engine import open_engine
from serving.store.tables import DECISIONS
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
