"""Learns the heads that are served once more, from every row that nothing is measured on any longer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats
from training.config import Params
from training.dataset.inputs import Inputs
from training.dataset.matrix import OutcomeMatrix
from training.dataset.split import Split, folds
from training.learn.hints import hints_of, hints_said, taught
from training.learn.learn import Learned
from training.learn.novelty import prompt_clusters, spread_of
from training.learn.prepare import Prepared
from training.learn.training_data import TrainingData, cell_weights, cost_model, decay_of


def is_small(prepared: Prepared, params: Params) -> bool:
    """Whether a log has too few requests to keep a part aside to certify on: all are learned from and certified on.

    Never one that was sampled: its training part, drawn with floors, is not like the log.
    """
    return prepared.sampled is None and keeps_nothing_aside(
        prepared.matrix, prepared.labels, prepared.groups, prepared.split, params
    )


def keeps_nothing_aside(matrix: OutcomeMatrix, labels: Floats, groups: Columns, split: Split, params: Params) -> bool:
    """`is_small` of n requests: `labels` (n, m), `groups` (n,) their conversations.

    Counted are requests of which some outcome was judged; of a log with requests that were drawn to certify on, these and the
    complete ones. Not where a candidate was judged in so few conversations that a fold may have all of them.
    """
    telling = np.isfinite(labels).any(axis=1)
    if matrix.drawn.any():
        telling &= matrix.drawn | matrix.complete()
    if not (telling & (split.train | split.calibration | split.test)).sum() < params.policy.cross_fit_below:
        return False
    seen = np.isfinite(labels) & (split.train | split.calibration)[:, None]
    conversations = [len(np.unique(groups[column])) for column in seen.T]
    return min(conversations) >= 2 * params.fit.folds


def learn_for_testing(learned: Learned, prepared: Prepared, inputs: Inputs, params: Params) -> Learned:
    """What is measured on the test part: as it was learned on the training part, of a small log on the calibration part too."""
    if not is_small(prepared, params):
        return learned
    return refit(learned, prepared, inputs, params, prepared.split.train | prepared.split.calibration)


def learn_for_serving(learned: Learned, prepared: Prepared, inputs: Inputs, params: Params) -> Learned:
    """What was selected, learned anew from the training and the test part together; of a small log from all of it.

    Once the test part has been used to measure, there is nothing more to keep it for. The calibration part of a log that is
    not small stays unseen, for points are certified on it.
    """
    split = prepared.split
    if is_small(prepared, params):
        seen = split.train | split.calibration | split.test
        note = (
            f"The heads that are served were learned from {int(seen.sum()):,} requests, all of this small log. "
            f"Their points are certified on the same, each with what heads said of it that were learned from the others, in "
            f"{params.fit.folds} folds. Test figures are of heads learned and certified in the same way on the "
            f"{int((seen & ~split.test).sum()):,} requests outside the test part."
        )
    else:
        seen = split.train | split.test
        note = (
            f"The heads that are served were learned from {int(seen.sum()):,} requests, "
            f"those of the training and the test part. Their points are certified on the "
            f"{int(split.calibration.sum()):,} of the calibration part, which they never saw. Test figures are of heads "
            f"learned in the same way from the {int(split.train.sum()):,} of the training part alone."
        )
    heads = refit(learned, prepared, inputs, params, seen)
    return replace(heads, learned_from=note + hints_said(heads.data.hints))


def refit(learned: Learned, prepared: Prepared, inputs: Inputs, params: Params, rows: Bools) -> Learned:
    """The same estimators and calibration, the estimators learned from the requests `rows` (n,), and so are costs.

    Calibration stays as it was found out of fold. The expected costs in its `data` are not out of fold: nothing is scored on
    them.
    """
    data = _rows_of(learned, prepared, inputs, params, rows)
    matrix = prepared.matrix.take(rows)
    costs = cost_model(prepared, matrix, data.inputs, np.ones(len(data.labels), dtype=np.bool_), params)
    recogniser = learned.acceptable.recogniser
    if recogniser is not None:
        fold = folds(data.groups, params.fit.folds, params.fit.seed)
        recogniser = recogniser.refitted(data.inputs, fold, data.standing)
    quality = None
    if learned.quality is not None:
        graded = taught(matrix.quality, data.weights, data.grade_hints)
        quality = learned.quality.refitted(data.inputs, *graded, recogniser)
    return replace(
        learned,
        acceptable=learned.acceptable.refitted(data.inputs, *data.taught(), recogniser),
        quality=quality,
        violation=None
        if learned.violation is None
        else learned.violation.refitted(data.inputs, data.labels, recogniser, data.decay, data.standing),
        costs=costs,
        data=replace(data, expected_cost=costs.cost_usd(data.inputs)),
        centres=prompt_clusters(data.inputs.embedding, params.fit.novelty_clusters, params.fit.seed),
        spread=spread_of(data.inputs.embedding),
    )


def _rows_of(learned: Learned, prepared: Prepared, inputs: Inputs, params: Params, rows: Bools) -> TrainingData:
    matrix = prepared.matrix.take(rows)
    propensity = learned.propensity[rows]
    decay = decay_of(matrix, params.fit.half_life_days)
    weights = cell_weights(matrix, prepared.labels[rows], propensity, params.fit.weight_clip, decay)
    hints, grade_hints = hints_of(matrix, weights, params)
    return TrainingData(
        inputs=inputs.take(rows),
        labels=prepared.labels[rows],
        weights=weights,
        propensity=propensity,
        cost=matrix.cost_usd,
        expected_cost=np.empty(propensity.shape),
        complete=matrix.complete(),
        groups=prepared.groups[rows],
        folds=np.zeros(len(propensity), dtype=np.intp),
        hints=hints,
        grade_hints=grade_hints,
        judged=learned.judged[rows],
        decay=decay,
        standing=matrix.standing,
    )
