"""Where stated chances are wrong: by whole requests and conversations, and marked beyond chance alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from serving.bundle.arrays import Floats
from tests.training.whatif.test_case import N, case
from training.whatif.case import Case
from training.whatif.misjudged import kinds_of_prompts, worst_workflows

__all__ = ["case"]


def known(case: Case, labels: Floats, stated: float) -> Case:
    """Three workflows of 20 requests, of which every answer was stated to be acceptable alike often."""
    workflow = np.array(["a", "b", "c"], dtype=object)[np.arange(N) % 3]
    estimates = replace(case.estimates, acceptable=np.full(labels.shape, stated, dtype=np.float32))
    return replace(case, known=replace(case.known, labels=labels, workflow=workflow), estimates=estimates)


def test_one_requests_answers_count_as_what_one_request_tells(case: Case) -> None:
    m = len(case.candidates)
    labels = np.repeat((np.arange(N) // 3 % 2 == 0).astype(np.float64)[:, None], m, axis=1)
    lines = worst_workflows(known(case, labels, 0.5))
    assert (lines["judged outcomes"] == 20 * m).all()
    assert (lines["to"] - lines["95% from"]).min() > 0.38, "of 20 requests, whatever the number of candidates"


def test_only_a_gap_beyond_chance_is_marked_and_stands_first(case: Case) -> None:
    rng, m = np.random.default_rng(3), len(case.candidates)
    labels = (rng.random((N, m)) < 0.7).astype(np.float64)
    assert (worst_workflows(known(case, labels, 0.7))["beyond chance"] == "").all()
    labels[np.arange(N) % 3 == 1] = 0.0
    lines = worst_workflows(known(case, labels, 0.7))
    assert lines["workflow"].iloc[0] == "b"
    assert lines["beyond chance"].tolist() == ["yes", "", ""]
    (kind,) = kinds_of_prompts(known(case, labels, 0.7)).to_dict("records")
    assert kind["beyond chance"] == "yes"
    assert kind["95% from"] <= kind["failed"] <= kind["to"]


def test_a_line_of_which_too_little_was_judged_is_none(case: Case) -> None:
    labels = np.full((N, len(case.candidates)), np.nan)
    labels[:9, 0] = 1.0
    assert worst_workflows(known(case, labels, 0.7)).empty
    assert kinds_of_prompts(known(case, labels, 0.7)).empty


@pytest.mark.parametrize("seed", range(3))
def test_the_intervals_hold_what_is_true(case: Case, seed: int) -> None:
    rng, m = np.random.default_rng(seed), len(case.candidates)
    labels = np.repeat((rng.random((N, 1)) < 0.7).astype(np.float64), m, axis=1)
    lines = worst_workflows(known(case, labels, 0.7))
    assert ((lines["95% from"] <= 0.7) & (lines["to"] >= 0.7)).all()
