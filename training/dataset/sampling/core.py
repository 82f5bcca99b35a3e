"""A log too large to be learned from as a whole -> its core: whole conversations drawn by a hash, and what each stands for.

A group of requests is in the core where u(group, seed) < theta; u is uniform on [0, 1) and depends on the id of the group's
earliest request alone, so the core is the same however the log is cut into files and whatever memory there is, and what comes
later to a conversation leaves it where it was. A request stands for
1 / theta of its kind (Horvitz & Thompson 1952).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from serving.bundle.arrays import Bools, Columns, Floats
from training.config import Scale
from training.dataset.matrix import OutcomeMatrix, workflow_names
from training.dataset.split import Split

# Of what is held, so much at most is there for floors: the rest is a fair share of everything.
_MOST_BY_FLOORS = 0.5
_STEPS = 60


@dataclass(frozen=True)
class Part:
    """Of one part of a log, `kept` of `requests` requests."""

    name: str
    requests: int
    kept: int


@dataclass(frozen=True)
class Sampled:
    """What was drawn of a log of `requests` requests, by part; in training at least `floor` of each workflow and of each
    candidate's judged answers, or all there are, with weights up to `heaviest`."""

    requests: int
    parts: tuple[Part, ...]
    floor: int
    heaviest: float

    @property
    def kept(self) -> int:
        return sum(part.kept for part in self.parts)

    def said(self) -> str:
        """What was sampled and what that costs, in sentences."""
        told = ", ".join(f"{part.name} {part.kept:,} of {part.requests:,}" for part in self.parts)
        return (
            f"sampled: {self.kept:,} of {self.requests:,} requests are in the core that was learned from and measured on, "
            f"whole conversations drawn by a hash ({told}); of each workflow and of each candidate's judged answers in "
            f"training some {self.floor:,} at least, or all there are, and each request there counts for those it stands for, "
            f"at most {self.heaviest:,.1f}; certificates and test figures have the intervals of the requests in the core, and "
            "nothing was learned from the others"
        )


@dataclass(frozen=True)
class Core:
    """(n,) which requests are in the core, and how many of the log each stands for. `sampled` is None where all are.

    `near` (n,) would be in it if they were in another part of the log, as they are once it has grown. `missing` are as many as
    would be in it if anything of them were at hand.
    """

    kept: Bools
    weight: Floats
    sampled: Sampled | None
    near: Bools
    missing: int = 0


def core_of(
    matrix: OutcomeMatrix,
    labels: Floats,
    groups: Columns,
    split: Split,
    scale: Scale,
    seed: int,
    hashes: NDArray[np.uint64] | None = None,
    at_hand: Bools | None = None,
) -> Core:
    """The core of n requests with `labels` (n, m), NaN where not judged, in `groups` (n,) that are kept or left as a whole.

    The calibration and the test part are thinned evenly, so that what is measured on them is fair; requests that were drawn to
    certify on stay. In training every group that something was bought for stays, and so many of each workflow and of each
    candidate's judged answers as `scale.floor` says. `hashes` (n,) are `id_hashes` of the requests' ids, where these are not at
    hand; requests of which nothing is `at_hand` (n,) are left out.
    """
    parts = {"training": split.train, "calibration": split.calibration, "test": split.test}
    most = {"training": scale.core_train, "calibration": scale.core_measured, "test": scale.core_measured}
    everything = np.ones(len(matrix), dtype=np.bool_)
    at_hand = everything if at_hand is None else at_hand
    if all(rows.sum() <= most[name] for name, rows in parts.items()):
        return Core(at_hand, np.ones(len(matrix)), None, at_hand, int((~at_hand).sum()))
    uniform = _uniform(id_hashes(matrix.request_id) if hashes is None else hashes, matrix.timestamp, groups, seed)
    theta, elsewhere = np.zeros(len(matrix)), 0.0
    for name in ("calibration", "test"):
        rows = parts[name]
        theta[rows] = share = min(1.0, most[name] / max(int(rows.sum()), 1))
        elsewhere = max(elsewhere, share)
    theta[matrix.drawn & ~split.train & ~split.dropped] = 1.0
    rows, floor = split.train, scale.floor
    in_training = np.ones(len(matrix))
    if rows.sum() > most["training"]:
        least, floor = _floors(matrix, labels, rows, most["training"], scale.floor)
        in_training = _thresholds(least, groups, rows, most["training"])
    theta[rows] = in_training[rows]
    wanted = uniform < theta
    kept, near = wanted & at_hand, uniform < np.maximum(np.maximum(theta, in_training), elsewhere)
    weight = np.where(kept, 1.0 / np.where(theta > 0, theta, 1.0), 0.0)
    told = tuple(Part(name, int(part.sum()), int((part & kept).sum())) for name, part in parts.items())
    heaviest = float(weight[rows].max(initial=1.0))
    sampled = Sampled(len(matrix), told, floor, heaviest)
    return Core(kept, weight, sampled, near & at_hand & ~split.dropped, int((wanted & ~at_hand).sum()))


