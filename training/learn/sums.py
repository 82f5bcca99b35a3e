"""Sums over requests from which least squares and tables are solved, so that no fit goes through the rows again.

They are added up by slot, a fold each: what an estimator learns without a fold is the sum of the other slots. Sums over
parts of a log add up to those over all of it, in whatever order, so that rows need not be in memory together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from serving.bundle.arrays import Columns, Floats
from training.dataset.inputs import Inputs
from training.engine.engine import Engine, Progress, silent
from training.engine.local import ALONE

# Requests whose columns are held in float64 at a time: 18 MB of 277 columns.
BLOCK = 8192


@dataclass(frozen=True)
class Normal:
    """The sums that one fit is solved from, over requests z = [1, embedding, surface] (q,) with one-hot workflows t (W,).

    `gram` (m + 1, q, q) is sum w z z', `tagged` (m + 1, q, W) sum w z t' and `counts` (m + 1, W) sum w t, by candidate; the
    last is of every request at weight 1. A request has one workflow at most, so sum w t t' is diagonal and `counts` say it.
    `cross` (m, q) is sum w y z, `cross_tagged` (m, W) sum w y t, `squares` (m,) sum w^2; `outcomes` (m + 1,) counts those of a
    weight above 0. The embedding has `dim` columns.
    """

    gram: Floats
    tagged: Floats
    counts: Floats
    cross: Floats
    cross_tagged: Floats
    squares: Floats
    outcomes: Floats
    dim: int

    @classmethod
    def of(cls, inputs: Inputs, labels: Floats, weights: Floats) -> Normal:
        """Of these rows: `labels` (n, m), NaN where not judged, and `weights` (n, m) >= 0."""
        return add(inputs, weights, [labels], np.zeros(len(inputs), dtype=np.intp), 1).of([0])

    @property
    def weight(self) -> Floats:
        """(m,) what the judged outcomes of each candidate weigh together."""
        return self.gram[:-1, 0, 0]

    @property
    def total(self) -> Floats:
        """(m,) the sum of weight times label."""
        return self.cross[:, 0]

    @property
    def workflows(self) -> int:
        return int(self.counts.shape[1])

    def untagged(self) -> Normal:
        """As if no request had a workflow tag."""
        none = {name: np.zeros_like(getattr(self, name)) for name in ("tagged", "counts", "cross_tagged")}
        return replace(self, **none)

    def text(self) -> Normal:
        """As if there were no workflows."""
        return replace(
            self, tagged=self.tagged[..., :0], counts=self.counts[..., :0], cross_tagged=self.cross_tagged[..., :0]
        )

    def moments(self, candidate: int) -> Floats:
        """(1 + d, 1 + d) sum w x x' of one candidate with x = [1, embedding, surface, workflows]; -1: of every request."""
        tagged = self.tagged[candidate]
        return np.asarray(
            np.block([[self.gram[candidate], tagged], [tagged.T, np.diag(self.counts[candidate])]]), dtype=np.float64
        )

    def alike(self) -> list[list[int]]:
        """The candidates, those together that were judged on the same requests at the same weights."""
        found: list[list[int]] = []
        for candidate, gram in enumerate(self.gram[:-1]):
            for group in found:
                if np.array_equal(self.gram[group[0]], gram) and np.array_equal(
                    self.tagged[group[0]], self.tagged[candidate]
                ):
                    group.append(candidate)
                    break
            else:
                found.append([candidate])
        return found


@dataclass(frozen=True)
class Sums:
    """The sums of `Normal` by slot, which comes first in each: `gram` (slots, m + 1, q, q), and so on.

    Several targets may share the weights: `cross` is (slots, targets, m, q) and `cross_tagged` (slots, targets, m, W).
    """

    gram: Floats
    tagged: Floats
    counts: Floats
    cross: Floats
    cross_tagged: Floats
    squares: Floats
    outcomes: Floats
    dim: int

    @property
    def slots(self) -> int:
        return len(self.gram)

    def plus(self, other: Sums) -> Sums:
        """Those of both's requests."""
        return Sums(**{name: mine + getattr(other, name) for name, mine in self._parts()}, dim=self.dim)

    def minus(self, other: Sums) -> Sums:
        """Without the other's requests, all of which are among these: a candidate of which none is left has sums of 0."""
        outcomes = np.maximum(self.outcomes - other.outcomes, 0.0)
        found: dict[str, Floats] = {"outcomes": outcomes}
        for name, mine in self._parts():
            if name == "outcomes":
                continue
            left = mine - getattr(other, name)
            if name in ("counts", "squares"):  # what rounding leaves of nothing is not below it
                left = np.maximum(left, 0.0)
            of = outcomes if name in ("gram", "tagged", "counts") else outcomes[:, :-1]
            if name.startswith("cross"):
                of = of[:, None]
            found[name] = np.where((of > 0).reshape(of.shape + (1,) * (left.ndim - of.ndim)), left, 0.0)
        return Sums(**found, dim=self.dim)

    def of(self, slots: Sequence[int], target: int = 0) -> Normal:
        """Those slots together, of one target."""
        chosen = {name: values[list(slots)].sum(axis=0) for name, values in self._parts()}
        chosen["cross"], chosen["cross_tagged"] = chosen["cross"][target], chosen["cross_tagged"][target]
        return Normal(**chosen, dim=self.dim)

    def without(self, slot: int, target: int = 0) -> Normal:
        """All other slots together: added up, for what is left after taking one from their total is rounded to the total."""
        return self.of([other for other in range(self.slots) if other != slot], target)

    def all(self, target: int = 0) -> Normal:
        """All slots together."""
        return self.of(range(self.slots), target)

    def _parts(self) -> Iterator[tuple[str, Floats]]:
        for field in fields(self):
            if field.name != "dim":
                yield field.name, getattr(self, field.name)


