"""The cost/quality frontier of a set of estimates: the served policy, run over a sweep of its knob."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.bundle.arrays import Columns, Floats
from serving.decide.value import choose
from training.measure.metrics import aiq, mean_of, non_decreasing_hull

# Below so many clusters, they are strata of the bootstrap and not drawn themselves.
FEW_CLUSTERS = 20
# Strata of fewer groups are taken together.
FEW_GROUPS = 10
# Of a bootstrap's weights so many rows at least, and about so many numbers, are in memory at once.
_ROWS, _NUMBERS = 32, 4_000_000


@dataclass(frozen=True)
class Frontier:
    """What each knob value gives: mean cost in USD and mean quality, both (k,), and each request's (n, k) of them.

    The means are of what the requests stand for, `standing` (n,); None: one each.
    """

    knobs: Floats
    request_cost: Floats
    request_quality: Floats
    standing: Floats | None = None

    @property
    def cost(self) -> Floats:
        return mean_of(self.request_cost, self.standing)

    @property
    def quality(self) -> Floats:
        return mean_of(self.request_quality, self.standing)


@dataclass(frozen=True)
class Singles:
    """What each single candidate gives when every request goes to it: mean cost and quality, (m,)."""

    cost: Floats
    quality: Floats

    @property
    def cheapest(self) -> int:
        return int(self.cost.argmin())

    @property
    def best(self) -> int:
        """The highest quality; among equals the cheapest."""
        return int(np.lexsort((self.cost, -self.quality))[0])

    def aiq(self, cost: Floats, quality: Floats) -> float:
        """AIQ of a router's points, to which the cheapest candidate is added: any router can be turned down to it."""
        floor = self.cheapest
        return aiq(
            np.append(cost, self.cost[floor]),
            np.append(quality, self.quality[floor]),
            float(self.cost[floor]),
            float(self.cost[self.best]),
        )

    @property
    def zero_router(self) -> float:
        """AIQ of the best random mixtures of single candidates."""
        return self.aiq(self.cost, self.quality)


def knob_grid(cost_usd: Floats, steps: int) -> Floats:
    """(steps,) knob values in 1/USD from 0 (quality alone) to so high that only cost counts.

    In between they are spaced evenly in the logarithm, around one over the typical spread of costs within a request.
    """
    spread = float(np.nanmean(np.nanmax(cost_usd, axis=1) - np.nanmin(cost_usd, axis=1)))
    if not spread > 0:
        return np.array([0.0])
    return np.concatenate([[0.0], np.logspace(-3, 3, steps - 2) / spread, [1e9 / spread]])


def frontier(
    estimate: Floats,
    expected_cost: Floats,
    quality: Floats,
    cost: Floats,
    knobs: Floats,
    standing: Floats | None = None,
) -> Frontier:
    """Routes n requests by (n, m) estimates at each knob and looks up what truly came of it.

    `quality` and `cost` (n, m) are the observed outcomes, complete; `standing` (n,) as of `Frontier`.
    """
    rows = np.arange(len(quality))
    chosen = [choose(estimate, expected_cost, knob) for knob in knobs.tolist()]
    return Frontier(
        knobs,
        np.column_stack([cost[rows, columns] for columns in chosen]),
        np.column_stack([quality[rows, columns] for columns in chosen]),
        standing,
    )


def singles(quality: Floats, cost: Floats, standing: Floats | None = None) -> Singles:
    """The single candidates' points on complete (n, m) outcomes, of requests that stand for `standing` (n,), None: one each."""
    return Singles(mean_of(cost, standing), mean_of(quality, standing))


