"""What is learned as a whole: the reference, and which rows each head has seen."""

from __future__ import annotations

import numpy as np
import pytest

from training.learn.learn import reference_of
from training.learn.prepare import PrepareError

NAN = float("nan")
NAMES = ("good", "lucky", "poor")
COST = np.array([3.0, 1.0, 2.0])


def test_one_lucky_row_makes_no_reference() -> None:
    labels = np.full((201, 3), NAN)
    labels[:100, 0] = np.arange(100) < 90
    labels[100:200, 2] = np.arange(100) < 60
    labels[200, 1] = 1.0
    nothing = np.zeros(201, dtype=np.bool_)
    column, note = reference_of(NAMES, labels, np.ones(labels.shape), COST, nothing, "auto")
    assert column == 0
    assert "at least 30 effective outcomes" in note


def test_a_candidate_without_outcomes_is_no_reference() -> None:
    labels = np.full((40, 3), NAN)
    labels[:20, 0], labels[20:, 2] = 1.0, 0.0
    # Nobody has 30: those with the most may be it.
    column, _ = reference_of(NAMES, labels, np.ones(labels.shape), COST, np.zeros(40, dtype=np.bool_), "auto")
    assert column == 0


def test_complete_requests_say_it_exactly() -> None:
    labels = np.tile([1.0, 1.0, 0.0], (30, 1))
    labels[0, 1] = 0.0
    column, note = reference_of(NAMES, labels, np.ones(labels.shape), COST, np.ones(30, dtype=np.bool_), "auto")
    assert (column, note) == (0, "best mean on 30 complete requests")


def test_a_reference_that_is_set_has_to_be_there() -> None:
    labels = np.ones((30, 3))
    arguments = (labels, np.ones(labels.shape), COST, np.ones(30, dtype=np.bool_))
    assert reference_of(NAMES, *arguments, "poor") == (2, "as set")
    with pytest.raises(PrepareError, match="'absent', which is not in the log; there are good, lucky, poor"):
        reference_of(NAMES, *arguments, "absent")
