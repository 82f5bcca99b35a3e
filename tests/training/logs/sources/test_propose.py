"""Which field of an unknown table may be which column: by its name, by what it holds, nested or not."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.conftest import router_train_here
from training.logs.outcomes import OutcomeError
from training.logs.rescale import graded_by
from training.logs.sources.importer import ImportOptions
from training.logs.sources.listed import load_sources, proposal
from training.logs.sources.mapped import parse_mapping
from training.logs.sources.propose import proposed_mapping
from training.logs.sources.reading import read

CHAT = [{"role": "user", "content": "hello"}]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_nested_fields_are_found_by_the_end_of_their_names(tmp_path: Path) -> None:
    rows = [
        {
            "ts": f"2026-01-01T00:00:{n:02d}Z",
            "request": {"body": {"model": f"llm-{n % 2}", "messages": CHAT}, "conversation": f"c{n}"},
            "response": {
                "status": 200,
                "usage": {"in": 5, "out": 9},
                "elapsed_ms": 12.5,
                "choices": [{"text": "fine"}],
            },
        }
        | ({"user": {"thumb": "down"}} if n % 10 == 0 else {})
        for n in range(50)
    ]
    assert proposed_mapping(lines(tmp_path / "log.jsonl", rows)) == {
        "messages": "request.body.messages",
        "candidate": "request.body.model",
        "quality": "user.thumb:thumbs",
        "session_id": "request.conversation",
        "timestamp": "ts",
        "input_tokens": "response.usage.in",
        "output_tokens": "response.usage.out",
        "latency_ms": "response.elapsed_ms",
        "status": "response.status",
    }


def test_a_flat_table_of_text_cells_keeps_its_own_names(tmp_path: Path) -> None:
    """What stands under a column's own name is read without a map, so only what has to be seen is proposed."""
    table = pd.DataFrame(
        {
            "question": [f"question {n}" for n in range(20)],
            "llm": ["a", "b"] * 10,
            "grade": [1, 5] * 10,
            "usd": [0.1] * 20,
            "timestamp": ["2026-01-01"] * 20,
            "status": ["success"] * 20,
        }
    )
    table.to_csv(tmp_path / "runs.csv", index=False)
    expected = {"prompt": "question", "candidate": "llm", "quality": "grade:stars", "cost_usd": "usd"}
    assert proposed_mapping(tmp_path / "runs.csv") == expected


def test_what_a_name_promises_has_to_be_there(tmp_path: Path) -> None:
    """A text that is always the same is no prompt, an answer's text is none, words are no costs, a list is no name."""
    rows = [
        {"text": "...", "model": ["a"], "cost": "cheap", "status": "weird", "time": "noon", "answer": {"text": f"a{n}"}}
        for n in range(20)
    ]
    assert proposed_mapping(lines(tmp_path / "log.jsonl", rows)) == {
        "prompt": "QUESTION",
        "candidate": "LLM",
        "quality": "GRADE",
    }


def test_json_text_in_a_cell_is_opened(tmp_path: Path) -> None:
    cells = [json.dumps({"model": f"m{n % 2}", "messages": CHAT, "n": n}) for n in range(20)]
    pd.DataFrame({"payload": cells, "score": [0.5, 1.0] * 10}).to_csv(tmp_path / "log.csv", index=False)
    assert proposed_mapping(tmp_path / "log.csv") == {
        "messages": "payload.messages",
        "candidate": "payload.model",
        "quality": "score",
    }


def test_any_type_of_a_parquet_file_is_looked_at(tmp_path: Path) -> None:
    """Moments, bytes, lists, decimals and nested structures: each is what it is, and none of them stops the others."""
    table = pd.DataFrame(
        {
            "time": pd.date_range("2026-01-01", periods=20, tz="UTC"),
            "question": [f"question {n}" for n in range(20)],
            "model": ["a", "b"] * 10,
            "score": [Decimal("0.5"), Decimal("1")] * 10,
            "cost": [[0.1]] * 20,
            "usage": [{"in": 3, "out": 4}] * 20,
            "task": [b"x"] * 20,
        }
    )
    table.to_parquet(tmp_path / "log.parquet")
    assert proposed_mapping(tmp_path / "log.parquet") == {
        "prompt": "question",
        "candidate": "model",
        "quality": "score",
        "workflow": "task",
        "timestamp": "time",
        "input_tokens": "usage.in",
        "output_tokens": "usage.out",
    }


