"""`logs.toml`: each log by its own mapping and with its own scores, and an error that names file, table and field."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from tests.conftest import router_train_here
from training.logs.outcomes import OutcomeError
from training.logs.sources.listed import load_sources

LOGS = """
[harness]
data = "runs.csv"
map = { candidate = "llm", prompt = "question", quality = "grade:stars" }

[gateway]
data = ["calls.jsonl"]
scores = "thumbs.csv"
score_rule = "thumbs"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A harness's table and a gateway's calls, which number their requests alike."""
    there = tmp_path / "there"
    there.mkdir()
    runs = [
        {"request_id": f"r{n}", "question": f"q{n}", "llm": "ab"[n % 2], "grade": 1 + n % 5, "usd": 0.01}
        for n in range(30)
    ]
    pd.DataFrame(runs).to_csv(there / "runs.csv", index=False)
    calls = [
        {"request_id": f"r{n}", "prompt": f"p{n}", "candidate": "ab"[n % 2], "cost_usd": 0.01, "session_id": f"s{n}"}
        for n in range(20)
    ]
    pd.DataFrame(calls).to_json(there / "calls.jsonl", orient="records", lines=True)
    pd.DataFrame([{"request_id": f"r{n}", "score": "up"} for n in range(5)]).to_csv(there / "thumbs.csv", index=False)
    (there / "logs.toml").write_text(LOGS)
    return there


def test_paths_are_from_the_file_s_own_folder(folder: Path) -> None:
    found = load_sources(folder / "logs.toml")
    assert found["harness"].data == (str(folder / "runs.csv"),)
    assert found["gateway"].scores == (str(folder / "thumbs.csv"),)
    assert found["harness"].mapping == {"candidate": "llm", "prompt": "question", "quality": "grade:stars"}
    (folder / "urls.toml").write_text('[a]\ndata = ["postgresql://u@h/db", "langfuse:project", "hf:x/y", "/abs.csv"]\n')
    assert load_sources(folder / "urls.toml")["a"].data == (
        "postgresql://u@h/db",
        "langfuse:project",
        "hf:x/y",
        "/abs.csv",
    )


def test_each_log_is_read_by_its_own_mapping_and_with_its_scores(folder: Path, tmp_path: Path) -> None:
    done = router_train_here("import", "--logs", folder / "logs.toml", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    table = pd.concat(pd.read_parquet(file) for file in (tmp_path / "out").glob("**/*.parquet"))
    assert len(table) == 50
    harness = table[table["request_id"].str.startswith("harness/")].set_index("request_id")
    assert harness.loc["harness/r4", "quality"] == 1.0
    assert harness.loc["harness/r0", "quality"] == 0.0
    gateway = table[table["request_id"].str.startswith("gateway/")].set_index("request_id")
    assert gateway["quality"].notna().sum() == 5
    assert gateway.loc["gateway/r3", "session_id"] == "gateway/s3"
    looked = router_train_here("inspect", "--logs", folder / "logs.toml")
    assert looked.returncode == 0, looked.stderr
    assert "50 rows read" in " ".join(looked.stdout.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "logs.toml: lists no log; expected a table for each"),
        ("[a", "logs.toml: not valid TOML"),
        ("[a]\nformat = 'auto'", "logs.toml: a: data: Field required"),
        ("[a]\ndata = []", "logs.toml: a: data: Value should have at least 1 item"),
        ("a = 1", "logs.toml: a: expected a table with data"),
        (
            "[a]\ndata = 'x'\nfromat = 'csv'",
            "logs.toml: a: fromat: there is no such field; did you mean format? expected",
        ),
        ("[a]\ndata = 'x'\nmap = { nonsense = 'y' }", "logs.toml: a: --map 'nonsense=y': 'nonsense' is no column"),
        ("[a]\ndata = 'x'\nscore_rule = 'staars'", "logs.toml: a: "),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "logs.toml").write_text(text)
    with pytest.raises(OutcomeError) as caught:
        load_sources(tmp_path / "logs.toml")
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(OutcomeError, match=r"logs\.toml: cannot be read"):
        load_sources(tmp_path / "logs.toml")
    done = router_train_here("run", "--logs", tmp_path / "logs.toml")
    assert done.returncode == 2
    assert "cannot be read" in " ".join(done.stderr.split())


def test_an_error_in_a_log_names_its_table_and_map_is_not_for_listed_logs(folder: Path) -> None:
    (folder / "logs.toml").write_text(LOGS.replace('"llm"', '"lm"'))
    done = router_train_here("inspect", "--logs", folder / "logs.toml")
    assert done.returncode == 2
    told = " ".join(done.stderr.split())
    assert "logs.toml: [harness]: " in told
    assert 'is map = { COLUMN = "FIELD" } in this table' in told
    mapped = router_train_here("inspect", "--logs", folder / "logs.toml", "--map", "cost_usd=usd")
    assert mapped.returncode == 2
    assert "--map and --format are for --data" in " ".join(mapped.stderr.split())


def test_a_table_that_is_not_recognised_is_told_how_it_may_be_mapped(folder: Path) -> None:
    done = router_train_here("inspect", "--data", folder / "runs.csv")
    assert done.returncode == 2
    told = " ".join(done.stderr.split())
    assert (
        "perhaps with --map prompt=question --map candidate=llm --map quality=grade:stars --map cost_usd=usd," in told
    )


def test_a_list_is_written_for_logs_of_ones_own(folder: Path, cache: Path) -> None:
    """What a new user types: look at the table, take the list that is proposed, train on it."""
    cache.rename(folder / ".cache")
    done = router_train_here(
        "inspect", "--data", "runs.csv", "--data", "calls.jsonl", "--write", "listed.toml", folder=folder
    )
    assert done.returncode == 0, done.stderr
    assert "listed.toml written; router-train run --logs listed.toml trains on it." in done.stdout
    found = load_sources(folder / "listed.toml")
    assert found["runs"].map == {"prompt": "question", "candidate": "llm", "quality": "grade:stars", "cost_usd": "usd"}
    assert (found["calls"].map, [Path(one).name for one in found["calls"].data]) == ({}, ["calls.jsonl"])
    again = router_train_here("inspect", "--data", "runs.csv", "--write", "listed.toml", folder=folder)
    assert again.returncode == 2
    assert "listed.toml is there already" in again.stderr


def test_what_a_table_does_not_say_is_left_for_somebody_to_fill_in(tmp_path: Path) -> None:
    pd.DataFrame([{"question": "q", "who": "a", "grade": 1}]).to_csv(tmp_path / "odd.csv", index=False)
    done = router_train_here("inspect", "--data", "odd.csv", "--write", "listed.toml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Replace LLM by the fields that hold it, then: --logs listed.toml" in done.stdout
    assert load_sources(tmp_path / "listed.toml")["odd"].map["candidate"] == "LLM"
