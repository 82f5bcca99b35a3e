"""`router-train replay` as its user meets it: what it prints and refuses, and that its end, however early, loses nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.conftest import ROOT
from tests.patience import PATIENCE, until
from tests.training.replay.commands import Warm, warm
from tests.training.replay.provider import Provider, Said, completion, serving
from tests.training.replay.test_buying import PAID, pair
from training.cli import show
from training.cli.main import app
from training.logs.sources import reading
from training.replay.ledger import Ledger
from training.replay.pairs import Pair, PlanFile, PlanHeader, write_plan

PRICES = ["--price", "small=1:10", "--price", "large=1:10"]
SMALL = "model_list:\n- model_name: small\n  litellm_params: "
SECRET = "sk-loopback-5d1c7e0a9b"


def plan(folder: Path, pairs: Sequence[Pair], budget: float = 1.0) -> Path:
    path = folder / "plan.jsonl"
    write_plan(path, PlanFile(PlanHeader("a fingerprint", 0, budget, "large"), tuple(pairs)))
    return path


def options(folder: Path, provider: Provider | None, *more: str) -> list[str]:
    place = [] if provider is None else ["--base-url", provider.url]
    given = ["--plan", str(folder / "plan.jsonl"), "--out", str(folder / "replayed")]
    return [*given, *place, "--set", "replay.wait_s=0.0", "--catalogue", str(catalogue(folder)), *more]


def catalogue(folder: Path, text: str = "") -> Path:
    path = folder / "candidates.toml"
    if text or not path.exists():
        path.write_text(text, encoding="utf-8")
    return path


def run(folder: Path, provider: Provider | None, *more: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["replay", *options(folder, provider, *more)])
    assert done.exit_code == code, (done.output, done.exception)
    return " ".join(done.output.split())


def rows(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "replayed" / "outcomes.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


BOTH = [pair(f"r{i}", name) for i in range(3) for name in ("small", "large")]


def test_a_plan_is_bought_and_is_read_as_a_log(tmp_path: Path) -> None:
    plan(tmp_path, BOTH)
    with serving() as provider:
        said = run(tmp_path, provider, *PRICES, "--check", "regex:r[01]$")
        again = run(tmp_path, provider, *PRICES)
    assert "6 answers bought, 0 bought before, 0 left by the budget or the end of the run, 0 in doubt, 0 failed" in said
    assert (
        f"These answers cost {6 * PAID:.6f} USD, 0.06 of the 0.006000 expected; {6 * PAID:.6f} of 1 USD are spent"
        in said
    )
    assert "checks regex:r[01]$: 4 passed, 2 failed" in said
    assert "0 answers bought, 6 bought before" in again
    assert "Nothing graded the answers: give --check" in again
    assert len(provider.bodies) == 6
    assert {row["request_id"]: row["quality"] for row in rows(tmp_path)} == {"r0": 1.0, "r1": 1.0, "r2": 0.0}
    (tmp_path / "plan.jsonl").rename(tmp_path / "replayed" / "plan.jsonl")  # nor is the plan an outcome
    read = reading.read([tmp_path / "replayed"])
    assert (len(read.frame), len(read.skipped), read.formats) == (6, 0, ("canonical",))
    assert read.frame["quality"].tolist().count(1.0) == 4
    with pytest.raises(reading.OutcomeError, match="is a plan of what to buy, not a log; router-train replay --plan"):
        reading.read([tmp_path / "replayed" / "plan.jsonl"])


def test_the_judge_and_scores_grade_what_was_bought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(tmp_path, [pair("r1"), pair("r2")])
    (tmp_path / "scores.csv").write_text("request_id,score\nr1,0.25\n", encoding="utf-8")
    with serving() as provider, serving(lambda n, body: Said(document=completion('{"score": 5}'))) as judge:
        monkeypatch.setenv("OPENAI_API_BASE", judge.url)
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        grading = ["--judge", "openai/judge", "--judge-price", "1:1", "--cache", str(tmp_path / "cache")]
        said = run(
            tmp_path,
            provider,
            *PRICES[:2],
            "--scores",
            str(tmp_path / "scores.csv"),
            *grading,
            "--judge-budget-usd",
            "1",
        )
        assert "judge openai/judge: 1 outcomes judged in 1 calls" in said
        assert len(judge.bodies) == 1
        refused = run(tmp_path, provider, *PRICES[:2], *grading, code=2)
    assert "--judge and --judge-budget-usd belong together" in refused
    assert {row["request_id"]: row["quality"] for row in rows(tmp_path)} == {"r1": 0.25, "r2": 1.0}


def test_a_dry_run_sends_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(tmp_path, [*BOTH, pair("r9", "gpt-4o-mini"), pair("r9", "nobody-knows")])
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(show.console, "width", 300)
    catalogue(
        tmp_path,
        '[[candidate]]\nname = "small"\n[candidate.replay]\napi_base = "http://127.0.0.1:9/v1"\nmodel = "openai/s"\n'
        'api_key_env = "SMALL_KEY"\n[[candidate]]\nname = "large"\n[candidate.replay]\napi_base = "http://127.0.0.1:9"\n',
    )
    monkeypatch.setenv("SMALL_KEY", SECRET)
    said = run(tmp_path, None, *PRICES, "--dry-run")
    for part in (
        "small 3 0.003000 0.06",
        "http://127.0.0.1:9/v1/chat/completions as s key of SMALL_KEY",
        "http://127.0.0.1:9/chat/completions as large no key",
        "LiteLLM as gpt-4o-mini no key: OPENAI_API_KEY not set",
        "nobody-knows 1 0.001000 not known no address: LiteLLM knows no provider of 'nobody-knows'",
        "all 8 0.008000 not known",
    ):
        assert part in said
    assert "The budget is 1 USD. Nothing was sent or written." in said
    assert SECRET not in said
    assert not (tmp_path / "replayed").exists()
    refused = run(tmp_path, None, *PRICES, code=2)
    assert (
        "cannot be asked: gpt-4o-mini (no key: OPENAI_API_KEY not set); nobody-knows (no address: LiteLLM knows no provider of "
        "'nobody-knows'). Every candidate needs an address"
    ) in refused
    assert not (tmp_path / "replayed").exists()


def test_candidates_are_asked_as_the_catalogue_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(tmp_path, [pair("r1"), pair("r1", "large")])
    monkeypatch.setenv("SMALL_KEY", SECRET)
    with serving() as provider:
        catalogue(
            tmp_path,
            f'[[candidate]]\nname = "small"\nmax_output_tokens = 7\n[candidate.replay]\napi_base = "{provider.url}"\n'
            'model = "openai/s"\napi_key_env = "SMALL_KEY"\nparallel = 2\nrpm = 6000\n'
            f'[[candidate]]\nname = "large"\n[candidate.replay]\napi_base = "{provider.url}/"\n',
        )
        run(tmp_path, None, *PRICES)
    asked = {
        body["model"]: (body["max_tokens"], key)
        for body, key in zip(provider.bodies, provider.authorizations, strict=True)
    }
    assert asked == {"s": (7, f"Bearer {SECRET}"), "large": (2048, "")}


def test_candidates_are_asked_as_litellms_proxy_asks_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(tmp_path, [pair("r1"), pair("r1", "large")])
    monkeypatch.setenv("SMALL_KEY", SECRET)
    config = tmp_path / "config.yaml"
    with serving() as provider:
        monkeypatch.setenv("BASE", provider.url)
        config.write_text(
            "model_list:\n- model_name: small\n  litellm_params: {model: openai/s, api_base: os.environ/BASE, "
            "api_key: os.environ/SMALL_KEY, rpm: 600, input_cost_per_token: 0.1}\n- model_name: large\n"
            f"  litellm_params: {{model: deepseek/large, api_base: '{provider.url}', api_key: os.environ/SMALL_KEY}}\n",
            encoding="utf-8",
        )
        run(tmp_path, None, *PRICES, "--litellm-config", str(config))
    assert sorted(body["model"] for body in provider.bodies) == ["large", "s"]
    assert provider.authorizations == [f"Bearer {SECRET}"] * 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (SMALL + f"{{model: openai/s, api_key: {SECRET}}}", "entry 1 (small): api_key stands in the file; expected api_key:"),
        (SMALL + "{model: openai/s, api_key: os.environ/NONE, api_base: 'http://h'}", "small (no key: NONE not set)"),
        (SMALL + "{model: openai/s, api_base: os.environ/NONE}", "small (api_base: NONE is not set)"),
        ("model_list: [1]", "model_list, entry 1: model_name, or model in litellm_params, is missing"),
        (f"a: {SECRET}: {SECRET}", "config.yaml: not valid YAML at line 1"),
        ("a: 1", "config.yaml: no model_list"),
        (SMALL + "{model: openai/s, rpm: 0}", "rpm: expected calls per minute"),
        (SMALL + "{model: openai/s, api_base: 5}", "api_base: expected a URL, or os.environ/NAME"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_used_is_said(text: str, said: str, tmp_path: Path) -> None:
    plan(tmp_path, [pair("r1")])
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    refused = run(tmp_path, None, *PRICES[:2], "--litellm-config", str(tmp_path / "config.yaml"), code=2)
    assert said in refused
    assert SECRET not in refused


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--base-url", "http://u:pw@h/v1", *PRICES[:2]], "small (its address holds a password"),
        (["--base-url", "ftp://h/v1", *PRICES[:2]], "small (its address does not begin with http:// or https://)"),
        (["--base-url", "http://h/v1"], "small (no price)"),
        (["--base-url", "http://h/v1", *PRICES[:2], "--api-key-env", "NONE"], "small (no key: NONE not set)"),
        (["--api-key-env", "NONE"], "--api-key-env is for --base-url"),
        (["--base-url", "http://h/v1", *PRICES], "--price large: is no candidate of the plan, which has small"),
        (["--price", "small"], "--price 'small': expected NAME=INPUT:OUTPUT"),
        (["--price", "small=1"], "--price small= '1': expected INPUT:OUTPUT in USD per million tokens"),
        (["--budget-usd", "0"], "--budget-usd 0: expected an amount of US dollars above 0"),
        (["--parallel", "0"], "replay.parallel is 0; it has to lie between 1"),
        (["--check", "fine"], "fine"),
        (["--litellm-config", "nowhere.yaml"], "nowhere.yaml: cannot be read (FileNotFoundError)"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_said_before_anything_is_spent(more: list[str], said: str, tmp_path: Path) -> None:
    plan(tmp_path, [pair("r1")])
    assert said in run(tmp_path, None, *more, code=2)
    assert not (tmp_path / "replayed").exists()


@pytest.mark.parametrize("table", [f'api_key = "{SECRET}"', f'rpm = "{SECRET}"'])
def test_a_key_in_the_catalogue_is_refused_and_not_shown(table: str, tmp_path: Path) -> None:
    plan(tmp_path, [pair("r1")])
    catalogue(tmp_path, f'[[candidate]]\nname = "small"\n[candidate.replay]\n{table}\n')
    refused = run(tmp_path, None, *PRICES[:2], code=2)
    assert "expected a table [candidate.replay] of model, api_base, api_key_env" in refused
    assert SECRET not in refused


def test_a_key_with_a_line_end_is_refused_and_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan(tmp_path, [pair("r1")])
    monkeypatch.setenv("SMALL_KEY", f"{SECRET}\n")
    refused = run(tmp_path, None, *PRICES[:2], "--base-url", "http://h/v1", "--api-key-env", "SMALL_KEY", code=2)
    assert "small (SMALL_KEY holds no key: spaces, line ends or characters that no key has)" in refused
    assert SECRET not in refused


def test_outcomes_that_no_replay_wrote_are_left_alone(tmp_path: Path) -> None:
    plan(tmp_path, [pair("r1")])
    (tmp_path / "replayed").mkdir()
    (tmp_path / "replayed" / "outcomes.jsonl").write_text("mine", encoding="utf-8")
    with serving() as provider:
        assert "outcomes.jsonl is there, and no replay wrote it" in run(tmp_path, provider, *PRICES[:2], code=2)
    assert (tmp_path / "replayed" / "outcomes.jsonl").read_text(encoding="utf-8") == "mine"
    assert provider.bodies == []


def test_a_plan_without_pairs_and_a_server_that_refuses_all_are_said(tmp_path: Path) -> None:
    plan(tmp_path, [])
    assert "lists no pair" in run(tmp_path, None, code=2)
    plan(tmp_path, [pair("r1"), pair("r2")])
    with serving(lambda n, body: Said(403)) as provider:
        said = run(tmp_path, provider, *PRICES[:2], "--parallel", "1", code=2)
    assert "small HTTP 403 1 small not asked any more: HTTP 403 1" in said
    assert "no answer at all was bought" in said
    assert not (tmp_path / "replayed" / "outcomes.jsonl").exists()


def bought(folder: Path) -> tuple[set[tuple[str, str]], set[tuple[str, str]], float]:
    """The pairs that have an answer, those in doubt, and what is counted as spent, by the ledger."""
    with closing(Ledger(folder / "replayed")) as ledger:
        return set(ledger.answered()), ledger.in_doubt(), ledger.spent


@dataclass
class Killing:
    """Lets so many requests be answered; the others wait until the process that asked is killed, and are billed then."""

    warm: Warm
    usage: Any = None
    goal: int = 0
    killed: threading.Event = field(default_factory=threading.Event)

    def behave(self, number: int, body: dict[str, Any]) -> Said:
        document = None if self.usage is None else completion(usage=self.usage)
        return Said(document=document, wait=None if number <= self.goal else self.killed)

    def after(self, answers: int, provider: Provider, arguments: list[str], log: Path) -> None:
        """kill -9 once so many more requests were let through and a further one waits."""
        self.goal, self.killed = len(provider.bodies) + answers, threading.Event()
        self.warm.start(arguments, log)
        until(lambda: len(provider.bodies) > self.goal or not self.warm.alive(), "requests beyond the goal")
        assert self.warm.kill() == -signal.SIGKILL, log.read_text()
        self.killed.set()

    def never(self, arguments: list[str], log: Path) -> None:
        """A run to the end."""
        self.goal = 10**9
        self.warm.start(arguments, log)
        assert self.warm.ended() == 0, log.read_text()


@pytest.mark.parametrize("idempotent", [False, True])
def test_killed_ten_times_it_pays_for_nothing_twice_and_loses_nothing(idempotent: bool, tmp_path: Path) -> None:
    asked = [pair(f"r{i}", name) for i in range(70) for name in ("small", "large")]
    plan(tmp_path, asked, budget=2.0)
    dice = random.Random(7 + idempotent)
    with warm() as process, serving(dedupe=idempotent) as provider:
        killing = Killing(process)
        provider.behave = killing.behave
        more = ["--idempotent"] if idempotent else []
        arguments = options(tmp_path, provider, *PRICES, "--parallel", "4", *more)
        for _ in range(10):
            killing.after(dice.randrange(1, 6), provider, arguments, tmp_path / "log")
        killing.never(arguments, tmp_path / "log")
        answered, in_doubt, spent = bought(tmp_path)
        until(lambda: len(provider.bill) >= len(answered), "the bill")
    names = {(one.candidate, str(one.prompt)): (one.request_id, one.candidate) for one in asked}
    billed = Counter(names[name] for name in provider.bill)
    assert set(billed.values()) == {1}  # by the server's own bill
    assert {names[name] for name in provider.sent} <= answered | in_doubt
    assert {(row["request_id"], row["candidate"]) for row in rows(tmp_path)} == answered
    assert answered | in_doubt == set(names.values())
    assert len(provider.bill) * PAID <= spent + 1e-12
    assert spent <= 2.0
    if idempotent:
        assert in_doubt == set()
        assert spent == pytest.approx(len(provider.bill) * PAID)
    else:
        assert in_doubt


def test_killed_and_capped_the_bill_stays_below_the_budget(tmp_path: Path) -> None:
    plan(tmp_path, [pair(f"r{i}") for i in range(60)], budget=0.05)
    dear = {"prompt_tokens": 100, "completion_tokens": 100, "total_tokens": 200}
    with warm() as process, serving() as provider:
        killing = Killing(process, dear)
        provider.behave = killing.behave
        arguments = options(tmp_path, provider, *PRICES[:2], "--parallel", "4", "--max-output-tokens", "100")
        for _ in range(3):
            killing.after(2, provider, arguments, tmp_path / "log")
        killing.never(arguments, tmp_path / "log")
    answered, in_doubt, spent = bought(tmp_path)
    assert len(provider.bill) * (100 + 1000) / 1e6 <= spent <= 0.05
    assert answered
    assert in_doubt
    assert len(answered) + len(in_doubt) < 60


def command(folder: Path, provider: Provider, *more: str, **environment: str) -> subprocess.Popen[str]:
    """The command as a user starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "training.cli", "replay", *options(folder, provider, *more)],
        cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_ctrl_c_finishes_what_is_under_way_and_a_second_process_is_refused(tmp_path: Path) -> None:
    plan(tmp_path, [pair(f"r{i}") for i in range(9)])
    gate = threading.Event()
    with serving(lambda n, body: Said(wait=gate if n > 2 else None)) as provider:
        first = command(tmp_path, provider, *PRICES[:2], "--parallel", "2")
        until(lambda: len(provider.bodies) == 4, "two calls under way")
        refused = run(tmp_path, provider, *PRICES[:2], code=2)
        assert "another replay is buying into this folder; expected one at a time" in refused
        first.send_signal(signal.SIGINT)
        assert first.stderr is not None
        until(lambda: "Stopping: calls under way are finished first." in first.stderr.readline(), "what it says to it")
        gate.set()
        said, told = first.communicate(timeout=PATIENCE)
        assert (first.returncode, len(provider.bodies)) == (130, 4), said + told
        assert "4 answers bought, 0 bought before, 5 left" in said
        assert "The same command goes on where this one was" in said
        assert len(rows(tmp_path)) == 4
        assert "5 answers bought, 4 bought before" in run(tmp_path, provider, *PRICES[:2])
    assert len(provider.bill) == 9


