"""examples/: each is run as a user runs it, with the router there, with it away, and with a candidate that fails."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import fake_bundle
from tests.conftest import ROOT
from tests.patience import until
from tests.serving.attacks.conftest import Attacked, running
from tests.training.replay.provider import Provider, Said, prompt_of, serving

EXAMPLES = ROOT / "examples"
PYTHON = ("openai_client.py", "langchain_client.py", "litellm_router.py")
QUESTION = "hello world"
USUAL = "gpt-4o"
AWAY = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("examples")
    (folder / "models").mkdir()
    with running(fake_bundle.build(folder / "models"), folder) as found:
        yield found


def run(example: str, router: str, provider: Provider) -> str:
    """What it prints."""
    done = ended(example, router, provider)
    assert done.returncode == 0, done.stderr
    assert "feedback" not in done.stderr
    return done.stdout


def ended(example: str, router: str, provider: Provider, names: str = "") -> subprocess.CompletedProcess[str]:
    """The example, run with these candidates."""
    asked = json.dumps([{"role": "user", "content": QUESTION}]) if example.endswith(".sh") else QUESTION
    program = "sh" if example.endswith(".sh") else sys.executable
    candidates = ",".join(one.name for one in fake_bundle.CANDIDATES)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")},
        "PYTHONPATH": str(ROOT),
        "ROUTER_URL": router,
        "OPENAI_BASE_URL": provider.url,
        "OPENAI_API_BASE": provider.url,
        "OPENAI_API_KEY": "sk-example",
        "CANDIDATES": names or f"{candidates},{USUAL}",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LANGSMITH_TRACING": "false",
    }
    command = [program, str(EXAMPLES / example), asked]
    return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, timeout=300, check=False)


def told(service: Attacked, columns: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(service.store) as store:
        return store.execute(f"SELECT {columns} FROM feedback ORDER BY rowid").fetchall()


def chosen(service: Attacked, decision: str) -> str:
    with sqlite3.connect(service.store) as store:
        ((candidate,),) = store.execute("SELECT candidate FROM decision WHERE id = ?", [decision]).fetchall()
    return str(candidate)


def test_all_of_them_are_run_and_listed() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()}
    assert files == {*PYTHON, "curl.sh", "README.md"}
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"]({name})" in listed for name in files - {"README.md"})


@pytest.mark.parametrize("example", [*PYTHON, "curl.sh"])
def test_the_candidate_is_called_and_what_came_of_it_is_in_the_store(example: str, service: Attacked) -> None:
    before = len(told(service, "decision_id"))
    with serving() as provider:
        printed = run(example, service.url, provider)
    assert f"re: {QUESTION}" in printed
    (called,) = provider.bodies
    assert prompt_of(called) == QUESTION
    assert provider.authorizations == ["Bearer sk-example"]
    until(lambda: len(told(service, "decision_id")) == before + 1, "feedback is in the store")
    ((decision, quality, inputs, outputs),) = told(service, "decision_id, quality, input_tokens, output_tokens")[
        before:
    ]
    assert called["model"] == chosen(service, decision)
    assert quality == 1
    assert (inputs, outputs) == ((10, 5) if example in PYTHON else (None, None))


@pytest.mark.parametrize("example", PYTHON)
def test_the_next_candidate_answers_where_the_first_fails(example: str, service: Attacked) -> None:
    before = set(told(service, "decision_id"))
    with serving(lambda number, body: Said(status=500 if number == 1 else 200)) as provider:
        printed = run(example, service.url, provider)
    assert f"re: {QUESTION}" in printed
    failed, answered = (body["model"] for body in provider.bodies)
    assert failed != answered

    def new() -> list[tuple[Any, ...]]:
        found = told(service, "decision_id, candidate, quality")
        return [(who, quality) for decision, who, quality in found if (decision,) not in before]

    until(new, "feedback is in the store")
    assert new() == [(answered, 1)]


@pytest.mark.parametrize("example", [*PYTHON, "curl.sh"])
def test_without_a_router_the_usual_model_answers(example: str, tmp_path: Path) -> None:
    with serving() as provider:
        assert f"re: {QUESTION}" in run(example, AWAY, provider)
    assert [body["model"] for body in provider.bodies] == [USUAL]


def test_a_misspelt_candidate_of_litellms_router_is_told(service: Attacked) -> None:
    names = ", ".join(one.name for one in fake_bundle.CANDIDATES)
    with serving() as provider:
        one = ended("litellm_router.py", service.url, provider, f"acme/smal,{fake_bundle.SMALL},{USUAL}")
        assert f"CANDIDATES: acme/smal matches no candidate; there are {names}" in one.stderr
        assert f"re: {QUESTION}" in one.stdout
        none = ended("litellm_router.py", service.url, provider, "acme/smal,acme/larg")
    assert none.returncode == 1
    assert none.stderr.strip().endswith("acme/smal, acme/larg match no candidate")


def test_the_client_of_the_documentation(service: Attacked, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text.partition("## From a program")[2], flags=re.DOTALL)
    before = len(told(service, "decision_id"))
    exec(code.replace("http://localhost:8080", service.url), {})
    assert capsys.readouterr().out.partition(" ")[0] in {one.name for one in fake_bundle.CANDIDATES}
    until(lambda: len(told(service, "decision_id")) == before + 1, "feedback is in the store")
