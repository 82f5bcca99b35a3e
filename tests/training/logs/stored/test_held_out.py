"""A log and what is held out of it: read from disk it is what it is in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from serving.bundle.request import text_of
from training.cli import reading
from training.cli.options import LogOptions
from training.config import load_params
from training.dataset.matrix import requests_of
from training.logs.sources import decisions
from training.logs.sources.importer import DEFAULT
from training.logs.stored.held_out import needs_all_at_once

ROW: dict[str, Any] = {"quality": 1.0, "timestamp": "2026-03-04T05:06:07Z", "split": "test"}


def logs(folder: Path, *, ids: bool) -> tuple[Path, Path]:
    """Six hundred requests and two hundred that are held out: five of these are rows of the log, and five contradict it."""
    rows = [
        {**ROW, "prompt": f"Question {number}", "candidate": candidate, "session_id": f"s{number // 3}"}
        | ({"request_id": f"r{number}"} if ids else {})
        for number in range(800)
        for candidate in ("a", "b")
    ]
    train, test = rows[:1_200], [*rows[:5], *rows[1_200:]]
    if ids:
        test += [{**row, "prompt": "Quite another"} for row in rows[5:10]]
    test.append({"candidate": "a"})
    paths = folder / "log.jsonl", folder / "test.jsonl"
    for path, told in zip(paths, (train, test), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in told))
    return paths


# Half of so many are held at most: fewer than the log has, as many as it has but not the test, all of both.
@pytest.mark.parametrize("core", [900, 1_320, 1_800])
@pytest.mark.parametrize("ids", [True, False])
def test_a_test_beside_a_log_is_the_same_from_disk(tmp_path: Path, core: int, ids: bool) -> None:
    data, test = logs(tmp_path, ids=ids)
    third = core // 3
    params = load_params(overrides=(f"scale.core_train={third}", f"scale.core_measured={third}", "scale.part_rows=300"))
    options = LogOptions(data=(str(data),), cache=tmp_path / "cache")
    whole = reading.read(options, {}, params.judge, lambda *_: None, (str(test),)).outcomes
    found = reading.read_to_train(options, {}, params, lambda *_: None, (str(test),), None)
    assert (found.stored is None) == (core == 1_800)
    columns = [name for name in whole.frame if name not in ("prompt", "messages")]
    pd.testing.assert_frame_equal(found.outcomes.frame[columns], whole.frame[columns])
    assert (found.outcomes.rows_read, found.outcomes.reasons) == (whole.rows_read, whole.reasons)
    assert set(whole.frame["split"]) == {"train", "test"}
    if found.stored is not None and found.work is not None:
        asked = whole.frame["request_id"].drop_duplicates().to_numpy(dtype=object)
        first = whole.frame.drop_duplicates("request_id").set_index("request_id", drop=False).loc[list(asked)]
        texts = [text_of(request) for request in requests_of(first)]
        assert [text_of(request) for request in found.stored.requests_of(asked)] == texts
        found.work.release()
        again = reading.read_to_train(options, {}, params, lambda *_: None, (), None)
        assert set(again.outcomes.frame["split"]) == {"test"}  # not what was imported with the test


def test_logs_that_tell_the_same_outcomes_are_needed_all_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, test = logs(tmp_path, ids=True)
    assert not needs_all_at_once([data], [test], "auto", DEFAULT)
    test.write_text(json.dumps({"decision_id": "d", "chosen": "a"}) + "\n")
    monkeypatch.setattr(decisions, "recognises", lambda path: path.name == "test.jsonl")
    assert needs_all_at_once([data], [test], "auto", DEFAULT)
