"""What a manifest says of the requests that a bundle was learned from."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from serving.bundle.arrays import Floats
from training.learn.learn import Learned
from training.publish.bundle import novelty_of


def learned(standing: Floats | None) -> Learned:
    """Ten requests: eight of a rare kind that were all kept, and two of a usual one."""
    embedding = np.repeat(np.eye(2, dtype=np.float32), [8, 2], axis=0)
    data = SimpleNamespace(inputs=SimpleNamespace(embedding=embedding), standing=standing)
    return cast(Learned, SimpleNamespace(data=data, centres=np.eye(2, dtype=np.float32)))


def test_drift_is_measured_against_the_shares_of_the_log() -> None:
    assert novelty_of(learned(None), np.empty(0), 0.01).shares == (0.8, 0.2)
    standing = np.repeat([1.0, 36.0], [8, 2])
    assert novelty_of(learned(standing), np.empty(0), 0.01).shares == pytest.approx((0.1, 0.9))


def test_as_many_requests_of_the_log_are_novel_as_were_asked_for() -> None:
    """Ninety that stand for nine each, and ten novel ones that were all kept."""
    unseen, standing = np.repeat([1.0, 2.0], [90, 10]), np.repeat([9.0, 1.0], [90, 10])
    assert novelty_of(learned(None), unseen, 0.05).threshold == 2.0
    assert novelty_of(learned(None), unseen, 0.05, standing).threshold == 1.0
    assert novelty_of(learned(None), unseen, 0.05, np.ones(100)).threshold == 2.0
