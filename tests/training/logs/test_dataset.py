"""Importing a log of any size: partitions read as the whole does, nothing is lost, and the dataset is itself a log."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.examples import examples
from training.cli.main import app
from training.logs.dataset import ACCOUNT, ImportAccount, store
from training.logs.io import files
from training.logs.outcomes import OutcomeError
from training.logs.repeated.repeats import Known
from training.logs.sources import reading
from training.logs.validate import validate

TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [{"type": "text", "text": "é"}]}]


def row(number: int, **cells: Any) -> dict[str, Any]:
    return {"request_id": f"r{number}", "prompt": f"question {number}", "candidate": "a", "cost_usd": 0.01, **cells}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in the format that the name says."""
    suffix = files.kind(path)
    if suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path, row_group_size=3)
        return path
    text = {
        ".jsonl": lambda: b"".join(orjson.dumps(row) + b"\n" for row in rows),
        ".json": lambda: orjson.dumps(rows),
        ".csv": lambda: pd.DataFrame(rows).to_csv(index=False).encode(),
    }[suffix]()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.fixture
def small_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions of four records; JSON arrays are streamed from 64 bytes."""
    monkeypatch.setattr(files, "_RECORDS", 4)
    monkeypatch.setattr(files, "_WHOLE_ARRAY", 64)


NAMES = ["log.jsonl", "log.jsonl.gz", "log.json", "log.json.gz", "log.csv", "log.csv.gz", "log.parquet"]


@pytest.mark.usefixtures("small_partitions")
@pytest.mark.parametrize("name", NAMES)
def test_a_log_in_partitions_is_the_log(tmp_path: Path, name: str) -> None:
    rows = [row(number, prompt=f'two\n"lines" {number}, é') for number in range(10)]
    path = write(tmp_path / name, [*rows, rows[0], row(1, prompt="something else")])
    assert [len(part.table) for part in files.partitions(path)] == [4, 4, 4]
    whole = validate(pd.DataFrame([*rows, rows[0], row(1, prompt="something else")]), source="", format="")
    found = reading.read([path])
    pd.testing.assert_frame_equal(found.frame, whole.frame)
    assert found.reasons == whole.reasons == {"duplicate row": 1, "request has two different prompts": 1}
    assert found.origin["row"].tolist()[:2] == [n for part in files.partitions(path) for n in part.rows][:2]
    assert sum(len(part.table) for part in files.partitions(path)) == 12


@pytest.mark.usefixtures("small_partitions")
def test_line_numbers_and_damage_count_on_over_partitions(tmp_path: Path) -> None:
    lines = [json.dumps(row(number)) for number in range(7)]
    lines[2], lines[5] = "{broken", ""
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    parts = list(files.partitions(path))
    assert [part.rows for part in parts] == [[1, 2, 4], [5, 7]]
    assert [lost.row for part in parts for lost in part.unreadable] == [3]


@pytest.mark.usefixtures("small_partitions")
def test_a_large_array_that_breaks_off_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "log.json"
    path.write_bytes(orjson.dumps([row(number) for number in range(9)])[:-20])
    with pytest.raises(OutcomeError, match="not valid JSON"):
        reading.read([path])


@examples(12)
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"request_id": st.sampled_from("abc"), "prompt": st.sampled_from(["x", "y"]), "candidate": st.just("m")},
            optional={"quality": st.sampled_from([0.0, -0.0, 1, None, "bad"]), "input_tokens": st.sampled_from([1, 2])},
        ),
        min_size=1,
        max_size=12,
    ),
    size=st.integers(1, 5),
)
def test_where_a_log_is_cut_makes_no_difference(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], size: int
) -> None:
    path = write(tmp_path_factory.mktemp("cut") / "log.jsonl", [row(0), *rows])
    whole = reading.read([path])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_RECORDS", size)
        cut = reading.read([path])
    pd.testing.assert_frame_equal(cut.frame, whole.frame)
    assert len(cut.frame) + len(cut.skipped) == cut.rows_read == whole.rows_read == len(rows) + 1


@given(st.lists(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=6), max_size=6))
def test_known_keys_are_a_dictionary(batches: list[list[tuple[int, int]]]) -> None:
    import numpy as np

    known, expected = Known(), dict[int, int]()
    for batch in batches:
        keys = np.array([key for key, _ in batch], dtype=np.uint64)
        values = np.array([value for _, value in batch], dtype=np.uint64)
        met, found = known.find(keys)
        assert met.tolist() == [key in expected for key, _ in batch]
        assert found.tolist() == [expected.get(key, 0) for key, _ in batch]
        known.add(keys[~met], values[~met])
        for key, value in batch:
            expected.setdefault(key, value)


@pytest.mark.usefixtures("small_partitions")
def test_an_import_is_a_log_with_an_account_to_the_cent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.logs.dataset._ENOUGH", 4)
    rows = [
        *(row(number, input_tokens=number, output_tokens=2, timestamp=1_735_787_045 + number) for number in range(9)),
        row(9, prompt=None, messages=TALK, quality=0.5, session_id="s", workflow="w", propensity=0.5),
        row(0, input_tokens=0, output_tokens=2, timestamp=1_735_787_045),
        row(11, cost_usd=-1),
    ]
    path = write(tmp_path / "log.jsonl", rows)
    out = tmp_path / "made" / "dataset"
    done = CliRunner().invoke(app, ["import", "--data", str(path), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "12 rows read as canonical: 10 used, 2 skipped" in done.output
    account = json.loads((out / ACCOUNT).read_text())
    assert (account["rows_read"], account["rows_used"]) == (12, 10)
    assert account["skipped"] == {"duplicate row": 1, "cost_usd is negative": 1}
    assert (account["cost_usd"], account["input_tokens"], account["output_tokens"]) == (0.1, 36, 18)
    assert list(account["files"].values()) == [4, 4, 2]
    assert pd.read_csv(out / "_skipped.csv")["row"].tolist() == [12, 11]
    again = reading.read([out])
    assert (again.formats, again.reasons) == (("canonical",), {})
    pd.testing.assert_frame_equal(again.frame, reading.read([path]).frame)


def test_an_import_that_fails_leaves_nothing(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "a.jsonl", [row(1)]), write(tmp_path / "b.jsonl", [row(2, cost_usd=-1)])
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["import", "--data", str(good), "--data", str(bad), "--out", str(out)])
    assert done.exit_code == 2
    assert sorted(tmp_path.iterdir()) == [good, bad]
    out.mkdir()
    with pytest.raises(OutcomeError, match="exists already"):
        store([], out, ImportAccount([]))
