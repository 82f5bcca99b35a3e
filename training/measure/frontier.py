"""The cost/quality frontier of a set of estimates: the served policy, run over a sweep of its knob."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from serving.bundle.arrays import Columns, Floats
from serving.decide.value import choose
from training.measure.metrics import aiq

# Below so many clusters, they are strata of the bootstrap and not drawn themselves.
FEW_CLUSTERS = 20


@dataclass(frozen=True)
class Frontier:
    """What each knob value gives: mean cost in USD and mean quality, both (k,), and each request's (n, k) of them."""

    knobs: Floats
    request_cost: Floats
    request_quality: Floats

    @property
    def cost(self) -> Floats:
        return np.asarray(self.request_cost.mean(axis=0))

    @property
    def quality(self) -> Floats:
        return np.asarray(self.request_quality.mean(axis=0))


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


def frontier(estimate: Floats, expected_cost: Floats, quality: Floats, cost: Floats, knobs: Floats) -> Frontier:
    """Routes n requests by (n, m) estimates at each knob and looks up what truly came of it.

    `quality` and `cost` (n, m) are the observed outcomes, complete.
    """
    rows = np.arange(len(quality))
    chosen = [choose(estimate, expected_cost, knob) for knob in knobs.tolist()]
    return Frontier(
        knobs,
        np.column_stack([cost[rows, columns] for columns in chosen]),
        np.column_stack([quality[rows, columns] for columns in chosen]),
    )


def singles(quality: Floats, cost: Floats) -> Singles:
    """The single candidates' points on complete (n, m) outcomes."""
    return Singles(cost.mean(axis=0), quality.mean(axis=0))


def bootstrap_weights(groups: Columns, repeats: int, seed: int, clusters: NDArray[np.object_] | None = None) -> Floats:
    """(repeats, n) row weights that sum to 1: whole groups are drawn with replacement, each as often as there are groups.

    With `clusters` (n,), such as workflows, and 20 of them or more, these are drawn first, as often as there are, and groups
    within each drawn one: a lead that rests on a few workflows is then seen to be uncertain. Fewer say too little of the
    workflows there might have been (Cameron, Gelbach & Miller 2008): they are strata then, each with as many groups as it
    has, and what follows is about these workflows. A group counts to its first row's cluster. Source: Davison & Hinkley 1997,
    sections 3.2 (strata) and 3.8 (both levels).
    """
    labels, first, member = np.unique(groups, return_index=True, return_inverse=True)
    generator = np.random.default_rng(seed)
    if clusters is None:
        drawn = generator.multinomial(len(labels), np.full(len(labels), 1.0 / len(labels)), size=repeats)
    else:
        names = np.array(["" if name is None else str(name) for name in clusters[first]])
        _, cluster, size = np.unique(names, return_inverse=True, return_counts=True)
        times = np.ones((repeats, len(size)), dtype=np.int64)
        if len(size) >= FEW_CLUSTERS:
            times = generator.multinomial(len(size), np.full(len(size), 1.0 / len(size)), size=repeats)
        drawn = np.zeros((repeats, len(labels)), dtype=np.int64)
        for k, groups_inside in enumerate(size):
            share = np.full(groups_inside, 1.0 / groups_inside)
            drawn[:, cluster == k] = generator.multinomial(times[:, k] * groups_inside, share)
    weights = drawn[:, member].astype(np.float64)
    resampled: Floats = weights / weights.sum(axis=1, keepdims=True)
    return resampled


def bootstrap_aiq(points: Frontier, quality: Floats, cost: Floats, weights: Floats) -> Floats:
    """(repeats,) AIQ of a frontier on each resample; `quality` and `cost` (n, m) are the single candidates' outcomes."""
    resampled = zip(
        weights @ points.request_cost,
        weights @ points.request_quality,
        weights @ cost,
        weights @ quality,
        strict=True,
    )
    return np.array([Singles(c_single, q_single).aiq(c, q) for c, q, c_single, q_single in resampled])