def test_names_that_no_map_can_say_and_fields_without_end_are_passed_over(tmp_path: Path) -> None:
    """A record may have any keys: signs of a map, control characters, a text, a hundred thousand."""
    odd = {"=model": "a", "my:score": 1.0, "esc\x1b[31mmodel": "b", "x" * 300 + " model": "c", "": 1}
    rows = [{"model": f"m{n % 2}", **odd, **{f"k{n}-{k}": k for k in range(5_000)}, "score": 0.5} for n in range(20)]
    maps = proposed_mapping(lines(tmp_path / "log.jsonl", rows))
    assert maps == {"prompt": "QUESTION", "candidate": "model", "quality": "GRADE"}
    assert proposed_mapping(lines(tmp_path / "deep.jsonl", [{"a": json.loads('{"b":' * 500 + "1" + "}" * 500)}]))[
        "prompt"
    ]


def test_of_a_damaged_file_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "log.parquet").write_bytes(b"PAR1 no more")
    assert set(proposed_mapping(tmp_path / "log.parquet").values()) == {"QUESTION", "LLM", "GRADE"}


@pytest.mark.parametrize(
    ("cells", "rule"),
    [
        ([0.2, 1.0], ""),
        ([1, 3, 5], "stars"),
        (["1", "4"], "stars"),
        ([7, 9], "ten"),
        ([55, 80.5], "percent"),
        ([-1, 1], "thumbs"),
        ([True, False], "boolean"),
        (["up", "down"], "thumbs"),
        (["true", "false"], "boolean"),
        ([], ""),
        (["yes", "no"], "boolean"),
        ([400, 7], ""),
        ([-3, 2], ""),
        (["fine", "poor"], ""),
    ],
)
def test_the_scale_that_grades_look_like(cells: list[Any], rule: str) -> None:
    assert graded_by(cells) == rule


def pair(n: int, **other: Any) -> dict[str, Any]:
    """A gateway's own line that has the shape of an OpenAI pair."""
    asked = {"model": "auto", "messages": [{"role": "user", "content": f"question {n}"}]}
    said = {"model": f"llm-{n % 2}", "choices": [{"message": {"role": "assistant", "content": "."}}]}
    return {"request": asked, "response": said, **other}


def test_a_look_alike_that_asks_for_any_llm_tells_who_answered_and_which_grades_it_does_not_read(
    tmp_path: Path,
) -> None:
    """Not one candidate "auto" without a grade, in silence."""
    found = read([lines(tmp_path / "log.jsonl", [pair(n, thumb=("up", "down")[n % 2]) for n in range(20)])])
    assert set(found.frame["candidate"]) == {"llm-0", "llm-1"}
    (note,) = found.notes
    assert "nothing of it is judged as openai, but thumb looks like grades" in note
    maps = "--map messages=request.messages --map candidate=response.model --map quality=thumb:thumbs"
    assert maps in note
    assert read([lines(tmp_path / "other.jsonl", [pair(n, quality=1.0) for n in range(20)])]).notes == ()


def test_a_look_alike_without_a_model_is_told_how_it_can_be_read(tmp_path: Path) -> None:
    rows = [
        {"request": {"messages": CHAT}, "response": {"text": "."}, "route": {"model": f"llm-{n % 2}"}, "score": 1.0}
        for n in range(20)
    ]
    with pytest.raises(OutcomeError, match=r"no usable outcome \(format openai\)") as caught:
        read([lines(tmp_path / "log.jsonl", rows)])
    told = "Or read it as a table of your own: --map messages=request.messages --map candidate=route.model"
    assert told in str(caught.value)


