"""One request of each conversation: the one that tells most."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from serving.bundle.manifest import NEIGHBOURS, NEIGHBOURS_ABOUT
from serving.bundle.neighbours import Neighbours
from tests.small_logs import log_of
from training.dataset.matrix import build_matrix
from training.publish.neighbours import write_neighbours_and


def test_the_row_that_tells_most_is_that_of_its_conversation() -> None:
    matrix = build_matrix(log_of(0, 12).frame)
    quality, learning = np.full(matrix.quality.shape, 1.0), np.zeros(matrix.quality.shape, dtype=np.bool_)
    cost = np.ones_like(quality)
    quality[[0, 1, 2, 4, 6, 7, 8], 0] = np.nan  # of the first conversation only row 3 is complete
    quality[4:6] = np.nan
    quality[5, 0] = 1.0  # of the second row 5 alone was judged
    matrix = replace(matrix, quality=quality, cost_usd=cost, learning=learning)
    groups = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3])
    assert matrix.one_of_each(groups).tolist() == [3, 5, 6, 9]
    preferred = np.array([0, 1, 0, 0, 0, 0, 0, 0, 2, 0, 1, 1])
    assert matrix.one_of_each(groups, preferred).tolist() == [1, 5, 8, 10]
    assert matrix.one_of_each(np.arange(12)).tolist() == list(range(12))
    assert matrix.take([]).one_of_each(groups[:0]).tolist() == []  # type: ignore[arg-type]


def test_the_nearest_ten_are_ten_conversations(tmp_path: Path) -> None:
    matrix = build_matrix(log_of(0, 60).frame)
    groups = np.arange(60) // 5
    embedding = np.random.default_rng(1).normal(size=(12, 12)).astype(np.float32)[groups]
    shown = matrix.one_of_each(groups)
    write_neighbours_and(tmp_path, None, matrix.take(shown), embedding[shown], 100)
    found = Neighbours.of((tmp_path / NEIGHBOURS).read_bytes(), (tmp_path / NEIGHBOURS_ABOUT).read_bytes(), None)
    place = {str(name): row for row, name in enumerate(matrix.request_id)}
    near = [groups[place[found.ids[one.row]]] for one in found.nearest(embedding[0], 10)]
    assert near[0] == 0
    assert len(set(near)) == 10
