"""An imported log read from disk: its rows without texts, its texts by request, and what is no whole import."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle.request import text_of
from training.dataset.split import group_requests, stand_in
from training.logs.dataset import ACCOUNT, ImportAccount, store
from training.logs.outcomes import OutcomeError
from training.logs.sources import reading
from training.logs.stored.rows import StoredLog, open_stored

CELLS: dict[str, Any] = {"candidate": "a", "quality": 1.0, "output_tokens": 7, "timestamp": "2026-03-04T05:06:07Z"}
TALK = [{"role": "user", "content": "hello\nthere"}, {"role": "assistant", "content": "é"}]


def imported(folder: Path, rows: int) -> StoredLog:
    """Forty rows of twenty requests, two of them broken, one a conversation; the second rows come after all first ones."""
    log = [
        {**CELLS, "request_id": f"r{n}", "prompt": f"Question {n % 15}", "session_id": f"s{n // 4}"} for n in range(20)
    ]
    log[3] = {**CELLS, "request_id": "r3", "messages": TALK}
    log += [{**row, "candidate": "b", "quality": 0.0} for row in log]
    log[7]["quality"], log[8]["timestamp"] = "fine", "when"
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in log))
    whole = reading.read([path])
    parts = []
    for start in range(0, len(whole.frame), rows):
        frame = whole.frame.iloc[start : start + rows].reset_index(drop=True)
        skipped = whole.skipped if start == 0 else whole.skipped.iloc[:0]
        parts.append(type(whole)(frame, skipped, len(frame) + len(skipped), whole.formats, whole.origin))
    store(parts, folder / "log", ImportAccount(["log.jsonl"]), rows=rows)
    found = open_stored(folder / "log")
    assert found is not None
    return found


@pytest.mark.parametrize("rows", [3, 7, 1_000])
def test_the_skeleton_is_the_log_without_texts_however_it_was_cut(tmp_path: Path, rows: int) -> None:
    stored = imported(tmp_path, rows)
    whole, bare = reading.read([stored.folder]), stored.skeleton()
    columns = [name for name in whole.frame if name not in ("prompt", "messages")]
    pd.testing.assert_frame_equal(bare.frame[columns], whole.frame[columns])
    assert list(bare.frame) == list(whole.frame)
    assert bare.frame["messages"].isna().all()
    first = ~whole.frame["request_id"].duplicated()
    assert (bare.frame["prompt"].notna() == first).all()
    assert not bare.frame["prompt"].str.contains("uestion").any()
    assert (bare.rows_read, len(bare.skipped)) == (40, 2)
    assert bare.reasons == {"quality is not a number": 1, "timestamp is not a date": 1}
    assert stored.requests() == len(set(whole.frame["request_id"]))


def test_texts_come_in_the_order_that_they_were_asked_for(tmp_path: Path) -> None:
    stored = imported(tmp_path, 5)
    found = stored.requests_of(np.array(["r12", "r3", "r0"], dtype=object))
    assert [text_of(request) for request in found] == ["Question 12", "hello\nthere\né", "Question 0"]
    rows = stored.rows_of(["r3", "r5"]).frame
    assert sorted(rows["request_id"]) == ["r3", "r3", "r5", "r5"]
    assert rows["messages"].tolist().count(TALK) == 2
    with pytest.raises(OutcomeError, match="1 requests are gone since it was read"):
        stored.requests_of(np.array(["r1", "elsewhere"], dtype=object))


WORDS = st.lists(st.sampled_from(["Yes", "yes", "a", "b", "please", "ß", "\u00a0", "\n"]), max_size=10)


@given(st.lists(st.tuples(WORDS, st.sampled_from([None, "s", "t"])), max_size=30))
def test_a_stand_in_groups_as_its_text(said: list[tuple[list[str], str | None]]) -> None:
    texts, sessions = [" ".join(words) for words, _ in said], [session for _, session in said]
    expected = group_requests(texts, sessions)
    np.testing.assert_array_equal(group_requests(list(map(stand_in, texts)), sessions), expected)


def damaged(part: Path) -> None:
    part.write_bytes(part.read_bytes()[:50])


def other_version(part: Path) -> None:
    path = part.with_name(ACCOUNT)
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 99'))


@pytest.mark.parametrize(
    "change",
    [
        Path.unlink,
        damaged,
        other_version,
        lambda part: part.with_name("mine.parquet").write_bytes(part.read_bytes()),
        lambda part: part.with_name(ACCOUNT).write_text("[]"),
    ],
)
def test_a_folder_that_was_changed_is_no_import(tmp_path: Path, change: Callable[[Path], object]) -> None:
    stored = imported(tmp_path, 10)
    change(stored.folder / "part-00001.parquet")
    assert open_stored(stored.folder) is None
    assert open_stored(tmp_path) is None


def test_a_file_that_is_damaged_later_is_named(tmp_path: Path) -> None:
    stored = imported(tmp_path, 10)
    damaged(stored.folder / "part-00001.parquet")
    with pytest.raises(OutcomeError, match=r"part-00001\.parquet: cannot be read .*Import the log again"):
        StoredLog(stored.folder, stored.account).skeleton()


def test_a_file_that_changes_between_the_passes_is_named(tmp_path: Path) -> None:
    stored = imported(tmp_path, 10)
    stored.skeleton()
    part = stored.folder / "part-00002.parquet"
    table = pq.read_table(part)
    pq.write_table(table.set_column(1, "prompt", pa.array(["another"] * len(table))), part)
    told = r"part-00002\.parquet: changed since the run began to read it.*Import the log again"
    with pytest.raises(OutcomeError, match=told):
        stored.requests_of(np.array(["r12", "r3", "r0", "r19"], dtype=object))
    with pytest.raises(OutcomeError, match=told):
        stored.rows_of(["r3"])
    Path(str(part)).unlink()
    with pytest.raises(OutcomeError, match=told):
        stored.skeleton()


@pytest.mark.parametrize(
    ("column", "cells", "told"),
    [
        ("messages", '{"a":', r"part-00001\.parquet: row 1: messages are no JSON .*Import the log again"),
        ("messages", "[1]", r"part-00001\.parquet: row 1: messages are '\[1\]', where a list of messages was expected"),
        ("quality", "good", r"part-00001\.parquet: column quality is string, where double was expected"),
        ("request_id", 7, r"part-00001\.parquet: column request_id is int64, where string was expected"),
    ],
)
def test_cells_that_no_import_writes_are_said_with_their_file(
    tmp_path: Path, column: str, cells: object, told: str
) -> None:
    stored = imported(tmp_path, 10)
    part = stored.folder / "part-00001.parquet"
    table = pq.read_table(part)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array([cells] * len(table))), part)
    with pytest.raises(OutcomeError, match=told):
        StoredLog(stored.folder, stored.account).skeleton()
