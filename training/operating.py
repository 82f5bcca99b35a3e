"""Operating points: for each quality target the knob that saves most, chosen on calibration requests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from serving.bundle import OperatingPoint
from training.estimators.base import Floats
from training.frontier import Frontier


def choose_points(
    points: Frontier,
    reference_quality: Floats,
    reference_cost: Floats,
    targets: Sequence[float],
    reference: str,
    minimum: int,
) -> tuple[OperatingPoint, ...]:
    """One operating point per target: the knob of least cost whose quality is at least target x the reference's.

    `points` is the frontier on n calibration requests, `reference_quality` and `reference_cost` (n,) what the reference
    candidate gave on them. Where fewer than `minimum` requests are there, no knob reaches the target, or the reference
    reaches it for less, the point is the reference candidate itself.
    """
    n = len(reference_quality)
    base_quality = float(reference_quality.mean()) if n else float("nan")
    base_cost = float(reference_cost.mean()) if n else float("nan")
    chosen = []
    for target in sorted(targets, reverse=True):
        name = f"quality-{target:g}"
        enough = np.zeros(len(points.knobs), dtype=bool)
        if n >= max(minimum, 1):
            dearest = base_cost if target <= 1 else np.inf  # the reference itself reaches any target up to 1
            enough = (points.quality >= target * base_quality) & (points.cost <= dearest)
        if not enough.any():
            chosen.append(
                OperatingPoint(
                    name=name,
                    quality_target=target,
                    knob=0.0,
                    always=reference,
                    calibration_requests=n,
                    quality=base_quality if n else None,
                    cost_usd=base_cost if n else None,
                    saving=0.0,
                )
            )
            continue
        at = int(np.where(enough, points.cost, np.inf).argmin())
        chosen.append(
            OperatingPoint(
                name=name,
                quality_target=target,
                knob=float(points.knobs[at]),
                calibration_requests=n,
                quality=float(points.quality[at]),
                cost_usd=float(points.cost[at]),
                saving=1.0 - float(points.cost[at]) / base_cost if base_cost > 0 else 0.0,
            )
        )
    return tuple(chosen)