@dataclass(frozen=True)
class _Rows:
    """What is added up: `columns` of `add`."""

    inputs: Inputs
    weights: Floats
    targets: Sequence[Floats]
    slot: Columns


@dataclass(frozen=True)
class _Block:
    """The sums of one block: `gram` and `tagged` of each group of candidates that share them; the others as of `Sums`, without
    a slot."""

    shared: list[list[int]]
    gram: list[Floats]
    tagged: list[Floats]
    counts: Floats
    cross: Floats
    cross_tagged: Floats
    squares: Floats
    outcomes: Floats


def add(
    inputs: Inputs,
    weights: Floats,
    targets: Sequence[Floats],
    slot: Columns,
    slots: int,
    engine: Engine = ALONE,
    progress: Progress = silent,
) -> Sums:
    """The sums of n requests, each in its `slot` (n,) of so many, in blocks of at most BLOCK rows.

    `weights` (n, m) >= 0 count where all of the `targets`, each (n, m), are known; NaN is not known. Blocks are added in one
    order whichever is done first, so that every engine gives the same to the last bit. Raises ValueError where a request has
    more than one workflow.
    """
    m, q, tags = weights.shape[1], 1 + inputs.embedding.shape[1] + inputs.surface, inputs.workflows.shape[1]
    sums = Sums(
        gram=np.zeros((slots, m + 1, q, q)),
        tagged=np.zeros((slots, m + 1, q, tags)),
        counts=np.zeros((slots, m + 1, tags)),
        cross=np.zeros((slots, len(targets), m, q)),
        cross_tagged=np.zeros((slots, len(targets), m, tags)),
        squares=np.zeros((slots, m)),
        outcomes=np.zeros((slots, m + 1)),
        dim=inputs.embedding.shape[1],
    )
    sizes = np.bincount(slot, minlength=slots)
    parts = [(chosen, start) for chosen in range(slots) for start in range(0, int(sizes[chosen]), BLOCK)]
    blocks = engine.map(
        _added,
        _Rows(inputs, weights, targets, slot),
        parts,
        "sums",
        progress,
        name=lambda part: f"slot {part[0]}, its rows from {part[1]:,} on",
        ahead=2 * engine.workers,
    )
    for (chosen, _), block in zip(parts, blocks, strict=True):
        for shared, gram, tagged in zip(block.shared, block.gram, block.tagged, strict=True):
            sums.gram[chosen, shared] += gram
            sums.tagged[chosen, shared] += tagged
        for name in ("counts", "squares", "outcomes", "cross", "cross_tagged"):
            getattr(sums, name)[chosen] += getattr(block, name)
    return sums


def _added(given: _Rows, part: tuple[int, int]) -> _Block:
    chosen, start = part
    block = np.flatnonzero(given.slot == chosen)[start : start + BLOCK]
    return _block(given.inputs.take(block), given.weights[block], [target[block] for target in given.targets])


def _block(inputs: Inputs, weights: Floats, targets: Sequence[Floats]) -> _Block:
    columns = np.hstack([np.ones((len(inputs), 1)), inputs.embedding, inputs.features[:, : inputs.surface]])
    workflows = inputs.workflows.astype(np.float64)
    if (np.count_nonzero(workflows, axis=1) > 1).any() or not np.isin(workflows, (0.0, 1.0)).all():
        raise ValueError("a request has more than one workflow, or one that is neither 0 nor 1")
    known = np.logical_and.reduce([np.isfinite(target) for target in targets])
    weight = np.where(known, weights, 0.0)
    every = np.column_stack([weight, np.ones(len(inputs))])
    shared = _same(every)
    products = [_products(columns, workflows, every[:, group[0]]) for group in shared]
    weighted = [weight * np.where(known, target, 0.0) for target in targets]
    return _Block(
        shared=shared,
        gram=[gram for gram, _ in products],
        tagged=[tagged for _, tagged in products],
        counts=every.T @ workflows,
        cross=np.array([each.T @ columns for each in weighted]),
        cross_tagged=np.array([each.T @ workflows for each in weighted]),
        squares=(weight**2).sum(axis=0),
        outcomes=(every > 0).sum(axis=0),
    )


def _products(columns: Floats, workflows: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """sum w z z' and sum w z t' of one block; with the root of w on both sides the first is half as many multiplications."""
    rows = weight > 0
    root = np.sqrt(weight[rows])[:, None]
    taken = columns[rows] * root
    tags: Any = csr_array(workflows[rows] * root)
    return taken.T @ taken, np.asarray(tags.T @ taken).T


def _same(weight: Floats) -> list[list[int]]:
    """The columns of the weights (n, m) that are equal, together: they share their products."""
    found: dict[bytes, list[int]] = {}
    for column, w in enumerate(weight.T):
        found.setdefault(w.tobytes(), []).append(column)
    return list(found.values())
