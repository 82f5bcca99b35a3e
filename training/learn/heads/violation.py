"""The chance that a candidate fails where the reference does not, learned from requests on which both are known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from serving.bundle.arrays import Columns, Floats
from training.config import Params
from training.dataset.inputs import Inputs
from training.engine.engine import Engine, Progress, silent
from training.engine.local import HERE
from training.learn.estimators.base import NotTrainableError
from training.learn.estimators.registry import variants
from training.learn.heads.calibrate import Uncalibrated
from training.learn.heads.chosen import PairChoice
from training.learn.heads.pair import Pair, fit_pair
from training.learn.heads.recognise import Recogniser
from training.learn.training_data import TrainingData
from training.measure.metrics import as_standing

# With fewer requests of either the product of the two chances is as good or better, whether they fail together or not.
LEAST_TOGETHER = 1_000


@dataclass(frozen=True)
class Violation:
    """`kept` estimates, for every candidate but the `reference`, the chance that choosing it violates nothing."""

    kept: Pair
    reference: int

    def predict(self, inputs: Inputs, acceptable: Floats) -> Floats:
        """(n, m) P(the candidate fails and the reference does not), as far as `acceptable` allows; 0 for the reference."""
        violation = np.insert(1.0 - self.kept.predict(inputs), self.reference, 0.0, axis=1)
        return np.asarray(np.clip(violation, *possible(acceptable, self.reference)))

    def refitted(
        self,
        inputs: Inputs,
        labels: Floats,
        recogniser: Recogniser | None,
        decay: Floats | None = None,
        standing: Floats | None = None,
    ) -> Violation:
        """The same estimators fitted on these requests instead; `labels` (n, m), `decay` and `standing` (n,) as of
        `TrainingData`."""
        target, weights = _target(labels, self.reference, decay, standing)
        return replace(self, kept=self.kept.refitted(inputs, target, weights, recogniser))


def independent(acceptable: Floats, reference: int) -> Floats:
    """(n, m) the same as if the two failed independently of each other given the request: (1 - p) p_reference.

    `acceptable` (n, m) are the chances p of an acceptable answer.
    """
    violation: Floats = (1.0 - acceptable) * acceptable[:, reference : reference + 1]
    violation[:, reference] = 0.0
    return violation


def possible(acceptable: Floats, reference: int) -> tuple[Floats, Floats]:
    """Both (n, m): the least and the most that P(the candidate fails and the reference does not) can be.

    max(0, p_ref - p) and min(1 - p, p_ref), with p the P(acceptable) (n, m). Source: Frechet 1935.
    """
    best = acceptable[:, reference : reference + 1]
    return np.maximum(best - acceptable, 0.0), np.minimum(1.0 - acceptable, best)


def others(candidates: int, reference: int) -> Columns:
    """(m - 1,) the columns of all candidates but the reference."""
    return np.delete(np.arange(candidates), reference)


def learn_violation(
    data: TrainingData,
    reference: int,
    mean_cost: Floats,
    workflow: NDArray[np.object_],
    params: Params,
    recogniser: Recogniser | None,
    engine: Engine = HERE,
    progress: Progress = silent,
    choice: PairChoice | None = None,
) -> Violation | None:
    """The head; None where a candidate and the reference are both known on too few requests to learn it.

    `mean_cost` (m,) in USD, `workflow` (n,) the tags. It is selected by its Brier score: what it is worth shows in the
    violations of a whole routing, not in those of one candidate. It is not calibrated by itself: what the chances of the two
    candidates allow does that (`possible`), and any map with a level part would make equals of many rare violations. With a
    `choice` nothing is selected.
    """
    target, weights = _target(data.labels, reference, data.decay, data.standing)
    if np.isfinite(target).sum(axis=0).min() < LEAST_TOGETHER:
        return None
    columns = others(data.labels.shape[1], reference)
    known = replace(
        data,
        labels=target,
        weights=weights,
        hints=None,
        propensity=np.full(target.shape, np.nan),
        judged=None,
        complete=np.zeros(len(target), dtype=np.bool_),
        cost=data.cost[:, columns],
        expected_cost=data.expected_cost[:, columns],
    )
    kinds = variants(replace(params.fit, estimators=params.fit.violation_estimators), mean_cost[columns])
    try:
        kept = fit_pair(
            known,
            kinds,
            workflow,
            params,
            recogniser,
            calibration=Uncalibrated.name,
            engine=engine,
            stage="violation",
            progress=progress,
            choice=choice,
        )
    except NotTrainableError:
        return None
    return Violation(kept, reference)


def _target(
    labels: Floats, reference: int, decay: Floats | None, standing: Floats | None = None
) -> tuple[Floats, Floats]:
    """Both (n, m - 1): 1 where choosing a candidate violated nothing, 0 where it did, NaN where it is not known; and weights.

    Requests on which both outcomes are known count alike, however they came to be: the head is about the request at hand. But
    for what their age leaves of them (`decay` (n,), None: all), and for how many of the log each stands for (`standing` (n,),
    None: as many as any other), 1 on average of each candidate's.
    """
    columns = others(labels.shape[1], reference)
    candidate, best = labels[:, columns], labels[:, [reference]]
    target = np.where(np.isnan(candidate) | np.isnan(best), np.nan, 1.0 - (1.0 - candidate) * best)
    known = np.isfinite(target).astype(np.float64)
    if standing is not None:
        known = as_standing(known, standing)
    return target, known if decay is None else known * decay[:, None]