def test_a_second_ctrl_c_ends_it_at_once(tmp_path: Path) -> None:
    plan(tmp_path, [pair(f"r{i}") for i in range(3)])
    gate = threading.Event()
    with serving(lambda n, body: Said(wait=gate)) as provider:
        process = command(tmp_path, provider, *PRICES[:2], "--parallel", "1")
        until(lambda: provider.bodies, "a call under way")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        until(lambda: "Stopping" in process.stderr.readline(), "the first one")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
        gate.set()
    assert process.returncode == 130
    assert bought(tmp_path)[:2] == (set(), {("r0", "small")})


def test_a_key_is_nowhere(tmp_path: Path) -> None:
    """The provider echoes the Authorization header in its errors."""
    plan(tmp_path, [pair(f"r{i}", name) for i in range(3) for name in ("small", "large")])
    gate = threading.Event()

    def behave(number: int, body: dict[str, Any]) -> Said:
        if number == 1:
            return Said(wait=gate)
        status = {"r1": 500, "r2": 400}.get(body["messages"][0]["content"][-2:], 200)
        return Said(status, document=completion(f"your key is {SECRET}"))

    with serving(behave) as provider:
        config = tmp_path / "config.yaml"
        place = f"api_base: '{provider.url}', api_key: os.environ/LOOPBACK_KEY"
        config.write_text(
            f"model_list:\n- {{model_name: small, litellm_params: {{model: openai/s, {place}}}}}\n"
            f"- {{model_name: large, litellm_params: {{model: deepseek/l, {place}}}}}\n",
            encoding="utf-8",
        )
        given = options(tmp_path, None, *PRICES, "--litellm-config", str(config), "--parallel", "1")
        process = subprocess.Popen(
            [sys.executable, "-m", "training.cli", "replay", *given], cwd=ROOT, text=True,
            env={**os.environ, "LOOPBACK_KEY": SECRET, "LITELLM_LOG": "DEBUG"}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        until(lambda: provider.bodies or process.poll() is not None, "a call under way")
        seen = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        gate.set()
        said, told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said + told
    assert set(provider.authorizations) == {f"Bearer {SECRET}"}
    assert b"replay" in seen
    assert "HTTP 500" in said
    files = [path for path in (tmp_path / "replayed").rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"_ledger.sqlite", "outcomes.jsonl"}
    for content in (seen, said.encode(), told.encode(), *(path.read_bytes() for path in files)):
        assert SECRET.encode() not in content
    assert all(path.name.startswith("_") or path.name == "outcomes.jsonl" for path in files)


def test_the_first_replay_of_a_pair_counts(tmp_path: Path) -> None:
    """A further plan in the same folder adds to it, and what it lists again is not bought again."""
    plan(tmp_path, [pair("r1")])
    with serving() as provider:
        run(tmp_path, provider, *PRICES[:2])
        plan(tmp_path, [replace(pair("r1"), propensity=0.1), pair("r2")])
        said = run(tmp_path, provider, *PRICES[:2])
    assert "1 answers bought, 1 bought before" in said
    assert [(row["request_id"], row["propensity"]) for row in rows(tmp_path)] == [("r1", 0.5), ("r2", 0.5)]
