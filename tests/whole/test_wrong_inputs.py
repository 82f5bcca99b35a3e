"""docs/errors.md: what a new user gets wrong, and the exact message that each mistake gets."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.integrations.langfuse import langfuse_sink_of
from serving.integrations.litellm.rows import unmapped
from serving.integrations.litellm.settings import LiteLLMSettings, StartError, settings_of_environment
from serving.integrations.litellm.standing import strange_groups
from serving.settings import LangfuseSettings, Settings
from serving.state.rulebook import digest_of
from tests import fake_bundle
from tests.conftest import ROOT, router_train_here
from tests.serving.bundle.test_manifest import edit_manifest
from training.replay.pairs import Pair, PlanFile, PlanHeader, write_plan

PAGE = ROOT / "docs" / "errors.md"
ROW = re.compile(r"^\| (?P<what>[^|]+) \| `(?P<said>.+)` \|$", re.MULTILINE)
Case = Callable[[Path], str]
CASES: dict[str, Case] = {}


def case(what: str) -> Callable[[Case], Case]:
    def added(made: Case) -> Case:
        CASES[what] = made
        return made

    return added


def checked(folder: Path, *arguments: str, bundle: str = "models/current") -> str:
    """What `router-serve check` says on standard error, in this folder, where there is a bundle."""
    said = subprocess.run(
        [sys.executable, "-c", "from serving.cli import main; main()", "check", "--bundle", bundle, *arguments],
        cwd=folder, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )  # fmt: skip
    assert said.returncode == 2, said.stdout + said.stderr
    return said.stderr


def ruled(folder: Path, rules: str) -> str:
    (folder / "policies.toml").write_text(rules, encoding="utf-8")
    return checked(folder, "--policies", "policies.toml")


def asked(folder: Path, body: bytes, key: str | None = None, rules: str = "") -> str:
    """The problem document's detail."""
    given: dict[str, Any] = {}
    if rules:
        (folder / "policies.toml").write_text(rules, encoding="utf-8")
        given["policies"] = folder / "policies.toml"
    settings = Settings(bundle=str(folder / "models" / "current"), store=None, **given)
    with TestClient(create_app(settings)) as client:
        answer = client.post("/v1/route", content=body, headers={"authorization": f"Bearer {key}"} if key else {})
    assert answer.status_code >= 400
    return f"{answer.status_code}: {answer.json()['detail']}"


def trained(folder: Path, rows: list[dict[str, Any]], *options: str) -> str:
    pd.DataFrame(rows).to_csv(folder / "log.csv", index=False)
    done = router_train_here("run", "--data", "log.csv", "--no-track", *options, folder=folder)
    assert done.returncode == 2, done.stdout
    return done.stderr


def rows(n: int = 40, **other: Any) -> list[dict[str, Any]]:
    """Requests of two candidates, each tried on all, with costs."""
    return [
        {
            "request_id": f"r{k}",
            "prompt": f"prompt {k}",
            "candidate": name,
            "quality": float(k % 3 > 0),
            "cost_usd": 0.01,
        }
        | {field: value(k) if callable(value) else value for field, value in other.items()}
        for k in range(n)
        for name in ("a", "b")
    ]


KEY = f'[keys.app]\nsha256 = "{digest_of("secret")}"\n'

case("a rule file that is no TOML")(lambda folder: ruled(folder, "[default\n"))
case("a misspelt field of it")(lambda folder: ruled(folder, "[default]\nmax_cost = 1\n"))
case("an API key in clear in it")(lambda folder: ruled(folder, '[keys.app]\nsha256 = "my-own-key"\n'))
case("an unknown LLM in its `allow`")(lambda folder: ruled(folder, '[default]\nallow = ["gpt-*"]\n'))
case("`also` without its cap")(lambda folder: ruled(folder, "[also]\nshare = 0.1\n"))
case("a request without a key")(lambda folder: asked(folder, b'{"prompt": "hello"}', rules=KEY))
case("one with a wrong key")(lambda folder: asked(folder, b'{"prompt": "hello"}', key="wrong", rules=KEY))
case("an empty body")(lambda folder: asked(folder, b""))
case("`promt` for `prompt`")(lambda folder: asked(folder, b'{"promt": "hello"}'))
case("no bundle")(lambda folder: checked(folder, bundle="elsewhere"))
case("a bundle's folder, misspelt")(lambda folder: checked(folder, bundle="models/curent"))
case("the folder of all bundles")(lambda folder: checked(folder, bundle="models"))


