"""What `training.dataset.tries` makes of the rows of each request, as far as is asked of a log: how many outcomes it has, how
many of them judged, and how many came after another's failure. From numbers alone, and some requests at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from serving.bundle.arrays import Bools, Columns
from training.dataset.tries import chained_outcomes, never_judged
from training.inspect.rows import ANSWERED, CERTIFYING, JUDGED, LEARNING, NOT_A_TIME, Whole

_AT_ONCE = 1_000_000  # rows


@dataclass(frozen=True)
class Tried:
    """Of n requests: how many candidates were `tried` on each and how many of these `judged`, (n,); and how many outcomes there
    are beside that another candidate's failure led to, `chained`."""

    tried: Columns
    judged: Columns
    chained: int


@dataclass(frozen=True)
class Tries:
    """Rows of a log (n,): the request and the candidate of each, whether its propensity is `known`, its time in microseconds
    since 1970, and its flags (`training.inspect.rows`)."""

    request: Whole
    candidate: Whole
    known: Bools
    stamp: Whole
    flags: Whole

    def take(self, rows: Bools | Columns) -> Tries:
        return Tries(*(getattr(self, one.name)[rows] for one in fields(self)))

    def told(self, flag: int) -> Bools:
        return np.asarray((self.flags & flag) > 0)

    @property
    def keys(self) -> Columns:
        """(n,) different where request or candidate are."""
        return np.asarray(self.request.astype(np.intp) << 32 | self.candidate)


@dataclass(frozen=True)
class _Outcomes:
    """One entry for each request and candidate, those of a request together, first try first."""

    keys: Columns
    error: Bools
    judged: Bools
    chosen: Bools

    @property
    def request(self) -> Columns:
        return self.keys >> 32

    @property
    def candidate(self) -> Columns:
        return self.keys & 0xFFFFFFFF

    def chained(self) -> Bools:
        return chained_outcomes(self.request, self.candidate, self.error, self.chosen)

    def known(self, chained: Bools) -> Bools:
        """(n,) which have a quality: an error's is 0, unless none of its candidate's answers was judged."""
        judged = self.judged | self.error
        silent = never_judged(self.candidate, np.where(judged, 0.0, np.nan), self.error | chained)
        return np.asarray(judged & ~(self.error & silent))


def tried(rows: Tries, requests: int) -> Tried:
    """What came of the rows of so many requests: see `tries.one_outcome_each`."""
    bought = rows.told(CERTIFYING | LEARNING)
    logged = _joined(rows.take(~bought) if bought.any() else rows)
    chained = logged.chained()
    known = logged.known(chained)
    counted, counts = ~chained, np.zeros((2, requests), dtype=np.intp)
    if bought.any():
        made = _joined(_once(rows.take(bought)))
        again = np.isin(logged.keys, made.keys)
        counted &= ~again
        chained &= ~again
        _count(counts, made.request, made.known(made.chained()))
    _count(counts, logged.request[counted], known[counted])
    return Tried(counts[0], counts[1], int(chained.sum()))


def _count(counts: NDArray[np.intp], request: Columns, known: Bools) -> None:
    counts[0] += np.bincount(request, minlength=counts.shape[1])
    counts[1] += np.bincount(request[known], minlength=counts.shape[1])


def _once(bought: Tries) -> Tries:
    """The rows that count: of those of one request and candidate what certifies, and of equals the later one."""
    sorted_rows = bought.take(np.argsort(~bought.told(LEARNING), kind="stable"))
    return sorted_rows.take(~pd.Series(sorted_rows.keys).duplicated(keep="last").to_numpy())


def _joined(rows: Tries) -> _Outcomes:
    """The tries of rows that were all logged, or all bought."""
    untimed = np.bincount(rows.request, rows.stamp == NOT_A_TIME, int(rows.request.max(initial=-1)) + 1) > 0
    instant = np.where(untimed[rows.request], 0, rows.stamp)
    order = np.lexsort((~rows.known, instant, rows.request))
    del instant
    request = rows.request[order]
    parts = [_outcomes(rows.take(order[part])) for part in _pieces(request)]
    return _Outcomes(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(_Outcomes)))


def _pieces(request: Whole) -> Iterator[slice]:
    """Slices of rows that are sorted by request, whole requests each; one where there is no row."""
    start = 0
    while start + _AT_ONCE < len(request):
        cut = request[start + _AT_ONCE]
        end = int(np.searchsorted(request, cut, side="left" if cut > request[start] else "right"))
        yield slice(start, end)
        start = end
    yield slice(start, len(request))


def _outcomes(rows: Tries) -> _Outcomes:
    cell, keys = pd.factorize(rows.keys)
    answered = rows.told(ANSWERED)
    judged = np.zeros(len(keys), dtype=np.bool_)
    judged[cell[answered]] = rows.told(JUDGED)[answered]  # of several answers the last one's stays
    error = np.bincount(cell, answered, len(keys)) == 0
    return _Outcomes(keys, error, judged, np.bincount(cell, rows.known, len(keys)) > 0)
