"""Two heads for one target: one that reads the workflow's tag, and one for requests without a tag that training knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serving.bundle.arrays import Floats
from training.config import Params
from training.dataset.inputs import Inputs
from training.dataset.split import workflow_folds
from training.learn.estimators.base import Factory
from training.learn.heads.select import Blending, Head, fit_head
from training.learn.training_data import TrainingData


@dataclass(frozen=True)
class Pair:
    """One head for requests with a known workflow, one for the others. Predictions are (n, m)."""

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

    def refitted(self, inputs: Inputs, target: Floats, weights: Floats) -> Pair:
        """The same with both estimators fitted on these rows instead: arguments as of `Estimator.fit`."""
        tagged = self.tagged.refitted(inputs, target, weights)
        if self.untagged is self.tagged:
            return Pair(tagged, tagged)
        return Pair(tagged, self.untagged.refitted(inputs.untagged(), target, weights))


def fit_pair(
    target: TrainingData,
    kinds: Mapping[str, Factory],
    workflow: NDArray[np.object_],
    params: Params,
    *,
    calibration: str,
    progress: Callable[[str], None],
) -> Pair:
    """Selects, fits and calibrates both heads; `workflow` (n,) are the tags, None where there is none.

    What serves workflows that training never saw is selected and calibrated on workflows that its folds leave out; the table,
    which sees no workflow there, is the constant means. Raises NotTrainableError.
    """

    def head(part: TrainingData, tag: str) -> Head:
        return fit_head(
            part,
            kinds,
            calibration=calibration,
            blend=blending(params),
            knob_steps=params.policy.knob_steps,
            seed=params.fit.seed,
            progress=lambda name: progress(f"{name}, {tag}"),
        )

    tagged = head(target, "with workflow tags")
    if all(name is None for name in workflow):
        return Pair(tagged, tagged)
    left_out = workflow_folds(target.groups, workflow, params.fit.folds, params.fit.seed)
    untagged = replace(target, inputs=target.inputs.untagged(), folds=left_out)
    return Pair(tagged, head(untagged, "without workflow tags"))


def blending(params: Params) -> Blending | None:
    """How the blend of a head is made; None where there is to be none."""
    fit = params.fit
    return Blending(fit.blend_errors, fit.blend_equal, fit.few_outcomes, fit.few_estimators) if fit.blend else None
