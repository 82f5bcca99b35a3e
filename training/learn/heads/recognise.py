"""Which workflow a request without a tag belongs to, by its text, and how far to believe that it is of a known one at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from serving.bundle.arrays import Bools, Columns, Floats
from training.dataset.inputs import Inputs
from training.learn.estimators.base import sigmoid
from training.learn.estimators.design import Design, stacked
from training.learn.novelty import Spread, spread_of

# Less is as this much: of the training prompts' middle itself there is no logarithm.
LEAST_NOVELTY = 1e-6
# The share of an even covariance that the workflows' common one is shrunk by.
_SHRINKAGE = 0.1
# A workflow with fewer requests is not recognised; and it takes two of them to tell one from another.
_LEAST = 10
# The score of one that is not recognised.
_NEVER = -1e6
# Two workflows whose scores differ by less than this share of their size may be told apart otherwise in float32.
_CLEAR = 1e-4


@dataclass(frozen=True)
class Recogniser:
    """The workflow of the highest linear score, columns @ `weight` (dim + k, workflows) + `bias` (workflows,).

    The chance that a request is of a known workflow at all falls with the novelty of its prompt among those that have a tag: it
    is sigmoid(`level` - `slope` log(novelty)). `usual` is the median of the logarithm for requests of known workflows, each
    against the others' prompts.
    """

    weight: Floats
    bias: Floats
    spread: Spread
    slope: float
    level: float
    usual: float

    def recognised(self, inputs: Inputs) -> Inputs:
        """The same requests, those without a known tag as if they had the one that their text tells."""
        features = inputs.features.copy()
        rows = np.flatnonzero(~inputs.tagged)
        features[rows, inputs.surface + self._scores(inputs.take(rows)).argmax(axis=1)] = 1.0
        return replace(inputs, features=features)

    def known(self, inputs: Inputs) -> Floats:
        """(n, 1) the chance that each request is of a known workflow: 1 with a tag."""
        novelty = np.clip(self.spread.novelty(inputs.embedding), LEAST_NOVELTY, None)
        chance = sigmoid(self.level - self.slope * np.log(novelty))
        return np.where(inputs.tagged, 1.0, chance)[:, None]

    def clear(self, inputs: Inputs) -> Bools:
        """(n,) whether one workflow is clearly the likeliest: every machine recognises the same one then."""
        scores = np.sort(self._scores(inputs), axis=1)
        return np.asarray(scores[:, -1] - scores[:, -2] > _CLEAR * np.abs(scores).max(axis=1))

    def refitted(self, inputs: Inputs, folds: Columns) -> Recogniser:
        """Learned from these requests instead; how novelty tells stays as it was found, but for what is usual of it now.

        More prompts are a measure that new ones lie nearer to: without that each would look better known than it is.
        """
        if not _can_be_told(inputs):
            return self
        tagged = inputs.take(inputs.tagged)
        usual = float(np.median(_far(tagged, folds[inputs.tagged])))
        weight, bias = _discriminant(tagged)
        level = self.level + self.slope * (usual - self.usual)
        return replace(self, weight=weight, bias=bias, spread=spread_of(tagged.embedding), level=level, usual=usual)

    def _scores(self, inputs: Inputs) -> Floats:
        """(n, workflows), by the text alone."""
        return np.asarray(stacked(inputs.untagged()) @ self.weight + self.bias)


def learn_recogniser(inputs: Inputs, folds: Columns, left_out: Columns) -> Recogniser | None:
    """Learns it from the requests that have a tag; None where fewer than two workflows have requests enough.

    `folds` (n,) are any, `left_out` (n,) those that leave whole workflows out: from prompts of workflows that are in the others
    and of such that are not it is learned how novelty tells the two apart, as if they were as frequent. Requests without a tag
    have no part in it: those of a kind of their own are to look as new as they are to the tagged head.
    """
    if not _can_be_told(inputs):
        return None
    tagged = inputs.take(inputs.tagged)
    near, far = (_far(tagged, fold[inputs.tagged]) for fold in (folds, left_out))
    known = np.repeat([1.0, 0.0], [len(near), len(far)])
    told = LogisticRegression(class_weight="balanced").fit(np.concatenate([near, far])[:, None], known)
    weight, bias = _discriminant(tagged)
    slope, level = max(-float(told.coef_[0, 0]), 0.0), float(told.intercept_[0])
    return Recogniser(weight, bias, spread_of(tagged.embedding), slope, level, float(np.median(near)))


def _can_be_told(inputs: Inputs) -> bool:
    return bool((inputs.workflows.sum(axis=0) >= _LEAST).sum() >= 2)


def _far(inputs: Inputs, folds: Columns) -> Floats:
    """(n,) the logarithm of each request's novelty among those of the other folds."""
    novelty = np.empty(len(inputs))
    for held in np.unique(folds):
        asked = folds == held
        novelty[asked] = spread_of(inputs.embedding[~asked]).novelty(inputs.embedding[asked])
    return np.asarray(np.log(np.clip(novelty, LEAST_NOVELTY, None)))


def _discriminant(inputs: Inputs) -> tuple[Floats, Floats]:
    """Linear scores of the workflows, by the text: (dim + k, workflows) and (workflows,). Source: Fisher 1936, Rao 1948."""
    enough = np.flatnonzero(inputs.workflows.sum(axis=0) >= _LEAST)
    rows = np.asarray(inputs.workflows[:, enough].any(axis=1))
    text = inputs.take(rows).untagged()
    design = Design.learn(text)
    workflow = inputs.workflows[rows].argmax(axis=1)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=_SHRINKAGE).fit(design.columns(text), workflow)
    coefficients, intercept = model.coef_.T, model.intercept_
    if len(enough) == 2:  # scikit-learn keeps one score for two classes: that of the second against the first
        coefficients, intercept = np.hstack([0.0 * coefficients, coefficients]), np.array([0.0, intercept[0]])
    weight, bias = np.zeros((len(coefficients), inputs.workflows.shape[1])), np.full(inputs.workflows.shape[1], _NEVER)
    weight[:, enough], bias[enough] = design.fold(coefficients, intercept)
    return weight, bias
