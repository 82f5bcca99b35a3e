"""Tables of any shape: nested fields, what is missing is said with what there is, and every row is accounted for."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.repeated.repeats import concat
from training.logs.sources import reading
from training.logs.sources.importer import ImportOptions
from training.logs.sources.mapped import Mapped, parse_mapping

RECORDS: list[dict[str, Any]] = [
    {
        "llm": "a",
        "question": {"text": "one?", "lang": "en"},
        "choices": [{"message": {"content": "1"}}],
        "usage": {"in": 10, "out": 3},
        "usd": 0.0123,
        "rating": 5,
    },
    {
        "llm": "b",
        "question": {"text": "one?", "lang": "en"},
        "choices": [{"message": {"content": "2"}}],
        "usage": {"in": 11, "out": 4},
        "usd": 0.0001,
        "rating": 2,
    },
    {
        "llm": "a",
        "question": {"text": "two?", "lang": "de"},
        "choices": [],
        "usage": {"in": 7, "out": 0},
        "usd": 0.05,
        "rating": None,
    },
]
PAIRS = [
    "candidate=llm",
    "prompt=question.text",
    "answer=choices.0.message.content",
    "input_tokens=usage.in",
    "output_tokens=usage.out",
    "cost_usd=usd",
    "quality=rating:stars",
]


def mapped(path: Path, pairs: list[str], *, answers: bool = True) -> Outcomes:
    return reading.read([path], "auto", ImportOptions(mapping=parse_mapping(pairs), answers=answers))


def jsonl(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def nested_csv(path: Path) -> Path:
    """The records as a CSV in which nested values are JSON text."""
    rows = [{k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in record.items()} for record in RECORDS]
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def flat_csv(path: Path) -> Path:
    """The records as a CSV with dots in the names of its columns."""
    flat = pd.json_normalize([{k: v for k, v in record.items() if k != "choices"} for record in RECORDS])
    flat["choices.0.message.content"] = ["1", "2", None]
    flat.to_csv(path, index=False)
    return path


def parquet(path: Path) -> Path:
    pd.DataFrame(RECORDS).to_parquet(path)
    return path


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("t.jsonl", lambda path: jsonl(path, RECORDS)),
        ("t.parquet", parquet),
        ("nested.csv", nested_csv),
        ("flat.csv", flat_csv),
    ],
)
def test_nested_fields_of_every_format_give_the_same_table(tmp_path: Path, name: str, write: Any) -> None:
    result = mapped(write(tmp_path / name), PAIRS)
    frame = result.frame
    assert result.formats == ("mapped",)
    assert result.reasons == {}
    assert frame["candidate"].tolist() == ["a", "b", "a"]
    assert frame["prompt"].tolist() == ["one?", "one?", "two?"]
    assert frame["quality"].fillna(-1).tolist() == [1.0, 0.25, -1]
    assert (frame["input_tokens"].sum(), frame["output_tokens"].sum()) == (28, 7)
    assert math.isclose(frame["cost_usd"].sum(), 0.0624, abs_tol=1e-12)
    assert result.beside["answer"].fillna("none").tolist() == ["1", "2", "none"]
    assert frame["request_id"][0] == frame["request_id"][1] != frame["request_id"][2]


def test_answers_are_read_only_where_they_are_wanted(tmp_path: Path) -> None:
    result = mapped(jsonl(tmp_path / "t.jsonl", RECORDS), PAIRS, answers=False)
    assert "answer" not in result.beside
    assert len(result.frame) == 3


def test_columns_that_are_not_mapped_keep_their_own_names(tmp_path: Path) -> None:
    rows = [{"request_id": "r7", "model": "other", "llm": "a", "prompt": "p", "workflow": "w", "latency_ms": 12}]
    frame = mapped(jsonl(tmp_path / "t.jsonl", rows), ["candidate=llm"]).frame
    assert frame.loc[0, ["request_id", "candidate", "workflow", "latency_ms"]].tolist() == ["r7", "a", "w", 12]


@pytest.mark.parametrize("name", ["t.jsonl", "t.parquet", "t.csv"])
def test_a_missing_field_is_an_error_that_lists_what_was_found(tmp_path: Path, name: str) -> None:
    writers = {"t.jsonl": lambda path: jsonl(path, RECORDS), "t.parquet": parquet, "t.csv": nested_csv}
    path = writers[name](tmp_path / name)
    with pytest.raises(OutcomeError) as error:
        mapped(path, ["candidate=llm", "prompt=query.text"])
    said = str(error.value)
    assert "query.text (for prompt)" in said
    assert "llm, question.text, question.lang, choices.0.message.content, usage.in, usage.out, usd, rating" in said
    assert "one?" not in said
    with pytest.raises(OutcomeError, match=r"no question\.txt \(for prompt\)"):
        mapped(path, ["candidate=llm", "prompt=question.txt"])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["candidate"], "expected COLUMN=FIELD"),
        (["candidate="], "expected COLUMN=FIELD"),
        (["llm=candidate"], "'llm' is no column of the outcome table: request_id"),
        (["llm=candidate"], "Did you mean candidate=llm?"),
        (["candidate=a", "model=b"], "candidate is already mapped to 'a'"),
    ],
)
def test_a_wrong_mapping_says_what_is_wrong(pairs: list[str], message: str) -> None:
    with pytest.raises(OutcomeError, match=message):
        parse_mapping(pairs)


def test_a_mapping_and_another_format_exclude_each_other(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "t.jsonl", RECORDS)
    with pytest.raises(OutcomeError, match="no other format"):
        reading.read([path], "canonical", ImportOptions(mapping={"candidate": "llm"}))
    with pytest.raises(OutcomeError, match="needs a mapping"):
        reading.read([path], "mapped")


def test_a_folder_is_read_where_the_mapping_fits_and_the_rest_is_counted(tmp_path: Path) -> None:
    jsonl(tmp_path / "one.jsonl", RECORDS)
    (tmp_path / "other.csv").write_text("x,y\n1,2\n", encoding="utf-8")
    result = mapped(tmp_path, PAIRS)
    assert (len(result.frame), result.reasons) == (3, {"file not recognised": 1})


def test_a_dirty_table_counts_every_row(tmp_path: Path) -> None:
    good = [json.dumps(record) for record in RECORDS]
    dirty = [
        '{"llm": "a", "question": {"te',
        json.dumps({**RECORDS[0], "question": None}),
        json.dumps({**RECORDS[0], "question": {"text": "neg"}, "usd": -1}),
        json.dumps({**RECORDS[0], "question": {"text": "six"}, "rating": 6}),
        json.dumps({**RECORDS[0], "question": {"text": "word"}, "rating": "a comment of secret words"}),
        json.dumps({**RECORDS[0], "question": "flat text"}),
        json.dumps({**RECORDS[0], "llm": ["a"]}),
        good[0],
        "[1, 2]",
    ]
    path = tmp_path / "dirty.jsonl"
    path.write_bytes("\n".join(good + dirty).encode() + b'\n{"llm": "c", "question": {"text": "caf\xe9"}}\n')
    result = mapped(path, PAIRS)
    assert result.rows_read == 13 == len(result.frame) + len(result.skipped)
    assert len(result.frame) == 4
    assert result.reasons == {
        "unreadable line": 2,
        "no prompt": 2,
        "quality does not fit stars": 2,
        "cost_usd is negative": 1,
        "candidate is not text": 1,
        "duplicate row": 1,
    }
    assert "secret" not in result.skipped.to_csv()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["text", "0", "in"]), inner, max_size=2)
    ),
    max_leaves=4,
)
RECORD = st.dictionaries(st.sampled_from(["llm", "question", "usage", "usd", "rating", "choices"]), JSON, max_size=6)


@examples(20)
@given(st.lists(RECORD | st.just([1]), max_size=6))
def test_every_row_of_any_table_is_used_or_skipped(
    tmp_path_factory: pytest.TempPathFactory, records: list[Any]
) -> None:
    path = jsonl(tmp_path_factory.mktemp("any") / "t.jsonl", [RECORDS[0], *records])
    result = concat(Mapped(parse_mapping(PAIRS)).read(path))
    assert result.rows_read == len(result.frame) + len(result.skipped) == 1 + len(records)


def test_a_column_that_is_mapped_to_nothing_is_not_read(tmp_path: Path) -> None:
    rows = [
        {"request_id": f"r{n}", "prompt": "p", "candidate": "a", "status": "queued", "cost_usd": -1} for n in range(3)
    ]
    path = jsonl(tmp_path / "t.jsonl", rows)
    with pytest.raises(OutcomeError, match="3 rows skipped"):
        reading.read([path])
    read = mapped(path, ["candidate=candidate", "status=", "cost_usd="])
    assert len(read.frame) == 3
    assert read.frame["cost_usd"].isna().all()


DATED = "Asked at;question;llm;grade\n01.09.2026 08:25;one?;a;1\n21.09.2026 18:05;two?;b;0\n;three?;a;1\n"
DATED_PAIRS = ["prompt=question", "candidate=llm", "quality=grade"]


def test_dates_of_another_form_are_read_by_what_stands_behind_the_field(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(DATED + "2026-09-01;four?;a;1\n", encoding="utf-8")
    found = mapped(path, [*DATED_PAIRS, "timestamp=Asked at:%d.%m.%Y %H:%M"])
    times = [None if pd.isna(one) else one.isoformat() for one in found.frame["timestamp"]]
    assert times == ["2026-09-01T08:25:00+00:00", "2026-09-21T18:05:00+00:00", None]
    assert found.reasons == {"timestamp is not as %d.%m.%Y %H:%M": 1}
    assert found.rows_read == 4


def test_a_date_in_another_form_is_told_first_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("\n".join(DATED.splitlines()[:3]), encoding="utf-8")
    with pytest.raises(OutcomeError) as caught:
        mapped(path, [*DATED_PAIRS, "timestamp=Asked at"])
    said = str(caught.value)
    assert "no usable outcome (format mapped): 2 rows skipped (timestamp is not a date: 2; as timestamp: " in said
    assert "01.09.2026 08:25" in said
    assert "which looks like %d.%m.%Y %H:%M: " in said
    assert "--map 'timestamp=FIELD:%d.%m.%Y %H:%M'" in said
    assert said.index("rows skipped") < said.index("Arrived: ")


@pytest.mark.parametrize("form", ["%Q", "%d.%m", "%"])
def test_a_form_that_no_date_has_is_refused(form: str) -> None:
    with pytest.raises(OutcomeError, match="is no form of dates"):
        parse_mapping(["candidate=llm", f"timestamp=asked:{form}"])
