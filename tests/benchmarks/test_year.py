"""A year of decisions in a store is made and measured, and said in a table."""

from __future__ import annotations

import pytest

from benchmarks.scale import year
from tests.postgres_server import needs_postgres, own_database


@needs_postgres
def test_a_small_year_is_measured_and_told(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(year, "_FEEDBACK", 5)
    monkeypatch.setattr(year, "_BUDGETS", 5)
    found = year.measured(own_database(postgres, "year"), 2_000)
    assert found["fed_back"] == pytest.approx(1_200, rel=0.1)
    assert None not in found.values()
    sizes = {"2000": found, "4000": found | {"savings_year_s": None}}
    told = year.section(
        {"sizes": sizes, "upgrade": {"rows": 10, "seconds": 0.5, "load": 1.5}, "promised": year.PROMISED}
    )
    assert told.startswith("### A year in the store")
    assert "| | 2,000 decisions | 4,000 decisions | aimed at |" in told
    assert told.endswith("holds a table of 10 decisions for 0.5 s, at a load of 1.5.")
    assert "holds a table" not in year.section({"sizes": sizes, "promised": year.PROMISED}), "it need not be measured"
    [row] = [line for line in told.splitlines() if line.startswith("| savings of a year")]
    assert row.endswith(" s | not within 30 s | ≤ 30.0 s |")