@case("a bundle's file that was changed")
def _(folder: Path) -> str:
    (folder / "models" / "current" / "head.onnx").write_bytes(b"changed")
    return checked(folder)


@case("a bundle of an older version")
def _(folder: Path) -> str:
    edit_manifest(folder / "models" / "current", lambda manifest: manifest.update(format_version=1))
    return checked(folder)


case("a folder as store")(lambda folder: checked(folder, "--store", "models"))
case("a store where none can be")(
    lambda folder: checked(folder, "--store", "models/current/manifest.json/decisions.db")
)


@case("a ROUTER_REDIS that is no Redis's URL")
def _(folder: Path) -> str:
    said = subprocess.run(
        [sys.executable, "-c", "from serving.cli import main; main()", "--bundle", "models/current", "--store", ""],
        cwd=folder, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "", "ROUTER_REDIS": "localhost:6379"},
    )  # fmt: skip
    assert said.returncode == 2, said.stdout + said.stderr
    return said.stderr


@case("a port that is in use")
def _(folder: Path) -> str:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = subprocess.run(
            [sys.executable, "-c", "from serving.cli import main; main()", "--bundle", "models/current", "--store", "",
             "--port", str(port)],
            cwd=folder, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "PATH": ""},
        )  # fmt: skip
    assert said.returncode != 0
    line = next(line for line in said.stderr.splitlines() if "address already in use" in line)
    return str(json.loads(line)["message"]).replace(str(port), "8080")


@case("an older Python")
def _(_: Path) -> str:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.search(r"\$\(PYTHON\) -c '(.+)'", makefile)
    assert found is not None
    old = SimpleNamespace(version_info=(3, 9), executable="/usr/bin/python3", exit=lambda said: said)
    said: list[str] = []
    old.exit = said.append
    exec(found[1].replace("import sys; ", ""), {"sys": old, "f": None})
    return said[0]


case("grades of 1 to 5")(lambda folder: trained(folder, rows(quality=lambda k: 1 + k % 5)))
case("an unknown status")(lambda folder: trained(folder, rows(status="fine")))
case("a field that is not there, mapped")(lambda folder: trained(folder, rows(), "--map", "quality=grade"))
case("a misspelt column, mapped")(lambda folder: trained(folder, rows(), "--map", "qualty=quality"))
case("a log of one LLM")(lambda folder: trained(folder, [row for row in rows() if row["candidate"] == "a"]))
case("a log without quality")(lambda folder: trained(folder, [{**row, "quality": None} for row in rows()]))


@case("an empty log")
def _(folder: Path) -> str:
    (folder / "log.csv").write_text("", encoding="utf-8")
    done = router_train_here("run", "--data", "log.csv", folder=folder)
    assert done.returncode == 2
    return done.stderr


def on_a_store(folder: Path, *words: str) -> str:
    done = router_train_here(*words, folder=folder)
    assert done.returncode == 2, done.stdout
    return done.stderr


case("a log on an object store, with a key in its URL")(
    lambda folder: on_a_store(folder, "inspect", "--data", "s3://AKIA0123:SEC/RET@logs/2026")
)
case("bundles onto an object store")(
    lambda folder: on_a_store(folder, "run", "--data", "log.csv", "--out", "s3://bucket/models")
)
case("a URL of a kind that is not read")(
    lambda folder: on_a_store(folder, "inspect", "--data", "azure://container/logs")
)


@case("a table with other columns")
def _(folder: Path) -> str:
    pd.DataFrame([{"question": "q", "llm": "a", "grade": 4, "usd": 0.1}]).to_csv(folder / "log.csv", index=False)
    done = router_train_here("run", "--data", "log.csv", folder=folder)
    assert done.returncode == 2
    return done.stderr.partition(" Formats:")[0]


def replayed(folder: Path, *options: str, more: str = "") -> str:
    """What `router-train replay` says of a plan of one pair."""
    pair = Pair("r1", "my-llm", "learn", 1.0, 0.01, "What is the plural of index?", None, {}, None, None, None)
    write_plan(folder / "plan.jsonl", PlanFile(PlanHeader("a fingerprint", 0, 1.0, "my-llm"), (pair,)))
    with (folder / "plan.jsonl").open("a", encoding="utf-8") as file:
        file.write(more)
    done = router_train_here("replay", "--plan", "plan.jsonl", "--out", "replayed", *options, folder=folder)
    assert done.returncode == 2, done.stdout
    return done.stderr


