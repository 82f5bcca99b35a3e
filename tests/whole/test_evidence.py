"""docs/evidence.md: from a bare log to a certified router, typed again against a stand-in that bills."""

from __future__ import annotations

import re

import pytest

from docs.evidence import PAGE, WAYS, Typed, page, typed_all
from docs.first_hour import build_wheel, install, without_figures
from tests.conftest import ROOT

# What these say depends on the log and on what it is believed to tell, not on what was trained.
SURE = ("look", "plan", "replay")


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Typed:
    folder = tmp_path_factory.mktemp("installed")
    return typed_all(install(build_wheel(folder), folder / "site"), ROOT / ".cache" / "encoders")


def figure(pattern: str, text: str) -> float:
    found = re.search(pattern, " ".join(text.split()))
    assert found is not None, text
    return float(found.group(1).replace(",", ""))


def test_nothing_is_certified_before_and_a_good_part_after(typed: Typed) -> None:
    assert "NOTHING COULD BE CERTIFIED" in typed.terminals["train"]
    assert "What now: router-train plan --data gateway.jsonl" in typed.terminals["train"]
    assert figure(r"saving ([\d.]+)%", typed.terminals["again"]) >= 30.0


def test_what_it_costs_is_about_what_was_planned_and_all_that_was_billed(typed: Typed) -> None:
    bought, probed = typed.terminals["replay"], typed.terminals["new"]
    paid, expected = figure(r"cost ([\d.]+) USD", bought), figure(r"of the ([\d.]+) expected", bought)
    assert paid / expected == pytest.approx(1.0, abs=0.25)
    assert paid <= 5.0
    assert typed.billed_usd == pytest.approx(paid + figure(r"These answers cost ([\d.]+) USD", probed), abs=1e-4)
    answers = figure(r"([\d,]+) answers bought", bought) + figure(r"([\d,]+) answers bought", probed)
    assert answers == typed.answers


def test_the_terminal_is_as_the_page_shows_it(typed: Typed) -> None:
    """Word for word, without the figures, as far as no trained head decides what is said (`python -m docs.evidence`)."""
    shown = PAGE.read_text(encoding="utf-8")
    made = page({name: typed.terminals[name] if name in SURE else f"the terminal of {name}" for name in WAYS})
    parts = [without_figures(part) for part in re.split("|".join(f"the terminal of {name}" for name in WAYS), made)]
    place = 0
    for part in parts:
        place = without_figures(shown).index(part.strip(" `"), place)
    commands = re.findall(r"^\$ (.*)$", shown, flags=re.MULTILINE)
    assert commands == [command for way in WAYS.values() for command in way]
