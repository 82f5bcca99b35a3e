"""Whether weak signals help, by the truth: on a few seeds here, on more in docs/logs.md."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks.simulated.signals import ARMS, SPLIT, WORLDS, Figures, figures, lead, table, weights_of, write
from training.config import load_params

CACHE = Path(".cache")


@pytest.fixture(scope="module")
def found() -> list[dict[str, Figures]]:
    params = load_params(overrides=list(SPLIT))
    arms = {"unused": weights_of(0.0), "fitted on": weights_of(0.3)}
    return [figures(WORLDS["5% judged"], arms, params, CACHE, seed, requests=6_000) for seed in range(20, 26)]


def test_where_few_answers_are_judged_weak_signals_help_by_the_truth(found: list[dict[str, Figures]]) -> None:
    ours, theirs = ([one[arm].captured for one in found] for arm in ("fitted on", "unused"))
    assert np.mean(ours) > np.mean(theirs)
    assert all(one.regret >= 0.0 and one.captured <= 1.0 for each in found for one in each.values())


def test_the_lead_by_hand() -> None:
    mean, low, high = lead([2.0, 3.0, 4.0], [1.0, 1.0, 1.0])
    assert (mean, high - mean) == (pytest.approx(2.0), pytest.approx(mean - low))
    assert high - mean == pytest.approx(4.303 / np.sqrt(3), rel=1e-3)


def test_the_page_holds_what_was_measured_of_every_world_and_arm(tmp_path: Path) -> None:
    page = Path("docs/logs.md").read_text(encoding="utf-8")
    for world in WORLDS:
        assert sum(line.startswith(f"| {world} | ") for line in page.splitlines()) == len(ARMS)
    (seeds,) = re.findall(r"^Means of (\d+) seeds:$", page.partition("## Weak signals")[2], re.MULTILINE)
    assert f"<!-- python -m benchmarks.simulated.signals --seeds {seeds} writes this -->" in page
    copy = tmp_path / "logs.md"
    copy.write_text(page, encoding="utf-8")
    for captured in (0.25, 0.5):
        write(copy, table({"w": [{"a": Figures(captured, 0.1)}]}), seeds=7)
    text = copy.read_text(encoding="utf-8")
    assert text.count("| w | a | 0.500 |  | 0.1000 |  |") == 1
    assert "0.250" not in text
    assert text.count("<!-- python -m benchmarks.simulated.signals --seeds 7 writes this -->") == 1
    assert text.partition("## Weak signals")[0] == page.partition("## Weak signals")[0]
    assert text.partition("## Answers that")[2] == page.partition("## Answers that")[2]
