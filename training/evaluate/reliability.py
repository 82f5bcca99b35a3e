"""Whether a stated chance comes true: reliability in bins with intervals, and what is risked by answering more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from scipy.special import ndtr

from serving.account.intervals import wilson
from serving.bundle.arrays import Bools, Columns, Floats
from training.measure.metrics import mean_of, of_cells
from training.measure.offpolicy import effective_sample_size

# A bin of fewer outcomes says next to nothing.
LEAST_IN_BIN = 25
# Of fewer conversations their variance is not known: each is taken for one outcome.
_ENOUGH_GROUPS = 30
MOST_BINS = 15
_COVERAGES = 20
# Of lines of which none stands out, any is named by chance so often.
_CHANCE = 0.05


@dataclass(frozen=True)
class Bin:
    """`n` outcomes that were given a chance between `low` and `high`, `p` on average, and the share `y` of them that came true,
    with its 95% interval."""

    low: float
    high: float
    p: float
    y: float
    y_low: float
    y_high: float
    n: int


@dataclass(frozen=True)
class Risk:
    """Of the most confident `coverage` of the decisions, the share that failed, with its 95% interval."""

    coverage: float
    risk: float
    low: float
    high: float


@dataclass(frozen=True)
class Reliability:
    """Bins of all judged outcomes, of those of the chosen candidates, and of each candidate."""

    all: tuple[Bin, ...] = ()
    chosen: tuple[Bin, ...] = ()
    by_candidate: dict[str, tuple[Bin, ...]] = field(default_factory=dict)


def bins(
    probability: Floats, outcome: Floats, groups: Columns | None = None, standing: Floats | None = None
) -> tuple[Bin, ...]:
    """Bins of equal size, of 25 outcomes at least and 15 bins at most; neighbours whose shares fall are pooled.

    `outcome` (n,) is 0 or 1; those of one of `groups` (n,), conversations, are not taken for independent. Of 20 intervals about
    one is expected to miss, also where every chance is right. A calibrated chance gives shares that rise, so that pooling
    adjacent violators takes out the zigzag of small bins and nothing else. Source: Dimitriadis, Gneiting & Jordan 2021
    (isotonic pooling); equal size: Nguyen & O'Connor 2015. Equal chances are never parted. Shares and means are of what the
    outcomes stand for, `standing` (n,), None: one each.
    """
    n = len(probability)
    if n == 0:
        return ()
    order = np.argsort(probability, kind="stable")
    p, y = probability[order], outcome[order]
    of = np.arange(n) if groups is None else groups[order]
    counts = None if standing is None else standing[order]

    def share(part: tuple[int, int]) -> float:
        return float(mean_of(y[slice(*part)], None if counts is None else counts[slice(*part)]))

    count = min(MOST_BINS, max(n // LEAST_IN_BIN, 1))
    ends = np.searchsorted(p, p[np.arange(1, count) * n // count], side="left")
    edges = [0, *sorted({int(end) for end in ends} - {0, n}), n]
    parts: list[tuple[int, int]] = []
    for begin, end in pairwise(edges):
        parts.append((begin, end))
        while len(parts) > 1 and (share(parts[-2]) > share(parts[-1]) or _small(parts[-2], parts[-1])):
            last = parts.pop()
            parts[-1] = (parts[-1][0], last[1])
    return tuple(
        _bin(p[begin:end], y[begin:end], of[begin:end], None if counts is None else counts[begin:end])
        for begin, end in parts
    )


def _small(*parts: tuple[int, int]) -> bool:
    return any(end - begin < LEAST_IN_BIN for begin, end in parts)


def _bin(p: Floats, y: Floats, groups: Columns, standing: Floats | None) -> Bin:
    low, high = interval(y, groups, standing)
    mean_p, mean_y = (float(mean_of(part, standing)) for part in (p, y))
    return Bin(float(p[0]), float(p[-1]), mean_p, mean_y, low, high, len(y))


def interval(y: Floats, groups: Columns, standing: Floats | None = None) -> tuple[float, float]:
    """Wilson's interval of the share of `y`, on as many outcomes by themselves as tell as much as these."""
    mean, trials = float(mean_of(y, standing)), _worth(y, groups, standing)
    return wilson(mean * trials, trials)


