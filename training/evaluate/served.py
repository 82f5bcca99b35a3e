"""The router as it is served, on the test part of its own log or on another log altogether."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.catalogue import Candidate
from serving.bundle.features import feature_matrix
from serving.bundle.manifest import Bundle, Manifest, Objective
from serving.bundle.request import RouteRequest
from serving.decide.decision import Estimates
from serving.decide.router import Router
from serving.decide.value import Setting
from training.certify.asked import asked
from training.certify.certify import calibration_data, served_estimates
from training.certify.operating import violation_bound
from training.config import Params
from training.dataset.fingerprints import seen_by
from training.dataset.inputs import Inputs
from training.dataset.label import acceptable
from training.dataset.matrix import OutcomeMatrix, build_matrix
from training.dataset.split import SplitError, conversations, folds, group_requests
from training.dataset.volume import volume
from training.engine.engine import Engine, Progress, silent
from training.engine.local import HERE
from training.evaluate.against_log import saved_against_log
from training.evaluate.bands import Outcomes as Known
from training.evaluate.bands import enough_complete, tradeoff
from training.evaluate.baselines import Truth, direct_choice, fixed_points, learned_baselines
from training.evaluate.confidence import calibration_figures, confidence_figures
from training.evaluate.estimated import estimated_workflows, too_few_complete
from training.evaluate.evaluation import ONLY, ROUTER, Evaluation, OffPolicyLine, PointLine
from training.evaluate.profiles import profiles
from training.evaluate.reliability import reliability, risk_coverage
from training.evaluate.sweep import CompleteOutcomes, Contender, Contest, by_workflow, shares, sweep
from training.learn.learn import Learned
from training.learn.prepare import Prepared, PrepareError
from training.learn.training_data import cell_judged, cell_propensity
from training.logs.aliases import alike
from training.logs.outcomes import Outcomes
from training.measure.bounds import RateBound, clopper_pearson_upper
from training.measure.metrics import mean_of
from training.measure.offpolicy import doubly_robust, ips, snips
from training.prices.costs import fill_costs

# Folds in which the chance that a log tried a candidate is estimated, where it was not logged.
_FOLDS = 5


@dataclass(frozen=True)
class _Log:
    """The n requests that are tested: outcomes, `labels` (n, m), NaN where not judged or no fair sample, and `groups` (n,)."""

    matrix: OutcomeMatrix
    labels: Floats
    groups: Columns

    def value(self, objective: Objective) -> Floats:
        """(n, m) the outcomes that the objective is about, NaN where not judged."""
        graded = np.where(np.isnan(self.labels), np.nan, self.matrix.quality)
        return self.labels if objective is Objective.ACCEPTABLE else np.asarray(graded)

    def complete(self, objective: Objective) -> CompleteOutcomes:
        rows = self.matrix.complete()
        part = self.matrix.take(rows)
        return CompleteOutcomes(
            self.value(objective)[rows], part.cost_usd, self.groups[rows], part.workflow, part.standing
        )


@dataclass(frozen=True)
class _Rivals:
    """What the router is compared with: contenders, the outcomes they are tuned on, and the direct choice (n,)."""

    contenders: Sequence[Contender] = ()
    tuning: CompleteOutcomes | None = None
    direct: Columns | None = None


def evaluate_router(
    router: Router,
    prepared: Prepared,
    inputs: Inputs,
    learned: Learned,
    params: Params,
    truth: Truth | None,
    engine: Engine = HERE,
    progress: Progress = silent,
) -> Evaluation:
    """The router's figures on the test part; the estimates are the served ones, from the texts if all are at hand."""
    rows = prepared.split.test
    log = _part(prepared, rows)
    written = all(isinstance(one, RouteRequest) for one in log.matrix.requests)
    if written:
        served, chosen = asked(router, log.matrix.requests, engine, progress)
    else:
        served = served_estimates(router, inputs, rows)
        chosen = router.chosen(list(log.matrix.requests), served)
    complete = log.matrix.complete()
    tested = calibration_data(router, prepared, inputs, learned, rows)
    rivals = _Rivals()
    sure, delta = tested.take(tested.complete).certain(), params.policy.delta
    points = []
    for point in router.manifest.operating_points:
        setting = Setting.of(router.manifest, point)
        if found := violation_bound(tested, setting, learned.reference, delta):
            # Where not every outcome is known, each failure counts as a violation: good for an upper bound alone.
            known = violation_bound(sure, setting, learned.reference, delta)
            points.append(PointLine(point.name, len(tested), found.rate, len(sure), *_known(known, delta)))
    if enough_complete(complete, log.groups):
        cost = served.cost_usd[complete].astype(np.float64)
        rivals = _rivals(router, prepared, inputs, learned, params, truth, cost)
    measured = _evaluation(
        router.manifest,
        log,
        served,
        chosen,
        learned.acceptable.raw(inputs.take(rows)),
        rivals,
        known_by=(learned.propensity[rows], learned.judged[rows]),
        off_policy=_off_policy(router.manifest, log, (learned.propensity[rows], learned.judged[rows]), served, chosen),
        points=tuple(points),
        quality_target=params.policy.quality_target,
        resamples=params.evaluate.resamples,
        seed=params.evaluate.seed,
    )
    return replace(
        measured,
        profiles=profiles(prepared.matrix, prepared.fair_labels, prepared.groups),
        volume=volume(prepared.matrix, params.report.requests_a_month),
    )


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
    if not table.frame["candidate"].isin(router.candidates).any():
        rows = {str(name): int(count) for name, count in table.frame["candidate"].value_counts().items()}
        hints = "".join(
            f"; {', '.join(names.aliases)} may be {names.candidate} by another name: if so, make them its aliases in "
            f"candidates.toml"
            for names in alike(rows, router.candidates)
        )
        raise PrepareError(
            f"the log has no outcome of the bundle's candidates ({', '.join(router.candidates)}); it has "
            f"{', '.join(sorted(rows))}{hints}"
        )
    known = {candidate.name: candidate for candidate in manifest.candidates} | dict(catalogue)
    # All rows, for what a candidate of no bundle led to by its failure was not chosen either.
    matrix, _ = fill_costs(build_matrix(table.frame, router.candidates), known, assumed_output_tokens)
    groups = group_requests(list(matrix.texts), list(matrix.session_id))
    fair = np.where(matrix.learning, np.nan, matrix.quality)
    log = _Log(matrix, acceptable(fair, manifest.acceptable), groups)
    served = router.estimate(list(matrix.requests))
    known_by = None
    if not enough_complete(matrix.complete(), groups):
        features = feature_matrix(list(matrix.requests), manifest.head.workflows)
        with suppress(SplitError):  # too few requests to estimate it, and then to estimate anything by it
            propensity, _ = cell_propensity(
                matrix, log.labels, features, lambda among: folds(groups[among], _FOLDS, seed)
            )
            known_by = propensity, cell_judged(matrix, log.labels)
    found = _evaluation(
        manifest,
        log,
        served,
        router.chosen(list(matrix.requests), served),
        served.acceptable.astype(np.float64),
        _Rivals(),
        known_by=known_by,
        quality_target=manifest.default.quality_target or 1.0,
        resamples=resamples,
        seed=seed,
    )
    return replace(
        found,
        seen=int(seen_by(bundle, matrix.texts).sum()),
        profiles=profiles(matrix, log.labels, groups),
        volume=volume(matrix),
    )


