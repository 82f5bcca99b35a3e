"""The stage that chooses operating points and certifies them, on the calibration part."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.bundle.arrays import Bools
from serving.bundle.manifest import OperatingPoint
from serving.decide.decision import Estimates
from serving.decide.router import Router
from training.certify.evidence import CalibrationData
from training.certify.operating import operating_points
from training.config import Params
from training.dataset.inputs import Inputs
from training.learn.learn import Learned
from training.learn.prepare import Prepared
from training.measure.frontier import knob_grid


def certify(
    router: Router, prepared: Prepared, inputs: Inputs, learned: Learned, params: Params
) -> tuple[tuple[OperatingPoint, ...], str]:
    """The operating points, highest target first, and the name of the default one."""
    points = operating_points(
        calibration_data(router, prepared, inputs, learned, prepared.split.calibration),
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


def calibration_data(
    router: Router, prepared: Prepared, inputs: Inputs, learned: Learned, rows: Bools
) -> CalibrationData:
    """The requests `rows` as they are certified on, without those of a workflow that training never saw.

    What routes such a request was never learned on its kind, and no certificate is given on it.
    """
    rows = rows & of_known_workflow(prepared.matrix.workflow, prepared.workflows)
    part = prepared.matrix.take(rows)
    served = served_estimates(router, inputs, rows)
    return CalibrationData(
        acceptable=served.acceptable.astype(np.float64),
        violation=served.violation.astype(np.float64),
        expected_cost=served.cost_usd,
        labels=prepared.labels[rows],
        cost=part.cost_usd,
        propensity=learned.propensity[rows],
        complete=part.complete(),
        groups=prepared.groups[rows],
        workflow=part.workflow,
    )


def of_known_workflow(workflow: NDArray[np.object_], known: Sequence[str]) -> Bools:
    """(n,) requests without a tag, or with one of the `known`, which training saw; all of them where it saw none."""
    if not known:
        return np.ones(len(workflow), dtype=np.bool_)
    names = {None, *known}
    return np.fromiter((name in names for name in workflow), np.bool_, len(workflow))


def served_estimates(router: Router, inputs: Inputs, rows: Bools) -> Estimates:
    """What the served graph expects of the requests `rows`."""
    return router.estimate_embedded(inputs.embedding[rows], inputs.sent[rows], inputs.counted[rows])
