"""Learns a router from the training part: costs, a head for each target, and how training prompts lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from serving.bundle.arrays import Bools, Floats, Floats32
from training.config import Params
from training.dataset.inputs import Inputs, Progress, silent
from training.learn.costs import CostModel
from training.learn.estimators.base import Factory
from training.learn.estimators.registry import variants
from training.learn.novelty import Spread, prompt_clusters, spread_of
from training.learn.prepare import Prepared, PrepareError
from training.learn.select import Blending, Head, OutOfFold, fit_head
from training.learn.training_data import TrainingData, cost_model, propensities, training_data


@dataclass(frozen=True)
class Pair:
    """Two heads for one target: one for requests with a known workflow, one for the others. Predictions are (n, m)."""

    tagged: Head
    untagged: Head

    def predict(self, inputs: Inputs) -> Floats:
        """Calibrated, each request by its head."""
        return np.where(inputs.tagged[:, None], self.tagged.predict(inputs), self.untagged.predict(inputs.untagged()))

    def raw(self, inputs: Inputs) -> Floats:
        """Before calibration."""
        return np.where(
            inputs.tagged[:, None],
            self.tagged.estimator.predict(inputs),
            self.untagged.estimator.predict(inputs.untagged()),
        )


@dataclass(frozen=True)
class Learned:
    """Everything that was learned on the training part; `quality` is None where logged quality is 0/1 throughout.

    `propensity` (n, m) is of all requests, not of the training part alone, each part's found within it. `centres`
    (clusters, dim) are unit vectors, the middle of each cluster of training prompts; `spread` is how they lie as a whole.
    """

    acceptable: Pair
    quality: Pair | None
    costs: CostModel
    reference: int
    reference_note: str
    propensity: Floats
    propensity_note: str
    data: TrainingData
    centres: Floats32
    spread: Spread


def learn(prepared: Prepared, inputs: Inputs, params: Params, progress: Progress = silent) -> Learned:
    """Fits costs and both heads on the training part alone."""
    progress("costs", None, None)
    propensity, propensity_note = propensities(prepared, inputs, params)
    data = training_data(prepared, inputs, propensity, params)
    train, labels = data.inputs, data.labels
    matrix = prepared.matrix.take(prepared.split.train)
    kinds = variants(params.fit, mean_cost=np.nanmean(matrix.cost_usd, axis=0))

    def pair(target: TrainingData, kinds: Mapping[str, Factory], calibration: str, what: str) -> Pair:
        kept = OutOfFold()

        def head(part: TrainingData, tag: str) -> Head:
            return fit_head(
                part,
                kinds,
                calibration=calibration,
                blend=Blending(params.fit.blend_errors, params.fit.blend_equal) if params.fit.blend else None,
                knob_steps=params.policy.knob_steps,
                seed=params.fit.seed,
                kept=kept,
                progress=lambda name: progress(f"{what}: {name}, {tag}", None, None),
            )

        tagged = head(target, "with workflow tags")
        if not prepared.workflows:
            return Pair(tagged, tagged)
        return Pair(tagged, head(replace(target, inputs=train.untagged()), "without workflow tags"))

    heads = pair(data, kinds, params.calibrate.method, "acceptable")
    graded = None
    if prepared.graded:
        means = {name: kind for name, kind in kinds.items() if kind().graded}
        graded = pair(replace(data, labels=matrix.quality), means, "none", "quality")
    reference, note = _reference(prepared, labels, data.complete, params.policy.reference)
    return Learned(
        acceptable=heads,
        quality=graded,
        costs=cost_model(prepared, matrix, train, np.ones(len(train), dtype=np.bool_), params),
        reference=reference,
        reference_note=note,
        propensity=propensity,
        propensity_note=propensity_note,
        data=data,
        centres=prompt_clusters(train.embedding, params.fit.novelty_clusters, params.fit.seed),
        spread=spread_of(train.embedding),
    )


def _reference(prepared: Prepared, labels: Floats, complete: Bools, wanted: str) -> tuple[int, str]:
    """The column of the reference candidate and how it was found."""
    names = prepared.matrix.candidates
    if wanted != "auto":
        if wanted not in names:
            raise PrepareError(f"policy.reference is {wanted!r}, which is not in the log; there are {', '.join(names)}")
        return names.index(wanted), "as set"
    if complete.sum() >= 30:
        return int(labels[complete].mean(axis=0).argmax()), f"best mean on {int(complete.sum())} complete requests"
    return int(np.nanmean(labels, axis=0).argmax()), "best mean on judged outcomes; few requests were complete"