def chance_of(y: Floats, groups: Columns, stated: float) -> float:
    """How often a share as far from the `stated` one is seen where that is right: the test whose interval Wilson's is."""
    trials, stated = _worth(y, groups), min(max(stated, 1e-12), 1.0 - 1e-12)
    return 2.0 * float(ndtr(-abs(float(y.mean()) - stated) / np.sqrt(stated * (1.0 - stated) / trials)))


def beyond_chance(p: Sequence[float]) -> list[bool]:
    """Which of these chances that there is nothing are so small that, of all of them, one was wrong at 5% (Holm 1979)."""
    found, left = [False] * len(p), len(p)
    for place in np.argsort(np.asarray(p), kind="stable").tolist():
        if p[place] > _CHANCE / left:
            break
        found[place], left = True, left - 1
    return found


def _worth(y: Floats, groups: Columns, standing: Floats | None = None) -> float:
    n, mean = len(y), float(mean_of(y, standing))
    counts = np.ones(n) if standing is None else standing * (n / standing.sum())
    most = float(n) if standing is None else effective_sample_size(standing)
    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max()) + 1
    if count == n:
        return most
    if count < _ENOUGH_GROUPS or not 0 < mean < 1:
        return float(count) if standing is None else min(effective_sample_size(standing, groups), float(count))
    strayed = np.bincount(group, weights=counts * (y - mean))
    variance = float(strayed @ strayed) * count / (count - 1) / (n * n)
    return most if variance <= 0 else min(mean * (1 - mean) / variance, most)


def reliability(
    probability: Floats,
    labels: Floats,
    columns: Columns,
    candidates: Sequence[str],
    groups: Columns | None = None,
    standing: Floats | None = None,
) -> Reliability:
    """Of (n, m) chances and labels, NaN where not judged; `columns` (n,) is what was chosen, `groups` (n,) the conversations,
    `standing` (n,) what the requests stand for (None: one each).

    One request's answers go together too: what makes it hard is hard for every candidate.
    """
    seen = np.isfinite(labels)
    groups = np.arange(len(columns)) if groups is None else groups
    of = np.broadcast_to(groups[:, None], labels.shape)
    rows = np.flatnonzero(seen[np.arange(len(columns)), columns])
    at = rows, columns[rows]

    def stood(among: Bools | Columns) -> Floats | None:
        return None if standing is None else standing[among]

    return Reliability(
        all=bins(probability[seen], labels[seen], of[seen], of_cells(standing, seen)),
        chosen=bins(probability[at], labels[at], groups[rows], stood(rows)),
        by_candidate={
            name: bins(probability[known, column], labels[known, column], groups[known], stood(known))
            for column, (name, known) in enumerate(zip(candidates, seen.T, strict=True))
            if known.any()
        },
    )


def risk_coverage(
    probability: Floats,
    labels: Floats,
    columns: Columns,
    groups: Columns | None = None,
    standing: Floats | None = None,
) -> tuple[Risk, ...]:
    """What is risked by deciding on the most confident 5%, 10% … 100% of requests whose chosen answer was judged, and sending
    the rest elsewhere. Arguments as of `reliability`. Equal chances are never parted, so that a share may be larger than
    these, and there may be fewer of them. Source: Geifman & El-Yaniv 2017."""
    rows = np.flatnonzero(np.isfinite(labels[np.arange(len(columns)), columns]))
    n = len(rows)
    if n < LEAST_IN_BIN:
        return ()
    at = rows, columns[rows]
    order = np.argsort(-probability[at], kind="stable")
    falling = -probability[at][order]
    failed, of = 1.0 - labels[at][order], (rows if groups is None else groups[rows])[order]
    counts = np.ones(n) if standing is None else standing[rows][order]
    asked = np.array([max(round(n * step / _COVERAGES), 1) for step in range(1, _COVERAGES + 1)])
    found = []
    for k in np.unique(np.searchsorted(falling, falling[asked - 1], side="right")).tolist():
        part = None if standing is None else counts[:k]
        coverage = float(counts[:k].sum() / counts.sum())
        found.append(Risk(coverage, float(mean_of(failed[:k], part)), *interval(failed[:k], of[:k], part)))
    return tuple(found)
