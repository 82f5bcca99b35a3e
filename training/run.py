"""One training run, from an outcome table to a bundle on disk with its evaluation inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from serving.bundle.catalogue import Candidate
from serving.bundle.features import SURFACE
from serving.bundle.manifest import (
    ALWAYS_REFERENCE,
    FORMAT_VERSION,
    Bundle,
    EncoderSpec,
    HeadSpec,
    Manifest,
    Novelty,
    Objective,
    OperatingPoint,
    sha256,
    write_bundle,
)
from serving.decide.decision import Estimates
from serving.decide.router import Router
from serving.decide.value import Setting
from training.certify.operating import CalibrationData, operating_points
from training.config import Params
from training.dataset.split import folds
from training.evaluate import examples
from training.evaluate.baselines import Contender, Truth, direct_choice, fixed_points, learnt_baselines
from training.evaluate.evaluate import (
    ROUTER,
    CompleteOutcomes,
    Evaluation,
    OffPolicyLine,
    Test,
    by_workflow,
    calibration_figures,
    confidence_figures,
    evaluate,
)
from training.evaluate.splits import quick_estimators, split_figures
from training.learn.estimators.base import Floats, Inputs, Matrix
from training.learn.export import write_files
from training.learn.pipeline import Learned, Prepared, Progress, encode, learn, observation_propensity, prepare, silent
from training.logs.outcomes import Outcomes as OutcomeTable
from training.measure.frontier import knob_grid
from training.measure.offpolicy import doubly_robust, ips, snips
from training.publish import report
from training.publish.promote import Comparison, Verdict, compare, judge, make_current


@dataclass(frozen=True)
class Run:
    """What a training run made."""

    bundle: Bundle
    evaluation: Evaluation
    prepared: Prepared
    learned: Learned
    verdict: Verdict


def train(
    table: OutcomeTable,
    params: Params,
    catalogue: Mapping[str, Candidate],
    *,
    out: Path,
    cache: Path,
    truth: Truth | None = None,
    keep_text: bool = False,
    progress: Progress = silent,
) -> Run:
    """Trains on an outcome table and writes `out/<version>`; `out/current` is switched to it last, if it is promoted.

    `truth` is given for a simulated log only, and marks every figure as simulated. No file that is written holds text of
    a request, unless `keep_text` puts the test requests into the bundle.
    """
    prepared = prepare(table.frame, params, catalogue)
    if params.evaluate.splits:  # a misspelt name is told now, not after the training
        quick_estimators(params, np.zeros(len(prepared.candidates)))
    inputs, encoder = encode(prepared, params, cache, progress)
    learned = learn(prepared, inputs, params, progress)
    started = datetime.now(UTC)
    version = f"{started:%Y%m%dT%H%M%S%f}-{prepared.fingerprint[:8]}"
    made: dict[str, Any] = {}

    def fill(folder: Path) -> None:
        progress("export", None, None)
        write_files(folder, learned, encoder, inputs.take(prepared.split.test), params.export.tolerance)
        draft = _draft(
            folder, version, started, prepared, inputs, learned, encoder.spec, params, simulated=truth is not None
        )
        router = Router(Bundle(folder, draft), threads=params.embed.threads)
        knobs = knob_grid(learned.data.expected_cost, params.policy.certificate_knobs)
        made["manifest"] = _operate(router, prepared, inputs, knobs, params)
        progress("evaluate", None, None)
        router = Router(Bundle(folder, made["manifest"]), threads=params.embed.threads)
        evaluation = evaluate_router(router, prepared, inputs, learned, params, truth)
        if params.evaluate.splits:
            progress("evaluate by other splits", None, None)
            evaluation = replace(evaluation, splits=split_figures(prepared, inputs, params))
        made["evaluation"] = evaluation
        made["manifest"] = made["manifest"].model_copy(update={"metrics": evaluation.summary()})
        progress("report", None, None)
        report.write(folder, made["manifest"], evaluation, prepared, learned, table)
        if keep_text:
            examples.write(folder, router, prepared)

    bundle = write_bundle(
        out, version, fill, lambda hashes: made["manifest"].model_copy(update={"files": dict(hashes)})
    )
    progress("compare with the champion", None, None)
    new = Router(bundle, threads=params.embed.threads)
    verdict = judge(out, new, lambda champion: _compare(new, champion, prepared, params))
    if verdict.promoted:
        make_current(out, version)
    return Run(bundle, made["evaluation"], prepared, learned, verdict)


def _compare(new: Router, champion: Router, prepared: Prepared, params: Params) -> Comparison:
    """Both bundles on the test part of this run's log; raises NotComparableError."""
    tested = prepared.split.test
    return compare(
        new,
        champion,
        list(prepared.matrix.requests[tested]),
        prepared.value(new.manifest.objective)[tested],
        prepared.matrix.cost_usd[tested],
        prepared.groups[tested],
        prepared.matrix.candidates,
        margin=params.tracking.margin,
        minimum=params.tracking.minimum_requests,
        resamples=params.evaluate.resamples,
        seed=params.evaluate.seed,
    )


