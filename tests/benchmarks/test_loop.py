"""The loop closes: decisions and feedback train a router that beats the one which made them, once the traffic has shifted."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.simulated.loop import close_loop
from serving.bundle.manifest import open_bundle
from tests.conftest import ROOT, router_train_here, setting
from training.config import DEFAULTS, load_params
from training.logs.sources import reading
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
