"""What the benchmark of adding rows says of what it found, and what it measures."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.scale import run, since


def test_the_table_has_the_whole_run_beside_what_was_added() -> None:
    took = {"seconds": 300.0, "cpu_seconds": 350.0, "peak_mib": 4_000.0}
    quick = {"seconds": 20.0, "cpu_seconds": 25.0, "peak_mib": 1_500.0}
    one = {"requests": 100_000, "added": 1_000, "learned_from": 101_000, "whole": took, "since": quick}
    said = since.section({"runs": [one]})
    assert "| 100,000 | 1,000 | 101,000 | 300 s (350), 4,000 MiB | 20 s (25), 1,500 MiB | 14.0 |" in said
    assert "since" in run.PARTS


def test_new_requests_are_none_of_the_others_and_come_after_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def simulated(*words: str) -> dict[str, float]:
        rows = {
            "request_id": ["req-1", "req-2"],
            "session_id": ["s-1", None],
            "timestamp": ["2026-01-02T00:00:00Z"] * 2,
        }
        pd.DataFrame(rows).to_parquet(words[1], index=False)
        return {}

    monkeypatch.setattr(since, "_child", simulated)
    made = pd.read_parquet(since._new(tmp_path, 2))
    assert made["request_id"].tolist() == ["new-req-1", "new-req-2"]
    assert made["session_id"].tolist()[0] == "new-s-1"
    assert made["session_id"].isna().tolist() == [False, True]
    assert made["timestamp"].min() == pd.Timestamp("2026-03-03", tz="UTC")
    assert [path.name for path in tmp_path.iterdir()] == ["since-new-2.parquet"]
