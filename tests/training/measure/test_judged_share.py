"""Estimates of a log of which few answers are judged and every error is known: the share judged is not clipped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from serving.bundle.arrays import Columns, Floats
from training.measure.offpolicy import Estimate, doubly_robust, importance_weights, ips, pseudo_outcomes, snips
from training.measure.propensity import judged_share, observation_propensity

NAN = np.nan
ACCEPTABLE = np.array([0.6, 0.9, 0.7, 0.7, 0.8, 0.75])
ERROR = np.array([0.02, 0.05, 0.02, 0.02, 0.02, 0.02])
OWN, OTHER = 0, 1
EXPLORED, THUMBS = 0.2, 0.1


@dataclass(frozen=True)
class Log:
    """n requests that went to candidate 0, a fifth of them elsewhere to learn; a tenth of the answers has a thumb."""

    outcome: Floats
    propensity: Floats
    judged: Floats
    target: Columns
    truth: float

    @classmethod
    def of(cls, n: int, differs: float, seed: int) -> Log:
        """A target that chooses otherwise than the log did on the share `differs` of requests."""
        draw, rows, m = np.random.default_rng(seed), np.arange(n), len(ACCEPTABLE)
        policy = np.full((n, m), EXPLORED / (m - 1))
        policy[:, OWN] = 1 - EXPLORED
        chosen = (draw.random((n, 1)) > np.cumsum(policy, axis=1)).sum(axis=1)
        attempted = np.arange(m) == chosen[:, None]
        failed = draw.random(n) < ERROR[chosen]
        good, thumb = draw.random(n) < ACCEPTABLE[chosen], draw.random(n) < THUMBS
        error, outcome = attempted & failed[:, None], np.full((n, m), NAN)
        outcome[rows, chosen] = np.where(failed, 0.0, np.where(thumb, good, NAN))
        logged, features = np.where(attempted, policy, NAN), np.zeros((n, 1))
        propensity, _ = observation_propensity(attempted, error, logged, outcome, features, lambda: rows % 5)
        target = np.where(draw.random(n) < differs, OTHER, OWN)
        truth = float(((1 - ERROR) * ACCEPTABLE)[target].mean())
        return cls(outcome, propensity, judged_share(attempted, error, outcome), target, truth)


def by_model(log: Log) -> Estimate:
    return doubly_robust(log.outcome, log.propensity, log.target, np.full(log.outcome.shape, 0.7), judged=log.judged)


def by_weights(log: Log) -> Estimate:
    return snips(log.outcome, log.propensity, log.target, judged=log.judged)


def by_inverse(log: Log) -> Estimate:
    return ips(log.outcome, log.propensity, log.target, judged=log.judged)


def test_weights_by_hand() -> None:
    # An error, a thumb of which there are 2%, the same after an unlikely choice, and one of whose share nothing is known.
    propensity = np.array([[0.5], [0.5 * 0.02], [0.01 * 0.02], [0.01]])
    judged = np.array([[1.0], [0.02], [0.02], [NAN]])
    columns = np.zeros(4, dtype=np.intp)
    weights = importance_weights(np.ones((4, 1), dtype=np.bool_), propensity, columns, 10.0, judged)
    assert weights.tolist() == pytest.approx([2.0, 100.0, 500.0, 10.0])
    complete = pseudo_outcomes(np.ones((4, 1)), propensity, np.zeros((4, 1)), 10.0, judged)
    assert complete[:, 0].tolist() == pytest.approx([2.0, 100.0, 500.0, 10.0])
    with pytest.raises(ValueError, match=r"expected shares judged of shape \(4, 1\), got \(3, 1\)"):
        importance_weights(np.ones((4, 1), dtype=np.bool_), propensity, columns, 10.0, judged[:3])


@pytest.mark.parametrize("estimator", [by_model, by_weights, by_inverse])
def test_with_a_tenth_judged_estimates_are_right_and_intervals_hold_the_truth(
    estimator: Callable[[Log], Estimate],
) -> None:
    """300 logs with these seeds. Of the coverage a standard error is .013, of the mean error .004 at most."""
    logs = [Log.of(10_000, 0.2, seed) for seed in range(300)]
    found = [(estimator(log), log.truth) for log in logs]
    found = [(one, truth) for one, truth in found if one.refused is None]
    assert len(found) >= 290
    held = [one.low <= truth <= one.high for one, truth in found]
    off = [one.value - truth for one, truth in found]
    assert abs(np.mean(off)) < 0.01
    assert 0.92 <= np.mean(held) <= 0.98


def test_a_target_that_always_differs_is_not_taken_for_one_the_log_knows_nothing_of() -> None:
    log = Log.of(10_000, 1.0, 0)
    assert by_weights(log).value == pytest.approx(log.truth, abs=0.15)
    assert by_weights(log).refused is None


def test_pseudo_outcomes_of_a_log_with_few_thumbs_average_to_the_truth() -> None:
    logs = [Log.of(6000, 0.2, seed) for seed in range(60)]
    means = [
        pseudo_outcomes(log.outcome, log.propensity, np.full(log.outcome.shape, 0.7), judged=log.judged).mean(axis=0)
        for log in logs
    ]
    # Of 40 errors-in-waiting and 23 thumbs of each explored candidate in a log: .013 is its standard error over all logs.
    assert np.mean(means, axis=0) == pytest.approx((1 - ERROR) * ACCEPTABLE, abs=0.045)
