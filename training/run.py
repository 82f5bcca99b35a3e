"""The stages of one training run, in order: from an outcome table to a bundle on disk with its evaluation inside."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from serving.bundle.arrays import Bools
from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import Bundle, new_bundle, open_bundle, seal
from serving.decide.router import Router
from training.certify.certify import calibration_data, certify, cross_fitted
from training.certify.tested import TESTED_HEAD
from training.config import Params
from training.dataset.fingerprints import fingerprints, write_fingerprints
from training.dataset.inputs import Progress, silent
from training.dataset.matrix import standing_of
from training.engine.engine import Engine
from training.engine.local import HERE
from training.evaluate.baselines import Truth
from training.evaluate.evaluation import Evaluation
from training.evaluate.served import evaluate_router
from training.evaluate.splits import quick_estimators, split_figures
from training.kept.files import require_own_room
from training.kept.keeping import Keeping, Made
from training.kept.since import Resumed
from training.learn.encode import encode, with_kinds
from training.learn.export import write_files
from training.learn.heads.chosen import Choices
from training.learn.heads.select import effective_outcomes
from training.learn.learn import Learned, learn
from training.learn.prepare import Prepared, prepare
from training.learn.refit import is_small, learn_for_serving, learn_for_testing
from training.logs.outcomes import Outcomes
from training.publish import report
from training.publish.bundle import draft_manifest, write_test_requests
from training.publish.compare import compare_on_test_part
from training.publish.document import frontier_document, with_month
from training.publish.making import changed
from training.publish.neighbours import write_neighbours
from training.publish.promote import Promotion, consider, make_current, on_less_evidence


@dataclass(frozen=True)
class Run:
    """What a training run made."""

    bundle: Bundle
    evaluation: Evaluation
    prepared: Prepared
    learned: Learned
    promotion: Promotion
    evidence: str | None = None


def train(
    table: Outcomes,
    params: Params,
    catalogue: Mapping[str, Candidate],
    *,
    out: Path,
    cache: Path,
    truth: Truth | None = None,
    keep_text: bool = False,
    promote: bool = True,
    evidence: Callable[[], str] | None = None,
    progress: Progress = silent,
    prepared: Prepared | None = None,
    resumed: Resumed | None = None,
    choices: Choices | None = None,
    keeping: Keeping | None = None,
    engine: Engine = HERE,
) -> Run:
    """Trains on an outcome table and writes `out/<version>`; `out/current` is switched to it last, if it is promoted, which
    without `promote` it never is.

    `truth` is given for a simulated log only, and marks every figure as simulated. No file that is written holds text of
    a request, unless `keep_text` puts the test requests, and the texts of those shown beside decisions, into the bundle. Where
    nothing is certified, the report says what `evidence` would change that. Where it was `prepared` before, the rows of the
    table are not read any more; with `resumed`, nor are texts, which most of its requests have none of. With `choices` of an
    earlier run nothing is selected. `keeping` keeps what a later run adds new rows to. The parts of a stage are worked on by
    the `engine`.
    """
    if keeping is not None:
        require_own_room(out)  # told now, not after the training
    if resumed is not None:
        prepared = resumed.prepared
    if prepared is None:
        prepared = prepare(table.frame, params, catalogue)
    if choices is not None:
        note = f"{prepared.split.note}; {choices.said}"
        told = (*prepared.told, choices.said)
        going_on = prepared.going_on or f"--choices-of models/{choices.bundle}"
        prepared = replace(prepared, split=replace(prepared.split, note=note), told=told, going_on=going_on)
    if params.evaluate.splits:  # a misspelt name is told now, not after the training
        quick_estimators(params, np.zeros(len(prepared.candidates)))
    read, encoder = (
        encode(prepared, params, cache, progress, choices, engine)
        if resumed is None
        else (resumed.inputs, resumed.encoder)
    )
    logged, (prepared, inputs) = prepared, with_kinds(prepared, read, params, choices)
    learned = learn(prepared, inputs, params, progress, choices, engine)
    started = datetime.now(UTC)
    version = f"{started:%Y%m%dT%H%M%S%f}-{prepared.fingerprint[:8]}"
    simulated = truth is not None

    small, part = is_small(prepared, params), prepared.split

    def exported(folder: Path, heads: Learned, seen: Bools) -> Router:
        """These heads as they are served; their points certified on the calibration part, of a small log on what was `seen`."""
        write_files(folder, heads, encoder, inputs.take(part.test), params.export.tolerance)
        if small:
            known, novelty = cross_fitted(learned, heads, prepared, inputs, params, seen)
        else:
            seen = part.calibration
            novelty = heads.spread.novelty(inputs.embedding[seen])
        standing = standing_of(prepared.matrix.weight[seen])
        draft = draft_manifest(
            version, started, prepared, heads, encoder.spec, params, novelty, standing, simulated=simulated
        )
        router = Router(Bundle(folder, draft), threads=params.embed.threads)
        if not small:
            known = calibration_data(router, prepared, inputs, heads, part.calibration)
        points, default = certify(known, heads, router.candidates, params)
        manifest = draft.model_copy(update={"operating_points": points, "default_point": default})
        return Router(Bundle(folder, manifest), threads=params.embed.threads)

    with new_bundle(out, version) as folder, TemporaryDirectory(dir=engine.folder) as aside:
        progress("export", None, None)
        measured = learn_for_testing(learned, prepared, inputs, params)
        tested = exported(Path(aside), measured, part.train | part.calibration)
        progress("evaluate", None, None)
        evaluation = evaluate_router(tested, prepared, inputs, measured, params, truth, engine, progress)
        if prepared.volume is not None:
            evaluation = replace(evaluation, volume=prepared.volume)
        if params.evaluate.splits:
            splits = split_figures(prepared, inputs, params, engine, progress)
            evaluation = replace(evaluation, splits=splits)
        progress("learn from the test part too", None, None)
        served = learn_for_serving(learned, prepared, inputs, params)
        shutil.copyfile(Path(aside) / "head.onnx", folder / TESTED_HEAD)
        # The sweep stays the one that was measured, so that a champion's tested heads are compared on their own knobs.
        known = {"metrics": evaluation.summary(), "knobs": tested.manifest.knobs}
        manifest = exported(folder, served, part.train | part.calibration | part.test).manifest.model_copy(update=known)
        figures = with_month(manifest.metrics, frontier_document(manifest, evaluation), prepared.sampled)
        manifest = manifest.model_copy(update={"metrics": figures})
        lacking = None
        if evidence is not None and manifest.default.certificate is None:
            progress("what would help", None, None)
            lacking = evidence()
        progress("report", None, None)
        report.write(folder, manifest, evaluation, prepared, served, table, changed(params), lacking)
        write_fingerprints(folder, fingerprints(prepared.matrix.texts) if resumed is None else resumed.core.seen)
        # Ten turns of one conversation that are like a request say less of it than ten conversations.
        shown = prepared.matrix.one_of_each(prepared.groups)
        alike = replace(prepared, matrix=prepared.matrix.take(shown))
        write_neighbours(folder, alike, inputs.embedding[shown], params.export.neighbours, keep_text=keep_text)
        if keep_text:
            write_test_requests(folder, tested, prepared)
        seal(folder, manifest)
    bundle = open_bundle(out / version)
    if keeping is not None:
        progress("keep what a later run adds to", None, None)
        keeping.keep(out, Made(bundle.manifest, logged, read, encoder, learned))
    progress("compare with the champion", None, None)
    new = Router(bundle, threads=params.embed.threads)
    by = None if resumed is None else (inputs, encoder.fingerprint())
    # The heads that are served have seen the test part: on it, those that have not stand for them.
    promotion = consider(
        out, new, lambda champion: compare_on_test_part(tested, champion, prepared, learned, params, by)
    )
    contradiction = evaluation.contradiction(tested.manifest.default)
    if contradiction is not None and promotion.promoted:
        promotion = replace(promotion, promoted=False, reason=f"{contradiction} {_all_the_same(version, out)}")
    if promotion.promoted:
        judged = dict(
            zip(tested.candidates, effective_outcomes(learned.data.labels, learned.data.weights), strict=True)
        )
        if (doubt := on_less_evidence(out, bundle.manifest, judged)) is not None:
            promotion = replace(promotion, promoted=False, reason=f"{doubt} {_all_the_same(version, out)}")
    if not promote and promotion.promoted:
        why = f"It was only to be tried. {promotion.reason} {_all_the_same(version, out)}"
        promotion = replace(promotion, promoted=False, reason=why)
    if promotion.promoted:
        make_current(out, version)
    return Run(bundle, replace(evaluation, contradicted=contradiction), prepared, served, promotion, lacking)


def _all_the_same(version: str, out: Path) -> str:
    return f"`router-train promote {version} --out {out}` makes it current."
