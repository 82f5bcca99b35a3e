"""Rows as they are kept, and new ones behind them: what is a repeat, what contradicts, and which request an id by prompt is."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from training.cli.since import earlier
from training.dataset.sampling.core import id_hashes
from training.kept.files import KeptError
from training.kept.rows import hashed_rows, join, missing_rows, new_columns, numbers_of, read_rows, write_rows
from training.kept.since import add_rows
from training.logs.outcomes import Outcomes
from training.logs.pairing import paired, prompt_ids
from training.logs.repeated import repeats
from training.logs.validate import validate


def outcomes(*rows: dict[str, Any]) -> Outcomes:
    """A log as it is read: rows without an id by their prompts."""
    usual = {"candidate": "a", "quality": 1.0, "cost_usd": 0.01}
    table = pd.DataFrame([{**usual, **row} for row in rows])
    if "request_id" not in table:
        table["request_id"] = prompt_ids(table)
    read = validate(table, source="test", format="canonical")
    return next(iter(paired([read]))) if any(read.frame["request_id"].str.startswith("p-")) else read


class _Kept:
    def __init__(self, folder: Path, rows: int = 0, requests: int = 0, learned: int = 0) -> None:
        self.folder, self.rows, self.requests, self.learned = folder, rows, requests, learned

    def path(self, name: str) -> Path:
        return self.folder / name


def kept(folder: Path, table: Outcomes) -> pd.DataFrame:
    write_rows(folder, hashed_rows(table.frame, stand_ins=False))
    return read_rows(_Kept(folder, len(table.frame), table.frame["request_id"].nunique()))  # type: ignore[arg-type]


def test_rows_come_back_as_they_were_but_for_texts_and_ids(tmp_path: Path) -> None:
    table = outcomes(
        {"request_id": "one", "prompt": "What is it?", "session_id": "s", "input_tokens": 3},
        {"request_id": "one", "prompt": "What is it?", "session_id": "s", "candidate": "b", "quality": None},
        {"request_id": "two", "prompt": "And that?", "session_id": None, "workflow": "chat", "timestamp": "2026-01-02"},
    )
    found = kept(tmp_path, table)
    same = [name for name in found if name not in ("request_id", "session_id", "prompt", "messages")]
    pd.testing.assert_frame_equal(found[same], table.frame[same])
    assert list(found) == list(table.frame)
    assert found["request_id"].nunique() == 2
    assert numbers_of(found["request_id"].to_numpy(dtype=object)).tolist() == id_hashes(["one", "one", "two"]).tolist()
    assert found["session_id"].isna().tolist() == [False, False, True]
    assert found["prompt"].isna().tolist() == [False, True, False]
    assert "What" not in str(found.to_dict())


def test_known_rows_and_contradictions_are_skipped_as_importing_does(tmp_path: Path) -> None:
    old = [{"request_id": "one", "prompt": "What is it?"}, {"request_id": "two", "prompt": "And that?"}]
    new = [
        old[1],
        {"request_id": "two", "prompt": "And that?", "candidate": "b"},
        {"request_id": "one", "prompt": "Quite another text"},
        {"request_id": "three", "prompt": "Third."},
        {"request_id": "three", "prompt": "Third.", "candidate": "b"},
    ]
    found = join(kept(tmp_path, outcomes(*old)), outcomes(*new), stand_ins=False)
    assert (found.added, found.repeats, len(found.frame)) == (1, 2, 5)
    assert found.new.reasons == {"duplicate row": 1, "request has two different prompts": 1}
    whole = repeats.concat([outcomes(*old), outcomes(*new)]).frame
    assert found.frame["candidate"].tolist() == whole["candidate"].tolist()
    assert found.frame["prompt"].isna().tolist() == [False, False, True, False, True]
    assert sorted(set(found.ids.values())) == ["three", "two"]
    assert found.new.rows_read == len(found.new.frame) + len(found.new.skipped)


def test_rows_that_another_log_lacks_are_told_by_what_they_say(tmp_path: Path) -> None:
    rows = [
        {"request_id": name, "prompt": f"{name}?", "workflow": "w", "timestamp": "2026-01-02", "input_tokens": 3}
        for name in ("one", "two", "three")
    ]
    there = kept(tmp_path, outcomes(*rows))
    assert missing_rows(hashed_rows(outcomes(*rows[::-1]).frame, stand_ins=False), there) == 0
    other = outcomes(rows[0], rows[1] | {"quality": 0.5}, rows[2] | {"request_id": "four"})
    assert missing_rows(hashed_rows(other.frame, stand_ins=False), there) == 2


def test_nothing_new_is_an_error(tmp_path: Path) -> None:
    table = outcomes({"request_id": "one", "prompt": "What is it?"})
    with pytest.raises(KeptError, match="none of the 1 rows is new"):
        join(kept(tmp_path, table), table, stand_ins=False)


def test_rows_that_contradict_are_not_called_learned_from(tmp_path: Path) -> None:
    old = [{"request_id": name, "prompt": f"{name}?"} for name in ("one", "two", "three", "four", "five")]
    new = [old[0], *(row | {"prompt": "Quite another text"} for row in old[1:])]
    with pytest.raises(
        KeptError,
        match=r"none of the 5 rows is new: 4 have the id of a request that has another text \(row 2 of test, row 3 of test, "
        r"row 4 of test, …\), so they contradict it and are not learned from; 1 were learned from before",
    ):
        join(kept(tmp_path, outcomes(*old)), outcomes(*new), stand_ins=False)


def test_the_candidates_that_nobody_kept_are_named(tmp_path: Path) -> None:
    old = kept(tmp_path, outcomes({"request_id": "one", "prompt": "What is it?"}))
    new = outcomes({"request_id": "two", "prompt": "And that?", "candidate": "z"})
    assert new_columns(new.frame, old) == ["z"]


def test_ids_by_prompt_go_on_as_in_one_log(tmp_path: Path) -> None:
    """The second row of a candidate with a prompt is the next request, whichever of the two logs has it."""
    old = [
        {"prompt": "Again and again?", "quality": 0.0},
        {"prompt": "Again and again?", "quality": 1.0},
        {"prompt": "Again and again?", "candidate": "b"},
        {"prompt": "Another one."},
    ]
    new = [
        {"prompt": "Again and again?", "quality": 1.0},  # known: a repeat
        {"prompt": "Again and again?", "quality": 0.5},
        {"prompt": "Again and again?", "candidate": "b", "quality": 0.2},
        {"prompt": "New."},
    ]
    found = join(kept(tmp_path, outcomes(*old)), outcomes(*new), stand_ins=False)
    once = hashed_rows(repeats.concat([outcomes(*old, *new)]).frame, stand_ins=False)
    columns = ["request_id", "candidate", "quality"]
    assert found.frame[columns].values.tolist() == once[columns].values.tolist()
    assert found.repeats == 1
    again = outcomes(*new).frame["request_id"]
    assert set(found.ids.values()) <= set(again), "their texts are found by the ids that they were read with"


@pytest.mark.parametrize("end", ["-retry", "abc", "-" + "9" * 30, "-0"])
def test_ids_that_only_begin_like_those_by_prompt_are_as_they_were_logged(tmp_path: Path, end: str) -> None:
    own = "p-507f1f77bcf86cd799439011"
    old = kept(tmp_path, outcomes({"request_id": own, "prompt": "One."}))
    found = join(old, outcomes({"request_id": own + end, "prompt": "Two."}), stand_ins=False)
    assert list(found.ids.values()) == [own + end]
    assert found.added == 1


def test_workflows_where_kinds_of_work_stood_for_them_are_refused_at_once(tmp_path: Path) -> None:
    kept(tmp_path, outcomes({"request_id": "one", "prompt": "One."}))
    before = SimpleNamespace(
        path=lambda name: tmp_path / name,
        rows=1,
        requests=1,
        bundle="v1",
        choices=SimpleNamespace(kinds=SimpleNamespace(names=("ask", "sum"))),
    )
    new = {"request_id": "two", "prompt": "Two."}
    assert add_rows(before, outcomes(new), stand_ins=False).added == 1  # type: ignore[arg-type]
    with pytest.raises(KeptError, match=r"the new rows name workflows, and v1 was selected with .*\(ask, sum\)"):
        add_rows(before, outcomes(new | {"workflow": "chat"}), stand_ins=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("quality", 7.0),
        ("propensity", -0.1),
        ("cost_usd", np.inf),
        ("latency_ms", -1.0),
        ("input_tokens", -3),
        ("cost_usd", "x"),
        ("input_tokens", "x"),
        ("prompt", 5),
        ("timestamp", "x"),
        ("candidate", None),
        ("request_id", "abc"),
        ("session_id", "abc"),
        ("request_id", "#0123456789abcdef"),  # one request, where two were kept
    ],
)
def test_rows_that_nobody_kept_so_are_an_error(column: str, value: Any, tmp_path: Path) -> None:
    kept(tmp_path, outcomes({"request_id": "one", "prompt": "One."}, {"request_id": "two", "prompt": "Two."}))
    table = pq.read_table(tmp_path / "rows.parquet").to_pandas().assign(**{column: value})
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), tmp_path / "rows.parquet")
    with pytest.raises(KeptError, match=r"rows\.parquet cannot be read \(.*remove the folder, and train on everything"):
        read_rows(_Kept(tmp_path, 2, 2))  # type: ignore[arg-type]
    with pytest.raises(KeptError, match="cannot be read"):
        read_rows(_Kept(tmp_path, -5, 2))  # type: ignore[arg-type]


def test_of_bundles_beside_it_the_newest_that_can_be_read_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def beside(name: str) -> Any:
        return SimpleNamespace(bundle=name, rows=3, folder=Path("models/kept") / name)

    def read(one: Any) -> pd.DataFrame:
        if one.bundle == "damaged":
            raise KeptError("damaged/rows.parquet cannot be read")
        return pd.DataFrame({"request_id": ["a", "b", "c"], "prompt": "", "messages": ""})

    monkeypatch.setattr(earlier, "added_before", lambda _: [beside("older"), beside("sound"), beside("damaged")])
    monkeypatch.setattr(earlier, "read_rows", read)
    before = SimpleNamespace(bundle="first", rows=1, folder=Path("models/kept/first"))

    def told(*ids: str) -> str | None:
        frame = pd.DataFrame({"request_id": ["a", *ids], "prompt": "", "messages": ""})
        return earlier._left_out(before, SimpleNamespace(frame=frame))  # type: ignore[arg-type]

    assert "1 of the 2 rows that were added to first before, for sound, are not in this log" in (told("b", "d") or "")
    assert told("c", "b", "d") is None
