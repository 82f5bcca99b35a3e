"""A log too large to be learned from as a whole -> its core: requests drawn by a hash, and how many each stands for.

A request is in the core where u(id, seed, salt) < theta; u is uniform on [0, 1), and the salt is of the log's first requests,
so the core is the same however the log is cut into files and whatever memory there is, and nobody can name a request so that it
is drawn. A request stands for 1 / theta of its kind (Horvitz & Thompson 1952). Requests are drawn, not conversations: then no
conversation is in the core as a whole or not at all, however long it is, and of each there are only so many as its share of the
log. A conversation's requests stay in one part, and its group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from serving.bundle.arrays import Bools, Columns, Floats
from training.config import Scale
from training.dataset.matrix import OutcomeMatrix, workflow_names
from training.dataset.split import Split
from training.errors import TrainingError

# Of what is held, so much at most is there for floors: the rest is a fair share of everything.
_MOST_BY_FLOORS = 0.5
# And so much for a kind of request that comes first, unless it has more by an even share.
_MOST_OF_ONE = 0.75
# What a candidate is against the others is learned from requests that all were put to, by so many times the floor.
_TRIED_BY_ALL = 10
# Beside the core so many times its size may be kept, for what the log's growth would ask for.
_MOST_NEAR = 2
_STEPS = 60
_FIRST, _SECOND, _OTHER = 0, 1, 2
# So many requests, the first ones, make the salt.
_SALTED_BY = 64
# Draws from what was drawn, by numbers that have nothing to do with those of any usual seed.
_AGAIN = 0x9E3779B97F4A7C15


class CoreError(TrainingError):
    """A part of the log of which nothing can be held: says which, and what to do."""


@dataclass(frozen=True)
class Part:
    """Of one part of a log, `kept` of `requests` requests."""

    name: str
    requests: int
    kept: int


@dataclass(frozen=True)
class Sampled:
    """What was drawn of a log of `requests` requests, by part; in training about `floor` of each workflow and of each
    candidate's judged answers are expected at least, or all there are. A request stands for `heaviest` at most. `lowered` says
    what there was no room for."""

    requests: int
    parts: tuple[Part, ...]
    floor: float
    heaviest: float
    lowered: tuple[str, ...] = ()

    @property
    def kept(self) -> int:
        return sum(part.kept for part in self.parts)

    def said(self) -> str:
        """What was sampled and what that costs, in sentences."""
        told = ", ".join(f"{part.name} {part.kept:,} of {part.requests:,}" for part in self.parts)
        return "; ".join(
            (
                f"sampled: {self.kept:,} of {self.requests:,} requests are in the core that was learned from and measured on, "
                f"drawn by a hash of their ids ({told})",
                "of each workflow and of each candidate's judged answers in training some "
                f"{_number(self.floor)} at least are expected there, or all there are",
                *self.lowered,
                f"each request there counts for those it stands for, at most {self.heaviest:,.1f}",
                "certificates and test figures have the intervals of the requests in the core, and nothing was learned from "
                "the others",
            )
        )


@dataclass(frozen=True)
class Core:
    """(n,) which requests are in the core, and how many of the log each stands for. `sampled` is None where all are.

    `near` (n,) would be in it if they were in another part of the log, as they are once it has grown. `missing` are as many as
    would be in it if anything of them were at hand. `salt` is what it was drawn by: the log that has grown is drawn from alike.
    """

    kept: Bools
    weight: Floats
    sampled: Sampled | None
    near: Bools
    missing: int
    salt: int


def core_of(
    matrix: OutcomeMatrix,
    labels: Floats,
    split: Split,
    scale: Scale,
    seed: int,
    hashes: NDArray[np.uint64] | None = None,
    at_hand: Bools | None = None,
    salt: int | None = None,
) -> Core:
    """The core of n requests with `labels` (n, m), NaN where not judged. Raises CoreError where a part would be empty.

    Of the calibration and the test part come first those that were drawn to certify on, then those that every candidate was
    tried on; the others are thinned evenly. In training come first those that something was bought for, and so many of each
    workflow and of each candidate's judged answers as `scale.floor` says. All in all a part has as many as `scale` says, give
    or take the square root of that. `hashes` (n,) are `id_hashes` of the requests' ids, where these are not at hand; requests
    of which nothing is `at_hand` (n,) are left out. `salt` is that of the log before it grew; None: its own.
    """
    parts = {"training": split.train, "calibration": split.calibration, "test": split.test}
    most = {"training": scale.core_train, "calibration": scale.core_measured, "test": scale.core_measured}
    everything = np.ones(len(matrix), dtype=np.bool_)
    at_hand = everything if at_hand is None else at_hand
    hashes = id_hashes(matrix.request_id) if hashes is None else hashes
    salt = _salt(matrix, hashes) if salt is None else salt
    if all(rows.sum() <= most[name] for name, rows in parts.items()):
        _require_some(parts, at_hand)
        return Core(at_hand, np.ones(len(matrix)), None, at_hand, int((~at_hand).sum()), salt)
    uniform = _uniform(hashes, seed ^ salt)
    training = _in_training(matrix, labels, split.train, most["training"], scale.floor)
    theta = np.where(split.train, training.chance, 0.0)
    beyond, lowered = training.chance, list(training.lowered)
    kinds = np.where(matrix.drawn, _FIRST, np.where(_tried_by_all(matrix), _SECOND, _OTHER))
    for name in ("calibration", "test"):
        chances, thinned = _by_kind(kinds[parts[name]], most[name], name)
        theta[parts[name]] = chances[kinds[parts[name]]]
        lowered += thinned
        beyond = np.maximum(beyond, chances[kinds])  # a conversation that goes on may come to be measured on
    wanted = uniform < theta
    kept = wanted & at_hand
    _require_some(parts, kept)
    weight = np.where(kept, 1.0 / np.where(theta > 0, theta, 1.0), 0.0)
    told = tuple(Part(name, int(part.sum()), int((part & kept).sum())) for name, part in parts.items())
    heaviest = float(weight.max(initial=1.0))
    sampled = Sampled(len(matrix), told, training.floor, heaviest, tuple(lowered))
    room = _MOST_NEAR * sum(most.values())
    beyond = np.where(split.dropped, 0.0, beyond)
    cap = _largest(lambda chance: float(np.maximum(theta, np.minimum(beyond, chance)).sum()), room, 1.0)
    near = (uniform < np.maximum(theta, np.minimum(beyond, cap))) & at_hand
    return Core(kept, weight, sampled, near, int((wanted & ~at_hand).sum()), salt)


def _salt(matrix: OutcomeMatrix, hashes: NDArray[np.uint64]) -> int:
    """A number that only who has the log knows: of the ids and times of its first requests, as they stand there where there are
    no times."""
    times = matrix.timestamp.astype("datetime64[ns]")
    # Those without a time are last.
    order = np.arange(len(hashes)) if np.isnat(times).all() else np.lexsort((hashes, times))
    first = order[:_SALTED_BY]
    return int.from_bytes(blake2b(hashes[first].tobytes() + times[first].tobytes(), digest_size=8).digest())


def even(matrix: OutcomeMatrix) -> Bools:
    """(n,) of a core's requests so many that each stands for as many as any other; those drawn to certify on are all there."""
    uniform = _uniform(id_hashes(matrix.request_id), _AGAIN)
    return np.asarray((uniform * matrix.weight.max(initial=0.0) < matrix.weight) | matrix.drawn)


