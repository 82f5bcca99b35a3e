"""The stage that chooses operating points and certifies them, on the calibration part."""

from __future__ import annotations

import numpy as np

from serving.bundle.arrays import Bools, Floats
from serving.bundle.manifest import OperatingPoint
from serving.decide.router import Router
from training.certify.operating import CalibrationData, operating_points
from training.config import Params
from training.dataset.inputs import Inputs
from training.learn.learn import Learned
from training.learn.prepare import Prepared
from training.measure.frontier import knob_grid


def certify(
    router: Router, prepared: Prepared, inputs: Inputs, learned: Learned, params: Params
) -> tuple[tuple[OperatingPoint, ...], str]:
    """The operating points, highest target first, and the name of the default one."""
    rows = prepared.split.calibration
    part = prepared.matrix.take(rows)
    estimate, expected = served_estimate(router, inputs, rows)
    points = operating_points(
        CalibrationData(
            acceptable=estimate,
            expected_cost=expected,
            labels=prepared.labels[rows],
            cost=part.cost_usd,
            propensity=learned.propensity[rows],
            complete=part.complete(),
            groups=prepared.groups[rows],
            workflow=part.workflow,
        ),
        knob_grid(learned.data.expected_cost, params.policy.certificate_knobs),
        sorted({*params.policy.targets, params.policy.quality_target}),
        learned.reference,
        router.candidates,
        delta=params.policy.delta,
        explore=params.policy.explore,
        minimum=params.policy.minimum_requests,
        seed=params.fit.seed,
    )
    return points, next(point.name for point in points if point.quality_target == params.policy.quality_target)


def served_estimate(router: Router, inputs: Inputs, rows: Bools) -> tuple[Floats, Floats]:
    """What the objective is about, and the expected cost, both (n, m), of the requests `rows`, by the served graph."""
    estimates = router.estimate_embedded(inputs.embedding[rows], inputs.features[rows], inputs.counted[rows])
    return estimates.of(router.manifest.objective).astype(np.float64), estimates.cost_usd.astype(np.float64)