def _evaluation(
    manifest: Manifest,
    log: _Log,
    served: Estimates,
    columns: Columns,
    raw: Floats,
    rivals: _Rivals,
    *,
    known_by: tuple[Floats, Floats] | None,
    quality_target: float,
    resamples: int,
    seed: int,
    off_policy: tuple[OffPolicyLine, ...] = (),
    points: tuple[PointLine, ...] = (),
) -> Evaluation:
    """The figures from what was `served` for the log's n requests, and where they went, `columns` (n,).

    `raw` (n, m) is P(acceptable) before calibration; `known_by` the propensity of the outcomes, and the part of it that is
    judging's, (n, m) both.
    """
    matrix, objective = log.matrix, manifest.objective
    complete, chance = matrix.complete(), served.acceptable.astype(np.float64)
    how: tuple[Floats | None, Floats | None] = known_by or (None, None)
    known = Known(
        log.value(objective), matrix.cost_usd, log.labels, *how, complete, log.groups, matrix.workflow, matrix.standing
    )
    found = Evaluation(
        test_requests=len(matrix),
        complete_requests=int(complete.sum()),
        shares=shares(columns, matrix.candidates, matrix.standing),
        calibration=calibration_figures(raw, chance, log.labels, columns, matrix.standing),
        off_policy=off_policy,
        points=tuple(points),
        tradeoff=tradeoff(manifest, served, columns, known, resamples=resamples, seed=seed),
        reliability=reliability(chance, log.labels, columns, matrix.candidates, log.groups, matrix.standing),
        risk_coverage=risk_coverage(chance, log.labels, columns, log.groups, matrix.standing),
        against_log=saved_against_log(matrix, known, served.cost_usd, columns),
        novel=float(mean_of(served.novelty[:, 0] > manifest.novelty.threshold, matrix.standing))
        if len(matrix)
        else None,
    )
    if not enough_complete(complete, log.groups):
        workflows = estimated_workflows(manifest, served, columns, known)
        return replace(found, why_not=too_few_complete(complete, log.groups), workflows=workflows)
    outcome, columns = log.complete(objective), columns[complete]
    expected = served.of(objective)[complete].astype(np.float64), served.cost_usd[complete].astype(np.float64)
    reference = matrix.candidates.index(manifest.reference)
    lines, curves, alone = sweep(
        Contest(
            calibration=outcome if rivals.tuning is None else rivals.tuning,
            test=outcome,
            contenders=[Contender(ROUTER, expected), *rivals.contenders],
            fixed=fixed_points(outcome.quality, outcome.cost_usd, matrix.candidates, reference, rivals.direct),
            served=columns,
            knobs=np.array(manifest.knobs),
            reference=reference,
            candidates=matrix.candidates,
            quality_target=quality_target,
        ),
        resamples=resamples,
        seed=seed,
    )
    return replace(
        found,
        confidence=confidence_figures(expected[0], outcome, columns, reference, manifest.default.knob),
        lines=lines,
        workflows=by_workflow(outcome, columns, reference, matrix.candidates),
        curves=curves,
        zero_router=alone.zero_router,
    )


