"""A finished bundle on a log that it was not trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import Bundle, Objective
from serving.decide.router import Router
from serving.decide.value import Setting
from training.dataset.label import acceptable
from training.dataset.matrix import build_matrix
from training.dataset.split import group_requests
from training.evaluate.baselines import Contender, fixed_points
from training.evaluate.evaluate import (
    ROUTER,
    CompleteOutcomes,
    Evaluation,
    Test,
    by_workflow,
    calibration_figures,
    evaluate,
)
from training.learn.prepare import PrepareError
from training.logs.outcomes import Outcomes
from training.prices.costs import fill_costs


def evaluate_bundle(
    bundle: Bundle,
    table: Outcomes,
    catalogue: Mapping[str, Candidate],
    *,
    assumed_output_tokens: float,
    resamples: int,
    seed: int,
) -> Evaluation:
    """The bundle's figures on a log; outcomes of candidates that the bundle does not know are left out.

    Raises PrepareError when the log has no outcome of any candidate of the bundle.
    """
    router = Router(bundle)
    manifest = router.manifest
    frame = table.frame[table.frame["candidate"].isin(router.candidates)]
    if not len(frame):
        raise PrepareError(
            f"the log has no outcome of the bundle's candidates ({', '.join(router.candidates)}); it has "
            f"{', '.join(sorted(table.frame['candidate'].unique()))}"
        )
    known = {candidate.name: candidate for candidate in manifest.candidates} | dict(catalogue)
    matrix, _ = fill_costs(build_matrix(frame, router.candidates), known, assumed_output_tokens)
    labels = acceptable(matrix.quality, manifest.acceptable)
    served = router.estimate(list(matrix.requests))
    confidence = served.acceptable.astype(np.float64)
    calibration = calibration_figures(confidence, confidence, labels)
    value = labels if manifest.objective is Objective.ACCEPTABLE else matrix.quality
    estimate, expected = served.of(manifest.objective).astype(np.float64), served.cost_usd.astype(np.float64)
    rows = matrix.complete()
    if not rows.any():
        return Evaluation(
            len(matrix), 0, calibration=calibration, why_not="no request has a judged outcome of every candidate"
        )
    groups = group_requests(list(matrix.texts), list(matrix.session_id))
    outcome = CompleteOutcomes(value[rows], matrix.cost_usd[rows], groups[rows], matrix.workflow[rows])
    reference = router.candidates.index(manifest.reference)
    point = manifest.default
    setting = Setting.of(manifest, point)
    lines, curves, alone = evaluate(
        Test(
            calibration=outcome,
            test=outcome,
            contenders=[Contender(ROUTER, (estimate[rows], expected[rows]), (estimate[rows], expected[rows]))],
            fixed=fixed_points(outcome.quality, outcome.cost_usd, matrix.candidates, reference, None),
            operating=setting,
            knobs=np.array(manifest.knobs),
            reference=reference,
            candidates=matrix.candidates,
            quality_target=point.quality_target or 1.0,
        ),
        resamples=resamples,
        seed=seed,
    )
    columns = setting.choose(estimate[rows], expected[rows])
    return Evaluation(
        test_requests=len(matrix),
        complete_requests=int(rows.sum()),
        lines=lines,
        workflows=by_workflow(outcome, columns, reference, matrix.candidates),
        calibration=calibration,
        curves=curves,
        zero_router=alone.zero_router,
    )
