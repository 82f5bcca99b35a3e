"""Whether prompts still fall where training's did: the population stability index, beyond what chance makes of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.bundle.arrays import Columns

# A cluster without a prompt counts as half a prompt: the index has no value for a share of nothing.
_NONE_SEEN = 0.5
_ENOUGH_CONVERSATIONS = 30


def psi(expected: Sequence[float], counts: Sequence[int], none_seen: float = _NONE_SEEN) -> float:
    """Population stability index: sum of (a - e) ln(a / e) over k groups, 0 where the shares are the same.

    `expected` (k,) are shares that sum to one, `counts` (k,) what was seen. A count of 0 is taken as `none_seen`, an
    expected share of 0 as that of the same number. By custom 0.1 is a small shift and 0.25 a large one. Raises ValueError for
    lengths that differ.
    """
    if len(expected) != len(counts):
        raise ValueError(f"{len(counts)} counts arrived for {len(expected)} expected shares; give one for each")
    total = sum(counts)
    if total == 0:
        return 0.0
    actual = np.maximum(np.asarray(counts, dtype=np.float64), none_seen) / total
    wanted = np.maximum(np.asarray(expected, dtype=np.float64), none_seen / total)
    return float(np.sum((actual - wanted) * np.log(actual / wanted)))


def by_chance(expected: Sequence[float], clusters: Columns, conversations: Columns) -> float:
    """The index that is expected of n prompts without any drift: the sum over clusters of the variance of a share / that share.

    Of prompts by themselves that is (k - 1) / n for k clusters (the index is near Pearson's chi-square / n: Yurdakul & Naranjo
    2020). Turns of one of `conversations` (n,) fall together, so that a share varies more, by the sums of whole conversations
    (Rao & Scott 1981); of fewer than 30 these are not known, and each is taken for one prompt.
    """
    n = len(clusters)
    _, member, sizes = np.unique(conversations, return_inverse=True, return_counts=True)
    k = len(expected)
    if len(sizes) < _ENOUGH_CONVERSATIONS:
        return (k - 1) / max(len(sizes), 1)
    pairs, counts = np.unique(np.stack([member, clusters]), axis=1, return_counts=True)
    of = pairs[1]
    share = np.bincount(clusters, minlength=k) / n
    own = np.bincount(of, counts.astype(np.float64) ** 2, k)
    crossed = np.bincount(of, counts * sizes[pairs[0]].astype(np.float64), k)
    squares = own - 2.0 * share * crossed + share**2 * float((sizes.astype(np.float64) ** 2).sum())
    variance = np.maximum(squares, 0.0) * len(sizes) / (len(sizes) - 1) / n**2
    return float((variance / np.maximum(np.asarray(expected, dtype=np.float64), _NONE_SEEN / n)).sum())


def beyond_chance(expected: Sequence[float], clusters: Columns, conversations: Columns) -> float:
    """The index of prompts in these `clusters` (n,), less what chance makes of it; 0 at the least.

    A cluster without a prompt counts as half of one that tells as much as a prompt by itself.
    """
    n, k = len(clusters), len(expected)
    if n == 0:
        return 0.0
    chance = by_chance(expected, clusters, conversations)
    worth = min((k - 1) / chance, float(n)) if chance > 0 else float(n)
    found = psi(expected, np.bincount(clusters, minlength=k).tolist(), _NONE_SEEN * n / max(worth, 1.0))
    return max(found - chance, 0.0)
