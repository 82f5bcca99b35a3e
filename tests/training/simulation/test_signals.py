"""Simulated signals come as often as is stated, only where nobody judged, and hide nothing that was known."""

from __future__ import annotations

import numpy as np
import pytest

from training.config import WEAK
from training.prices.catalogue import SHIPPED, load_catalogue
from training.simulation.signals import Behaviour, Showing, with_signals
from training.simulation.simulate import ACCEPTABLE_SCORE, simulate


def test_signals_come_as_often_as_stated() -> None:
    catalogue = load_catalogue(SHIPPED)
    made = simulate(list(catalogue.values())[:3], requests=6_000, seed=5, shadow_share=0.0, judged_share=1.0).outcomes
    behaviour = Behaviour({"retried": Showing(0.4, 0.03), "cut": Showing(0.1)}, restless={"sql": 0.5})
    found = with_signals(made, behaviour, 0.05, seed=6)
    failed = (made["status"] == "error").to_numpy()
    source, quality = found["quality_source"], found["quality"]
    assert (quality[failed] == 0.0).all()
    assert source[failed].isna().all()
    judged = (quality.notna() & source.isna()).to_numpy() & ~failed
    assert judged[~failed].mean() == pytest.approx(0.05, abs=0.01)
    assert (quality[judged] == made["quality"][judged]).all()
    hidden = ~judged & ~failed
    bad, sql = (made["quality"] < ACCEPTABLE_SCORE).to_numpy(), (made["workflow"] == "sql").to_numpy()

    def share(name: str, among: np.ndarray) -> float:
        return float((source[hidden & among] == name).mean())

    assert share("cut", bad) == pytest.approx(0.1, abs=0.03)
    assert share("cut", ~bad) == 0.0
    assert share("retried", bad) == pytest.approx(0.9 * 0.4, abs=0.04)
    assert share("retried", ~bad & ~sql) == pytest.approx(0.03, abs=0.015)
    assert share("retried", ~bad & sql) == pytest.approx(0.5, abs=0.05)
    assert set(source.dropna()) <= set(WEAK)
    assert (quality[source.notna()] == 0.0).all()