def _draft(
    folder: Path,
    version: str,
    started: datetime,
    prepared: Prepared,
    inputs: Inputs,
    learned: Learned,
    encoder: EncoderSpec,
    params: Params,
    *,
    simulated: bool,
) -> Manifest:
    reference = prepared.matrix.candidates[learned.reference]
    knobs = knob_grid(learned.data.expected_cost, params.policy.knob_steps)
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
        objective=Objective(params.policy.objective),
        graded=prepared.graded,
        encoder=encoder,
        head=HeadSpec(
            estimator=learned.acceptable.tagged.description,
            estimator_untagged=learned.acceptable.untagged.description,
            calibration=learned.acceptable.tagged.calibrator.name,
            surface=SURFACE,
            workflows=prepared.workflows,
        ),
        operating_points=(OperatingPoint(name=ALWAYS_REFERENCE, knob=0.0, always=reference, calibration_requests=0),),
        default_point=ALWAYS_REFERENCE,
        knobs=tuple(knobs.tolist()),
        novelty=_novelty(learned, inputs.embedding[prepared.split.calibration], params.policy.novel_share),
        metrics={},
        files={path.name: sha256(path) for path in folder.iterdir()},
    )


def _novelty(learned: Learned, calibration: Matrix, share: float) -> Novelty:
    """The threshold that this share of the `calibration` embeddings (n, dim) exceeds, and the training clusters' shares."""
    member = (learned.data.inputs.embedding @ learned.centres.T).argmax(axis=1)
    counts = np.bincount(member, minlength=len(learned.centres))
    novelty = learned.spread.novelty(calibration)
    threshold = float(np.quantile(novelty, 1.0 - share, method="higher")) if len(novelty) else inf
    return Novelty(threshold=threshold, shares=tuple((counts / counts.sum()).tolist()))


def _operate(router: Router, prepared: Prepared, inputs: Inputs, knobs: Floats, params: Params) -> Manifest:
    """The manifest with its operating points, chosen and certified on the calibration part."""
    manifest = router.manifest
    rows = prepared.split.calibration
    part = prepared.matrix.take(rows)
    labels = prepared.labels[rows]
    estimate, expected = _estimate(router, inputs, rows)
    grouped = folds(prepared.groups[rows], params.fit.folds, params.fit.seed)
    propensity, _ = observation_propensity(part, labels, inputs.take(rows), grouped)
    points = operating_points(
        CalibrationData(
            acceptable=estimate,
            expected_cost=expected,
            labels=labels,
            cost=part.cost_usd,
            propensity=propensity,
            complete=part.complete(),
            groups=prepared.groups[rows],
            workflow=part.workflow,
        ),
        knobs,
        sorted({*params.policy.targets, params.policy.quality_target}),
        router.candidates.index(manifest.reference),
        router.candidates,
        delta=params.policy.delta,
        minimum=params.policy.minimum_requests,
        seed=params.fit.seed,
    )
    default = next(point for point in points if point.quality_target == params.policy.quality_target)
    return manifest.model_copy(update={"operating_points": points, "default_point": default.name})


def _estimate(router: Router, inputs: Inputs, rows: np.ndarray[Any, Any]) -> tuple[Floats, Floats]:
    """What the objective is about, and the expected cost, both (n, m), of the given rows, by the served graph."""
    estimates = router.estimate_embedded(inputs.embedding[rows], inputs.features[rows])
    value = estimates.of(router.manifest.objective)
    return value.astype(np.float64), estimates.cost_usd.astype(np.float64)