def _known(found: RateBound | None, delta: float) -> tuple[float, float]:
    """A violation rate, and what the true one is below with probability at most `delta` / 10: it is to stop a promotion.

    By as many independent requests as the bound rests on; nothing where there are none.
    """
    if found is None:
        return 0.0, 0.0
    n = round(found.effective)
    return found.rate, 1.0 - clopper_pearson_upper(n - min(round(found.rate * n), n), n, delta / 10)


def _part(prepared: Prepared, rows: Bools) -> _Log:
    return _Log(prepared.matrix.take(rows), prepared.fair_labels[rows], prepared.groups[rows])


def _rivals(
    router: Router,
    prepared: Prepared,
    inputs: Inputs,
    learned: Learned,
    params: Params,
    truth: Truth | None,
    expected_cost: Floats,
) -> _Rivals:
    """Contenders on the complete test requests, whose `expected_cost` is (n, m), tuned on complete calibration requests."""
    matrix, split = prepared.matrix, prepared.split
    tuning, tested = split.calibration & matrix.complete(), split.test & matrix.complete()
    contenders = []
    if not inputs.derived:  # else there are no tags to withhold
        named, withheld = f"{ROUTER}, tags withheld", inputs.untagged()
        bare = [served_estimates(router, withheld, rows) for rows in (tested, tuning)]
        estimate, tuned_on = ((one.of(router.manifest.objective).astype(np.float64), one.cost_usd) for one in bare)
        contenders.append(Contender(named, estimate, tuned_on))
    contenders += learned_baselines(
        learned.data,
        params,
        (inputs.take(tested), expected_cost),
        (inputs.take(tuning), served_estimates(router, inputs, tuning).cost_usd),
    )
    if truth is not None:
        known, tuned = (truth.of(matrix.request_id[rows], matrix.candidates) for rows in (tested, tuning))
        contenders.append(Contender("best reachable (simulated truth)", known, tuned, simulated_truth=True))
    outcome = _part(prepared, tuning).complete(router.manifest.objective)
    return _Rivals(contenders, outcome, direct_choice(learned.data, params, inputs.take(tested)))


def _off_policy(
    manifest: Manifest, log: _Log, known_by: tuple[Floats, Floats], served: Estimates, routed: Columns
) -> tuple[OffPolicyLine, ...]:
    """What the log's single outcomes say of the operating point and of the reference; empty for a full matrix.

    `known_by` are the propensities of the outcomes and the share judged, both (n, m); `routed` (n,) where the router sends the
    requests. The model inside the doubly robust estimate is the served one, which never saw the test part. A conversation may
    have been drawn as one.
    """
    matrix = log.matrix
    if matrix.attempted.all():
        return ()
    labels = log.value(manifest.objective)
    value = served.of(manifest.objective).astype(np.float64)
    cost = served.cost_usd.astype(np.float64)
    reference = np.full(len(matrix), matrix.candidates.index(manifest.reference))
    seen_cost = np.where(np.isfinite(labels), matrix.cost_usd, np.nan)
    groups, standing = conversations(list(matrix.session_id)), matrix.standing
    propensity, judged = known_by
    return tuple(
        OffPolicyLine(
            name,
            doubly_robust(labels, propensity, columns, value, judged=judged, groups=groups, standing=standing),
            ips(labels, propensity, columns, judged=judged, groups=groups, standing=standing),
            snips(labels, propensity, columns, judged=judged, groups=groups, standing=standing),
            doubly_robust(seen_cost, propensity, columns, cost, judged=judged, groups=groups, standing=standing),
        )
        for name, columns in ((ROUTER, routed), (f"{ONLY}{manifest.reference}", reference))
    )