@dataclass(frozen=True)
class _Training:
    """(n,) with which chance each request is kept if it is in training, the floor that this is by, and what was lowered."""

    chance: Floats
    floor: float
    lowered: tuple[str, ...]


def _in_training(matrix: OutcomeMatrix, labels: Floats, train: Bools, most: int, floor: int) -> _Training:
    """The chances by which `most` requests of `train` (n,) are expected to be kept: what is bought first, floors in half of it
    at most, and the rest evenly."""
    if train.sum() <= most:
        return _Training(np.ones(len(matrix)), float(floor), ())
    bought = (matrix.certifying | matrix.learning).any(axis=1)
    first, _ = _by_turns([int((train & bought).sum()), int((train & ~bought).sum())], most)
    taken = first * float((train & bought).sum())
    rate, there = _rarity(matrix, labels, train), train & ~bought
    room = max(_MOST_BY_FLOORS * most, taken + (1 - _MOST_BY_FLOORS) * _MOST_BY_FLOORS * (most - taken))
    reached = _largest(lambda each: taken + float(np.minimum(each * rate[there], 1.0).sum()), room, float(floor))
    least = np.minimum(reached * rate, 1.0)
    even = _largest(lambda each: taken + float(np.maximum(least[there], each).sum()), most, 1.0)
    lowered = []
    if reached < floor:
        lowered.append(
            f"that is lowered from {floor:,}, for there was no room for so many of each; of what is rarer some may be missing"
        )
    if first < 1:
        lowered.append(_thinned("something was bought for", "training", int((train & bought).sum()), first))
    return _Training(np.where(bought, first, np.maximum(least, even)), reached, tuple(lowered))