def evaluate_router(
    router: Router, prepared: Prepared, inputs: Inputs, learned: Learned, params: Params, truth: Truth | None
) -> Evaluation:
    """The router's figures on the test part; the estimates are the served ones, computed from the requests' text."""
    matrix, split = prepared.matrix, prepared.split
    tested = split.test
    complete = tested & matrix.complete()
    labels = prepared.labels[tested]
    served = router.estimate(list(matrix.requests[tested]))
    raw = learned.acceptable.raw(inputs.take(tested))
    calibration = calibration_figures(raw, served.acceptable.astype(np.float64), labels)
    off_policy = _off_policy(router, prepared, inputs, served, params)
    if not complete.any():
        return Evaluation(
            test_requests=int(tested.sum()),
            complete_requests=0,
            calibration=calibration,
            off_policy=off_policy,
            why_not=(
                "no test request has a judged, costed outcome of every candidate, so no routing can be compared exactly. "
                "Send a share of the traffic to all candidates (shadow requests), or give an evaluation run with --test."
            ),
        )
    inside = complete[tested]
    tuning = split.calibration & matrix.complete()
    objective = router.manifest.objective
    test, calibrating = _outcomes(prepared, complete, objective), _outcomes(prepared, tuning, objective)
    expected_tuning = _estimate(router, inputs, tuning)
    value = served.of(router.manifest.objective)
    expected_test = (value[inside].astype(np.float64), served.cost_usd[inside].astype(np.float64))
    withheld = inputs.untagged()
    contenders = [
        Contender(ROUTER, expected_tuning, expected_test),
        Contender(
            f"{ROUTER}, tags withheld", _estimate(router, withheld, tuning), _estimate(router, withheld, complete)
        ),
        *learnt_baselines(
            learned.data, params, (inputs.take(tuning), expected_tuning[1]), (inputs.take(complete), expected_test[1])
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
    point = manifest.default
    setting = Setting.of(manifest, point)
    reference = router.candidates.index(manifest.reference)
    lines, curves, alone = evaluate(
        Test(
            calibration=calibrating,
            test=test,
            contenders=contenders,
            fixed=fixed_points(test.quality, test.cost_usd, matrix.candidates, reference, direct),
            operating=setting,
            knobs=np.array(manifest.knobs),
            reference=reference,
            candidates=matrix.candidates,
            quality_target=params.policy.quality_target,
        ),
        resamples=params.evaluate.resamples,
        seed=params.evaluate.seed,
    )
    columns = setting.choose(*expected_test)
    return Evaluation(
        test_requests=int(tested.sum()),
        complete_requests=int(complete.sum()),
        off_policy=off_policy,
        confidence=confidence_figures(expected_test[0], test, columns, reference, point.knob),
        lines=lines,
        workflows=by_workflow(test, columns, reference, matrix.candidates),
        calibration=calibration,
        curves=curves,
        zero_router=alone.zero_router,
    )


def _off_policy(
    router: Router, prepared: Prepared, inputs: Inputs, served: Estimates, params: Params
) -> tuple[OffPolicyLine, ...]:
    """What the test part's single outcomes say of the operating point and of the reference; empty for a full matrix.

    The model inside the doubly robust estimate is the served one, which never saw the test part.
    """
    rows = prepared.split.test
    part = prepared.matrix.take(rows)
    if part.attempted.all():
        return ()
    manifest = router.manifest
    labels = prepared.value(manifest.objective)[rows]
    grouped = folds(prepared.groups[rows], params.fit.folds, params.fit.seed)
    propensity, _ = observation_propensity(part, labels, inputs.take(rows), grouped)
    value = served.of(manifest.objective).astype(np.float64)
    cost = served.cost_usd.astype(np.float64)
    point = manifest.default
    reference = np.full(len(part), router.candidates.index(manifest.reference))
    routed = Setting.of(manifest, point).choose(value, cost)
    seen_cost = np.where(np.isfinite(labels), part.cost_usd, np.nan)
    return tuple(
        OffPolicyLine(
            name,
            doubly_robust(labels, propensity, columns, value),
            ips(labels, propensity, columns),
            snips(labels, propensity, columns),
            doubly_robust(seen_cost, propensity, columns, cost),
        )
        for name, columns in ((ROUTER, routed), (f"only {manifest.reference}", reference))
    )


def _outcomes(prepared: Prepared, rows: np.ndarray[Any, Any], objective: Objective) -> CompleteOutcomes:
    return CompleteOutcomes(
        prepared.value(objective)[rows],
        prepared.matrix.cost_usd[rows],
        prepared.groups[rows],
        prepared.matrix.workflow[rows],
    )