def _floors(matrix: OutcomeMatrix, labels: Floats, train: Bools, most: int, floor: int) -> tuple[Floats, int]:
    """(n,) with which probability each request is kept at least if it is in training, and the floor that this is by, the lower
    of `floor` and what `most` has room for. Counted is what is in training, `train` (n,)."""
    workflow = pd.factorize(workflow_names(matrix.workflow))[0]
    judged = np.isfinite(labels)
    there = np.bincount(workflow[train], minlength=int(workflow.max(initial=0)) + 1)
    room = int(_MOST_BY_FLOORS * most / (int((there > 0).sum()) + judged.shape[1]))
    floor = max(min(floor, room), 1)
    least = floor / np.maximum(there, 1)[workflow]
    of_candidate = floor / np.maximum(judged[train].sum(axis=0), 1)
    least = np.maximum(least, np.where(judged, of_candidate, 0.0).max(axis=1))
    bought = (matrix.certifying | matrix.learning).any(axis=1)
    return np.where(bought, 1.0, np.minimum(least, 1.0)), floor


def _thresholds(least: Floats, groups: Columns, train: Bools, most: int) -> Floats:
    """(n,) the threshold of each request's group in training: one for all, or what any of the group has at `least`, so that of
    what is there, `train` (n,), `most` requests are expected to be kept."""
    _, group = np.unique(groups, return_inverse=True)
    sizes = np.bincount(group[train], minlength=int(group.max(initial=0)) + 1)
    of_group = np.zeros(len(sizes))
    np.maximum.at(of_group, group, least)
    low, high = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if float((sizes * np.maximum(of_group, middle)).sum()) > most:
            high = middle
        else:
            low = middle
    return np.asarray(np.maximum(of_group, low)[group])


def id_hashes(ids: Sequence[str] | NDArray[np.object_]) -> NDArray[np.uint64]:
    """(n,) a hash of each request's id, by which the core is drawn."""
    return np.asarray(pd.util.hash_array(np.asarray(ids, dtype=object), categorize=False), dtype=np.uint64)


def _uniform(hashes: NDArray[np.uint64], timestamp: NDArray[np.datetime64], groups: Columns, seed: int) -> Floats:
    """(n,) a number in [0, 1) for each request's group, by the `id_hashes` (n,) of its earliest request, the lowest of several.

    What comes later to a conversation changes nothing of its number. A request without a time comes last.
    """
    _, group = np.unique(groups, return_inverse=True)
    count = int(group.max(initial=-1)) + 1
    instant = np.where(np.isnat(timestamp), np.iinfo(np.int64).max, timestamp.astype(np.int64))
    earliest = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(earliest, group, instant)
    first = instant == earliest[group]
    lowest = np.full(count, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(lowest, group[first], hashes[first])
    # The lowest of many is no uniform number any more; its hash is.
    mixed = pd.util.hash_array(lowest ^ np.uint64(seed))
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64)[group] * 2.0**-53)
