"""What weak sources say of answers that nobody judged, as labels to fit on beside the judged ones.

A weak source tells of bad answers alone: what it adds is where and whose answers fail, not how often any do. What was
judged keeps its weight, and a candidate's hints together weigh no more than what was judged of it: where they would, each
is scaled down. So hints that say nothing, of users who ask again whatever came, never outweigh what is known. The level
that they move is put right by the calibration. And nothing is measured on hints. Which estimator is taken, how they are
mixed, calibrated and certified, and who the reference is, rests on what was judged.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from serving.bundle.arrays import Floats
from training.config import WEAK, Params
from training.dataset.label import acceptable
from training.dataset.matrix import OutcomeMatrix


@dataclass(frozen=True)
class Hints:
    """Labels (n, m) that are fitted on beside the judged ones, NaN where there is none, and what they count for."""

    labels: Floats
    weights: Floats

    def beside(self, labels: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """The judged labels as they weigh, and these, by candidate no heavier together than they are; (n, m) all."""
        used = np.isnan(labels) & np.isfinite(self.labels)
        both, weight = np.where(used, self.labels, labels), np.where(used, self.weights, weights)
        mass = np.where(np.isfinite(both), weight, 0.0)
        judged, hinted = (np.where(which, mass, 0.0).sum(axis=0) for which in (~used, used))
        share = np.minimum(1.0, judged / np.where(hinted > 0, hinted, 1.0))
        return both, np.where(used, weight * share, weight)


def hints_of(matrix: OutcomeMatrix, weights: Floats, params: Params) -> tuple[Hints | None, Hints | None]:
    """Hints at which answers were acceptable, and at their quality; None where the parameters use none that there are.

    `weights` (n, m) are what each cell would count for if it had been judged.
    """
    of_source = np.array([asdict(params.signals)[name] for name in WEAK])
    known = np.isfinite(matrix.weak_source)
    counts = np.where(known, of_source[np.where(known, matrix.weak_source, 0).astype(np.intp)] * weights, 0.0)
    if not (counts > 0).any():
        return None, None
    quality = np.where(counts > 0, matrix.weak_quality, np.nan)
    return Hints(acceptable(quality, params.label.acceptable), counts), Hints(quality, counts)


def hints_said(hints: Hints | None) -> str:
    """A sentence on how many hints heads were fitted on; "" where there are none."""
    if hints is None:
        return ""
    count = int((np.isfinite(hints.labels) & (hints.weights > 0)).sum())
    return (
        f" They were fitted on {count:,} qualities of weak sources as well, on which nothing is measured or certified."
    )


def taught(labels: Floats, weights: Floats, hints: Hints | None) -> tuple[Floats, Floats]:
    """What estimators are fitted on: labels and weights (n, m), with the hints where there are any."""
    return (labels, weights) if hints is None else hints.beside(labels, weights)
