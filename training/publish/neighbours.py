"""The logged requests that go along with a bundle, to be shown beside the decisions that are like them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats32
from serving.bundle.neighbours import Neighbours, quantised, write
from training.dataset.matrix import OutcomeMatrix
from training.learn.prepare import Prepared

_SEED = 0


def write_neighbours(folder: Path, prepared: Prepared, embedding: Floats32, most: int, *, keep_text: bool) -> None:
    """Writes at most so many of a run's requests into its bundle's folder, with their texts if these may be kept; 0: none.

    `embedding` (n, dim) is that of all requests. Where kinds of work stand for the workflows, a request has none.
    """
    if most <= 0:
        return
    matrix = prepared.matrix
    if prepared.kinds is not None:
        matrix = replace(matrix, workflow=np.full(len(matrix), None, dtype=object))
    write(folder, drawn(matrix, embedding, most, keep_text=keep_text))


def write_neighbours_and(
    folder: Path, before: Neighbours | None, matrix: OutcomeMatrix, embedding: Floats32, most: int
) -> None:
    """As above for a bundle whose candidates are those of the one `before` and one more, behind them: it has what that one had
    and what the log `matrix` adds."""
    if most <= 0:
        return
    found = drawn(matrix, embedding, most, keep_text=False)
    write(folder, found if before is None else _joined(before, found, most))


def drawn(matrix: OutcomeMatrix, embedding: Floats32, most: int, *, keep_text: bool) -> Neighbours:
    """At most so many requests with a judged outcome, in the log's order: all, or some that are drawn at random.

    Of complete ones, which tell of every candidate, before any other. What only a weak signal says counts as not judged.
    """
    judged = np.flatnonzero(np.isfinite(matrix.quality).any(axis=1))
    rows = judged if len(judged) <= most else judged[_some(matrix.complete()[judged], most)]
    part, (steps, scale) = matrix.take(rows), quantised(embedding[rows])
    return Neighbours(
        candidates=part.candidates,
        total=len(judged),
        ids=[str(one) for one in part.request_id],
        workflows=[None if one is None else str(one) for one in part.workflow],
        at=[None if np.isnat(one) else f"{np.datetime_as_string(one, unit='s')}Z" for one in part.timestamp],
        embedding=steps,
        scale=scale,
        quality=part.quality.astype(np.float32),
        cost_usd=part.cost_usd.astype(np.float32),
        error=part.error,
        logged=part.attempted.astype(np.uint8),
        texts=[str(one) for one in part.texts] if keep_text else None,
    )


def _some(first: Bools, most: int) -> Columns:
    """So many places in rising order, drawn at random: of those that come `first` before any other."""
    order = np.random.default_rng(_SEED).permutation(len(first))
    return np.sort(order[np.argsort(~first[order], kind="stable")][:most])


def _joined(before: Neighbours, found: Neighbours, most: int) -> Neighbours:
    """The rows `found`, which know one candidate more, and of those `before` as many of the others as there is room for.

    A request that is in both has what either tells of it.
    """
    places = {identifier: row for row, identifier in enumerate(found.ids)}
    again = np.array([one in places for one in before.ids], dtype=np.bool_)
    others = np.flatnonzero(~again)
    room = most - len(found)
    if len(others) > room:
        others = others[_some(np.asarray(np.isfinite(before.quality[others]).all(axis=1)), room)]
    same = np.array([places[one] for one in before.ids if one in places], dtype=np.intp)

    def cells(name: str, empty: float) -> Any:
        new, old = getattr(found, name).copy(), getattr(before, name)
        unknown = found.logged[same, :-1] == 0
        new[same, :-1] = np.where(unknown, old[again], new[same, :-1])
        more = np.full((len(others), 1), empty, dtype=old.dtype)
        return np.concatenate([new, np.hstack([old[others], more])])

    def listed(name: str) -> list[Any]:
        old = getattr(before, name)
        return [*getattr(found, name), *(old[row] for row in others)]

    ids, texts = listed("ids"), None
    if before.texts is not None:
        known = dict(zip(before.ids, before.texts, strict=True))
        texts = [known.get(one) for one in ids]
    return Neighbours(
        candidates=found.candidates,
        total=found.total + max(before.total - int(again.sum()), 0),
        ids=ids,
        workflows=listed("workflows"),
        at=listed("at"),
        embedding=np.concatenate([found.embedding, before.embedding[others]]),
        scale=np.concatenate([found.scale, before.scale[others]]),
        quality=cells("quality", np.nan),
        cost_usd=cells("cost_usd", np.nan),
        error=cells("error", 0),
        logged=cells("logged", 0),
        texts=texts,
    )
