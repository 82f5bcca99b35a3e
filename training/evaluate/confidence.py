"""Whether the confidence means what it says, and what the router makes of it."""

from __future__ import annotations

import numpy as np

from serving.bundle.arrays import Columns, Floats
from serving.decide.value import choose
from training.evaluate.evaluation import Calibration, Confidence
from training.evaluate.sweep import CompleteOutcomes
from training.measure.metrics import (
    apgr,
    aurc,
    brier,
    collapse,
    cpt,
    equal_mass_bins,
    expected_calibration_error,
    strong_weak,
)


def calibration_figures(before: Floats, after: Floats, labels: Floats, columns: Columns) -> Calibration | None:
    """Calibration of (n, m) probabilities on judged labels (NaN elsewhere), before and after; None without labels.

    `columns` (n,) is what the operating point chooses.
    """
    seen = np.isfinite(labels)
    if not seen.any():
        return None
    y, p, raw = labels[seen], after[seen], np.clip(before[seen], 0, 1)
    bins = equal_mass_bins(p, y)
    rows = np.flatnonzero(seen[np.arange(len(columns)), columns])
    at = rows, columns[rows]
    return Calibration(
        outcomes=len(y),
        ece=expected_calibration_error(p, y),
        brier=brier(p, y),
        ece_before=expected_calibration_error(raw, y),
        brier_before=brier(raw, y),
        bins=tuple((float(a), float(b), float(c)) for a, b, c in zip(*bins, strict=True)),
        chosen=len(rows),
        ece_chosen=expected_calibration_error(after[at], labels[at]),
    )


def confidence_figures(
    estimate: Floats, outcome: CompleteOutcomes, columns: Columns, reference: int, knob: float
) -> Confidence:
    """The figures of `Confidence`; `estimate` (n, m), `columns` (n,) the routing at the operating point's `knob`."""
    rows = np.arange(len(outcome))
    weak = int(outcome.cost_usd.mean(axis=0).argmin())
    strong_quality, weak_quality = outcome.quality[:, reference], outcome.quality[:, weak]
    score = estimate[:, reference] - estimate[:, weak]
    share, quality = strong_weak(score, strong_quality, weak_quality, np.quantile(score, np.linspace(0, 1, 101)))
    low, high = float(weak_quality.mean()), float(strong_quality.mean())
    return Confidence(
        aurc=aurc(estimate[rows, columns], outcome.quality[rows, columns]),
        apgr=apgr(share, quality, low, high),
        cpt50=cpt(share, quality, low, high, 0.5),
        cpt80=cpt(share, quality, low, high, 0.8),
        collapse=collapse(columns, reference, choose(outcome.quality, outcome.cost_usd, knob)),
    )