def test_names_are_read_by_their_words_and_units(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "Input Prompt": [f"question {n}" for n in range(20)],
            "Model Name": ["a", "b"] * 10,
            "Score (%)": [55, 90] * 10,
            "Total Cost (cents)": [3.0] * 20,
            "Task Category": ["x"] * 20,
            "promptTokens": [9] * 20,
            "Latency (s)": [1.5] * 20,
        }
    )
    table.to_csv(tmp_path / "runs.csv", index=False)
    assert proposed_mapping(tmp_path / "runs.csv") == {
        "prompt": "Input Prompt",
        "candidate": "Model Name",
        "quality": "Score (%):percent",
        "cost_usd": "Total Cost (cents):cents",
        "workflow": "Task Category",
        "input_tokens": "promptTokens",
        "latency_ms": "Latency (s):seconds",
    }


def test_a_candidate_is_what_most_records_have(tmp_path: Path) -> None:
    """A failed call has no answer, and so no model that gave it: by that one failures would be lost."""
    rows = [
        {"ask": {"model": "asked", "prompt": f"q{n}"}, "answer": {"model": "answered"} if n % 4 else {}, "score": 1.0}
        for n in range(40)
    ]
    assert proposed_mapping(lines(tmp_path / "log.jsonl", rows))["candidate"] == "ask.model"


@pytest.mark.parametrize("apart", [";", "\t"])
def test_cells_apart_by_a_semicolon_or_a_tabulator(tmp_path: Path, apart: str) -> None:
    table = pd.DataFrame({"question": ["a, b", "c"], "llm": ["x", "y"], "grade": [5, 1]})
    table.to_csv(tmp_path / "runs.csv", index=False, sep=apart)
    maps = proposed_mapping(tmp_path / "runs.csv")
    assert maps == {"prompt": "question", "candidate": "llm", "quality": "grade:stars"}
    found = read([tmp_path / "runs.csv"], options=ImportOptions(mapping=maps))
    assert (list(found.frame["prompt"]), list(found.frame["quality"])) == (["a, b", "c"], [1.0, 0.0])


