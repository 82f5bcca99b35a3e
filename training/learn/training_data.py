"""The training part of a log as estimators see it, and with which probability the log observed each of its outcomes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from serving.bundle.arrays import AnyFloats, Bools, Columns, Floats
from serving.bundle.features import LENGTHS, SURFACE
from training.config import Params
from training.dataset.inputs import Inputs
from training.dataset.matrix import OutcomeMatrix
from training.dataset.split import folds
from training.engine.engine import Engine
from training.engine.local import ALONE
from training.learn.costs import CostModel, CostSums, cost_sources, fit_costs
from training.learn.hints import Hints, hints_of, taught
from training.learn.prepare import Prepared
from training.learn.sums import Normal
from training.measure.propensity import fitting_weights, judged_share, observation_propensity


@dataclass(frozen=True)
class TrainingData:
    """The training part of the data. All arrays have n rows; (n, m) ones are NaN where nothing was observed.

    `labels` were judged; `hints` are fitted on beside them, and never measured on, those at a graded quality as `grade_hints`.
    `weights` (n, m) are what each cell counts for in fitting; `propensity` the probability with which it was observed
    and judged, `judged` that of being judged once it was tried (None: 1). `expected_cost` is out of fold too, so that a score
    never rests on a cost model that has seen the row. `decay` (n,) is what each request's age leaves of its weight, which is in
    `weights` already (None: all of it). `standing` (n,) is how many requests of the log each stands for, which is in `weights`
    too (None: all stand for as many): means over requests and scores take it.
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
    hints: Hints | None = None
    grade_hints: Hints | None = None
    judged: Floats | None = None
    decay: Floats | None = None
    standing: Floats | None = None

    def taught(self) -> tuple[Floats, Floats]:
        """The labels and weights (n, m) that estimators are fitted on: those judged, and the hints."""
        return taught(self.labels, self.weights, self.hints)


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

    What is estimated is estimated within the part, so that none knows of another. On a request that was drawn to certify, an
    answer was bought with the plan's probability, and one that the log had was known for certain before it was drawn: how the
    log chose does not matter there. What was bought to learn from is NaN: on what it was chosen for is no fair sample.
    """
    places = np.flatnonzero(rows)
    return cell_propensity(
        prepared.matrix.take(places),
        prepared.fair_labels[places],
        inputs.features[places],
        lambda among: folds(prepared.groups[places[among]], params.fit.folds, params.fit.seed),
    )


def cell_propensity(
    matrix: OutcomeMatrix, labels: Floats, features: AnyFloats, fold: Callable[[Columns], Columns]
) -> tuple[Floats, str]:
    """`part_propensity` of n requests by themselves: `labels` (n, m) that may be measured on, `features` (n, k), and what gives
    some of them a `fold` each.
    """
    found, drawn = np.full(labels.shape, np.nan), matrix.drawn
    others, note = np.flatnonzero(~drawn), ""
    logged = matrix.attempted & ~matrix.learning
    if len(others):
        found[others], note = observation_propensity(
            logged[others],
            matrix.error[others],
            np.where(matrix.learning, np.nan, matrix.propensity)[others],
            labels[others],
            features[others],
            lambda: fold(others),
            matrix.weight[others],
        )
    if drawn.any():
        asked_for = matrix.certifying[drawn]
        share = judged_share(asked_for, matrix.error[drawn], labels[drawn], matrix.weight[drawn], together=True)
        asked = matrix.propensity[drawn] * share
        found[drawn] = np.where(asked_for, asked, np.where(logged[drawn], 1.0, np.nan))
        bought = f"a plan's, as its rows say, for {int(drawn.sum())} requests that were drawn to certify on"
        note = "; ".join(filter(None, (note, bought)))
    return found, note


def judged_shares(prepared: Prepared) -> Floats:
    """(n, m) `cell_judged` of all requests, each part's found within it, NaN for those in no part."""
    found = np.full(prepared.labels.shape, np.nan)
    for rows in (prepared.split.train, prepared.split.calibration, prepared.split.test):
        found[rows] = cell_judged(prepared.matrix.take(rows), prepared.fair_labels[rows])
    return found


def cell_judged(matrix: OutcomeMatrix, labels: Floats) -> Floats:
    """(n, m) the share of `cell_propensity` that is being judged; 1 of what the log knew of a drawn request."""
    found, drawn = np.full(labels.shape, np.nan), matrix.drawn
    logged = matrix.attempted & ~matrix.learning
    found[~drawn] = judged_share(logged[~drawn], matrix.error[~drawn], labels[~drawn], matrix.weight[~drawn])
    asked_for, weight = matrix.certifying[drawn], matrix.weight[drawn]
    share = judged_share(asked_for, matrix.error[drawn], labels[drawn], weight, together=True)
    found[drawn] = np.where(asked_for, share, np.where(logged[drawn], 1.0, np.nan))
    return found


