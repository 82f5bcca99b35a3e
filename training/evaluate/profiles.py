"""What each candidate is good and bad at, by what the log judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from serving.bundle.arrays import Columns, Floats
from training.dataset.matrix import OutcomeMatrix, workflow_names
from training.evaluate.reliability import beyond_chance
from training.measure.metrics import mean_of, quantile

# Judged outcomes of a candidate in a workflow, below which nothing is said of it.
LEAST_JUDGED = 10
_NAMED = 3


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
    that was put to it, and the workflows that it is best and worst at, beyond chance. None where the log does not tell."""

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

    Of a sampled log's core they are those of the log, each request counting for as many as it stands for; `judged` and `n`
    count the answers themselves.

    Candidates are compared by the answers that were judged: where the log sent harder requests to one of them, that is in its
    figures. Workflows are named whose gap stands out of all candidates' in all workflows (Holm 1979).
    """
    strengths = _beyond_chance(_strengths(matrix, labels, groups))
    found, standing = [], matrix.standing
    for column, name in enumerate(matrix.candidates):
        seen, called = np.isfinite(labels[:, column]), matrix.attempted[:, column]
        of_seen, of_called = (None if standing is None else standing[rows] for rows in (seen, called))
        own = sorted((one for one in strengths if one[0] == column), key=lambda one: -one[1].gap)
        found.append(
            Profile(
                name,
                int(seen.sum()),
                float(mean_of(labels[seen, column], of_seen)) if seen.any() else None,
                _known(matrix.cost_usd[called, column], of_called, mean_of),
                _known(matrix.latency_ms[called, column], of_called, _median),
                float(mean_of(called, standing)) if len(matrix) else 0.0,
                tuple(one for _, one in own[:_NAMED] if one.gap > 0),
                tuple(one for _, one in own[::-1][:_NAMED] if one.gap < 0),
            )
        )
    return tuple(found)


def _known(values: Floats, standing: Floats | None, of: Callable[[Floats, Floats | None], Floats]) -> float | None:
    known = np.isfinite(values)
    return float(of(values[known], None if standing is None else standing[known])) if known.any() else None


def _median(values: Floats, standing: Floats | None) -> Floats:
    return np.asarray(np.median(values) if standing is None else quantile(values, 0.5, standing))


def _beyond_chance(found: list[tuple[int, Strength, float]]) -> list[tuple[int, Strength]]:
    """Those whose gap is one by the procedure of Holm, of (column, how it does, p of no gap)."""
    rising = sorted(found, key=lambda one: one[2])
    named = beyond_chance([p for *_, p in rising])
    return [(column, strength) for (column, strength, _), kept in zip(rising, named, strict=True) if kept]


def _strengths(matrix: OutcomeMatrix, labels: Floats, groups: Columns) -> list[tuple[int, Strength, float]]:
    """(column, how it does, p of no gap) of each candidate in each workflow in which two of them were judged often enough.

    The interval is by linearisation, with the sums of whole conversations: what the candidates' answers to the same request
    have in common falls out of it. Each share's own variance is at least what it is two acceptable answers and two others
    further on (Agresti & Coull 1998): ten good answers of ten are no certainty. Student's t has as many degrees of freedom as
    the least judged candidate has answers there, or conversations where these are fewer, less one.
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
        weight = np.where(seen, matrix.weight[inside][:, None], 0.0)
        stood = weight.sum(axis=0)
        mean = (weight * y).sum(axis=0) / stood
        influence = weight * (y - mean) / stood
        worth = stood**2 / (weight**2).sum(axis=0)  # as many answers of equal weight say as much (Kish 1965)
        gaps = mean - mean.mean()
        influence = influence - influence.mean(axis=1, keepdims=True)
        member = np.unique(groups[inside], return_inverse=True)[1]
        many = int(member.max()) + 1
        plain, further = mean * (1.0 - mean) / worth, (mean * worth + 2.0) / (worth + 4.0)
        added = np.maximum(further * (1.0 - further) / (worth + 4.0) - plain, 0.0)
        least = int(worth.min())
        for place, column in enumerate(compared.tolist()):
            sums = np.bincount(member, influence[:, place], many)
            part_of_it = np.full(len(compared), -1.0 / len(compared))
            part_of_it[place] += 1.0
            variance = (sums**2).sum() * many / max(many - 1, 1) + part_of_it**2 @ added
            error, gap = float(np.sqrt(variance)), float(gaps[place])
            free = max(min(many, least) - 1, 1)
            half = float(stdtrit(free, 0.975)) * error
            strength = Strength(workflow, float(mean[place]), gap, gap - half, gap + half, int(count[place]))
            found.append((column, strength, 2.0 * float(stdtr(free, -abs(gap) / error)) if error > 0 else 1.0))
    return found
