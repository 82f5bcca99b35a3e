"""The loop closes: decisions and feedback train a router that beats the one which made them, once the traffic has shifted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.gateway.loop import UNMEASURED
from benchmarks.simulated.loop import close_loop, estimated, gain
from serving.bundle.manifest import open_bundle
from tests.conftest import ROOT, router_train_here, setting
from training.config import DEFAULTS, load_params
from training.dataset.matrix import build_matrix
from training.logs.sources import reading
from training.logs.validate import validate
from training.prices.catalogue import SHIPPED, load_catalogue

FAST = ["fit.estimators=workflow-table,logistic", "evaluate.splits=false", "evaluate.resamples=50"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("loop")


@pytest.fixture(scope="module")
def figures(folder: Path) -> dict[str, Any]:
    catalogue = load_catalogue(SHIPPED)
    return close_loop(folder, ROOT / ".cache", load_params(DEFAULTS, FAST), catalogue, requests=4_000, explore=0.2)


def test_the_new_router_beats_the_old_one_on_the_shifted_traffic(figures: dict[str, Any]) -> None:
    before, after = figures["before"], figures["after"]
    assert after["worth"] > before["worth"] + 0.01
    assert after["aiq"] > before["aiq"]


@pytest.mark.parametrize("name", ["before", "after"])
@pytest.mark.parametrize("method", ["doubly_robust", "snips"])
def test_the_log_alone_says_what_the_truth_is(figures: dict[str, Any], name: str, method: str) -> None:
    truth = figures[name]["where_explored"]
    estimate = truth[method]
    assert estimate["refused"] is None
    error = (estimate["high"] - estimate["low"]) / (2 * 1.96)
    # What an effective sample of so many answers can say of their share: the estimated error is too small where, by chance,
    # few of them failed.
    chance = math.sqrt(truth["acceptable"] * (1.0 - truth["acceptable"]) / estimate["effective_sample"])
    assert estimate["value"] == pytest.approx(truth["worth"], abs=3.5 * max(error, chance))
    assert max(error, chance) < 0.06
    assert truth["requests"] > 0.8 * figures["requests"]["later"]


def test_through_a_proxy_it_is_trained_as_a_user_s_training_is() -> None:
    assert load_params(overrides=UNMEASURED).fit == load_params().fit


def test_a_conversation_s_requests_say_no_more_of_the_gain_than_it_does() -> None:
    gaps = np.random.default_rng(0).normal(size=400)
    alone, together = gain(gaps, np.arange(400)), gain(np.repeat(gaps, 5), np.repeat(np.arange(400), 5))
    assert together == pytest.approx(alone)


def test_a_conversation_s_requests_say_no_more_of_a_routing_than_it_does() -> None:
    n = 1_000  # a conversation of five says five times the same
    rows = {
        "request_id": [f"r{place:04}" for place in range(n)],
        "prompt": [f"prompt {place}" for place in range(n)],
        "session_id": [f"s{place // 5}" for place in range(n)],
        "candidate": ["ab"[place // 5 % 2] for place in range(n)],
        "quality": [float(place // 10 % 2) for place in range(n)],
        "cost_usd": 0.0,
        "propensity": 0.5,
    }
    log = build_matrix(validate(pd.DataFrame(rows), source="test", format="test").frame, ["a", "b"])
    whole, expected = np.ones(n, dtype=np.bool_), (np.full((n, 2), 0.5), np.zeros((n, 2)))
    found = estimated(log, np.zeros(n, dtype=np.intp), expected, 0.0, whole)
    for method in ("doubly_robust", "snips"):
        assert found[method]["effective_sample"] == pytest.approx(100)


def test_every_decision_is_in_the_store_with_its_feedback(figures: dict[str, Any], folder: Path) -> None:
    outcomes = reading.read([str(folder / "decisions.db")])
    assert len(outcomes.frame) == outcomes.rows_read == figures["requests"]["served"]
    assert outcomes.frame["quality"].notna().all()
    assert 0.1 < figures["explored"] <= 0.25
    assert set(outcomes.frame["propensity"].round(4)) <= {0.04, 0.8, 1.0}


def test_router_train_takes_the_store_as_it_is(figures: dict[str, Any], folder: Path) -> None:
    store = folder / "decisions.db"
    finished = router_train_here("run", "--data", store, "--out", folder / "models", "--no-track", *setting(*FAST))
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert f"{figures['requests']['served']:,} rows read as decisions" in finished.stdout
    assert not open_bundle(folder / "models" / "current").manifest.simulated
