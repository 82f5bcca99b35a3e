"""Metrics of a strong/weak pair, of abstention and of collapse: by hand, then what must hold of any router."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike

from serving.bundle.arrays import Floats
from training.measure.metrics import apgr, aurc, collapse, cpt, pgr, strong_weak

shares = st.lists(st.tuples(st.floats(0, 1), st.floats(0.4, 0.8)), max_size=12)


def floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


def test_aurc_by_hand() -> None:
    # Errors in order of confidence: 0, 1, 0, so risks 0, 1/2, 1/3.
    assert aurc(floats([0.2, 0.9, 0.5]), floats([1, 1, 0])) == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert aurc(floats([0.9, 0.1]), floats([1, 1])) == 0.0
    assert np.isnan(aurc(floats([]), floats([])))


def test_aurc_of_ties_is_the_mean_of_their_orders() -> None:
    # Right first: 0, 1/2. Wrong first: 1, 1/2.
    assert aurc(floats([0.5, 0.5]), floats([1, 0])) == pytest.approx((0.25 + 0.75) / 2)


def test_strong_weak_by_hand() -> None:
    share, quality = strong_weak(floats([0.1, 0.5, 0.9]), floats([1, 1, 0]), floats([0, 1, 0]), floats([0, 0.5, 2]))
    assert share.tolist() == pytest.approx([1, 2 / 3, 0])
    assert quality.tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 3])


def test_pgr_by_hand() -> None:
    assert pgr(0.7, weak=0.5, strong=0.9) == pytest.approx(0.5)
    assert pgr(0.4, weak=0.5, strong=0.9) == pytest.approx(-0.25)
    assert np.isnan(pgr(0.7, weak=0.5, strong=0.5))


def test_apgr_by_hand() -> None:
    # PGR from 0 to .75 over the first half, from .75 to 1 over the second: (.375 + .875) / 2.
    assert apgr(floats([0.5]), floats([0.8]), weak=0.5, strong=0.9) == pytest.approx(0.625)
    assert apgr(floats([]), floats([]), weak=0.5, strong=0.9) == pytest.approx(0.5)
    assert np.isnan(apgr(floats([0.5]), floats([0.8]), weak=0.9, strong=0.9))


def test_cpt_by_hand() -> None:
    share, quality = floats([0.5]), floats([0.8])
    assert cpt(share, quality, weak=0.5, strong=0.9, target=0.5) == pytest.approx(1 / 3)
    assert cpt(share, quality, weak=0.5, strong=0.9, target=0.75) == pytest.approx(0.5)
    assert cpt(share, quality, weak=0.5, strong=0.9, target=0.875) == pytest.approx(0.75)
    assert cpt(share, quality, weak=0.5, strong=0.9, target=0.0) == 0.0
    assert np.isnan(cpt(share, quality, weak=0.5, strong=0.9, target=1.1))
    assert np.isnan(cpt(share, quality, weak=0.9, strong=0.5, target=0.5))


def test_cpt_takes_the_first_share_that_reaches_the_target() -> None:
    # Up to PGR .8 at 1/4, down to .4 at 1/2, and up again.
    share, quality = floats([0.5, 0.25]), floats([0.4, 0.8])
    assert cpt(share, quality, weak=0.0, strong=1.0, target=0.6) == pytest.approx(0.1875)


def test_collapse_by_hand() -> None:
    assert collapse(np.array([2, 2, 2, 0]), 2, np.array([0, 2, -1, 0])) == pytest.approx(0.5)
    assert collapse(np.array([0, 2]), 2, np.array([2, 2])) == pytest.approx(-0.5)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40), st.randoms())
def test_aurc_lies_between_the_perfect_and_the_worst_order_and_ignores_the_rows_order(
    pairs: list[tuple[int, bool]], random: object
) -> None:
    shuffled = list(pairs)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    confidence, correct = floats([c for c, _ in pairs]), floats([y for _, y in pairs])
    value = aurc(confidence, correct)
    again = aurc(floats([c for c, _ in shuffled]), floats([y for _, y in shuffled]))
    assert value == pytest.approx(again)
    assert aurc(correct, correct) - 1e-9 <= value <= aurc(-correct, correct) + 1e-9
    assert aurc(np.ones(len(pairs)), correct) == pytest.approx(1 - correct.mean())


@given(shares)
def test_apgr_does_not_depend_on_the_scale_of_quality_nor_on_the_points_order(pairs: list[tuple[float, float]]) -> None:
    share, quality = floats([s for s, _ in pairs]), floats([q for _, q in pairs])
    value = apgr(share, quality, 0.4, 0.8)
    assert apgr(share, quality * 10 - 1, 3.0, 7.0) == pytest.approx(value)
    assert apgr(share[::-1], quality[::-1], 0.4, 0.8) == pytest.approx(value)
    assert -1e-9 <= value <= 1 + 1e-9


@given(shares, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_target_never_takes_fewer_strong_calls(pairs: list[tuple[float, float]], a: float, b: float) -> None:
    share, quality = floats([s for s, _ in pairs]), floats([q for _, q in pairs])
    low, high = sorted([a, b])
    least, most = (cpt(share, quality, 0.4, 0.8, target) for target in (low, high))
    assert 0 <= least <= most + 1e-9
    assert most <= 1


def test_an_informed_score_beats_chance_and_a_reversed_one_loses_to_it() -> None:
    generator = np.random.default_rng(0)
    strong = (generator.random(4_000) < 0.9).astype(np.float64)
    weak = strong * (generator.random(4_000) < 0.6)
    informed = strong - weak + generator.normal(scale=0.5, size=4_000)
    grid = np.linspace(-3, 3, 60)
    values = [
        apgr(*strong_weak(score, strong, weak, grid), float(weak.mean()), float(strong.mean()))
        for score in (-informed, generator.random(4_000), informed)
    ]
    assert values[0] < 0.35 < values[1] < 0.65 < values[2]
    assert values[1] == pytest.approx(0.5, abs=0.03)
