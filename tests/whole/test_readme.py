"""The README is a promise: its commands are run and its figures compared with a fresh run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from benchmarks.routing.report import FOUND, SERVE, write
from serving.api.app import create_app
from serving.decide.router import Router
from serving.settings import Settings
from tests.conftest import ROOT, Trained, router_train

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [line.split("#")[0].strip() for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]


def test_its_table_is_what_the_benchmark_wrote(tmp_path: Path) -> None:
    found = json.loads((ROOT / "docs" / "benchmarks.json").read_text())
    assert len(found["sets"]) == 3
    copy = tmp_path / "README.md"
    copy.write_text(re.sub(r"(<!-- benchmark -->\n).*?(<!-- end)", r"\1\2", README, flags=re.DOTALL))
    for name in (SERVE, FOUND):
        if (ROOT / "docs" / name).is_file():
            (tmp_path / name).write_bytes((ROOT / "docs" / name).read_bytes())
    write(found, tmp_path / "benchmarks.md", copy)
    assert copy.read_text() == README
    assert (tmp_path / "benchmarks.md").read_text() == (ROOT / "docs" / "benchmarks.md").read_text()


def test_the_curl_answers_as_shown(trained: Trained) -> None:
    command = next(shlex.split(line) for line in COMMANDS if line.startswith("curl"))
    assert command[2] == "localhost:8080/v1/route"
    shown = json.loads(next(block for kind, block in BLOCKS if kind == "json"))
    header = command[command.index("-H") + 1].split(": ")
    with TestClient(create_app(Settings(bundle=trained.bundle))) as client:
        answer = client.post("/v1/route", content=command[command.index("-d") + 1], headers=[tuple(header)]).json()
    assert answer["model"] == shown["model"]
    assert answer["confidence"] == pytest.approx(shown["confidence"], abs=0.01)
    assert answer["expected_cost_usd"] == pytest.approx(shown["expected_cost_usd"], rel=0.05)
    assert answer["fallbacks"][0] == shown["fallbacks"][0]
    assert answer["reason"] == shown["reason"]
    assert answer["quality_target"] == shown["quality_target"]
    assert answer["certificate"] == pytest.approx(shown["certificate"], abs=0.001)


def test_the_python_example_runs(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    code = next(block for kind, block in BLOCKS if kind == "python")
    monkeypatch.chdir(trained.models.parent)
    scope: dict[str, object] = {}
    exec(code, scope)  # the README's own example
    assert isinstance(scope["router"], Router)


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {words[1] for line in COMMANDS if (words := shlex.split(line))[:1] == ["make"]}
    named |= set(re.findall(r"`make ([a-z-]+)`", README))
    assert {"train", "serve", "test", "check", "help", "mlflow", "notebooks", "docs", "pictures", "benchmark"} <= named
    assert named <= targets


def test_make_passes_data_test_and_args_on() -> None:
    for line in [line for line in COMMANDS if line.startswith(("make train DATA", "make train ARGS"))]:
        # -o: as if everything were installed
        words = ["make", "--dry-run", "-o", ".venv/.ready", *shlex.split(line)[1:]]
        shown = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout
        for word in re.findall(r"(?:DATA|TEST)=(\S+)", line):
            assert word in shown
        for word in re.findall(r"--set \S+?=[\w.]+", line):
            assert word in shown


def test_make_help_lists_every_documented_target() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300).stdout
    for target in ("train", "serve", "test", "check", "notebooks", "docs", "pictures", "mlflow", "setup"):
        assert f"make {target} " in shown


def test_the_parameters_it_sets_exist() -> None:
    from training.config import load_params

    overrides = re.findall(r"--set (\S+?=[\w.]+)", README)
    assert len(overrides) >= 2
    params = load_params(overrides=overrides)
    assert params.policy.quality_target == 0.98
    assert params.embed.encoder == "transformer"


def test_the_router_train_commands_it_names_exist() -> None:
    named = set(re.findall(r"`router-train ([a-z]+)", README))
    assert {"evaluate", "bundles", "promote", "rollback"} <= named
    shown = router_train("--help").stdout
    assert [name for name in named if name not in shown] == []


def test_the_files_it_links_to_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert len(links) >= 6
    assert [link for link in links if not (ROOT / link.partition("#")[0]).exists()] == []


def test_its_first_screen_is_a_sentence_two_commands_a_question_with_its_answer_and_pictures() -> None:
    title, sentence, *shown = README.partition("The frontier is of simulated traffic")[0].strip().split("\n\n")
    assert title == "# outcome-router"
    assert sentence.count(". ") == 0
    commands, question, leads, answer, *pictures = shown
    assert [line.split("#")[0].split() for line in commands.splitlines()] == [
        ["```sh"],
        ["make", "train"],
        ["make", "serve"],
        ["```"],
    ]
    assert question.splitlines()[1].startswith("curl ")
    assert leads == "It answers, shortened:"
    assert answer.startswith("```json\n{")
    assert len(pictures) == 2
    assert all(picture.startswith("![") for picture in pictures)
