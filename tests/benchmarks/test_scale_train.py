"""What the benchmark of training by size says of what it found."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.scale import run, train


def test_the_table_has_each_run_beside_the_first() -> None:
    took = {"seconds": 100.0, "cpu_seconds": 150.0, "peak_mib": 1_000.0}
    runs = [
        {"requests": 100_000, "learned_from": 100_000, "aiq": 0.87651, **took},
        {"requests": 1_000_000, "learned_from": 300_000, "aiq": None, **took, "seconds": 450.0, "peak_mib": 1_200.0},
    ]
    said = train.section({"tested": 20_000, "runs": runs})
    assert "| 100,000 | 100,000 | 100 s (150) | 1.0 | 1,000 MiB | 1.0 | 0.8765 |" in said
    assert "| 1,000,000 | 300,000 | 450 s (150) | 4.5 | 1,200 MiB | 1.2 | not measured |" in said
    assert "the same 20,000 requests" in said
    assert "train" in run.PARTS


def test_a_log_that_is_no_whole_one_is_not_measured(tmp_path: Path) -> None:
    (tmp_path / "train-test").mkdir()
    with pytest.raises(SystemExit, match="is not a whole simulated log: remove it"):
        train._requests(tmp_path / "train-test")
