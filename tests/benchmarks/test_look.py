"""The log that is measured is one that import and inspect read, each of its outcomes another one; and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.scale import look
from benchmarks.scale.run import PARTS, sections
from training.logs.sources import reading

ONE = {"seconds": 50.0, "cpu_seconds": 40.0, "peak_mib": 300.4, "rows_per_second": 20_000.0}


def test_drawn_requests_come_again_as_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "_REQUESTS", 300)
    look.make(tmp_path / "log", 1500)
    found = reading.read([tmp_path / "log"])
    assert (len(found.frame), len(found.skipped)) == (1500, 0)
    assert found.frame["prompt"].str.len().max() <= 110
    first, second = (pd.read_parquet(tmp_path / "log" / f"part-0000{k}.parquet") for k in (0, 1))
    for name in ("request_id", "session_id", "prompt"):
        assert not set(first[name].dropna()) & set(second[name].dropna()), name
    assert first["quality"].equals(second["quality"])


def test_a_process_is_measured_by_itself() -> None:
    held = [look._child("-c", f"held = b'x' * {size << 20}")["peak_mib"] for size in (1, 200)]
    assert 150 < held[1] - held[0] < 250


def test_what_was_found_is_a_table() -> None:
    found = {"logs": [{"outcomes": 1_000_000, "requests": 444_000, "bytes": 45 << 20, "import": ONE, "inspect": ONE}]}
    assert "| 1,000,000 | 444,000 | 45 MiB | 50 s (40), 20,000 rows/s, 300 MiB |" in look.section(found)
    assert "look" in PARTS
    assert sections({"look": found}).startswith("### A log that is looked at")


def test_a_command_that_fails_is_no_figure() -> None:
    with pytest.raises(Exception, match="returned non-zero exit status 3"):
        look._child("-c", "raise SystemExit(3)")