def decay_of(matrix: OutcomeMatrix, half_life_days: float) -> Floats | None:
    """(n,) 2^(-age / half-life), the age in days against the newest of these requests; None where nothing decays.

    A request without a time counts in full: nothing says that it is old.
    """
    dated = ~np.isnat(matrix.timestamp)
    if half_life_days <= 0 or not dated.any():
        return None
    age = (matrix.timestamp[dated].max() - matrix.timestamp) / np.timedelta64(1, "D")
    return np.asarray(np.where(dated, np.exp2(-np.where(dated, age, 0.0) / half_life_days), 1.0))


def cell_weights(
    matrix: OutcomeMatrix, labels: Floats, propensity: Floats, clip: float, decay: Floats | None = None
) -> Floats:
    """(n, m) what each cell counts for in fitting; `propensity` (n, m) is `part_propensity`'s, `decay` (n,) `decay_of`'s.

    Of those that were logged, of those bought to certify, and of those bought to learn each group counts by inverse propensity
    and 1 on average, before anything decays. What the log knew of a request that was drawn counts as the average logged one.
    In a sampled log's core each group counts for as many outcomes of the log as its requests stand for, and all that one
    candidate has for 1 on average: what was bought is all there, beside a share of what was logged.
    """
    logged = matrix.attempted & ~matrix.certifying & ~matrix.learning & ~matrix.drawn[:, None]
    judged = judged_share(logged, matrix.error, labels, matrix.weight)
    groups = [fitting_weights(np.where(logged, propensity, np.nan), judged, clip, matrix.weight)]
    for bought in (matrix.certifying, matrix.learning):
        if bought.any():
            share = judged_share(bought, matrix.error, labels, matrix.weight, together=True)
            asked = np.where(bought, matrix.propensity, np.nan) * share
            groups.append(fitting_weights(asked, share, clip, matrix.weight))
    known = matrix.attempted & ~matrix.certifying & ~matrix.learning & matrix.drawn[:, None]
    groups.append(known.astype(np.float64))
    found = _together(groups, matrix.standing)
    return found if decay is None else found * decay[:, None]


def _together(groups: Sequence[Floats], standing: Floats | None) -> Floats:
    """(n, m) the weights of disjoint groups of cells, (n, m) each and 1 on average, in one: each group for what the requests of
    its cells stand for, against those of all the candidate's."""
    if standing is None:
        return np.asarray(sum(groups))
    counts = [(group > 0).sum(axis=0) for group in groups]
    stood = [standing @ (group > 0) for group in groups]
    overall = np.maximum(sum(stood), 1e-300) / np.maximum(sum(counts), 1)
    return np.asarray(
        sum(group * (of / np.maximum(n, 1) / overall) for group, of, n in zip(groups, stood, counts, strict=True))
    )


def training_data(
    prepared: Prepared, inputs: Inputs, propensity: Floats, params: Params, engine: Engine = ALONE
) -> TrainingData:
    """The training part, with expected costs out of fold; `propensity` (n, m) is of all requests."""
    rows = prepared.split.train
    matrix, train = prepared.matrix.take(rows), inputs.take(rows)
    fold = folds(prepared.groups[rows], params.fit.folds, params.fit.seed)
    expected = np.empty((len(train), len(matrix.candidates)))
    sums = CostSums.of(train, matrix, fold, params.fit.folds, engine)
    for held in range(params.fit.folds):
        inside = fold == held
        costs = cost_model(prepared, matrix, train, ~inside, params, sums.without(held))
        expected[inside] = costs.cost_usd(train.take(inside))
    decay = decay_of(matrix, params.fit.half_life_days)
    weights = cell_weights(matrix, prepared.labels[rows], propensity[rows], params.fit.weight_clip, decay)
    hints, grade_hints = hints_of(matrix, weights, params)
    return TrainingData(
        inputs=train,
        labels=prepared.labels[rows],
        weights=weights,
        propensity=propensity[rows],
        cost=matrix.cost_usd,
        expected_cost=expected,
        complete=matrix.complete(),
        groups=prepared.groups[rows],
        folds=fold,
        hints=hints,
        grade_hints=grade_hints,
        judged=cell_judged(matrix, prepared.fair_labels[rows]),
        decay=decay,
        standing=matrix.standing,
    )


def cost_model(
    prepared: Prepared,
    matrix: OutcomeMatrix,
    inputs: Inputs,
    rows: Bools,
    params: Params,
    sums: tuple[Normal, Normal, Normal] | None = None,
) -> CostModel:
    """Tokens, cost and latency, learned on the given rows of the training part; `sums` as of `fit_costs`."""
    return fit_costs(
        inputs.take(rows),
        matrix.take(rows),
        prepared.candidates,
        cost_sources(matrix, {c.name: c for c in prepared.candidates}),
        shared=params.costs.shared_penalty,
        own=params.costs.own_penalty,
        assumed_output_tokens=params.costs.assumed_output_tokens,
        rising=[inputs.embedding.shape[1] + SURFACE.index(name) for name in LENGTHS],
        sums=sums,
    )