def test_a_file_for_each_llm_is_a_table_for_each_and_their_prompts_are_shared(tmp_path: Path, cache: Path) -> None:
    """What no column says, the file's name does; the matrix is full afterwards."""
    cache.rename(tmp_path / ".cache")
    (tmp_path / "results").mkdir()
    for llm, good in (("gpt-4.1", True), ("qwen3-8b", False)):
        table = pd.DataFrame({"instruction": [f"q{n}" for n in range(30)], "correct": [good] * 30, "cost": [0.1] * 30})
        table.to_csv(tmp_path / "results" / f"{llm}.csv", index=False)
    done = router_train_here("inspect", "--data", "results", "--write", "logs.toml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "router-train run --logs logs.toml trains on it" in done.stdout
    sources = load_sources(tmp_path / "logs.toml")
    assert [source.map["candidate"] for source in sources.values()] == ["=gpt-4.1", "=qwen3-8b"]
    shown = router_train_here("inspect", "--logs", "logs.toml", folder=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "30 requests in 0 conversations: 30 tried on several candidates, 30 on all 2, 30 judged on all" in " ".join(
        shown.stdout.split()
    )


def test_a_unit_is_converted_and_one_that_is_not_said_is_asked_for(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"prompt": ["a", "b"], "candidate": ["x", "y"], "quality": [1, 0], "took_s": [1.5, "?"], "cents": [3, 4]}
    )
    table.to_csv(tmp_path / "runs.csv", index=False)

    def mapped(**mapping: str) -> pd.DataFrame:
        return read([tmp_path / "runs.csv"], options=ImportOptions(mapping=mapping)).frame

    found = mapped(latency_ms="took_s:seconds", cost_usd="cents:cents")
    assert found["latency_ms"].iloc[0] == 1500.0
    assert found["cost_usd"].iloc[0] == pytest.approx(0.03)
    assert mapped(cost_usd="cents:usd")["cost_usd"].tolist() == [3.0, 4.0]
    for mapping, meant in (({"latency_ms": "took_s"}, "took_s:seconds"), ({"cost_usd": "cents"}, "cents:cents")):
        with pytest.raises(OutcomeError, match="looks like") as caught:
            mapped(**mapping)
        assert f"={meant}'" in str(caught.value)


def test_a_constant_stands_for_every_row(tmp_path: Path) -> None:
    pd.DataFrame({"prompt": ["a", "b"], "quality": [1, 0]}).to_csv(tmp_path / "runs.csv", index=False)
    mapping = parse_mapping(["candidate==gpt-4o", "workflow==sql"])
    found = read([tmp_path / "runs.csv"], options=ImportOptions(mapping=mapping)).frame
    assert set(found["candidate"]) == {"gpt-4o"}
    assert set(found["workflow"]) == {"sql"}


def test_grades_that_may_be_turned_round_are_asked_about_and_labels_are_told(tmp_path: Path) -> None:
    """School grades: 1 is the best in one country and the worst in another."""
    rows = {"prompt": [f"q{n}" for n in range(60)], "candidate": ["a", "b"] * 30}
    pd.DataFrame({**rows, "quality": [1, 2, 3, 4, 5, 6] * 10}).to_csv(tmp_path / "school.csv", index=False)
    with pytest.raises(OutcomeError, match="minmax:1:6, and minmax:6:1 if it is the worst"):
        read([tmp_path / "school.csv"])
    pd.DataFrame({**rows, "quality": ["correct", "incorrect"] * 30}).to_csv(tmp_path / "words.csv", index=False)
    with pytest.raises(OutcomeError, match="That looks like boolean"):
        read([tmp_path / "words.csv"])


def inspected(folder: Path, *options: str) -> tuple[int, str]:
    """The exit code of `router-train inspect` and all that it says."""
    done = router_train_here("inspect", *options, folder=folder)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def table_of(path: Path, **more: Any) -> Path:
    """A log of one's own: two LLMs, thirty questions; `more` are further columns."""
    rows = [{"question": f"q{n}", "llm": llm, "grade": 1 + n % 5, **more} for n in range(30) for llm in ("a", "b")]
    return lines(path, rows)


def test_a_list_names_a_link_by_its_own_name(tmp_path: Path) -> None:
    """A cache of downloads has blobs without a suffix, and links with the names."""
    (tmp_path / "blobs").mkdir()
    table_of(tmp_path / "blobs" / "deadbeef")
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "blobs" / "deadbeef")
    code, said = inspected(tmp_path, "--data", "log.jsonl", "--write", "sub/logs.toml")
    assert code == 0, said
    (source,) = load_sources(tmp_path / "sub" / "logs.toml").values()
    assert [Path(one).name for one in source.data] == ["log.jsonl"]


def test_columns_in_capitals_are_columns(tmp_path: Path) -> None:
    """What somebody has to fill in is told from a column that is called so."""
    rows = [{"QUESTION": f"q{n}", "LLM": llm, "GRADE": 0.5} for n in range(30) for llm in ("a", "b")]
    code, said = inspected(lines(tmp_path / "log.jsonl", rows).parent, "--data", "log.jsonl", "--write", "logs.toml")
    assert code == 0, said
    assert "Replace" not in said
    assert load_sources(tmp_path / "logs.toml")["log"].map == {
        "prompt": "QUESTION",
        "candidate": "LLM",
        "quality": "GRADE",
    }


