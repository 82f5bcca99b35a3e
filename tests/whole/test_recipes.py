"""docs/recipes.md: every recipe is run, against a real service, real clients and the tools that read its files."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from docs.first_hour import write_harness
from serving.client import RouteRefusedError
from serving.settings import Settings
from tests import fake_bundle
from tests.conftest import QUICK, ROOT, Trained, router_train_here, setting
from tests.patience import until
from tests.serving.attacks.conftest import Attacked, running
from tests.whole import promtool

TEXT = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, flags=re.DOTALL | re.MULTILINE))
MESSAGES = [{"role": "user", "content": "hello world"}]
ALERTS = ROOT / "deploy" / "compose" / "prometheus" / "alerts.yml"


def block(recipe: str, kind: str) -> str:
    """The recipe's only block of this kind."""
    (found,) = re.findall(rf"```{kind}\n(.*?)```", RECIPES[recipe], flags=re.DOTALL)
    return str(found)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Attacked]:
    (tmp_path / "models").mkdir()
    with running(fake_bundle.build(tmp_path / "models"), tmp_path) as found:
        yield found


def test_a_new_llm_comes_in_by_its_answers_to_known_prompts(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, nobody is sent to it; afterwards it is among the candidates, and the log's old requests count for both."""
    write_harness(tmp_path / "harness.csv", questions=150)
    table = pd.read_csv(tmp_path / "harness.csv").rename(
        columns={"question": "prompt", "llm": "candidate", "usd": "cost_usd"}
    )
    table["quality"] = (table.pop("grade") - 1) / 4
    is_new = table["candidate"] == "gpt-4o-mini"
    table[~is_new].to_csv(tmp_path / "log.csv", index=False)
    table[is_new].to_csv(tmp_path / "new_llm.csv", index=False)
    (tmp_path / ".cache").symlink_to(cache)
    monkeypatch.setenv("ROUTER_HOME", str(tmp_path))
    first = router_train_here("run", "--data", "log.csv", "--no-track", *setting(*QUICK), folder=tmp_path)
    assert first.returncode == 0, first.stderr
    version = ""
    for line in block("A new LLM came out", "sh").splitlines():
        words = [word.replace("VERSION", version) for word in shlex.split(line)[1:]]
        quick = setting(*QUICK) if words[0] == "run" else []
        done = router_train_here(*words, *quick, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        if words[0] == "run":
            version = re.findall(r"^bundle \S*/(\S+)", done.stdout, flags=re.MULTILINE)[-1]
            assert json.loads((tmp_path / "models" / "current" / "manifest.json").read_text())["version"] != version
        if words[0] == "compare":
            assert "gpt-4o-mini" in done.stdout
    current = json.loads((tmp_path / "models" / "current" / "manifest.json").read_text())
    assert current["version"] == version
    assert "gpt-4o-mini" in {one["name"] for one in current["candidates"]}


def test_in_front_of_litellm(service: Attacked, monkeypatch: pytest.MonkeyPatch) -> None:
    """The routed model answers, a fallback where that fails, the usual one where the router is away; feedback names who did."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    decided = service.route(messages=MESSAGES)
    names = [decided["model"], *decided["fallbacks"]]
    broken: set[str] = set()
    scopes: list[dict[str, Any]] = []

    def scope_of(url: str) -> dict[str, Any]:
        models = [
            {
                "model_name": name,
                "litellm_params": {
                    "model": "openai/gpt-4o-mini",
                    "api_key": "none",
                    "mock_response": "litellm.InternalServerError" if name in broken else f"I am {name}",
                },
            }
            for name in (*names, "gpt-4o")
        ]
        code = block("In front of LiteLLM", "python")
        scope: dict[str, Any] = {"MODEL_LIST": models}
        exec(
            code.replace("http://localhost:8080", url).replace(
                "model_list=MODEL_LIST)", "model_list=MODEL_LIST, num_retries=0)"
            ),
            scope,
        )
        scopes.append(scope)
        return scope

    usual = scope_of(service.url)
    answer, decision = usual["completion"](MESSAGES, workflow="easy")
    assert answer.choices[0].message.content == f"I am {names[0]}"
    usual["judged"](decision, answer, 1.0)
    broken.add(names[0])
    answer, other = scope_of(service.url)["completion"](MESSAGES, workflow="easy")
    assert answer.choices[0].message.content == f"I am {names[1]}"
    usual["judged"](other, answer, 0.5)
    usual["judged"](None, answer, 0.5)
    away, nobody = scope_of("http://127.0.0.1:9")["completion"](MESSAGES)
    assert (away.choices[0].message.content, nobody) == ("I am gpt-4o", None)
    with pytest.raises(RouteRefusedError):
        usual["completion"](MESSAGES, privacy={"regions": ["moon"]})

    def told() -> list[tuple[str, str]]:
        with sqlite3.connect(service.store) as store:
            return store.execute("SELECT decision_id, candidate FROM feedback").fetchall()

    until(lambda: len(told()) == 2, "feedback is stored")
    for scope in scopes:
        scope["router"].close()
    assert set(told()) == {(decision, names[0]), (other, names[1])}


@pytest.fixture
def gateway() -> Iterator[str]:
    """An endpoint in OpenAI's shape, which says in its answer which model was asked for."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            said = {"role": "assistant", "content": f"I am {asked['model']}"}
            choice = {"index": 0, "message": said, "finish_reason": "stop"}
            body = {"id": "1", "object": "chat.completion", "created": 1, "model": asked["model"], "choices": [choice]}
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_in_front_of_an_openai_client(service: Attacked, gateway: str) -> None:
    code = block("In front of an OpenAI client", "python")
    expected = service.route(messages=MESSAGES)["model"]
    for router, model in ((service.url, expected), ("http://127.0.0.1:9", "gpt-4o")):
        scope: dict[str, Any] = {"GATEWAY": gateway, "KEY": "none", "ROUTER": router}
        exec(code, scope)
        assert scope["chat"](MESSAGES).choices[0].message.content == f"I am {model}"
        scope["client"].close()
        scope["router"].close()


def environment_of(unit: str) -> dict[str, str]:
    return dict(
        line.removeprefix("Environment=").split("=", 1) for line in unit.splitlines() if line.startswith("Environment=")
    )


def test_the_unit_of_systemd(tmp_path: Path) -> None:
    """systemd reads it without a complaint; the commands and the settings are ours."""
    unit = block("systemd", "ini")
    started = re.findall(r"^ExecStart(?:Pre)?=(\S+)(.*)$", unit, flags=re.MULTILINE)
    assert [rest.strip() for _, rest in started] == ["check", ""]
    assert {name.removeprefix("ROUTER_").lower() for name in environment_of(unit)} <= set(Settings.model_fields)
    if (analyze := shutil.which("systemd-analyze")) is None:
        pytest.skip("there is no systemd-analyze here")
    program = tmp_path / "router-serve"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    path = tmp_path / "outcome-router.service"
    path.write_text(unit.replace("/opt/router/bin/router-serve", str(program)), encoding="utf-8")
    done = subprocess.run([analyze, "verify", "--man=no", str(path)], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "outcome-router" in line]
    assert (done.returncode, said) == (0, [])


def test_what_the_unit_runs_first_says_that_it_is_ready(tmp_path: Path) -> None:
    """`router-serve check` with the unit's settings, its folders in this one."""
    (tmp_path / "models").mkdir()
    fake_bundle.build(tmp_path / "models")
    environment = environment_of(block("systemd", "ini"))
    environment |= {
        "ROUTER_BUNDLE": str(tmp_path / "models" / "current"),
        "ROUTER_STORE": str(tmp_path / "decisions.db"),
    }
    done = subprocess.run(
        [sys.executable, "-c", "from serving.cli import main; main()", "check"],
        cwd=tmp_path, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ready to serve"


def test_upgrading_checks_the_bundle_first(tmp_path: Path) -> None:
    """What is typed after the installation; a bundle of another format is among the cases of docs/errors.md."""
    (tmp_path / "models").mkdir()
    fake_bundle.build(tmp_path / "models")
    installed, checked = (shlex.split(line) for line in block("Upgrading", "sh").splitlines())
    assert installed[:3] == ["pip", "install", "--upgrade"]
    done = subprocess.run(
        [sys.executable, "-c", "from serving.cli import main; main()", *checked[1:]],
        cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_prometheus_fires_them(tmp_path: Path) -> None:
    """Its own tool reads the rules, and fires each on a series that has what it is about, and none on a healthy one."""
    ill = {
        "RouterIsAway": {'up{job="outcome-router"}': "0+0x120"},
        "RouterAnswersByReference": {
            'router_decisions_total{reason="timeout"}': "0+5x120",
            'router_decisions_total{reason="best_value"}': "0+95x120",
        },
        "RouterRefuses": {
            "router_problems_total": "0+20x120",  # and no decision at all
        },
        "RouterLosesDecisions": {"router_store_dropped_decisions": "0+1x120"},
        "RouterBudgetsUnconfirmed": {"router_budget_unconfirmed": "0+1x120"},
        "RouterBudgetNearlySpent": {"router_budget_left_usd": "4+0x120"},
        "RouterRulesRefused": {"router_rules_refused": "1+0x120"},
        "RouterBundleRefused": {"router_bundle_refusals": "0+1x120"},
        "RouterTrafficHasChanged": {"router_novel_share": "0.2+0x120"},
        "CallsGoUnrouted": {"router_litellm_failed_open_total": "0+1x120"},  # and no decision at all
    }
    healthy = {
        'up{job="outcome-router"}': "1+0x120",
        'router_decisions_total{reason="best_value"}': "0+100x120",
        'router_decisions_total{reason="timeout"}': "0+1x120",
        "router_problems_total": "0+1x120",
        "router_store_dropped_decisions": "0+0x120",
        "router_budget_left_usd": "50+0x120",
        "router_rules_refused": "0+0x120",
        "router_novel_share": "0.01+0x120",
        "router_litellm_failed_open_total": "0+1x120",
        "router_litellm_decisions_total": "0+100x120",
    }
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    promtool.each_alert_fires(tmp_path, groups, ill, healthy, {"RouterIsAway": {"job": "outcome-router"}})


def test_the_picture_for_a_slide(trained: Trained, tmp_path: Path) -> None:
    words = shlex.split(block("The picture for a slide", "sh"))
    (tmp_path / "models").symlink_to(trained.models)
    done = router_train_here(*words[1:], folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "frontier.png").read_bytes().startswith(b"\x89PNG")
