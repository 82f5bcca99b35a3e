"""Two heads for one target: one that reads the workflow's tag, and one for requests without a tag that training knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serving.bundle.arrays import Columns, Floats
from training.config import Params
from training.dataset.inputs import Inputs
from training.dataset.split import workflow_folds
from training.engine.engine import Engine, Progress, silent
from training.engine.local import HERE
from training.learn.estimators.base import Factory
from training.learn.estimators.blend import takes_sums
from training.learn.heads.chosen import PairChoice, fit_chosen
from training.learn.heads.recognise import Recogniser
from training.learn.heads.select import Blending, Head, fit_head
from training.learn.sums import Normal
from training.learn.training_data import TrainingData


@dataclass(frozen=True)
class Pair:
    """One head for requests with a known workflow, one for the others. Predictions are (n, m).

    Where there is a `recogniser`, a request without a known tag gets what the tagged head says of the workflow that its text
    tells, or of none where it is like what never has a tag, and what the untagged head says, each as far as it is likely that
    the workflow is a known one or not.
    """

    tagged: Head
    untagged: Head
    recogniser: Recogniser | None = None

    def predict(self, inputs: Inputs) -> Floats:
        """Calibrated, each request by its head."""
        return self._mixed(inputs, lambda head, asked: head.predict(asked))

    def raw(self, inputs: Inputs) -> Floats:
        """Before calibration."""
        return self._mixed(inputs, lambda head, asked: head.estimator.predict(asked))

    def refitted(self, inputs: Inputs, target: Floats, weights: Floats, recogniser: Recogniser | None) -> Pair:
        """The same with both estimators fitted on these rows instead: arguments as of `Estimator.fit`."""
        normal = None
        if takes_sums(self.tagged.estimator) or takes_sums(self.untagged.estimator):
            normal = Normal.of(inputs, target, weights)
        tagged = self.tagged.refitted(inputs, target, weights, normal)
        if self.untagged is self.tagged:
            return Pair(tagged, tagged)
        bare = None if normal is None else normal.untagged()
        return Pair(tagged, self.untagged.refitted(inputs.untagged(), target, weights, bare), recogniser)

    def _mixed(self, inputs: Inputs, of: Callable[[Head, Inputs], Floats]) -> Floats:
        if self.untagged is self.tagged:
            return of(self.tagged, inputs)
        known = inputs.tagged[:, None].astype(np.float64)
        asked = inputs
        if self.recogniser is not None:
            asked, known = self.recogniser.recognised(inputs), self.recogniser.known(inputs)
        return np.asarray(known * of(self.tagged, asked) + (1.0 - known) * of(self.untagged, inputs.untagged()))


def fit_pair(
    target: TrainingData,
    kinds: Mapping[str, Factory],
    workflow: NDArray[np.object_],
    params: Params,
    recogniser: Recogniser | None,
    *,
    calibration: str,
    engine: Engine = HERE,
    stage: str = "fit",
    progress: Progress = silent,
    choice: PairChoice | None = None,
) -> Pair:
    """Selects, fits and calibrates both heads; `workflow` (n,) are the tags, None where there is none.

    With a `choice` nothing is selected: the heads are made as it says.

    What serves workflows that training never saw is selected and calibrated on workflows that its folds leave out; the table,
    which sees no workflow there, is the constant means. Where workflows are kinds of work, every request has one, and one head
    is enough. Raises NotTrainableError, or ChoiceError.
    """
    alone = target.inputs.derived or all(name is None for name in workflow)
    with_tags, no_tags = "with workflow tags", "without workflow tags"
    if choice is not None:
        tagged = fit_chosen(target, kinds, choice.tagged, engine, f"{stage}, {with_tags}", progress)
        if alone:
            return Pair(tagged, tagged)
        bare = replace(target, inputs=target.inputs.untagged(), folds=left_out(target, workflow, params))
        untagged = fit_chosen(bare, kinds, choice.without_tags(), engine, f"{stage}, {no_tags}", progress)
        return Pair(tagged, untagged, recogniser)

    def head(part: TrainingData, kinds: Mapping[str, Factory], tag: str) -> Head:
        return fit_head(
            part,
            kinds,
            calibration=calibration,
            blend=blending(params),
            knob_steps=params.policy.knob_steps,
            seed=params.fit.seed,
            engine=engine,
            stage=f"{stage}, {tag}",
            progress=progress,
        )

    tagged = head(target, kinds, with_tags)
    if alone:
        return Pair(tagged, tagged)
    without_tags = replace(target, inputs=target.inputs.untagged(), folds=left_out(target, workflow, params))
    unseen = {name: kind for name, kind in kinds.items() if kind().name in params.fit.unseen_estimators}
    return Pair(tagged, head(without_tags, unseen or kinds, no_tags), recogniser)


def left_out(data: TrainingData, workflow: NDArray[np.object_], params: Params) -> Columns:
    """(n,) the folds that leave whole workflows out."""
    return workflow_folds(data.groups, workflow, params.fit.folds, params.fit.seed)


def blending(params: Params) -> Blending | None:
    """How the blend of a head is made; None where there is to be none."""
    fit = params.fit
    return Blending(fit.blend_errors, fit.blend_equal, fit.few_outcomes, fit.few_estimators) if fit.blend else None
