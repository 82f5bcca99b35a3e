"""A log too large to be learned from as a whole -> its core: whole conversations drawn by a hash, and what each stands for.

A group of requests is in the core where u(group, seed) < theta; u is uniform on [0, 1) and depends on the ids of the group's
requests alone, so the core is the same however the log is cut into files and whatever memory there is. A request stands for
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
    """(n,) which requests are in the core, and how many of the log each stands for. `sampled` is None where all are."""

    kept: Bools
    weight: Floats
    sampled: Sampled | None


def core_of(matrix: OutcomeMatrix, labels: Floats, groups: Columns, split: Split, scale: Scale, seed: int) -> Core:
    """The core of n requests with `labels` (n, m), NaN where not judged, in `groups` (n,) that are kept or left as a whole.

    The calibration and the test part are thinned evenly, so that what is measured on them is fair; requests that were drawn to
    certify on stay. In training every group that something was bought for stays, and so many of each workflow and of each
    candidate's judged answers as `scale.floor` says.
    """
    parts = {"training": split.train, "calibration": split.calibration, "test": split.test}
    most = {"training": scale.core_train, "calibration": scale.core_measured, "test": scale.core_measured}
    if all(rows.sum() <= most[name] for name, rows in parts.items()):
        return Core(np.ones(len(matrix), dtype=np.bool_), np.ones(len(matrix)), None)
    uniform = _uniform(matrix.request_id, groups, seed)
    theta = np.zeros(len(matrix))
    for name in ("calibration", "test"):
        rows = parts[name]
        theta[rows] = min(1.0, most[name] / max(int(rows.sum()), 1))
    theta[matrix.drawn & ~split.train & ~split.dropped] = 1.0
    rows, floor = split.train, scale.floor
    if rows.sum() > most["training"]:
        least, floor = _floors(matrix.take(rows), labels[rows], most["training"], scale.floor)
        theta[rows] = _thresholds(least, groups[rows], most["training"])
    else:
        theta[rows] = 1.0
    kept = uniform < theta
    weight = np.where(kept, 1.0 / np.where(theta > 0, theta, 1.0), 0.0)
    told = tuple(Part(name, int(part.sum()), int((part & kept).sum())) for name, part in parts.items())
    heaviest = float(weight[rows].max(initial=1.0))
    return Core(kept, weight, Sampled(len(matrix), told, floor, heaviest))


def _floors(matrix: OutcomeMatrix, labels: Floats, most: int, floor: int) -> tuple[Floats, int]:
    """(n,) with which probability each request is kept at least, and the floor that this is by, the lower of `floor` and what
    `most` has room for."""
    workflow = pd.factorize(workflow_names(matrix.workflow))[0]
    judged = np.isfinite(labels)
    room = int(_MOST_BY_FLOORS * most / (workflow.max(initial=0) + 1 + judged.shape[1]))
    floor = max(min(floor, room), 1)
    least = floor / np.bincount(workflow)[workflow]
    of_candidate = floor / np.maximum(judged.sum(axis=0), 1)
    least = np.maximum(least, np.where(judged, of_candidate, 0.0).max(axis=1))
    bought = (matrix.certifying | matrix.learning).any(axis=1)
    return np.where(bought, 1.0, np.minimum(least, 1.0)), floor


def _thresholds(least: Floats, groups: Columns, most: int) -> Floats:
    """(n,) the threshold of each request's group: one for all, or what any of the group has at `least`, so that `most` requests
    are expected to be kept."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
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


def _uniform(ids: Sequence[str] | NDArray[np.object_], groups: Columns, seed: int) -> Floats:
    """(n,) a number in [0, 1) for each request's group, by the lowest hash of its requests' ids."""
    hashes = pd.util.hash_array(np.asarray(ids, dtype=object), categorize=False)
    _, group = np.unique(groups, return_inverse=True)
    lowest = np.full(int(group.max(initial=-1)) + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(lowest, group, hashes)
    # The lowest of many is no uniform number any more; its hash is.
    mixed = pd.util.hash_array(lowest ^ np.uint64(seed))
    return np.asarray((mixed >> np.uint64(11)).astype(np.float64)[group] * 2.0**-53)
