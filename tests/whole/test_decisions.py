"""docs/decisions: each page is listed, names rooms that exist, and quotes figures that the benchmarks wrote."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "docs" / "decisions"
PAGES = sorted(FOLDER.glob("[0-9]*.md"))
PARTS = ("Decision", "Why", "Figures", "Where", "Think again")


def numbers(text: str) -> set[str]:
    """The numbers with at least three digits, as they are written; a year or a list's number has no place there."""
    return {found for found in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text) if sum(map(str.isdigit, found)) >= 3}


def test_every_page_is_listed_under_its_own_title() -> None:
    listed = re.findall(r"\[(.+)\]\((\d.+\.md)\)", (FOLDER / "README.md").read_text(encoding="utf-8"))
    titles = [(page.read_text(encoding="utf-8").splitlines()[0].partition(". ")[2], page.name) for page in PAGES]
    assert listed == titles
    assert len(PAGES) == 12


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_says_what_why_with_which_figures_and_where(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    places = [text.index(f"**{part}") for part in PARTS]
    assert places == sorted(places)
    benchmarks = numbers((ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8"))
    figures = numbers(text[places[2] : places[3]])
    assert figures <= benchmarks
    where = re.findall(r"`((?:training|serving|data)/[\w./]+)`", text)
    assert all((ROOT / named).exists() for named in where), where
