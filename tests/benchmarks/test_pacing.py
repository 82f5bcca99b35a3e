"""What pacing gives: by hand on one kind of request, then on simulated traffic with a trained bundle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.simulated.pacing import Traffic, pacing_figures, stream
from serving.bundle.request import RouteRequest
from serving.decide.policy import Policy
from serving.decide.router import Router
from tests import fake_bundle
from tests.conftest import Trained
from training.learn.novelty import spread_of

COUNT, DAYS = 600, 2
COST, QUALITY = (0.00004, 0.001, 0.006), (0.731, 0.881, 0.982)


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Router:
    return Router.load(fake_bundle.build(tmp_path_factory.mktemp("models")))


def even(router: Router) -> Traffic:
    """The same request every so often; cost and quality are what the bundle expects."""
    n = COUNT * DAYS
    return Traffic(
        [RouteRequest("hello")] * n,
        router.encoder.encode(["hello"] * n),
        1_767_225_600.0 + np.arange(n) * 86_400.0 / COUNT,  # from midnight on
        np.tile(QUALITY, (n, 1)),
        np.tile(COST, (n, 1)),
    )


def test_half_the_money_by_hand(router: Router) -> None:
    traffic, best, limit = even(router), Policy(knob=0.0), 0.5 * COUNT * COST[2]
    unlimited = stream(router, traffic, "unlimited", 0.0, best)
    assert unlimited.quality.mean() == pytest.approx(QUALITY[2])
    assert stream(router, traffic, "cheapest", 0.0, best).quality.mean() == pytest.approx(QUALITY[0])
    free = stream(router, traffic, "free", limit, best)
    # Half of each day the best, then a few of the middle one on what is left, then the cheapest.
    assert free.quality.mean() == pytest.approx((QUALITY[0] + QUALITY[2]) / 2, abs=0.01)
    assert (free.quality == QUALITY[0]).mean() == pytest.approx(0.493, abs=0.01)
    paced = stream(router, traffic, "paced", limit, best)
    # The best and the middle one by turns: .4 x .982 + .6 x .881 = .921 at the same cost.
    assert paced.quality.mean() == pytest.approx(0.921, abs=0.005)
    assert not paced.cheapest.any()
    for day in range(DAYS):
        assert 0.85 * limit < paced.cost_usd[paced.day == day].sum() <= limit


def test_novelty_is_near_1_where_prompts_are_usual() -> None:
    rng = np.random.default_rng(0)
    usual = rng.normal(size=(4_000, 3)) * [1.0, 0.5, 0.1] + [2.0, 0.0, -1.0]
    spread = spread_of(usual.astype(np.float32))
    assert spread.novelty(usual.astype(np.float32)).mean() == pytest.approx(0.85, abs=0.15)
    # As far away as usual, but where prompts do not vary: [0, 0, 1] is ten deviations, [1, 0, 0] is one.
    off = spread.mean + np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    along, across = spread.novelty(off.astype(np.float32))
    assert along == pytest.approx(1 / 3, rel=0.1)
    assert across > 10


def test_pacing_beats_spending_freely_on_simulated_traffic(trained: Trained) -> None:
    figures: Any = pacing_figures(Router.load(trained.bundle), requests=1_600, days=2.0, seeds=(401,), shares=(0.5,))
    half = figures["0.5"]
    assert half["gain"]["mean"] > 0.02
    assert half["paced"]["worst_day"] < 1.05
    assert half["paced"]["ran_out"]["mean"] < half["free"]["ran_out"]["mean"] / 3
    assert figures["cheapest"]["quality"]["mean"] < half["free"]["quality"]["mean"]
    assert half["paced"]["quality"]["mean"] <= figures["unlimited"]["quality"]["mean"]
