"""What weak sources say of answers that nobody judged, as labels to fit on beside the judged ones.

A weak source tells of bad answers alone: what it adds is where and whose answers fail, not how often any do. So bad answers,
judged or hinted at, together weigh as much as the judged ones of them do: the share of bad ones stays what was judged, and the
weight of a source says how far its hints move that share from some requests and candidates to others (sampling by outcome; the
correction of the share is that of King & Zeng 2001). And nothing is measured on hints. Which estimator is taken, how they are
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
        """The judged labels and these, and their weights, with as many bad ones among them as were judged; (n, m) all."""
        used = np.isnan(labels) & np.isfinite(self.labels)
        both, weight = np.where(used, self.labels, labels), np.where(used, self.weights, weights)
        bad = np.where(np.isfinite(both), (1.0 - both) * weight, 0.0)
        judged, hinted = float(bad[~used].sum()), float(bad[used].sum())
        share = judged / (judged + hinted) if hinted > 0 else 1.0
        return both, np.where(np.isfinite(both), weight * (both + (1.0 - both) * share), weight)


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