def test_a_list_leaves_no_option_out_in_silence(tmp_path: Path) -> None:
    table_of(tmp_path / "a.jsonl")
    table_of(tmp_path / "b.jsonl")
    scores = lines(tmp_path / "s.jsonl", [{"request_id": "1", "score": 1}])
    one, two = ["--data", "a.jsonl"], ["--data", "a.jsonl", "--data", "b.jsonl"]
    for options, told in (
        ([*two, "--scores", str(scores)], "scores belong to one log"),
        ([*one, "--format", "openai"], "leave --format away"),
        (
            [*one, "--scores", str(scores), "--scores", str(scores), "--score-rule", "stars", "--score-rule", "ten"],
            "one score rule",
        ),
        ([*one, "--write", "/proc/no.toml"], "cannot be written"),
    ):
        code, said = inspected(tmp_path, *options, *([] if "--write" in options else ["--write", "logs.toml"]))
        assert (code, told in said) == (2, True), said
        assert not (tmp_path / "logs.toml").exists()


def test_a_list_that_does_not_read_yet_is_said_to(tmp_path: Path) -> None:
    table_of(tmp_path / "log.jsonl", cost="free")
    rows = [{"question": f"q{n}", "llm": "a", "grade": (-7, 3)[n % 2]} for n in range(40)]
    code, said = inspected(lines(tmp_path / "odd.jsonl", rows).parent, "--data", "odd.jsonl", "--write", "odd.toml")
    assert code == 2
    assert "odd.toml written, but it does not read yet: correct it there." in said
    assert "trains on it" not in said


def test_what_is_said_of_odd_names_is_safe_in_a_terminal_and_a_shell(tmp_path: Path) -> None:
    """Nothing that a terminal acts on, no text of a megabyte, no command that a shell would run; and no traceback."""
    odd = {
        "\x1b]0;pwn\x07": 1,
        "k" * 1_000_000: 1,
        "$(touch pwned) model": "a",
        "a\ud800b": 1,
        "huge": 10**400,
        "rating": 10**400,
    }
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"question": f"q{n}", **odd}) + "\n" for n in range(3)), encoding="utf-8")
    done = router_train_here("inspect", "--data", "log.jsonl", folder=tmp_path)
    said = done.stdout + done.stderr
    assert done.returncode == 2
    assert "\x1b]" not in said
    assert "\x07" not in said
    assert len(said) < 10_000
    assert "--map 'candidate=$(touch pwned) model'" in " ".join(said.split())


def test_a_password_is_in_no_name_of_a_list(tmp_path: Path) -> None:
    text, _ = proposal(["postgresql://bob:hunter2@host:5432/litellm?schema=x"], {}, [], "unit", tmp_path)
    assert text.startswith("[litellm]")


def test_plain_names_are_proposed_by_what_is_in_them(tmp_path: Path) -> None:
    llms = ("gpt-4o", "gpt-4o-mini", "claude-sonnet-4")
    lines = ["Ticket No;asked_at;text;answered by;took (s);prompt toks;completion toks;stars"]
    lines += [
        f"T-{row};{1 + row % 28:02d}.09.2026 08:25;question {row} ?;{llms[row % 3]};1.5;{row};{row + 1};{1 + row % 5}"
        for row in range(30)
    ]
    path = tmp_path / "helpdesk.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    found = proposed_mapping(path)
    assert found == {
        "request_id": "Ticket No",
        "prompt": "text",
        "candidate": "answered by",
        "quality": "stars:stars",
        "timestamp": "asked_at:%d.%m.%Y %H:%M",
        "input_tokens": "prompt toks",
        "output_tokens": "completion toks",
        "latency_ms": "took (s):seconds",
    }
    table = read([path], "auto", ImportOptions(mapping=found))
    assert (len(table.frame), table.frame["request_id"].nunique(), table.notes) == (30, 30, ())


def test_equal_prompts_of_several_candidates_are_told_where_no_id_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    rows = [f"question {row % 8};{'ab'[row // 8]};1" for row in range(10)]
    path.write_text("\n".join(["text;llm;grade", *rows]), encoding="utf-8")
    mapping = {"prompt": "text", "candidate": "llm", "quality": "grade"}
    (note,) = read([path], "auto", ImportOptions(mapping=mapping)).notes
    assert note.startswith("2 of 8 requests are equal prompts that several candidates answered")
    assert "--map request_id=FIELD" in note
