"""Which logged requests go along with a bundle, what is written of them, and what becomes of them with a new candidate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bundle.manifest import NEIGHBOURS, NEIGHBOURS_ABOUT, NEIGHBOURS_TEXTS
from serving.bundle.neighbours import Neighbours
from tests.small_logs import log_of
from training.config import load_params
from training.dataset.matrix import OutcomeMatrix, build_matrix
from training.learn.prepare import Prepared, prepare
from training.prices.catalogue import SHIPPED, load_catalogue
from training.publish.neighbours import drawn, write_neighbours, write_neighbours_and

DIM = 12


def matrix_of(requests: int = 60) -> OutcomeMatrix:
    return build_matrix(log_of(0, requests).frame)


def embedded(matrix: OutcomeMatrix) -> Any:
    return np.random.default_rng(1).normal(size=(len(matrix), DIM)).astype(np.float32)


def judged_only(matrix: OutcomeMatrix, known: Any) -> OutcomeMatrix:
    """The log with qualities where `known` (n, m) says."""
    return replace(matrix, quality=np.where(known, matrix.quality, np.nan), attempted=np.asarray(known))


def read(folder: Path) -> Neighbours:
    texts = folder / NEIGHBOURS_TEXTS
    return Neighbours.of(
        (folder / NEIGHBOURS).read_bytes(),
        (folder / NEIGHBOURS_ABOUT).read_bytes(),
        texts.read_bytes() if texts.is_file() else None,
    )


def test_all_of_a_small_log_are_there_as_logged() -> None:
    matrix = matrix_of()
    embedding = embedded(matrix)
    found = drawn(matrix, embedding, 100, keep_text=False)
    assert list(found.ids) == list(matrix.request_id)
    assert list(found.workflows) == list(matrix.workflow)
    assert (found.total, found.candidates, found.texts) == (60, matrix.candidates, None)
    np.testing.assert_allclose(found.quality, matrix.quality)
    np.testing.assert_allclose(found.cost_usd, matrix.cost_usd, rtol=1e-6)
    for row in (0, 17, 59):
        assert found.nearest(embedding[row], 1)[0].row == row


@given(most=st.integers(1, 80), complete=st.integers(0, 40), judged=st.integers(0, 60))
def test_never_more_than_asked_complete_ones_first_and_none_that_nobody_judged(
    most: int, complete: int, judged: int
) -> None:
    matrix = matrix_of()
    known = np.zeros((60, 3), dtype=np.bool_)
    known[:judged, 0] = True
    known[: min(complete, judged)] = True
    matrix = judged_only(matrix, known)
    found = drawn(matrix, embedded(matrix), most, keep_text=False)
    assert found.total == judged
    assert len(found) == min(most, judged)
    rows = [list(matrix.request_id).index(one) for one in found.ids]
    assert rows == sorted(rows)
    assert max(rows, default=-1) < judged
    whole = int(np.isfinite(found.quality).all(axis=1).sum())
    assert whole == min(complete, judged, most)


def test_the_draw_is_the_same_each_time_and_not_the_first_rows() -> None:
    matrix = matrix_of()
    one, two = (drawn(matrix, embedded(matrix), 20, keep_text=False) for _ in range(2))
    assert one.ids == two.ids
    assert list(one.ids) != list(matrix.request_id[:20])


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    table = log_of(2, 200)
    names = sorted(set(table.frame["candidate"]))
    known = load_catalogue(SHIPPED)
    some = next(iter(known.values()))
    return prepare(table.frame, load_params(), {name: some.model_copy(update={"name": name}) for name in names})


@pytest.mark.parametrize("keep_text", [False, True])
def test_a_run_writes_text_only_where_it_may_be_kept(prepared: Prepared, tmp_path: Path, keep_text: bool) -> None:
    embedding = embedded(prepared.matrix)
    write_neighbours(tmp_path, prepared, embedding, 50, keep_text=keep_text)
    found = read(tmp_path)
    assert len(found) == 50
    whole = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert (b"theorem" in whole) is keep_text
    if keep_text:
        assert found.texts is not None
        texts = dict(zip(prepared.matrix.request_id, prepared.matrix.texts, strict=True))
        assert list(found.texts) == [texts[one][:2_000] for one in found.ids]
    else:
        assert found.texts is None


def test_none_is_written_where_none_is_asked_for(prepared: Prepared, tmp_path: Path) -> None:
    write_neighbours(tmp_path, prepared, embedded(prepared.matrix), 0, keep_text=True)
    write_neighbours_and(tmp_path, None, prepared.matrix, embedded(prepared.matrix), 0)
    assert not list(tmp_path.iterdir())


def test_kinds_of_work_are_no_workflows(prepared: Prepared, tmp_path: Path) -> None:
    kinds: Any = object()
    write_neighbours(tmp_path, replace(prepared, kinds=kinds), embedded(prepared.matrix), 9, keep_text=False)
    assert set(read(tmp_path).workflows) == {None}


def test_a_new_candidate_s_column_is_behind_and_both_logs_are_there(tmp_path: Path) -> None:
    matrix = matrix_of()
    embedding = embedded(matrix)
    old = matrix.first(2).take(np.arange(40))
    before = drawn(old, embedding[:40], 100, keep_text=True)
    # The new log asks rows 30 to 59 of the new candidate alone, and of the first one in rows 50 to 59.
    known = np.zeros((30, 3), dtype=np.bool_)
    known[:, 2] = True
    known[20:, 0] = True
    later = judged_only(matrix.take(np.arange(30, 60)), known)
    write_neighbours_and(tmp_path, before, later, embedding[30:], 100)
    found = read(tmp_path)
    assert found.candidates == matrix.candidates
    assert (len(found), found.total) == (60, 60)
    at = {identifier: row for row, identifier in enumerate(found.ids)}
    for place, identifier in enumerate(matrix.request_id):
        row = at[identifier]
        expected = matrix.quality[place].copy()
        if place < 30:
            expected[2] = np.nan
        elif place >= 40:
            expected[1] = np.nan
            if place < 50:
                expected[0] = np.nan
        np.testing.assert_allclose(found.quality[row], expected)
        np.testing.assert_array_equal(found.logged[row], np.isfinite(expected))
        assert found.nearest(embedding[place], 1)[0].row == row
        assert found.texts is not None
        assert found.texts[row] == (matrix.texts[place][:2_000] if place < 40 else None)


def test_the_two_together_are_bounded_and_the_new_log_s_stay(tmp_path: Path) -> None:
    matrix = matrix_of()
    embedding = embedded(matrix)
    before = drawn(matrix.first(2).take(np.arange(40)), embedding[:40], 100, keep_text=False)
    write_neighbours_and(tmp_path, before, matrix.take(np.arange(40, 60)), embedding[40:], 25)
    found = read(tmp_path)
    assert (len(found), found.total, found.texts) == (25, 60, None)
    assert list(found.ids[:20]) == list(matrix.request_id[40:])
    assert np.isnan(found.quality[20:, 2]).all()
