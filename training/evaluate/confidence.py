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
    of_cells,
    strong_weak,
)


def calibration_figures(
    before: Floats, after: Floats, labels: Floats, columns: Columns, standing: Floats | None = None
) -> Calibration | None:
    """Calibration of (n, m) probabilities on judged labels (NaN elsewhere), before and after; None without labels.

    `columns` (n,) is what the operating point chooses, `standing` (n,) what the requests stand for (None: as many each).
    """
    seen = np.isfinite(labels)
    if not seen.any():
        return None
    y, p, raw = labels[seen], after[seen], np.clip(before[seen], 0, 1)
    counts = of_cells(standing, seen)
    bins = equal_mass_bins(p, y, standing=counts)
    rows = np.flatnonzero(seen[np.arange(len(columns)), columns])
    at, of_chosen = (rows, columns[rows]), None if standing is None else standing[rows]
    return Calibration(
        outcomes=len(y),
        ece=expected_calibration_error(p, y, standing=counts),
        brier=brier(p, y, counts),
        ece_before=expected_calibration_error(raw, y, standing=counts),
        brier_before=brier(raw, y, counts),
        bins=tuple((float(a), float(b), float(c)) for a, b, c in zip(*bins, strict=True)),
        chosen=len(rows),
        ece_chosen=expected_calibration_error(after[at], labels[at], standing=of_chosen),
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
