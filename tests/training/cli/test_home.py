"""`router-train` in a folder without a repository: what it needs is shipped, and what it writes is where `--home` says."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
from typer.main import get_command

from tests.conftest import QUICK, router_train_here, setting
from training.cli.main import app
from training.cli.options import at_home


def harness(path: Path, questions: int = 240) -> None:
    """A CSV of an evaluation harness."""
    draw = random.Random(0)
    rows = [
        {"question": f"how to {draw.choice(('sort', 'sum', 'fold'))} list {n}", "llm": llm, "grade": grade, "usd": usd}
        for n in range(questions)
        for llm, grade, usd in (("small", float(draw.random() < 0.7), 0.001), ("large", 1.0, 0.01))
    ]
    pd.DataFrame(rows).to_csv(path, index=False)


MAP = ["--map", "prompt=question", "--map", "candidate=llm", "--map", "quality=grade", "--map", "cost_usd=usd"]


def test_a_table_trains_a_router_in_an_empty_folder_and_everything_is_at_home(tmp_path: Path, cache: Path) -> None:
    folder, home = tmp_path / "empty", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    cache.rename(home / ".cache")
    harness(folder / "log.csv")
    run = ["run", "--data", "log.csv", *MAP, *setting(*QUICK), "--keep-text", "--home", home]
    done = router_train_here(*run, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in folder.iterdir()] == ["log.csv"]
    assert {path.name for path in home.iterdir()} == {"models", ".cache", "mlruns"}
    bundle = home / "models" / "current"
    assert (bundle / "manifest.json").is_file()
    assert (bundle / "test_requests.csv").stat().st_mode & 0o077 == 0, "it holds prompts"
    assert (home / "mlruns" / "mlflow.db").is_file()
    listed = router_train_here("bundles", "--home", home, folder=folder)
    assert bundle.resolve().name in listed.stdout.replace("\n", "")


@pytest.mark.parametrize(
    "words", [["--home", "there", "bundles"], ["bundles", "--home", "there"], ["bundles", "--home=there"]]
)
def test_home_may_stand_anywhere(tmp_path: Path, words: Sequence[str]) -> None:
    done = router_train_here(*words, folder=tmp_path)
    assert done.returncode == 2
    assert "there/models has no bundle" in done.stderr


def test_another_option_may_have_the_same_value(tmp_path: Path) -> None:
    done = router_train_here("bundles", "--home", "there", "--out", "there", folder=tmp_path)
    assert "there has no bundle" in done.stderr
    assert router_train_here("bundles", "--home", folder=tmp_path).returncode == 2


def test_home_comes_from_the_environment_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_HOME", "there")
    assert "there/models has no bundle" in router_train_here("bundles", folder=tmp_path).stderr
    assert "here/models has no bundle" in router_train_here("bundles", "--home", "here", folder=tmp_path).stderr
    assert "own has no bundle" in router_train_here("bundles", "--out", "own", folder=tmp_path).stderr


def test_every_option_that_home_moves_is_there() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for command, moved in at_home(Path("there")).items():
        options = {one.name: one for one in commands[command].params}
        for option, place in moved.items():
            assert place == f"there/{options[option].default}"
