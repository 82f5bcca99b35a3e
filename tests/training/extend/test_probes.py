"""Probes: each with a known, positive chance, within the budget, spread over workflows and difficulty."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.extend.probes import ProbeError, Probes, choose_probes


def chosen(seed: int = 0, n: int = 400, count: int = 80, cost: float = 0.01, budget: float = 10.0) -> Probes:
    draw = np.random.default_rng(1)
    tags = np.eye(4)[draw.integers(4, size=n)]
    workflow = np.array(["a", "b", "c", None], dtype=object)[tags.argmax(axis=1)]
    features = np.column_stack([np.ones(n), draw.normal(size=(n, 2)), tags])
    acceptable = draw.uniform(0.05, 0.95, size=n)
    return choose_probes(
        features,
        np.ones(features.shape[1]),
        acceptable,
        workflow,
        np.full(n, cost),
        count=count,
        least=20,
        budget_usd=budget,
        seed=seed,
    )


@given(st.integers(20, 380))
def test_chances_are_positive_and_sum_to_as_many_as_are_drawn(count: int) -> None:
    found = chosen(count=count)
    assert (found.chance > 0).all()
    assert (found.chance <= 1).all()
    assert found.chance.sum() == pytest.approx(count)
    assert len(found.rows) == len(set(found.rows.tolist())) == count


def test_each_request_is_drawn_as_often_as_its_chance_says() -> None:
    times = np.zeros(400)
    for seed in range(400):
        times[chosen(seed).rows] += 1
    chance = chosen().chance
    error = np.sqrt(chance * (1 - chance) / 400)
    assert (np.abs(times / 400 - chance) < 5 * error + 1e-3).all()


def test_no_chance_is_below_half_of_an_even_one() -> None:
    assert chosen().chance.min() >= 0.5 * 80 / 400 - 1e-9


def test_the_budget_buys_fewer_and_never_too_few() -> None:
    found = chosen(budget=0.405)
    assert 30 <= len(found.rows) <= 40
    assert found.chance.sum() == pytest.approx(len(found.rows))
    with pytest.raises(ProbeError, match=r"buys about 10 answers at 0\.010000 USD each, and at least 20 are needed"):
        chosen(budget=0.1)


def test_of_a_short_log_all_are_asked_and_of_a_shorter_one_none() -> None:
    found = chosen(n=30)
    assert len(found.rows) == 30
    np.testing.assert_allclose(found.chance, 1.0)
    with pytest.raises(ProbeError, match="19 logged requests"):
        chosen(n=19)
