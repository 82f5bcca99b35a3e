"""Importers: each format's facts, damaged files, the choice of the importer, and the public data where present."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import PUBLIC_DATA as DATA
from tests.examples import examples
from training.logs.io import files
from training.logs.outcomes import OutcomeError
from training.logs.sources import canonical, reading
from training.logs.sources.public import routellm, routerbench

ROWS: list[dict[str, Any]] = [
    {"request_id": "1", "prompt": 'a, "quoted"\nline', "candidate": "x", "quality": 1.0, "cost_usd": 0.5},
    {"request_id": "2", "prompt": "é", "candidate": "y", "quality": 0.0, "cost_usd": None},
]

needs_routerbench = pytest.mark.skipif(not (DATA / "routerbench").is_dir(), reason=f"no RouterBench data in {DATA}")
needs_routellm = pytest.mark.skipif(not (DATA / "routellm").is_dir(), reason=f"no RouteLLM data in {DATA}")


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def csv_bytes(rows: list[dict[str, Any]]) -> bytes:
    return pd.DataFrame(rows).to_csv(index=False).encode()


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


WRITERS: dict[str, Callable[[], bytes]] = {
    "log.jsonl": lambda: jsonl(ROWS),
    "log.ndjson": lambda: b"\xef\xbb\xbf" + jsonl(ROWS),
    "lines.json": lambda: jsonl(ROWS),
    "log.json": lambda: orjson.dumps(ROWS),
    "log.CSV": lambda: csv_bytes(ROWS),
    "bom.csv": lambda: b"\xef\xbb\xbf" + csv_bytes(ROWS),
    "log.csv.gz": lambda: gzip.compress(csv_bytes(ROWS)),
    "log.jsonl.gz": lambda: gzip.compress(jsonl(ROWS[:1])) + gzip.compress(jsonl(ROWS[1:])),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_text_format_reads_as_the_same_table(tmp_path: Path, name: str) -> None:
    result = reading.read([write(tmp_path / name, WRITERS[name]())])
    assert result.formats == ("canonical",)
    assert result.reasons == {}
    assert result.frame["prompt"].tolist() == [row["prompt"] for row in ROWS]
    assert result.frame["quality"].tolist() == [1.0, 0.0]
    assert result.frame["cost_usd"].isna().tolist() == [False, True]


def test_parquet_with_messages_reads_back(tmp_path: Path) -> None:
    conversations = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes", "name": "bot"}]]
    table = pd.DataFrame({"request_id": ["1"], "model": ["x"], "messages": conversations})
    table.to_parquet(tmp_path / "log.parquet")
    result = reading.read([tmp_path / "log.parquet"])
    assert result.frame["messages"].tolist() == conversations
    assert result.frame["candidate"].tolist() == ["x"]


def test_the_outcome_table_itself_is_a_log(tmp_path: Path) -> None:
    first = reading.read([write(tmp_path / "log.jsonl", jsonl(ROWS))])
    first.frame.to_parquet(tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(reading.read([tmp_path / "table.parquet"]).frame, first.frame)


def test_damaged_lines_are_skipped_and_numbered(tmp_path: Path) -> None:
    good = jsonl(ROWS[:1])
    bad = b'{"request_id": "3", "pro\n[1]\n\n' + b"[" * 100_000 + b"\n"
    latin = b'{"request_id": "4", "prompt": "caf\xe9", "candidate": "x", "quality": NaN}\n'
    result = reading.read([write(tmp_path / "log.jsonl", good + bad + latin)])
    assert result.reasons == {"unreadable line": 3}
    assert result.skipped["row"].tolist() == [2, 3, 5]
    assert result.frame["prompt"].tolist() == [ROWS[0]["prompt"], "caf\ufffd"]
    assert result.rows_read == 5


def test_csv_rows_of_the_wrong_width_are_skipped_by_line(tmp_path: Path) -> None:
    text = 'request_id,prompt,candidate\n1,"two\nlines",x\n2,too,many,cells\n3,short\n\n4,fine,' + "y" * 200_000
    result = reading.read([write(tmp_path / "log.csv", text.encode())])
    assert result.frame["request_id"].tolist() == ["1", "4"]
    assert result.skipped["row"].tolist() == [4, 5]
    assert result.skipped["value"].tolist() == ["4 cells in 1 lines", "2 cells in 1 lines"]


@pytest.mark.parametrize("name", ["log.jsonl.gz", "log.csv.gz"])
def test_truncated_gzip_keeps_what_could_be_read(tmp_path: Path, name: str) -> None:
    rows = [{"request_id": f"{i}", "prompt": f"question {i * 7919 % 10007}", "candidate": "x"} for i in range(4000)]
    packed = gzip.compress(jsonl(rows) if "jsonl" in name else csv_bytes(rows))
    result = reading.read([write(tmp_path / name, packed[: len(packed) // 2])])
    assert 500 < len(result.frame) < 4000
    assert result.reasons == {"truncated gzip": 1}
    assert result.rows_read == len(result.frame) + 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.jsonl", b"", "is empty"),
        ("log.csv", b"request_id,prompt,candidate\n", "the table has no rows"),
        ("log.parquet", b"PAR1 not really", "not a readable Parquet file"),
        ("log.csv.gz", b"plain text", "not recognised"),
        ("log.json", b'[{"request_id": "1", "prompt": "p", "model": "m"}, {"requ', "not valid JSON"),
        ("log.txt", b"hello", "its suffix is not one of"),
        ("log.csv", b"id,text\n1,x\n", "not recognised. Arrived: id, text. A table of your own is read with --map"),
        ("log.jsonl", b"garbage\n", "not recognised. Arrived: no readable record"),
        ("question.jsonl", b'{"question_id": 1, "turns": ["x"]}\n', "give judgements.jsonl"),
    ],
)
def test_a_hopeless_file_is_an_error_that_says_why(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(OutcomeError) as error:
        reading.read([path])
    assert str(path) in str(error.value)
    assert message in str(error.value)


def test_wrong_arguments_are_errors_that_list_the_choices(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", jsonl(ROWS))
    with pytest.raises(
        OutcomeError, match="'csv' is not known; expected one of: auto, canonical, routerbench, routellm"
    ):
        reading.read([path], format="csv")
    with pytest.raises(OutcomeError, match="does not exist"):
        reading.read([tmp_path / "missing.csv"])
    with pytest.raises(OutcomeError, match="at least one file"):
        reading.read([])
    with pytest.raises(OutcomeError, match="holds no log"):
        reading.read([write(tmp_path / "docs" / "README.md", b"x").parent])
    with pytest.raises(OutcomeError, match="not a routerbench file"):
        reading.read([write(tmp_path / "log.csv", csv_bytes(ROWS))], format="routerbench")
    with pytest.raises(OutcomeError, match="expected gzip"):
        reading.read([write(tmp_path / "log.csv.gz", b"plain text")], format="canonical")


def test_a_folder_is_read_whole_and_its_strangers_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "a" / "one.jsonl", jsonl(ROWS[:1]))
    write(tmp_path / "b.csv", csv_bytes(ROWS[1:]))
    write(tmp_path / "other.csv", b"id,text\n1,x\n")
    write(tmp_path / "today.jsonl", b"")
    write(tmp_path / "README.md", b"notes")
    write(tmp_path / ".hidden.csv", b"id\n1\n")
    result = reading.read([tmp_path])
    assert result.frame["request_id"].tolist() == ["1", "2"]
    assert result.reasons == {"file not recognised": 1, "file is empty": 1}
    assert result.rows_read == 4
    with pytest.raises(OutcomeError, match="not recognised"):
        reading.read([tmp_path / "other.csv"])


def test_the_same_file_twice_is_used_once(tmp_path: Path) -> None:
    path = write(tmp_path / "log.jsonl", jsonl(ROWS))
    result = reading.read([path, tmp_path])
    assert len(result.frame) == 2
    assert result.reasons == {"duplicate row": 2}


def wide(**cells: str) -> dict[str, str]:
    plain = {"sample_id": "s.1", "prompt": "['p']", "eval_name": "arc", "m1": "1.0", "m2": "0.0"}
    return {**plain, "m1|model_response": "", "m1|total_cost": "0.1", "m2|total_cost": "0.2", **cells}


def test_routerbench_cells_become_rows(tmp_path: Path) -> None:
    rows = [wide(), wide(sample_id="s.2", prompt="['one', 'two']", m1=""), wide(sample_id="s.3", prompt="['p' + 1]")]
    path = write(tmp_path / "arc_test.csv", csv_bytes(rows))
    result = reading.read([path])
    frame = result.frame
    assert result.formats == ("routerbench",)
    assert frame["candidate"].tolist() == ["m1", "m2"] * 3
    assert frame["prompt"].tolist() == ["p", "p", "one\ntwo", "one\ntwo", "['p' + 1]", "['p' + 1]"]
    assert frame["quality"].fillna(-1).tolist() == [1, 0, -1, 0, 1, 0]
    assert frame["cost_usd"].tolist() == [0.1, 0.2] * 3
    assert set(frame["workflow"]) == {"arc"}
    assert set(frame["split"]) == {"test"}
    assert result.origin["row"].tolist() == [2, 2, 3, 3, 4, 4]


def test_routerbench_rows_that_complete_each_other_are_one_request(tmp_path: Path) -> None:
    rows = [wide(m1=""), wide(prompt="['p', 'p']", m2="")]
    frame = reading.read([write(tmp_path / "arc.csv", csv_bytes(rows))]).frame
    assert frame.groupby(["request_id", "candidate"])["quality"].sum().tolist() == [1.0, 0.0]
    assert frame["split"].isna().all()


def test_routellm_tables_and_judgements(tmp_path: Path) -> None:
    table = [{"prompt": "p", "strong": "True", "weak": "False", "weak_response": "text"}]
    write(tmp_path / "gsm8k_responses.csv", csv_bytes(table))
    question = {"question_id": 7, "category": "math", "turns": ["first", "second"]}
    write(tmp_path / "question.jsonl", jsonl([question]))
    verdicts = [("strong", 10, 1), ("strong", 4, 2), ("weak", -1, 2), ("weak", 5, 3), ("weak", "?", 1)]
    judged = [{"question_id": 7, "model": m, "score": s, "turn": t, "tstamp": 1.0} for m, s, t in verdicts]
    write(tmp_path / "judgements.jsonl", jsonl(judged))
    result = reading.read([tmp_path])
    assert result.formats == ("routellm",)
    assert result.reasons == {"no prompt": 1, "quality is not a number": 1}
    assert result.rows_read == 7
    table_rows, judged_rows = result.frame[:2], result.frame[2:]
    assert table_rows["request_id"].tolist() == ["gsm8k_responses-1"] * 2
    assert table_rows["quality"].tolist() == [1.0, 0.0]
    assert table_rows["workflow"].tolist() == ["gsm8k"] * 2
    assert judged_rows["quality"].fillna(-1).tolist() == [1.0, 0.4, -1.0]
    assert [[m["content"] for m in ms] for ms in judged_rows["messages"]] == [["first"], *[["first", "second"]] * 2]
    assert set(judged_rows["session_id"]) == {"mt-bench-7"}
    assert set(judged_rows["workflow"]) == {"mt-bench-math"}


def test_judgements_without_their_questions_say_where_these_belong(tmp_path: Path) -> None:
    path = write(tmp_path / "judgements.jsonl", jsonl([{"question_id": 1, "model": "m", "score": 1, "turn": 1}]))
    with pytest.raises(OutcomeError, match=r"question\.jsonl, which is missing"):
        reading.read([path])


def test_each_format_is_recognised_by_its_own_importer_only(tmp_path: Path) -> None:
    samples = {
        canonical: write(tmp_path / "c.csv", csv_bytes(ROWS)),
        routerbench: write(tmp_path / "b.csv", csv_bytes([wide()])),
        routellm: write(tmp_path / "l.csv", csv_bytes([{"prompt": "p", "m": "True"}])),
    }
    for owner, path in samples.items():
        assert [importer for importer in reading.IMPORTERS if importer.recognises(path)] == [owner]


@examples(25)
@given(content=st.binary(max_size=300), name=st.sampled_from(["x.jsonl", "x.csv", "x.json", "x.parquet", "x.csv.gz"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    path = write(tmp_path_factory.mktemp("any") / name, content)
    for format in ("auto", "canonical", "routerbench", "routellm"):
        with pytest.raises(OutcomeError, match="x\\."):
            reading.read([path], format=format)


LINE = st.one_of(
    st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b"")),
    st.dictionaries(
        st.sampled_from(["request_id", "prompt", "model", "quality"]), st.integers() | st.text(max_size=3)
    ).map(lambda record: json.dumps(record).encode()),
)


@examples(25)
@given(st.lists(LINE, max_size=8))
def test_every_line_that_is_not_blank_is_used_or_skipped(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    path = write(tmp_path_factory.mktemp("lines") / "log.jsonl", jsonl(ROWS[:1]) + b"\n".join(lines))
    result = reading.read([path])
    assert result.rows_read == len(result.frame) + len(result.skipped) == 1 + sum(bool(line.strip()) for line in lines)


def test_the_suffix_says_the_kind() -> None:
    names = ["a.csv", "a.b.JSONL.gz", "a.parquet", "a.parquet.gz", "a.gz", "a", "v1.2", "judgements.jsonl"]
    kinds = [files.kind(Path(name)) for name in names]
    assert kinds == [".csv", ".jsonl", ".parquet", "", "", "", "", ".jsonl"]


@needs_routerbench
def test_routerbench_data() -> None:
    result = reading.read([DATA / "routerbench"])
    assert (result.rows_read, len(result.frame), len(result.skipped)) == (34_958, 34_958, 0)
    assert result.frame["candidate"].nunique() == 11
    assert result.frame["request_id"].nunique() == 3_164
    assert result.frame["quality"].isna().sum() == 154
    assert result.frame["cost_usd"].min() > 0
    assert set(result.frame["workflow"]) == {"arc-challenge", "mbpp", "winogrande"}
    assert result.frame["split"].value_counts().to_dict() == {"train": 24_475, "test": 10_483}
    judged = result.frame.dropna(subset=["quality"])
    assert (judged.groupby("request_id")["candidate"].nunique() == 11).all()


@needs_routellm
def test_routellm_data() -> None:
    result = reading.read([DATA / "routellm"])
    assert (result.rows_read, len(result.frame), len(result.skipped)) == (31_042, 31_042, 0)
    assert result.frame["request_id"].nunique() == 15_521
    assert result.frame["quality"].notna().all()
    assert result.frame["cost_usd"].isna().all()
    counts = result.frame["workflow"].value_counts()
    assert counts["gsm8k"] == 2 * 1_319
    assert counts[counts.index.str.startswith("mmlu_")].sum() == 2 * 14_042
    assert counts[counts.index.str.startswith("mt-bench-")].to_dict() == dict.fromkeys(
        [
            f"mt-bench-{name}"
            for name in ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
        ],
        40,
    )