@case("a candidate that nothing can be bought of")
def _(folder: Path) -> str:
    return replayed(folder)


@case("a key in clear in LiteLLM's configuration")
def _(folder: Path) -> str:
    entry = "{model_name: my-llm, litellm_params: {model: openai/x, api_key: sk-1234567890}}"
    (folder / "config.yaml").write_text(f"model_list: [{entry}]\n", encoding="utf-8")
    return replayed(folder, "--litellm-config", "config.yaml")


@case("a row of LiteLLM's model list that names no candidate")
def _(folder: Path) -> str:
    names = [fake_bundle.SMALL, fake_bundle.OPEN, "0f3a"]
    rows = [{"litellm_params": {"model": "openai/gpt-4o"}, "model_info": {"id": name}} for name in names]
    return unmapped("outcome-router/auto", rows, {one.name: one for one in fake_bundle.CANDIDATES}) or ""


@case("a line of a plan that is no pair")
def _(folder: Path) -> str:
    return replayed(folder, more='{"request_id": "r2", "candidate": "my-llm", "purpose": "fun"}\n')


@case("a plan read as a log")
def _(folder: Path) -> str:
    replayed(folder)
    done = router_train_here("inspect", "--data", "plan.jsonl", folder=folder)
    assert done.returncode == 2, done.stdout
    return done.stderr


@case("one of the router's own scores as quality")
def _(folder: Path) -> str:
    pd.DataFrame({"request_id": ["r"], "prompt": ["p"], "candidate": ["a"], "quality": [1.0]}).to_csv(
        folder / "log.csv"
    )
    (folder / "s.csv").write_text("request_id,name,value\nr,router_confidence,0.9\n", encoding="utf-8")
    options = ("--data", "log.csv", "--scores", "s.csv", "--score-name", "router_confidence")
    done = router_train_here("inspect", *options, folder=folder)
    assert done.returncode == 2, done.stdout
    return done.stderr


@case("writing to Langfuse without its keys")
def _(folder: Path) -> str:
    with pytest.raises(ValueError, match="is on and") as raised:
        langfuse_sink_of(LangfuseSettings(write_back=True, public_key=None, secret_key=None))
    return str(raised.value)


def plugged(name: str, value: str) -> str:
    """What LiteLLM's plug-in says of this variable at its start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, value)
        with pytest.raises(StartError) as raised:
            settings_of_environment()
    return str(raised.value)


case("a misspelt setting of LiteLLM's plug-in")(lambda _: plugged("ROUTER_LITELM_SHARE", "0"))
case("a share of the plug-in in percent")(lambda _: plugged("ROUTER_LITELLM_SHARE", "10"))


def strange(settings: LiteLLMSettings) -> str:
    """What the plug-in says at the first call, of LiteLLM's model groups prod-chat and outcome-router/auto."""
    (said,) = strange_groups(settings, SimpleNamespace(model_names=["prod-chat", "outcome-router/auto"]))
    return said


case("a group of LiteLLM's plug-in that LiteLLM has not")(lambda _: strange(LiteLLMSettings(groups=("prod-caht",))))
case("the candidates' group, misspelt")(lambda _: strange(LiteLLMSettings(group="outcome-router/atuo")))


@case("a gateway's name for a candidate, as one without a price")
def _(folder: Path) -> str:
    found = rows()
    for one in found:
        if one["candidate"] == "b":
            one |= {"candidate": "chat", "cost_usd": None}
    return trained(folder, found)


STAGE = re.compile(r"at +\d+\.\d s: ")  # what is told while something runs


def said_in(folder: Path, what: str) -> str:
    """The message that a mistake gets, in one line."""
    fake_bundle.build(folder / "models")
    with chdir(folder):
        lines = CASES[what](folder).splitlines()
    said = " ".join(" ".join(line for line in lines if not STAGE.match(line)).split()).replace(
        f"{folder.resolve()}/", ""
    )
    said = re.sub(r"\b[0-9a-f]{12}…", "…", said)
    return said.removeprefix("error: ").removeprefix("router-serve: ").replace("|", "/").replace("`", "'").strip()


def documented() -> dict[str, str]:
    return {row["what"]: row["said"] for row in ROW.finditer(PAGE.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("what", CASES)
def test_a_mistake_gets_the_message_that_is_documented(what: str, tmp_path: Path) -> None:
    assert said_in(tmp_path, what) == documented()[what]


def test_the_page_has_nothing_else() -> None:
    assert list(documented()) == list(CASES)
    assert len(CASES) >= 20
