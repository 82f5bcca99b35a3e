"""What the cells of notebooks write: a spreadsheet takes no name for a formula."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd

from training.cli.seeing import cells


def test_a_name_that_would_be_a_formula_is_text(tmp_path: Path) -> None:
    names = ["easy", "=1+1", "  =1+1", "\uff1d1+1", "\u200b@x", "a\r\n=1+1", "\t=1"]
    cells.written(pd.DataFrame({"workflow": names, "quality": [-0.5] * len(names)}), tmp_path / "made", "lines.csv")
    with (tmp_path / "made" / "lines.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["workflow"] for row in rows] == [
        "easy",
        "'=1+1",
        "'  =1+1",
        "'\uff1d1+1",
        "'\u200b@x",
        "a  =1+1",
        "' =1",
    ]
    assert {row["quality"] for row in rows} == {"-0.5"}
