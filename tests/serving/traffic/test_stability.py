"""The stability index by hand, and what chance makes of it without any drift."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.traffic.stability import beyond_chance, by_chance, psi

K = 64


def test_psi_by_hand() -> None:
    assert psi([0.5, 0.5], [10, 10]) == 0.0
    # (.8 - .5) ln(.8 / .5) + (.2 - .5) ln(.2 / .5)
    assert psi([0.5, 0.5], [8, 2]) == pytest.approx(0.3 * log(1.6) - 0.3 * log(0.4))
    assert psi([0.5, 0.5], [8, 2]) == pytest.approx(0.4158883, abs=1e-6)


def test_psi_of_an_empty_group_counts_half_a_prompt() -> None:
    # shares 1 and .5 / 10 = .05 against .5 and .5
    assert psi([0.5, 0.5], [10, 0]) == pytest.approx(0.5 * log(2.0) + (0.05 - 0.5) * log(0.1))
    # what training never saw is half a prompt of 10 too: (.5 - .05) ln 10, twice (.5 against 1 is the other)
    assert psi([1.0, 0.0], [5, 5]) == pytest.approx((0.5 - 1.0) * log(0.5) + (0.5 - 0.05) * log(10.0))


def test_psi_of_nothing_is_zero_and_lengths_have_to_agree() -> None:
    assert psi([0.5, 0.5], [0, 0]) == 0.0
    with pytest.raises(ValueError, match="1 counts arrived for 2"):
        psi([0.5, 0.5], [1])


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1, max_size=20))
def test_psi_is_never_negative_and_the_order_of_groups_is_nothing(groups: list[tuple[int, int]]) -> None:
    total = sum(one for _, one in groups)
    counts, shares = [count for count, _ in groups], [one / total for _, one in groups]
    assert psi(shares, counts) >= 0
    assert psi(shares[::-1], counts[::-1]) == pytest.approx(psi(shares, counts))


def drawn(seed: int, conversations: int, turns: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    subjects = rng.integers(K, size=(conversations, 2))
    clusters = np.take_along_axis(subjects, rng.integers(2, size=(conversations, turns)), axis=1)
    return clusters.ravel(), np.repeat(np.arange(conversations), turns)


def test_chance_by_hand() -> None:
    """Thirty prompts by themselves, two clusters: the share's variance is a (1 - a) / (n - 1), over .5 each."""
    clusters = np.arange(30) % 3 // 2
    found = by_chance([0.5, 0.5], clusters, np.arange(30))
    assert found == pytest.approx(2 * (2 / 3 * 1 / 3 / 29) / 0.5)
    copies = by_chance([0.5, 0.5], np.repeat(clusters, 7), np.repeat(np.arange(30), 7))
    assert copies == pytest.approx(found), "copies tell no more"
    assert by_chance([0.2] * 5, np.zeros(100, dtype=np.intp), np.arange(100) // 10) == pytest.approx(4 / 10)


def test_a_few_sessions_on_one_subject_are_no_shift() -> None:
    shares = [1 / K] * K
    assert beyond_chance(shares, np.zeros(2_000, dtype=np.intp), np.arange(2_000) // 1_000) == 0.0


@pytest.mark.parametrize(("conversations", "turns"), [(200, 1), (1_000, 1), (100, 10), (200, 10)])
def test_the_index_without_drift_is_what_chance_makes(conversations: int, turns: int) -> None:
    shares = [1 / K] * K
    plain, left = [], []
    for seed in range(40):
        clusters, of = drawn(seed, conversations, turns)
        plain.append(psi(shares, np.bincount(clusters, minlength=K).tolist()))
        left.append(beyond_chance(shares, clusters, of))
    assert np.mean(plain) > 0.05
    assert np.mean(left) < 0.03
    assert np.mean(np.array(left) > 0.1) <= 0.1
    assert max(left) < 0.25


def test_a_shift_is_still_seen() -> None:
    shares = [1 / K] * K
    clusters, of = np.random.default_rng(0).integers(K // 2, size=1_000), np.arange(1_000)
    assert beyond_chance(shares, clusters, of) > 0.25
    assert beyond_chance(shares, clusters[:0], of[:0]) == 0.0
