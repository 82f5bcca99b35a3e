"""Two bundles on one log, each as it is served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serving.bundle.manifest import open_bundle
from serving.decide.router import Router
from tests import fake_bundle
from tests.conftest import router_train_here
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.small_logs import log_of
from training.config import load_params
from training.evaluate.served import evaluate_bundle
from training.publish.compare import NotComparableError
from training.publish.pages.of_comparison import _gaps
from training.publish.promote import set_point
from training.publish.side_by_side import ENOUGH, side_by_side


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two bundles: one at the point "balanced", and the same at "cheapest"."""
    fake_bundle.build(tmp_path / "models")
    set_point(tmp_path / "models", "cheapest")
    return tmp_path / "models"


def test_it_says_of_each_what_evaluating_it_says(models: Path) -> None:
    table, params = log_of(3), load_params()
    folders = [models / "fake-1", models / "fake-1-at-cheapest"]
    first, second = map(Router.load, folders)
    found = side_by_side(first, second, table, {}, params)
    for place, folder in enumerate(folders):
        alone = evaluate_bundle(open_bundle(folder), table, {}, assumed_output_tokens=100.0, resamples=10, seed=0)
        assert found.whole.quality[place] == pytest.approx(alone.line().quality)
        assert found.whole.cost_usd[place] == pytest.approx(alone.line().cost_usd)
        by_name = {line.workflow: line for line in alone.workflows}
        for part in found.workflows:
            assert part.quality[place] == pytest.approx(by_name[part.name].quality)
        assert {name: share[place] for name, share in found.shares.items()} == pytest.approx(alone.shares)
    low, high = found.whole.cost_gap
    assert low < found.whole.cost_usd[1] - found.whole.cost_usd[0] < high < 0
    assert 0 < found.moved <= 1


def test_a_bundle_beside_itself_differs_in_nothing(models: Path) -> None:
    router = Router.load(models / "fake-1")
    found = side_by_side(router, router, log_of(4), {}, load_params())
    assert (found.moved, found.whole.quality_gap, found.whole.cost_gap) == (0.0, (0.0, 0.0), (0.0, 0.0))


def test_many_requests_of_few_conversations_are_too_few(models: Path) -> None:
    router = Router.load(models / "fake-1")
    table = log_of(4)
    alone = side_by_side(router, router, table, {}, load_params())
    assert alone.whole.enough
    requests = {one: n for n, one in enumerate(sorted(table.frame["request_id"].unique()))}
    table.frame["session_id"] = [f"s{requests[one] % 40}" for one in table.frame["request_id"]]
    found = side_by_side(router, router, table, {}, load_params())
    assert found.whole.requests == alone.whole.requests >= ENOUGH > found.whole.conversations
    assert not found.whole.enough
    gaps = _gaps(found)
    assert gaps.rows[0][4] == gaps.rows[0][8] == "too few"


def test_a_log_that_cannot_compare_them_says_what_is_missing(models: Path) -> None:
    router = Router.load(models / "fake-1")
    table = log_of(5)
    table.frame.loc[table.frame["candidate"] == LARGE, "quality"] = np.nan
    with pytest.raises(NotComparableError, match=f"no judged outcome of {LARGE}"):
        side_by_side(router, router, table, {}, load_params())


def test_the_command_shows_them(models: Path, tmp_path: Path) -> None:
    columns = ["request_id", "prompt", "workflow", "candidate", "quality", "cost_usd"]
    log_of(6).frame[columns].to_csv(tmp_path / "log.csv", index=False)
    named = ["compare", "fake-1", "fake-1-at-cheapest", "--out", models]
    done = router_train_here(*named, "--data", tmp_path / "log.csv")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "of requests would go elsewhere." in said
    for name in (SMALL, OPEN, LARGE, "hard", "easy"):
        assert name in said
    bare = router_train_here(*named)
    assert bare.returncode == 2
    assert "give the log to compare them on" in " ".join(bare.stderr.split())
