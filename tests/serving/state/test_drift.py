"""Drift's figures by hand, their windows, and that one warning comes of one crossing."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from serving.decide.decision import Decision
from serving.decide.router import Router
from serving.state.drift import Drift, Thresholds, calibration_error
from serving.traffic.stability import psi
from tests import fake_bundle

THRESHOLDS = Thresholds(psi=0.25, novel_share=0.2, calibration_error=0.1, prompts=10, feedback=5)


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Router:
    return Router.load(fake_bundle.build(tmp_path_factory.mktemp("models")))


@pytest.fixture(scope="module")
def usual(router: Router) -> Decision:
    return router.route("hello")


def test_calibration_error_by_hand() -> None:
    # bin .9: mean .95 against .5; bin .2: .25 against 0; (2 x .45 + 2 x .25) / 4
    confidence, accepted = np.array([0.95, 0.95, 0.25, 0.25]), np.array([1.0, 0.0, 0.0, 0.0])
    assert calibration_error(confidence, accepted) == pytest.approx(0.35)
    assert calibration_error(np.array([1.0]), np.array([1.0])) == 0.0
    assert calibration_error(np.array([]), np.array([])) == 0.0


def seen(drift: Drift, router: Router, decision: Decision, times: int, cluster: int = 0, novelty: float = 0.0) -> None:
    for place in range(times):
        drift.decided(f"{cluster}-{place}", replace(decision, cluster=cluster, novelty=novelty), router.manifest)


def test_the_window_slides(router: Router, usual: Decision) -> None:
    drift = Drift(20, THRESHOLDS)
    seen(drift, router, usual, 9)
    assert drift.measure().psi is None
    seen(drift, router, usual, 20)
    nine = fake_bundle.DIM
    first = drift.measure()
    assert first.psi == pytest.approx(psi([1 / nine] * nine, [20] + [0] * (nine - 1)) - (nine - 1) / 20)
    seen(drift, router, usual, 20, cluster=1, novelty=3.0)  # the threshold is 2
    assert drift.measure().psi == pytest.approx(first.psi)
    assert (first.novel_share, drift.measure().novel_share) == (0.0, 1.0)
    seen(drift, router, usual, 10, cluster=2)
    assert drift.measure().novel_share == 0.5


def test_feedback_counts_once_and_only_for_who_was_chosen(router: Router, usual: Decision) -> None:
    drift = Drift(20, THRESHOLDS)
    seen(drift, router, replace(usual, confidence=0.75), 8)
    for place in range(4):
        drift.judged(f"0-{place}", 1.0, usual.candidate if place else None)
        drift.judged(f"0-{place}", 0.0, None)
    drift.judged("0-4", 0.0, "somebody/else")
    drift.judged("unknown", 0.0, None)
    assert drift.measure().calibration_error is None
    drift.judged("0-5", 0.49, None)
    # five at .75, four of them accepted
    assert drift.measure().calibration_error == pytest.approx(0.05)


def test_another_bundle_starts_anew(router: Router, usual: Decision) -> None:
    drift = Drift(20, THRESHOLDS)
    seen(drift, router, usual, 20)
    assert drift.measure().psi is not None
    drift.decided("old", usual, router.manifest.model_copy(update={"version": "other"}))  # decided by the one before
    assert drift.measure().psi is not None
    other = router.manifest.model_copy(update={"version": "other"})
    drift.decided("new", replace(usual, bundle="other"), other)
    assert drift.measure().psi is None


def test_another_bundle_under_the_same_name_starts_anew(router: Router, usual: Decision) -> None:
    drift = Drift(20, THRESHOLDS)
    seen(drift, router, usual, 20, cluster=fake_bundle.DIM - 1)
    novelty = router.manifest.novelty.model_copy(update={"shares": (0.5, 0.5)})
    other = router.manifest.model_copy(update={"novelty": novelty})
    drift.decided("new", replace(usual, cluster=1), other)  # the last one's cluster is none of these
    assert drift.measure().psi is None
    for place in range(20):
        drift.decided(str(place), replace(usual, cluster=1), other)
    assert drift.measure().psi == pytest.approx(psi([0.5, 0.5], [0, 20]) - 1 / 20)


def test_a_fallback_without_estimates_is_no_prompt(router: Router, usual: Decision) -> None:
    drift = Drift(20, THRESHOLDS)
    for place in range(20):
        drift.decided(str(place), replace(usual, cluster=None, novelty=None), router.manifest)
    assert drift.measure().psi is None


def test_one_crossing_is_one_warning(router: Router, usual: Decision, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "serving.state.drift")
    drift = Drift(100, replace(THRESHOLDS, psi=1e9))

    def warnings() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    seen(drift, router, usual, 80)
    seen(drift, router, usual, 20, cluster=1, novelty=3.0)
    drift.check()
    assert warnings() == []  # .20 is not above .2
    seen(drift, router, usual, 1, novelty=3.0)
    drift.check()
    drift.check()
    assert warnings() == ["drift: novel_share is 0.210, above 0.2: train again on recent traffic"]
    seen(drift, router, usual, 79)
    seen(drift, router, usual, 4)  # .17: below the threshold, not well below it
    assert drift.check().novel_share == pytest.approx(0.17)
    seen(drift, router, usual, 96, novelty=0.0)
    seen(drift, router, usual, 18, novelty=3.0)
    seen(drift, router, usual, 80)
    drift.check()  # .18 again: still the same crossing
    assert len(warnings()) == 1
    seen(drift, router, usual, 100)
    drift.check()
    seen(drift, router, usual, 30, novelty=3.0)
    drift.check()
    assert len(warnings()) == 2


def test_traffic_that_is_trainings_own_is_no_drift(router: Router, usual: Decision) -> None:
    """Sessions of ten turns on one subject: by rows the index is above the threshold."""
    k, rng = fake_bundle.DIM, np.random.default_rng(0)
    drift = Drift(2_000, THRESHOLDS)
    clusters = np.repeat(rng.integers(k, size=20), 10).tolist()
    for place, cluster in enumerate(clusters):
        made = replace(usual, cluster=cluster, novelty=0.0)
        drift.decided(str(place), made, router.manifest, f"s{place // 10}")
    assert psi([1 / k] * k, np.bincount(clusters, minlength=k).tolist()) > THRESHOLDS.psi
    measured = drift.measure().psi
    assert measured is not None
    assert measured < THRESHOLDS.psi
