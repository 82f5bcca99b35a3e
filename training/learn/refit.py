"""Learns the heads that are served once more, from all rows that nothing will be measured on, or from every row there is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from serving.bundle.arrays import Bools, Floats
from serving.bundle.manifest import Objective
from training.config import Params
from training.dataset.inputs import Inputs
from training.dataset.matrix import OutcomeMatrix
from training.dataset.split import folds
from training.learn.learn import Learned, Pair
from training.learn.novelty import prompt_clusters, spread_of
from training.learn.prepare import Prepared
from training.learn.select import Head, out_of_fold
from training.learn.training_data import TrainingData, cost_model
from training.measure.propensity import fitting_weights


@dataclass(frozen=True)
class Served:
    """What is served, and what its points may be certified on.

    `rows` (n,) are the requests that it is certified on. Where it has not seen them, `estimate` is None, and the served graph
    says what is expected of them. Where it has (a small log, cross-fitted), `estimate` is what heads and costs that had
    not seen them expected: of what the objective is about, and of cost, both (rows, m).
    """

    learned: Learned
    rows: Bools
    estimate: tuple[Floats, Floats] | None
    note: str


def served(learned: Learned, prepared: Prepared, inputs: Inputs, params: Params) -> Served:
    """Refits what was selected, on more rows: training and test part, or all of them where there are few requests.

    What was selected stays selected. With fewer than `fit.cross_fit` requests in all parts they are cross-fitted: every
    request is predicted by heads that saw neither it nor its fold, points are certified on these predictions, and the heads
    that are served are learned from all. They are other heads than those that were certified, though learned in the same way
    from a quarter more rows; that gap no certificate covers.
    """
    split = prepared.split
    everything = split.train | split.calibration | split.test
    if int(everything.sum()) >= params.fit.cross_fit:
        seen = split.train | split.test
        note = (
            f"the heads that are served were learned from {int(seen.sum()):,} requests of the training and the test part; "
            f"their points were certified on the {int(split.calibration.sum()):,} of the calibration part, which they have "
            "not seen"
        )
        return Served(refit(learned, prepared, inputs, params, seen), split.calibration, None, note)
    note = (
        f"the heads that are served were learned from all {int(everything.sum()):,} requests; their points were certified on "
        f"what heads that had not seen a request expected of it, in {params.fit.folds} folds (few requests: fit.cross_fit)"
    )
    found, estimate = _cross_fitted(learned, prepared, inputs, params, everything)
    return Served(found, everything, estimate, note)


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
        quality = _refitted(learned.quality, data.inputs, matrix.quality, data.weights)
    return replace(
        learned,
        acceptable=_refitted(learned.acceptable, data.inputs, data.labels, data.weights),
        quality=quality,
        costs=costs,
        data=replace(data, expected_cost=costs.cost_usd(data.inputs)),
        centres=prompt_clusters(data.inputs.embedding, params.fit.novelty_clusters, params.fit.seed),
        spread=spread_of(data.inputs.embedding),
    )


@dataclass(frozen=True)
class _CrossFit:
    """What every request of `data` is expected to give by what has seen neither it nor its fold. `data` has n rows."""

    prepared: Prepared
    matrix: OutcomeMatrix
    data: TrainingData
    params: Params

    def pair(self, pair: Pair, target: Floats) -> tuple[Pair, Floats]:
        """The pair calibrated on predictions out of fold, and these predictions (n, m), calibrated out of fold too."""
        inputs = self.data.inputs
        tagged, estimate = self._head(pair.tagged, inputs, target)
        if pair.untagged is pair.tagged:
            return Pair(tagged, tagged), estimate
        untagged, without = self._head(pair.untagged, inputs.untagged(), target)
        return Pair(tagged, untagged), np.where(inputs.tagged[:, None], estimate, without)

    def cost(self) -> Floats:
        """(n, m) expected cost in USD."""
        found = np.empty_like(self.data.labels)
        for held in self._folds():
            model = cost_model(self.prepared, self.matrix, self.data.inputs, ~held, self.params)
            found[held] = model.cost_usd(self.data.inputs.take(held))
        return found

    def _head(self, head: Head, inputs: Inputs, target: Floats) -> tuple[Head, Floats]:
        data, kind = self.data, type(head.calibrator)
        raw = out_of_fold(head.factory, replace(data, inputs=inputs, labels=target))
        estimate = np.empty_like(raw)
        for held in self._folds():
            calibrator = kind().fit(raw[~held], target[~held], data.weights[~held])
            estimate[held] = calibrator.predict(raw[held])
        return replace(head, calibrator=kind().fit(raw, target, data.weights)), estimate

    def _folds(self) -> list[Bools]:
        return [self.data.folds == fold for fold in np.unique(self.data.folds)]


def _cross_fitted(
    learned: Learned, prepared: Prepared, inputs: Inputs, params: Params, rows: Bools
) -> tuple[Learned, tuple[Floats, Floats]]:
    """Refitted on `rows`, calibrated on the predictions out of fold; and these, with the costs out of fold."""
    found = refit(learned, prepared, inputs, params, rows)
    fold = folds(prepared.groups[rows], params.fit.folds, params.fit.seed)
    across = _CrossFit(prepared, prepared.matrix.take(rows), replace(found.data, folds=fold), params)
    acceptable, estimate = across.pair(found.acceptable, found.data.labels)
    quality = found.quality
    if quality is not None:
        quality, graded = across.pair(quality, across.matrix.quality)
        if Objective(params.policy.objective) is Objective.QUALITY:
            estimate = graded
    return replace(found, acceptable=acceptable, quality=quality), (estimate, across.cost())


def _rows_of(learned: Learned, prepared: Prepared, inputs: Inputs, params: Params, rows: Bools) -> TrainingData:
    matrix = prepared.matrix.take(rows)
    propensity = learned.propensity[rows]
    return TrainingData(
        inputs=inputs.take(rows),
        labels=prepared.labels[rows],
        weights=fitting_weights(propensity, params.fit.weight_clip),
        propensity=propensity,
        cost=matrix.cost_usd,
        expected_cost=np.empty(propensity.shape),
        complete=matrix.complete(),
        groups=prepared.groups[rows],
        folds=np.zeros(len(propensity), dtype=np.intp),
    )


def _refitted(pair: Pair, inputs: Inputs, target: Floats, weights: Floats) -> Pair:
    tagged = pair.tagged.refitted(inputs, target, weights)
    if pair.untagged is pair.tagged:
        return Pair(tagged, tagged)
    return Pair(tagged, pair.untagged.refitted(inputs.untagged(), target, weights))