def _rarity(matrix: OutcomeMatrix, labels: Floats, train: Bools) -> Floats:
    """(n,) with which chance each request is kept for a floor of 1: one over how many there are in `train` (n,) of its workflow
    and of a candidate's judged answers; those that every candidate was tried on have a floor of their own."""
    workflow = pd.factorize(workflow_names(matrix.workflow))[0]
    there = np.bincount(workflow[train], minlength=int(workflow.max(initial=0)) + 1)
    rate = 1.0 / np.maximum(there, 1)[workflow]
    judged, tried = np.isfinite(labels), _tried_by_all(matrix)
    of_candidate = 1.0 / np.maximum(judged[train].sum(axis=0), 1)
    rate = np.maximum(rate, np.where(judged, of_candidate, 0.0).max(axis=1))
    return np.asarray(np.maximum(rate, np.where(tried, _TRIED_BY_ALL / max(int((tried & train).sum()), 1), 0.0)))


def _tried_by_all(matrix: OutcomeMatrix) -> Bools:
    """(n,) the requests that every candidate was tried on, not for what that teaches: what can be evaluated exactly."""
    return np.asarray((matrix.attempted & ~matrix.learning).all(axis=1))


def _by_kind(kinds: Columns, most: int, name: str) -> tuple[Floats, list[str]]:
    """(3,) the chance of each kind of request in a part that is measured on, and what of that was thinned in spite of it."""
    counts = np.bincount(kinds, minlength=3).tolist()
    chances = _by_turns(counts, most)
    words = ("were drawn to certify on", "every candidate was tried on")
    told = [
        _thinned(word, name, count, chance)
        for word, count, chance in zip(words, counts, chances, strict=False)
        if chance < 1 and count
    ]
    return np.array(chances), told


def _by_turns(counts: Sequence[int], most: float) -> list[float]:
    """The chance of each kind of which there are so many, so that `most` are expected: all of one after the other, but none
    takes more than `_MOST_OF_ONE` of what is left, unless that is less than it would have evenly. The last has the rest."""
    chances: list[float] = []
    room, left = float(most), float(sum(counts))
    for count in counts[:-1]:
        even = room / left if left else 1.0
        chance = min(1.0, max(even, _MOST_OF_ONE * room / count)) if count else 1.0
        chances.append(chance)
        room, left = room - chance * count, left - count
    return [*chances, min(1.0, room / left) if left else 1.0]


def _largest(size: Callable[[float], float], most: float, high: float) -> float:
    """The largest number up to `high` of which the `size`, which rises with it, is at most `most`; 0 if there is none."""
    if size(high) <= most:
        return high
    low = 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if size(middle) > most:
            high = middle
        else:
            low = middle
    return low


def _require_some(parts: dict[str, Bools], kept: Bools) -> None:
    for name, rows in parts.items():
        if rows.any() and not (rows & kept).any():
            raise CoreError(
                f"of the {int(rows.sum()):,} requests of the {name} part none can be held: nothing of them is at hand. "
                "Train on everything: router-train run --data OLD --data NEW"
            )


def _thinned(what: str, part: str, count: int, chance: float) -> str:
    return f"of {count:,} requests of the {part} part that {what} there was room for {100 * chance:.3g}%"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def id_hashes(ids: Sequence[str] | NDArray[np.object_]) -> NDArray[np.uint64]:
    """(n,) a hash of each request's id, by which the core is drawn."""
    return np.asarray(pd.util.hash_array(np.asarray(ids, dtype=object), categorize=False), dtype=np.uint64)


def _uniform(hashes: NDArray[np.uint64], seed: int) -> Floats:
    """(n,) a number in [0, 1) for each request, by the `id_hashes` (n,) and the seed."""
    mixed = pd.util.hash_array(hashes ^ np.uint64(seed))
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53)
