"""Which requests are compared with the exported graph."""

from __future__ import annotations

import numpy as np

from training.dataset.inputs import Inputs
from training.learn.export import compared


def inputs(n: int) -> Inputs:
    """n requests, all without a workflow but the last two, each of one of its own."""
    features = np.zeros((n, 5), dtype=np.float32)
    features[n - 2, 3] = features[n - 1, 4] = 1.0
    return Inputs(np.zeros((n, 2), dtype=np.float32), features, 3, np.zeros(n))


def test_few_requests_are_compared_all() -> None:
    assert compared(inputs(4_096)).tolist() == list(range(4_096))


def test_of_many_a_part_is_compared_and_one_of_each_workflow() -> None:
    places = compared(inputs(60_000))
    assert 4_096 <= len(places) <= 4_099
    assert {59_998, 59_999} <= set(places.tolist())
    assert len(set(places.tolist())) == len(places)
    assert 20_000 < np.median(places) < 40_000
