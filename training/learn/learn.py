"""Learns a router from the training part: costs, a head for each target, and how training prompts lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats, Floats32
from training.config import Params
from training.dataset.inputs import Inputs, Progress, silent
from training.dataset.kinds import Kinds
from training.engine.engine import Engine
from training.engine.local import HERE
from training.learn.costs import CostModel
from training.learn.estimators.base import Factory, priced_mean
from training.learn.estimators.registry import variants
from training.learn.heads.chosen import Choices, PairChoice
from training.learn.heads.pair import Pair, fit_pair, left_out
from training.learn.heads.recognise import learn_recogniser
from training.learn.heads.select import effective_outcomes
from training.learn.heads.violation import Violation, independent, learn_violation
from training.learn.hints import hints_said
from training.learn.novelty import Spread, prompt_clusters, spread_of
from training.learn.prepare import Prepared, PrepareError
from training.learn.training_data import TrainingData, cost_model, judged_shares, propensities, training_data
from training.measure.metrics import known_mean, mean_of

# Complete requests, or effective outcomes of a candidate, that a reference takes; and the share of the outcomes of the
# candidate that has most.
_ENOUGH = 30
_SHARE = 0.1
# Standard errors below its mean at which a candidate is compared with the others: about its lower bound at 95%.
_DOUBT = 1.645


@dataclass(frozen=True)
class Learned:
    """Everything that was learned on the training part; `quality` is None where logged quality is 0/1 throughout.

    `violation` is None where too few requests tell of a candidate and the reference both: see `violations`.
    `learned_from` says which rows the heads and the figures rest on, and `kinds` are what stands for workflows where the log
    names none. `data` are the rows that the heads were learned from.
    `propensity` (n, m) is of all requests, not of the training part alone, each part's found within it, and `judged` (n, m) the
    share of it that is being judged. `centres` (clusters, dim) are unit vectors, the middle of each cluster of training
    prompts; `spread` is how they lie as a whole.
    """

    acceptable: Pair
    quality: Pair | None
    violation: Violation | None
    costs: CostModel
    reference: int
    reference_note: str
    propensity: Floats
    judged: Floats
    propensity_note: str
    data: TrainingData
    centres: Floats32
    spread: Spread
    learned_from: str
    kinds: Kinds | None

    def violations(self, inputs: Inputs) -> Floats:
        """(n, m) the chance that a candidate fails where the reference does not.

        Learned where it could be; else as if the two were independent, for want of anything better.
        """
        acceptable = self.acceptable.predict(inputs)
        if self.violation is not None:
            return self.violation.predict(inputs, acceptable)
        return independent(acceptable, self.reference)


def learn(
    prepared: Prepared,
    inputs: Inputs,
    params: Params,
    progress: Progress = silent,
    choices: Choices | None = None,
    engine: Engine = HERE,
) -> Learned:
    """Fits costs and both heads on the training part alone; with `choices` nothing is selected. Raises ChoiceError then."""
    if choices is not None:
        choices.require(graded=prepared.graded, workflows=bool(prepared.workflows))
    progress("costs", None, None)
    propensity, propensity_note = propensities(prepared, inputs, params)
    data = training_data(prepared, inputs, propensity, params, engine)
    train, labels = data.inputs, data.labels
    matrix = prepared.matrix.take(prepared.split.train)
    mean_cost = known_mean(matrix.cost_usd, matrix.standing)
    kinds = variants(params.fit, mean_cost)

    recogniser = None
    if not train.derived:
        recogniser = learn_recogniser(train, data.folds, left_out(data, matrix.workflow, params), matrix.standing)

    def pair(
        target: TrainingData, kinds: Mapping[str, Factory], calibration: str, what: str, choice: PairChoice | None
    ) -> Pair:
        return fit_pair(
            target,
            kinds,
            matrix.workflow,
            params,
            recogniser,
            calibration=calibration,
            engine=engine,
            stage=what,
            progress=progress,
            choice=choice,
        )

    heads = pair(data, kinds, params.calibrate.method, "acceptable", choices.acceptable if choices else None)
    graded = None
    if prepared.graded:
        means = {name: kind for name, kind in kinds.items() if kind().graded}
        target = replace(data, labels=matrix.quality, hints=data.grade_hints)
        graded = pair(target, means, "none", "quality", choices.quality if choices else None)
    chosen = matrix.attempted & ~matrix.chained & ~matrix.certifying & ~matrix.learning
    reference, note = reference_of(
        prepared.matrix.candidates,
        labels,
        data.weights,
        mean_cost,
        data.complete,
        params.policy.reference,
        matrix.weight @ chosen,
        matrix.standing,
    )
    violation = None
    if choices is None or choices.violation is not None:
        violation = learn_violation(
            data,
            reference,
            mean_cost,
            matrix.workflow,
            params,
            recogniser,
            engine,
            progress,
            choices.violation if choices else None,
        )
    return Learned(
        acceptable=heads,
        quality=graded,
        violation=violation,
        costs=cost_model(prepared, matrix, train, np.ones(len(train), dtype=np.bool_), params),
        reference=reference,
        reference_note=note,
        propensity=propensity,
        judged=judged_shares(prepared),
        propensity_note=propensity_note,
        data=data,
        centres=prompt_clusters(train.embedding, params.fit.novelty_clusters, params.fit.seed),
        spread=spread_of(train.embedding),
        kinds=prepared.kinds,
        learned_from=f"The heads were learned from the {len(train):,} requests of the training part."
        + hints_said(data.hints),
    )


def reference_of(
    names: Sequence[str],
    labels: Floats,
    weights: Floats,
    mean_cost: Floats,
    complete: Bools,
    wanted: str,
    chosen: Floats | Columns | None = None,
    standing: Floats | None = None,
) -> tuple[int, str]:
    """The column of the reference candidate and how it was found; raises PrepareError.

    `labels` and `weights` (n, m) are the training part's, `mean_cost` (m,) in USD, `complete` (n,); `chosen` (m,) counts the
    requests of the log that its own policy put to each, and `standing` (n,) how many each request stands for (None: one).
    Without complete requests the candidate that answers more than half of the traffic is the reference until another is known
    to be better: a bundle that certifies nothing then leaves the traffic where it is. It is never a candidate with fewer than
    30 effective outcomes, or a tenth of those of the candidate with most, while another has them. The means are shrunken
    (`priced_mean`), and each is compared by its lower bound: what everything is measured against is a candidate of which much
    is known, and a lucky row or forty make no reference.
    """
    if wanted != "auto":
        if wanted not in names:
            raise PrepareError(f"policy.reference is {wanted!r}, which is not in the log; there are {', '.join(names)}")
        return names.index(wanted), "as set"
    if complete.sum() >= _ENOUGH:
        mean = mean_of(labels[complete], None if standing is None else standing[complete])
        as_log = "" if standing is None else ", each for as many of the log as it stands for"
        return int(mean.argmax()), f"best mean on {int(complete.sum()):,} complete requests{as_log}"
    known = effective_outcomes(labels, weights)
    most = float(known.max())
    least = max(min(float(_ENOUGH), most), _SHARE * most)
    mean = priced_mean(labels, weights, mean_cost)
    error = np.sqrt(np.clip(mean * (1.0 - mean), 1e-6, None) / np.maximum(known, 1.0))
    bound = np.where(known >= least, mean - _DOUBT * error, -np.inf)
    if chosen is not None and 2 * chosen.max() > chosen.sum():
        usual = int(chosen.argmax())
        if known[usual] >= least and float(bound.max()) <= float(mean[usual]):
            note = (
                f"it answers {chosen[usual] / chosen.sum():.0%} of the logged requests, and no other candidate is known to be "
                "better: none's lower bound lies above its mean; few requests were complete"
            )
            return usual, note
    note = (
        f"best lower bound of the mean of judged outcomes, weighted by inverse propensity and shrunken towards a line in "
        f"price, among candidates with at least {least:.0f} effective outcomes; few requests were complete"
    )
    return int(bound.argmax()), note
