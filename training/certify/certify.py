"""The stage that chooses operating points and certifies them: on the calibration part, or on all of a small log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.manifest import OperatingPoint
from serving.decide.decision import Estimates
from serving.decide.router import Router
from training.certify.evidence import CalibrationData, Expected
from training.certify.operating import operating_points
from training.config import Params
from training.dataset.inputs import Inputs
from training.dataset.split import folds
from training.learn.learn import Learned
from training.learn.prepare import Prepared
from training.learn.refit import refit
from training.measure.frontier import knob_grid


def certify(
    data: CalibrationData, learned: Learned, candidates: Sequence[str], params: Params
) -> tuple[tuple[OperatingPoint, ...], str]:
    """The operating points of `learned`, highest target first, and the name of the default one."""
    points = operating_points(
        data,
        knob_grid(learned.data.expected_cost, params.policy.certificate_knobs),
        sorted({*params.policy.targets, params.policy.quality_target}),
        learned.reference,
        candidates,
        delta=params.policy.delta,
        explore=params.policy.explore,
        minimum=params.policy.minimum_requests,
        seed=params.fit.seed,
        uncertified=params.policy.uncertified,
    )
    return points, next(point.name for point in points if point.quality_target == params.policy.quality_target)


def cross_fitted(
    learned: Learned, served: Learned, prepared: Prepared, inputs: Inputs, params: Params, among: Bools
) -> tuple[CalibrationData, Floats]:
    """The requests `among` (n,), each as heads expect it that were learned from the others, by folds of conversations; and as
    those do that are `served`, which were learned from all of them.

    And how novel each is to those others, of all requests `among`.

    The heads to be certified are learned from all of them, so they are a little better than those a point is certified by.
    How often such a bound is exceeded is measured by the benchmark.
    """
    rows = np.flatnonzero(among)
    fold = folds(prepared.groups[rows], params.fit.folds, params.fit.seed)
    shape = prepared.labels[rows].shape
    acceptable, violation, expected = (np.empty(shape) for _ in range(3))
    novelty = np.empty(len(rows))
    for held in np.unique(fold):
        inside = fold == held
        seen = np.zeros(len(prepared.labels), dtype=np.bool_)
        seen[rows[~inside]] = True
        heads, asked = refit(learned, prepared, inputs, params, seen), inputs.take(rows[inside])
        acceptable[inside] = heads.acceptable.predict(asked)
        violation[inside] = heads.violations(asked)
        expected[inside] = heads.costs.cost_usd(asked)
        novelty[inside] = heads.spread.novelty(asked.embedding)
    known = of_known_workflow(prepared.matrix.workflow[rows], prepared.workflows)
    data = CalibrationData(
        acceptable=acceptable,
        violation=violation,
        expected_cost=expected,
        **_observed(learned, prepared, rows),
        served=Expected(
            served.acceptable.predict(inputs.take(rows)),
            served.violations(inputs.take(rows)),
            served.costs.cost_usd(inputs.take(rows)),
        ),
    )
    return data.take(known), novelty


def calibration_data(
    router: Router, prepared: Prepared, inputs: Inputs, learned: Learned, rows: Bools
) -> CalibrationData:
    """The requests `rows` as they are certified on, without those of a workflow that training never saw.

    What routes such a request was never learned on its kind, and no certificate is given on it.
    """
    rows = rows & of_known_workflow(prepared.matrix.workflow, prepared.workflows)
    served = served_estimates(router, inputs, rows)
    return CalibrationData(
        acceptable=served.acceptable.astype(np.float64),
        violation=served.violation.astype(np.float64),
        expected_cost=served.cost_usd,
        **_observed(learned, prepared, rows),
    )


def _observed(learned: Learned, prepared: Prepared, rows: Bools | Columns) -> dict[str, Any]:
    """What is known to have come of the requests `rows`, by the fields of `CalibrationData`."""
    part = prepared.matrix.take(rows)
    return {
        "labels": prepared.fair_labels[rows],
        "cost": part.cost_usd,
        "propensity": learned.propensity[rows],
        "judged": learned.judged[rows],
        "complete": part.complete(),
        "drawn": part.drawn,
        "groups": prepared.groups[rows],
        "workflow": part.workflow,
        "standing": part.standing,
    }


def of_known_workflow(workflow: NDArray[np.object_], known: Sequence[str]) -> Bools:
    """(n,) requests without a tag, or with one of the `known`, which training saw; all of them where it saw none."""
    if not known:
        return np.ones(len(workflow), dtype=np.bool_)
    names = {None, *known}
    return np.fromiter((name in names for name in workflow), np.bool_, len(workflow))


def served_estimates(router: Router, inputs: Inputs, rows: Bools) -> Estimates:
    """What the served graph expects of the requests `rows`."""
    return router.estimate_embedded(inputs.embedding[rows], inputs.sent[rows], inputs.counted[rows])