def bootstrap_weights(
    groups: Columns,
    repeats: int,
    seed: int,
    clusters: NDArray[np.object_] | None = None,
    standing: Floats | None = None,
) -> Floats:
    """(repeats, n) row weights that sum to 1: whole groups are drawn with replacement, each as often as there are groups.

    With `clusters` (n,), such as workflows, and 20 of them or more, these are drawn first, as often as there are, and groups
    within each drawn one: a lead that rests on a few workflows is then seen to be uncertain. Fewer say too little of the
    workflows there might have been (Cameron, Gelbach & Miller 2008): they are strata then, and what follows is about these
    workflows. Within a stratum of n groups n - 1 are drawn, each counting n / (n - 1) times, for plain resampling gives it
    (n - 1) / n of its variance (Rao & Wu 1988); strata of fewer than 10 groups are one, which errs to the wide side. A mean's
    95% interval covers it, in 1,500 drawn data sets each, with 3 to 10 strata of 4 to 8 groups in 92 to 95 of 100, where plain
    resampling covers it in 86 to 93; with 30 groups a stratum in 93 to 94, as before. With 8 yes-or-no outcomes in all it is 83
    to 88, as before: so few say no more. A group counts to its first row's cluster. A row that stands for several, `standing`
    (n,), counts for as many each time it is drawn. Source:
    Davison & Hinkley 1997, sections 3.2 (strata) and 3.8 (both levels).
    """
    drawn = Resamples.draw(groups, repeats, seed, clusters, standing)
    return np.concatenate(list(drawn.blocks(repeats)))


