"""docs/first-hour.md: what a new user types with somebody else's log, from the built wheel to a recommendation, typed again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from docs.first_hour import LLMS, PAGE, WAYS, build_wheel, install, one_way, page, without_figures
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def terminals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("installed")
    site = install(build_wheel(folder), folder / "site")
    encoders = ROOT / ".cache" / "encoders"
    return {name: one_way(site, log, write, commands, encoders) for name, (_, log, write, commands) in WAYS.items()}


@pytest.mark.parametrize("way", WAYS)
def test_each_way_ends_in_a_recommendation(terminals: dict[str, str], way: str) -> None:
    answer = json.loads(terminals[way].splitlines()[-1])
    assert answer["model"] in LLMS
    assert {one["model"] for one in answer["candidates"]} == set(LLMS)
    if way == "A gateway's own log":  # whose few thumbs certify nothing
        assert (answer["model"], answer["reason"], answer["certificate"]) == ("gpt-4o", "reference", None)
        assert "What now: router-train plan --logs logs.toml --budget-usd" in terminals[way]
        return
    assert answer["reason"] == "best_value"
    assert answer["certificate"]["bound"] <= answer["certificate"]["alpha"] == 0.05


def test_the_terminal_is_as_the_page_shows_it(terminals: dict[str, str]) -> None:
    """Word for word, without the figures: `python -m docs.first_hour` writes the page."""
    assert without_figures(page(terminals)) == without_figures(PAGE.read_text(encoding="utf-8"))


def test_nothing_is_cut_and_no_path_of_this_machine_is_shown() -> None:
    text = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^\$ (.*)$", text, flags=re.MULTILINE)
    assert len(commands) == sum(len(typed) for *_, typed in WAYS.values())
    assert "…m" not in text
    assert "…\u2502" not in text
    assert str(Path.home()) not in text
    assert "/tmp" not in text
