"""What each candidate is good and bad at, by what the log judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from serving.bundle.arrays import Columns, Floats
from training.dataset.matrix import OutcomeMatrix, workflow_names

# Judged outcomes of a candidate in a workflow, below which nothing is said of it.
LEAST_JUDGED = 10
_NAMED = 3
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Strength:
    """A candidate in one workflow: its share of acceptable answers, and by how much that is more than the mean of the
    candidates there, with its 95% interval; of `n` judged answers."""

    workflow: str
    quality: float
    gap: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Profile:
    """One candidate in the log: its judged answers, what they cost and how long they took (the median), the share of requests
    that was put to it, and the workflows that it is best and worst at. None where the log does not tell."""

    candidate: str
    judged: int
    quality: float | None
    cost_usd: float | None
    latency_ms: float | None
    share_logged: float
    best: tuple[Strength, ...] = ()
    worst: tuple[Strength, ...] = ()


def profiles(matrix: OutcomeMatrix, labels: Floats, groups: Columns) -> tuple[Profile, ...]:
    """One profile of each candidate; `labels` (n, m) 1 acceptable, 0 not, NaN not judged; `groups` (n,) conversations.

    Candidates are compared by the answers that were judged: where the log sent harder requests to one of them, that is in its
    figures.
    """
    strengths = _strengths(matrix, labels, groups)
    found = []
    for column, name in enumerate(matrix.candidates):
        seen, called = np.isfinite(labels[:, column]), matrix.attempted[:, column]
        own = sorted((one for one in strengths if one[0] == column), key=lambda one: -one[1].gap)
        found.append(
            Profile(
                name,
                int(seen.sum()),
                float(labels[seen, column].mean()) if seen.any() else None,
                _known(matrix.cost_usd[called, column], np.mean),
                _known(matrix.latency_ms[called, column], np.median),
                float(called.mean()) if len(matrix) else 0.0,
                tuple(one for _, one in own[:_NAMED] if one.gap > 0),
                tuple(one for _, one in own[::-1][:_NAMED] if one.gap < 0),
            )
        )
    return tuple(found)


def _known(values: Floats, of: Callable[[Floats], np.floating[Any]]) -> float | None:
    known = values[np.isfinite(values)]
    return float(of(known)) if len(known) else None


def _strengths(matrix: OutcomeMatrix, labels: Floats, groups: Columns) -> list[tuple[int, Strength]]:
    """(column, how it does) of each candidate in each workflow in which two of them were judged often enough.

    The interval is by linearisation, with the sums of whole conversations: what the candidates' answers to the same request
    have in common falls out of it.
    """
    names = workflow_names(matrix.workflow)
    found = []
    for workflow in sorted(set(names.tolist())):
        inside = names == workflow
        part = labels[inside]
        seen = np.isfinite(part)
        count = seen.sum(axis=0)
        compared = np.flatnonzero(count >= LEAST_JUDGED)
        if len(compared) < 2:
            continue
        seen, count = seen[:, compared], count[compared]
        y = np.where(seen, part[:, compared], 0.0)
        mean = y.sum(axis=0) / count
        influence = np.where(seen, y - mean, 0.0) / count
        gaps = mean - mean.mean()
        influence = influence - influence.mean(axis=1, keepdims=True)
        member = np.unique(groups[inside], return_inverse=True)[1]
        many = int(member.max()) + 1
        for place, column in enumerate(compared.tolist()):
            sums = np.bincount(member, influence[:, place], many)
            error = float(np.sqrt((sums**2).sum() * many / max(many - 1, 1)))
            gap = float(gaps[place])
            strength = Strength(
                workflow, float(mean[place]), gap, gap - _Z * error, gap + _Z * error, int(count[place])
            )
            found.append((column, strength))
    return found
