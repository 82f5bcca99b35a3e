"""No artefact of a training run holds text of the log, and what is masked is masked before anything is kept."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from typer.testing import CliRunner

from training.cli.main import app
from training.logs.dataset import ImportAccount, store
from training.logs.redact import STAND_INS, Redactor

CANARY = "zyxcanary"
EMAIL, PHONE, CARD = "jane.canary@corp.example.org", "(415) 555-2671", "4111 1111 1111 1111"
KEY, GITHUB = "sk-ant-api03-abcdefghijklmnop1234567890", "ghp_" + "a1B2" * 9


def log(path: Path) -> Path:
    """120 requests, each tried with two LLMs, with a canary in everything that a person wrote; and damaged rows."""
    draw = random.Random(0)
    rows: list[dict[str, Any]] = []
    for number in range(120):
        text = f"{CANARY} question {number} of {EMAIL}, {PHONE}, {KEY}: {' '.join(draw.choices(['sum', 'list', 'why'], k=9))}"
        asked = [{"role": "system", "content": f"{CANARY} system"}, {"role": "user", "content": text}]
        said = {"messages": asked} if number % 3 == 0 else {"prompt": text}
        for candidate, price in (("small", 0.001), ("large", 0.01)):
            quality = float(draw.random() < (0.9 if candidate == "large" else 0.6))
            common = {"request_id": f"r{number}", "candidate": candidate, "response": f"{CANARY} answer"}
            rows.append({**common, **said, "quality": quality, "cost_usd": price, "session_id": f"{CANARY}-s{number}"})
    rows.append({"request_id": "bad", "prompt": "x", "candidate": "small", "quality": f"{CANARY} in the wrong column"})
    rows.append({"request_id": "bad", "prompt": f"{CANARY}", "candidate": "small", "cost_usd": -1})
    rows.append({"request_id": "bad", "prompt": "x", "candidate": "small", "timestamp": EMAIL})
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows) + f'{{"prompt": "{CANARY}'.encode())
    return path


def train(folder: Path, *arguments: str) -> str:
    done = CliRunner().invoke(
        app,
        ["run", "--data", str(log(folder / "log.jsonl")), "--out", str(folder / "models"),
         "--set", f"tracking.uri=sqlite:///{folder}/tracked/mlflow.db", "--set", f"tracking.artifacts={folder}/mlruns",
         "--set", 'fit.estimators=["ridge"]', "--set", "evaluate.resamples=50", *arguments],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    return done.output


def holding(folder: Path, *words: str) -> set[str]:
    """The files in which one of the words stands, as bytes of the file or as a cell of a database or of Parquet."""
    found = set()
    for path in folder.rglob("*"):
        if not path.is_file() or path.name == "log.jsonl":
            continue
        held = path.read_bytes()
        if path.suffix == ".parquet":
            held += pd.read_parquet(path).to_csv().encode()
        if held.startswith(b"SQLite format 3"):
            with closing(sqlite3.connect(path)) as database:
                held += "\n".join(database.iterdump()).encode()
        if any(word.encode() in held for word in words):
            found.add(path.name)
    return found


def test_no_artefact_holds_text(tmp_path: Path, cache: Path) -> None:
    output = train(tmp_path, "--cache", str(cache))
    written = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert {".onnx", ".html", ".db", ".sqlite", ".csv"} <= written
    assert holding(tmp_path, CANARY, EMAIL, PHONE, KEY) == set()
    assert CANARY not in output
    assert holding(tmp_path, "small"), "the search itself finds what is there"


def test_kept_text_is_where_it_was_asked_for_and_masked_if_that_was(tmp_path: Path, cache: Path) -> None:
    train(tmp_path, "--keep-text", "--redact", "--cache", str(cache))
    assert holding(tmp_path, CANARY) == {"test_requests.csv", "neighbours_texts.json"}
    assert holding(tmp_path, EMAIL, PHONE, KEY) == set()


@pytest.mark.parametrize(
    ("text", "kind", "rest"),
    [
        (f"mail {EMAIL} now", "e-mail", "mail {} now"),
        (f"call {PHONE}, please", "phone", "call {}, please"),
        ("ring +49 30 901820.", "phone", "ring {}."),
        (f"card {CARD} 12/26", "card", "card {} 12/26"),
        (f"card {CARD.replace(' ', '')}.", "card", "card {}."),
        (f"use {KEY} here", "key", "use {} here"),
        (f"use {GITHUB} here", "key", "use {} here"),
        ("a\n-----BEGIN RSA PRIVATE KEY-----\nMIIx\n-----END RSA PRIVATE KEY-----\nb", "key", "a\n-----{}\nb"),
    ],
)
def test_what_is_found_is_masked_and_a_stand_in_stays(text: str, kind: str, rest: str) -> None:
    redactor = Redactor()
    masked = redactor.text(text)
    assert masked == rest.format(STAND_INS[kind])
    assert redactor.counts == {kind: 1}
    assert redactor.text(masked) == masked


@pytest.mark.parametrize(
    "text",
    ["", "order 1735787045 of 2026-01-02", "3.14159265358979", "a @ b", "1234 5678 9012 3456", "sk-ill and task-s"],
)
def test_what_is_nobodys_stays(text: str) -> None:
    assert Redactor().text(text) == text


def test_the_import_command_masks_prompts_and_answers(tmp_path: Path) -> None:
    common = {"prompt": f"write to {EMAIL}", "candidate": "a", "session_id": EMAIL}
    rows = [{"request_id": f"r{n}", "answer": f"{EMAIL} {n}", **common} for n in range(3)]
    (tmp_path / "log.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    for name, options, masked in (("plain", [], 6), ("checked", ["--check", "answered"], 9)):
        out = tmp_path / name
        arguments = [
            "import",
            "--data",
            str(tmp_path / "log.jsonl"),
            "--out",
            str(out),
            "--redact",
            *options,
        ]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert f"masked: {masked} e-mail" in done.output
        assert orjson.loads((out / "_account.json").read_bytes())["redacted"] == {"e-mail": masked}
        assert holding(out, EMAIL) == set()


def test_an_import_is_masked_and_its_identifiers_still_group(tmp_path: Path) -> None:
    from training.logs.validate import validate

    talk = [{"role": "user", "content": [{"type": "text", "text": f"I am {EMAIL}"}], "name": EMAIL}]
    rows = [
        {"request_id": "1", "messages": talk, "candidate": "a", "session_id": EMAIL, "workflow": "w"},
        {"request_id": "2", "prompt": f"pay with {CARD}", "candidate": "a", "session_id": EMAIL, "status": "odd"},
        {"request_id": "3", "prompt": f"pay with {CARD}", "candidate": "a", "session_id": EMAIL},
    ]
    redactor = Redactor()
    part = redactor.outcomes(validate(pd.DataFrame(rows), source="s", format="f"))
    store([part], tmp_path / "out", ImportAccount(["s"]))
    assert holding(tmp_path, EMAIL, CARD) == set()
    assert part.frame["session_id"].nunique() == 1
    assert part.frame["session_id"][0].startswith("redacted-")
    assert part.frame["messages"][0][0]["content"][0] == {"type": "text", "text": "I am user@example.com"}
    assert part.frame.dtypes.astype(str)["session_id"] == "str"