@dataclass(frozen=True)
class Resamples:
    """The weights of `bootstrap_weights`, of which some rows at a time are in memory: (repeats, n) in all.

    `times` (repeats, g) is how often each group was drawn, `counting` (g,) what it counts each time, `member` (n,) its rows,
    which stand for `standing` (n,), None: one each.
    `resamples @ values` is what the weights give of `values` (n,) or (n, k).
    """

    times: NDArray[np.unsignedinteger[Any]]
    counting: Floats
    member: Columns
    standing: Floats | None = None

    @classmethod
    def draw(
        cls,
        groups: Columns,
        repeats: int,
        seed: int,
        clusters: NDArray[np.object_] | None = None,
        standing: Floats | None = None,
    ) -> Resamples:
        labels, first, member = np.unique(groups, return_index=True, return_inverse=True)
        generator = np.random.default_rng(seed)
        counted = np.uint16 if len(labels) <= np.iinfo(np.uint16).max else np.uint32
        if clusters is None:
            share = np.full(len(labels), 1.0 / len(labels))
            times = np.empty((repeats, len(labels)), dtype=counted)
            for start in range(0, repeats, _ROWS):
                rows = times[start : start + _ROWS]
                rows[:] = generator.multinomial(len(labels), share, size=len(rows))
            return cls(times, np.ones(len(labels)), member, standing)
        names = np.array(["" if name is None else str(name) for name in clusters[first]])
        _, cluster, size = np.unique(names, return_inverse=True, return_counts=True)
        if len(size) < FEW_CLUSTERS:
            cluster = _pooled(cluster, size)
            size = np.bincount(cluster)
        drawn = np.ones((repeats, len(size)), dtype=np.int64)
        if len(size) >= FEW_CLUSTERS:
            drawn = generator.multinomial(len(size), np.full(len(size), 1.0 / len(size)), size=repeats)
        # A cluster that is drawn several times brings its groups as often.
        most = int((drawn * size).max(initial=0))
        times = np.zeros((repeats, len(labels)), dtype=np.uint16 if most <= np.iinfo(np.uint16).max else np.uint32)
        counting = np.ones(len(labels))
        for k, groups_inside in enumerate(size):
            share = np.full(groups_inside, 1.0 / groups_inside)
            # One fewer than there are, each counting for more, or strata of few groups vary by (n - 1) / n of what they should.
            draws = groups_inside - 1 if groups_inside > 1 and len(size) < FEW_CLUSTERS else groups_inside
            inside = np.flatnonzero(cluster == k)
            counting[inside] = groups_inside / draws
            for start in range(0, repeats, _ROWS):
                part = slice(start, start + _ROWS)
                times[part, inside] = generator.multinomial(drawn[part, k] * draws, share)
        return cls(times, counting, member, standing)

    def blocks(self, rows: int = 0) -> Iterator[Floats]:
        """The weights, so many rows at a time: by default as many as make some megabytes."""
        # A whole number of what products take at once, so that they are the same.
        rows = rows or max(_ROWS, _NUMBERS // max(len(self.member), 1) // _ROWS * _ROWS)
        for start in range(0, len(self.times), rows):
            weights = (self.times[start : start + rows] * self.counting)[:, self.member]
            if self.standing is not None:
                weights = weights * self.standing
            yield weights / weights.sum(axis=1, keepdims=True)

    def __matmul__(self, values: Floats) -> Floats:
        return np.concatenate([weights @ values for weights in self.blocks()])


def _pooled(cluster: NDArray[np.intp], size: NDArray[np.intp]) -> NDArray[np.intp]:
    """The clusters (n,), numbered anew, of which those with fewer than `FEW_GROUPS` groups are one; so is the smallest of the
    others with them where they are too few together."""
    small = size < FEW_GROUPS
    if not small.any():
        return cluster
    if size[small].sum() < FEW_GROUPS and not small.all():
        small = small | (size == size[~small].min())
    merged = np.where(small, len(size), np.arange(len(size)))[cluster]
    return np.asarray(np.unique(merged, return_inverse=True)[1], dtype=np.intp)


def cross_fitted_cost_save(
    points: Frontier, quality: Floats, cost: Floats, groups: Columns, seed: int, halvings: int = 20
) -> tuple[float, float]:
    """`metrics.cost_save`, and the quality beyond the best single candidate's, where they are not chosen on what they are
    measured on: best candidate and mixture of two places are chosen on one half of the groups and measured on the other.

    Means over so many halvings, both ways each. Where no mixture reaches the candidate's quality on the first half, the
    candidate is taken, which saves nothing. NaN where none reaches it on all of them. `quality` and `cost` (n, m) are the
    single candidates' outcomes.
    """
    best = singles(quality, cost, points.standing).best
    reached, paid = (float(mean_of(part[:, best], points.standing)) for part in (quality, cost))
    if points.quality.max() < reached or paid <= 0:
        return float("nan"), float("nan")
    generator, (labels, member) = np.random.default_rng(seed), np.unique(groups, return_inverse=True)
    if len(labels) < 2:
        return float("nan"), float("nan")
    found = []
    for _ in range(halvings):
        first = (generator.permutation(len(labels)) < len(labels) // 2)[member]
        found += [_held_out(points, quality, cost, first), _held_out(points, quality, cost, ~first)]
    saving, beyond = np.mean(found, axis=0).tolist()
    return saving, beyond


def _held_out(points: Frontier, quality: Floats, cost: Floats, chosen_on: NDArray[np.bool_]) -> tuple[float, float]:
    """What the cheapest mixture that reaches the best single candidate's quality on these requests saves on the others, and its
    quality beyond the candidate's there."""
    standing = points.standing
    on, of = (None if standing is None else standing[rows] for rows in (chosen_on, ~chosen_on))
    alone = singles(quality[chosen_on], cost[chosen_on], on)
    best, rest = alone.best, ~chosen_on
    own_cost, own_quality = (mean_of(part[chosen_on], on) for part in (points.request_cost, points.request_quality))
    hull_cost, hull_quality = non_decreasing_hull(own_cost, own_quality)
    wanted = alone.quality[best]
    if hull_quality[-1] < wanted:
        return 0.0, 0.0
    amount = float(np.interp(wanted, hull_quality, hull_cost))
    upper = int(np.searchsorted(hull_cost, amount))
    ends = [int(np.lexsort((-own_quality, np.abs(own_cost - hull_cost[end])))[0]) for end in (max(upper - 1, 0), upper)]
    span = own_cost[ends[1]] - own_cost[ends[0]]
    share = float(np.clip((amount - own_cost[ends[0]]) / span, 0.0, 1.0)) if span > 0 else 1.0
    mixed = [
        (1 - share) * mean_of(part[rest][:, ends[0]], of) + share * mean_of(part[rest][:, ends[1]], of)
        for part in (points.request_cost, points.request_quality)
    ]
    base = float(mean_of(cost[rest, best], of))
    return (1.0 - float(mixed[0]) / base if base > 0 else 0.0), float(mixed[1] - mean_of(quality[rest, best], of))


def bootstrap_aiq(points: Frontier, quality: Floats, cost: Floats, weights: Floats | Resamples) -> Floats:
    """(repeats,) AIQ of a frontier on each resample; `quality` and `cost` (n, m) are the single candidates' outcomes."""
    resampled = zip(
        weights @ points.request_cost,
        weights @ points.request_quality,
        weights @ cost,
        weights @ quality,
        strict=True,
    )
    return np.array([Singles(c_single, q_single).aiq(c, q) for c, q, c_single, q_single in resampled])
