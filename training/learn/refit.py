"""Learns the heads that are served once more, from every row that nothing is measured on any longer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from serving.bundle.arrays import Bools
from training.config import Params
from training.dataset.inputs import Inputs
from training.learn.learn import Learned
from training.learn.novelty import prompt_clusters, spread_of
from training.learn.prepare import Prepared
from training.learn.training_data import TrainingData, cost_model
from training.measure.propensity import fitting_weights, judged_share


def learn_for_serving(learned: Learned, prepared: Prepared, inputs: Inputs, params: Params) -> Learned:
    """What was selected, learned anew from the training and the test part together.

    Once the test part has been used to measure, there is nothing more to keep it for. The calibration part stays unseen, for
    points are certified on it.
    """
    split = prepared.split
    seen = split.train | split.test
    note = (
        f"The heads that are served were learned from {int(seen.sum()):,} requests, those of the training and the test part. "
        f"Their points are certified on the {int(split.calibration.sum()):,} of the calibration part, which they never saw. "
        f"Test figures are of heads learned in the same way from the {int(split.train.sum()):,} of the training part alone."
    )
    return replace(refit(learned, prepared, inputs, params, seen), learned_from=note)


def refit(learned: Learned, prepared: Prepared, inputs: Inputs, params: Params, rows: Bools) -> Learned:
    """The same estimators and calibration, the estimators learned from the requests `rows` (n,), and so are costs.

    Calibration stays as it was found out of fold. The expected costs in its `data` are not out of fold: nothing is scored on
    them.
    """
    data = _rows_of(learned, prepared, inputs, params, rows)
    matrix = prepared.matrix.take(rows)
    costs = cost_model(prepared, matrix, data.inputs, np.ones(len(data.labels), dtype=np.bool_), params)
    quality = None
    if learned.quality is not None:
        quality = learned.quality.refitted(data.inputs, matrix.quality, data.weights)
    return replace(
        learned,
        acceptable=learned.acceptable.refitted(data.inputs, data.labels, data.weights),
        quality=quality,
        violation=None if learned.violation is None else learned.violation.refitted(data.inputs, data.labels),
        costs=costs,
        data=replace(data, expected_cost=costs.cost_usd(data.inputs)),
        centres=prompt_clusters(data.inputs.embedding, params.fit.novelty_clusters, params.fit.seed),
        spread=spread_of(data.inputs.embedding),
    )


def _rows_of(learned: Learned, prepared: Prepared, inputs: Inputs, params: Params, rows: Bools) -> TrainingData:
    matrix = prepared.matrix.take(rows)
    propensity = learned.propensity[rows]
    return TrainingData(
        inputs=inputs.take(rows),
        labels=prepared.labels[rows],
        weights=fitting_weights(
            propensity, judged_share(matrix.attempted, matrix.error, prepared.labels[rows]), params.fit.weight_clip
        ),
        propensity=propensity,
        cost=matrix.cost_usd,
        expected_cost=np.empty(propensity.shape),
        complete=matrix.complete(),
        groups=prepared.groups[rows],
        folds=np.zeros(len(propensity), dtype=np.intp),
    )
