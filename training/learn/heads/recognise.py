"""Which workflow a request without a tag belongs to, by its text, and how far to believe that it is of a known one at all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from sklearn.linear_model import LogisticRegression

from serving.bundle.arrays import Bools, Columns, Floats
from training.dataset.inputs import Inputs
from training.learn.estimators.base import sigmoid
from training.learn.estimators.design import Design, linear
from training.learn.novelty import Spread, spread_of
from training.learn.sums import Normal

# Less is as this much: of the training prompts' middle itself there is no logarithm.
LEAST_NOVELTY = 1e-6
# The share of an even covariance that the workflows' common one is shrunk by.
_SHRINKAGE = 0.1
# A workflow with fewer requests is not recognised; and it takes two of them to tell one from another.
_LEAST = 10
# What never has a tag has to be so many times as likely as any workflow: by chance any request may lack its tag.
_UNTAGGED_ODDS = 4.0
# The score of one that is not recognised.
_NEVER = -1e6
# Two workflows whose scores differ by less than this share of their size may be told apart otherwise in float32.
_CLEAR = 1e-4


@dataclass(frozen=True)
class Recogniser:
    """The workflow of the highest linear score, columns @ `weight` (dim + k, workflows + 1) + `bias` (workflows + 1,).

    The last score is that of requests which never have a tag: where it is the highest, a request is left without, as training's
    were.

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
        likeliest = self._scores(inputs.take(rows)).argmax(axis=1)
        told = likeliest < inputs.workflows.shape[1]
        features[rows[told], inputs.surface + likeliest[told]] = 1.0
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

    def refitted(self, inputs: Inputs, folds: Columns, standing: Floats | None = None) -> Recogniser:
        """Learned from these requests instead; how novelty tells stays as it was found, but for what is usual of it now.

        More prompts are a measure that new ones lie nearer to: without that each would look better known than it is.
        """
        if not _can_be_told(inputs):
            return self
        tagged = inputs.take(inputs.tagged)
        usual = float(np.median(_far(tagged, folds[inputs.tagged])))
        weight, bias = _discriminant(inputs, standing)
        level = self.level + self.slope * (usual - self.usual)
        return replace(self, weight=weight, bias=bias, spread=spread_of(tagged.embedding), level=level, usual=usual)

    def _scores(self, inputs: Inputs) -> Floats:
        """(n, workflows + 1), by the text alone."""
        return linear(inputs.untagged(), self.weight, self.bias)


def learn_recogniser(
    inputs: Inputs, folds: Columns, left_out: Columns, standing: Floats | None = None
) -> Recogniser | None:
    """Learns it from training's requests; None where fewer than two workflows have requests enough.

    `folds` (n,) are any, `left_out` (n,) those that leave whole workflows out: from prompts of workflows that are in the others
    and of such that are not it is learned how novelty tells the two apart, as if they were as frequent. Requests without a tag
    have no part in that, for those of a kind of their own are new to every workflow; to the discriminant they are a class. How
    frequent each is, is by the requests of the log that these stand for, `standing` (n,), None: as many each.
    """
    if not _can_be_told(inputs):
        return None
    tagged = inputs.take(inputs.tagged)
    near, far = (_far(tagged, fold[inputs.tagged]) for fold in (folds, left_out))
    known = np.repeat([1.0, 0.0], [len(near), len(far)])
    told = LogisticRegression(class_weight="balanced").fit(np.concatenate([near, far])[:, None], known)
    weight, bias = _discriminant(inputs, standing)
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


def _discriminant(inputs: Inputs, standing: Floats | None) -> tuple[Floats, Floats]:
    """Linear scores of the workflows and of what has no tag, by the text: (dim + k, workflows + 1) and (workflows + 1,).

    A linear discriminant analysis with a common covariance, shrunk towards an even one, from sums over the requests. Source:
    Fisher 1936, Rao 1948.
    """
    counts = np.append(inputs.workflows.sum(axis=0, dtype=np.float64), (~inputs.tagged).sum())
    enough = np.flatnonzero(counts >= _LEAST)
    classes = np.column_stack([inputs.workflows > 0, ~inputs.tagged])
    seen = inputs.take(np.asarray(classes[:, enough].any(axis=1)))
    nobody = np.empty((len(seen), 0))  # no candidate: the sums over every request alone
    normal = Normal.of(seen, nobody, nobody)
    text, tagged, count = normal.text(), normal.tagged[-1], counts[enough]
    design = Design.of(text)
    total = np.column_stack([tagged, normal.gram[-1, :, 0] - tagged.sum(axis=1)])[:, enough]
    mean = design.sums(total) / count  # (dim + surface, classes)
    within = (design.gram(text, -1) - (mean * count) @ mean.T) / len(seen)
    even = np.trace(within) / (len(within) + normal.workflows)
    covariance = (1.0 - _SHRINKAGE) * within + _SHRINKAGE * even * np.eye(len(within))
    coefficients = np.linalg.lstsq(covariance, mean, rcond=None)[0]
    frequent = count / len(seen)
    if standing is not None:
        stood = standing @ classes[:, enough]
        frequent = stood / stood.sum()
    intercept = np.log(frequent) - 0.5 * (mean * coefficients).sum(axis=0)
    weight, bias = np.zeros((len(within) + normal.workflows, len(counts))), np.full(len(counts), _NEVER)
    weight[: len(within), enough], bias[enough] = design.fold(coefficients, intercept)
    bias[-1] -= np.log(_UNTAGGED_ODDS)
    return weight, bias
