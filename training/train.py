"""One training run, from an outcome table to a bundle on disk with its evaluation inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from serving.bundle import (
    FORMAT_VERSION,
    Bundle,
    EncoderSpec,
    HeadSpec,
    Manifest,
    OperatingPoint,
    sha256,
    switch_current,
    write_bundle,
)
from serving.catalogue import Candidate
from serving.features import SURFACE
from serving.policy import choose
from serving.router import Router
from training import report
from training.baselines import Contender, Truth, direct_choice, fixed_points, workflow_table
from training.config import Params
from training.estimators.base import Floats, Inputs
from training.evaluate import ROUTER, CompleteOutcomes, Evaluation, Test, by_workflow, calibration_figures, evaluate
from training.export import write_files
from training.frontier import frontier, knob_grid
from training.operating import choose_points
from training.outcomes import Outcomes as OutcomeTable
from training.pipeline import Learned, Prepared, Progress, encode, learn, prepare, silent


@dataclass(frozen=True)
class Run:
    """What a training run made."""

    bundle: Bundle
    evaluation: Evaluation
    prepared: Prepared
    learned: Learned


def train(
    table: OutcomeTable,
    params: Params,
    catalogue: Mapping[str, Candidate],
    *,
    out: Path,
    cache: Path,
    truth: Truth | None = None,
    progress: Progress = silent,
) -> Run:
    """Trains on an outcome table and writes `out/<version>`; `out/current` is switched to it last.

    `truth` is given for a simulated log only, and marks every figure as simulated.
    """
    prepared = prepare(table.frame, params, catalogue)
    inputs, encoder = encode(prepared, params, cache, progress)
    learned = learn(prepared, inputs, params, progress)
    started = datetime.now(UTC)
    version = f"{started:%Y%m%dT%H%M%S}-{prepared.fingerprint[:8]}"
    made: dict[str, Any] = {}

    def fill(folder: Path) -> None:
        progress("export", None, None)
        write_files(folder, learned, encoder, inputs.take(prepared.split.test), params.export.tolerance)
        draft = _draft(folder, version, started, prepared, learned, encoder.spec, params, simulated=truth is not None)
        router = Router(Bundle(folder, draft), threads=params.embed.threads)
        made["manifest"] = _operate(router, prepared, inputs, params)
        progress("evaluate", None, None)
        router = Router(Bundle(folder, made["manifest"]), threads=params.embed.threads)
        made["evaluation"] = evaluation = evaluate_router(router, prepared, inputs, learned, params, truth)
        made["manifest"] = made["manifest"].model_copy(update={"metrics": evaluation.summary()})
        progress("report", None, None)
        report.write(folder, made["manifest"], evaluation, prepared, learned, table)

    bundle = write_bundle(
        out, version, fill, lambda hashes: made["manifest"].model_copy(update={"files": dict(hashes)})
    )
    switch_current(out, version)
    return Run(bundle, made["evaluation"], prepared, learned)


def _draft(
    folder: Path,
    version: str,
    started: datetime,
    prepared: Prepared,
    learned: Learned,
    encoder: EncoderSpec,
    params: Params,
    *,
    simulated: bool,
) -> Manifest:
    reference = prepared.matrix.candidates[learned.reference]
    knobs = knob_grid(prepared.matrix.cost_usd[prepared.split.train], params.policy.knob_steps)
    return Manifest(
        format_version=FORMAT_VERSION,
        version=version,
        created=started.isoformat(timespec="seconds"),
        data_fingerprint=prepared.fingerprint,
        simulated=simulated,
        candidates=prepared.candidates,
        cost_from=dict(learned.costs.cost_from),
        reference=reference,
        acceptable=params.label.acceptable,
        encoder=encoder,
        head=HeadSpec(
            estimator=learned.tagged.estimator.name,
            estimator_untagged=learned.untagged.estimator.name,
            calibration=learned.tagged.calibrator.name,
            surface=SURFACE,
            workflows=prepared.workflows,
        ),
        operating_points=(OperatingPoint(name="always-reference", knob=0.0, always=reference, calibration_requests=0),),
        default_point="always-reference",
        knobs=tuple(knobs.tolist()),
        metrics={},
        files={path.name: sha256(path) for path in folder.iterdir()},
    )


def _operate(router: Router, prepared: Prepared, inputs: Inputs, params: Params) -> Manifest:
    """The manifest with its operating points, chosen on the complete requests of the calibration part."""
    manifest = router.manifest
    rows = prepared.split.calibration & prepared.matrix.complete()
    estimates = _estimate(router, inputs, rows)
    quality, cost = prepared.labels[rows], prepared.matrix.cost_usd[rows]
    points = frontier(estimates[0], estimates[1], quality, cost, np.array(manifest.knobs))
    reference = router.candidates.index(manifest.reference)
    chosen = choose_points(
        points,
        quality[:, reference],
        cost[:, reference],
        sorted({*params.policy.targets, params.policy.quality_target}),
        manifest.reference,
        params.policy.minimum_requests,
    )
    default = next(point for point in chosen if point.quality_target == params.policy.quality_target)
    return manifest.model_copy(update={"operating_points": chosen, "default_point": default.name})


def _estimate(router: Router, inputs: Inputs, rows: np.ndarray[Any, Any]) -> tuple[Floats, Floats]:
    """P(acceptable) and expected cost (n, m) of the given rows, by the served graph."""
    estimates = router.estimate_embedded(inputs.embedding[rows], inputs.features[rows])
    return estimates.acceptable.astype(np.float64), estimates.cost_usd.astype(np.float64)


def evaluate_router(
    router: Router, prepared: Prepared, inputs: Inputs, learned: Learned, params: Params, truth: Truth | None
) -> Evaluation:
    """The router's figures on the test part; the estimates are the served ones, computed from the requests' text."""
    matrix, split = prepared.matrix, prepared.split
    tested = split.test
    complete = tested & matrix.complete()
    labels = prepared.labels[tested]
    served = router.estimate(list(matrix.requests[tested]))
    raw = np.where(
        inputs.take(tested).tagged[:, None],
        learned.tagged.estimator.predict(inputs.take(tested)),
        learned.untagged.estimator.predict(inputs.take(tested).untagged()),
    )
    calibration = calibration_figures(raw, served.acceptable.astype(np.float64), labels)
    if not complete.any():
        return Evaluation(
            test_requests=int(tested.sum()),
            complete_requests=0,
            calibration=calibration,
            why_not=(
                "no test request has a judged, costed outcome of every candidate, so no routing can be compared exactly. "
                "Send a share of the traffic to all candidates (shadow requests), or give an evaluation run with --test."
            ),
        )
    inside = complete[tested]
    tuning = split.calibration & matrix.complete()
    test, calibrating = _outcomes(prepared, complete), _outcomes(prepared, tuning)
    expected_tuning = _estimate(router, inputs, tuning)
    expected_test = (served.acceptable[inside].astype(np.float64), served.cost_usd[inside].astype(np.float64))
    contenders = [
        Contender(ROUTER, expected_tuning, expected_test),
        workflow_table(
            learned.data,
            params.fit.table_strength,
            (inputs.take(tuning), expected_tuning[1]),
            (inputs.take(complete), expected_test[1]),
        ),
    ]
    if truth is not None:
        names = matrix.candidates
        contenders.append(
            Contender(
                "best reachable (simulated truth)",
                truth.of(matrix.request_id[tuning], names),
                truth.of(matrix.request_id[complete], names),
                simulated_truth=True,
            )
        )
    direct = direct_choice(
        learned.data, np.nanmean(learned.data.cost, axis=0), params.fit.logistic_c, inputs.take(complete)
    )
    manifest = router.manifest
    point = next(p for p in manifest.operating_points if p.name == manifest.default_point)
    always = None if point.always is None else router.candidates.index(point.always)
    reference = router.candidates.index(manifest.reference)
    lines, curves, alone = evaluate(
        Test(
            calibration=calibrating,
            test=test,
            contenders=contenders,
            fixed=fixed_points(test.quality, test.cost_usd, matrix.candidates, reference, direct),
            operating=(point.knob, always),
            knobs=np.array(manifest.knobs),
            reference=reference,
            candidates=matrix.candidates,
            quality_target=params.policy.quality_target,
        ),
        resamples=params.evaluate.resamples,
        seed=params.evaluate.seed,
    )
    columns = choose(*expected_test, point.knob) if always is None else np.full(len(test), always, dtype=np.intp)
    return Evaluation(
        test_requests=int(tested.sum()),
        complete_requests=int(complete.sum()),
        lines=lines,
        workflows=by_workflow(test, columns, reference, matrix.candidates),
        calibration=calibration,
        curves=curves,
        zero_router=alone.zero_router,
    )


def _outcomes(prepared: Prepared, rows: np.ndarray[Any, Any]) -> CompleteOutcomes:
    return CompleteOutcomes(
        prepared.labels[rows], prepared.matrix.cost_usd[rows], prepared.groups[rows], prepared.matrix.workflow[rows]
    )
