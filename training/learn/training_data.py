"""The training part of a log as estimators see it, and with which probability the log observed each of its outcomes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.features import LENGTHS, SURFACE
from training.config import Params
from training.dataset.inputs import Inputs
from training.dataset.matrix import OutcomeMatrix
from training.dataset.split import folds
from training.learn.costs import CostModel, cost_sources, fit_costs
from training.learn.prepare import Prepared
from training.measure.propensity import fitting_weights, judged_share, observation_propensity


@dataclass(frozen=True)
class TrainingData:
    """The training part of the data. All arrays have n rows; (n, m) ones are NaN where nothing was observed.

    `weights` (n, m) are what each cell counts for in fitting; `propensity` the probability with which it was observed
    and judged. `expected_cost` is out of fold too, so that a score never rests on a cost model that has seen the row.
    """

    inputs: Inputs
    labels: Floats
    weights: Floats
    propensity: Floats
    cost: Floats
    expected_cost: Floats
    complete: Bools
    groups: Columns
    folds: Columns


def propensities(prepared: Prepared, inputs: Inputs, params: Params) -> tuple[Floats, str]:
    """(n, m) `part_propensity` of all requests, NaN for those in no part, and where the training part's are from."""
    found = np.full(prepared.labels.shape, np.nan)
    split, notes = prepared.split, []
    for rows in (split.train, split.calibration, split.test):
        found[rows], note = part_propensity(prepared, inputs, rows, params)
        notes.append(note)
    return found, notes[0]


def part_propensity(prepared: Prepared, inputs: Inputs, rows: Bools, params: Params) -> tuple[Floats, str]:
    """The probability with which each cell of one part (the mask `rows`) was observed, and where it is from.

    What is estimated is estimated within the part, so that none knows of another.
    """
    return observation_propensity(
        prepared.matrix.attempted[rows],
        prepared.matrix.error[rows],
        prepared.matrix.propensity[rows],
        prepared.labels[rows],
        inputs.features[rows],
        lambda: folds(prepared.groups[rows], params.fit.folds, params.fit.seed),
    )


def training_data(prepared: Prepared, inputs: Inputs, propensity: Floats, params: Params) -> TrainingData:
    """The training part, with expected costs out of fold; `propensity` (n, m) is of all requests."""
    rows = prepared.split.train
    matrix, train = prepared.matrix.take(rows), inputs.take(rows)
    fold = folds(prepared.groups[rows], params.fit.folds, params.fit.seed)
    expected = np.empty((len(train), len(matrix.candidates)))
    for held in range(params.fit.folds):
        inside = fold == held
        expected[inside] = cost_model(prepared, matrix, train, ~inside, params).cost_usd(train.take(inside))
    return TrainingData(
        inputs=train,
        labels=prepared.labels[rows],
        weights=fitting_weights(
            propensity[rows],
            judged_share(matrix.attempted, matrix.error, prepared.labels[rows]),
            params.fit.weight_clip,
        ),
        propensity=propensity[rows],
        cost=matrix.cost_usd,
        expected_cost=expected,
        complete=matrix.complete(),
        groups=prepared.groups[rows],
        folds=fold,
    )


def cost_model(prepared: Prepared, matrix: OutcomeMatrix, inputs: Inputs, rows: Bools, params: Params) -> CostModel:
    """Tokens, cost and latency, learned on the given rows of the training part."""
    return fit_costs(
        inputs.take(rows),
        matrix.take(rows),
        prepared.candidates,
        cost_sources(matrix, {c.name: c for c in prepared.candidates}),
        shared=params.costs.shared_penalty,
        own=params.costs.own_penalty,
        assumed_output_tokens=params.costs.assumed_output_tokens,
        rising=[inputs.embedding.shape[1] + SURFACE.index(name) for name in LENGTHS],
    )
