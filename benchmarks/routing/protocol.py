"""`make benchmark`: five seeds on public outcome data and on the simulated log, written to docs/benchmarks.md.

Every figure in it is computed here; the README quotes them from docs/benchmarks.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from serving.bundle.arrays import Bools, Floats
from serving.bundle.catalogue import Candidate
from serving.decide.value import choose
from training.config import Params
from training.dataset.inputs import Inputs
from training.evaluate.baselines import fitted
from training.evaluate.confidence import calibration_figures, confidence_figures
from training.evaluate.evaluation import Confidence
from training.evaluate.splits import Tested
from training.learn.encode import encode
from training.learn.estimators.tables import AdditiveTable
from training.learn.heads.select import Head
from training.learn.learn import Learned, learn
from training.learn.prepare import Prepared, prepare
from training.learn.training_data import TrainingData
from training.logs.sources.reading import read
from training.measure import metrics
from training.measure.frontier import Singles, bootstrap_weights, frontier, knob_grid

# Everything that was tuned was tuned on seeds below this one.
FIRST_SEED = 10
SEEDS = 5
REFITS = 3
BASELINES = ("workflow-table", "knn", "k-means-table", "ridge", "direct-classifier")
ADDITIVE_STRENGTHS = (100.0, 300.0)
# What the two encoders, and routers that meet an unknown workflow, are compared with: quick to fit many times over.
LIGHT = ("workflow-table", "k-means-table", "table+low-rank", "hierarchical-ridge", "logistic", "knn")


@dataclass(frozen=True)
class DataSet:
    """A prepared log with its inputs; `simulated` marks invented outcomes."""

    name: str
    prepared: Prepared
    inputs: Inputs
    simulated: bool


@dataclass(frozen=True, kw_only=True)
class Trial(Tested):
    """One seed on one data set: what was learned, and the outcomes of the complete test requests."""

    learned: Learned
    train: Bools
    test: Bools

    @property
    def oracle(self) -> float:
        points = frontier(self.quality, self.cost_usd, self.quality, self.cost_usd, self.knobs)
        return self.alone.aiq(points.cost, points.quality)

    def headroom(self, estimate: Floats) -> float:
        return metrics.headroom_captured(self.aiq(estimate), self.alone.zero_router, self.oracle)


def load(name: str, paths: Sequence[Path], params: Params, catalogue: Mapping[str, Candidate], cache: Path) -> DataSet:
    """A public data set, its own split left aside: the benchmark draws its own."""
    frame = read(paths).frame.assign(split=None)
    prepared = prepare(frame, replace(params, split=replace(params.split, method="random")), catalogue)
    return DataSet(name, prepared, encode(prepared, params, cache)[0], simulated=False)


def trial(data: DataSet, prepared: Prepared, params: Params) -> Trial:
    """Learns on the training part and lays out the complete test requests."""
    learned = learn(prepared, data.inputs, params)
    test = prepared.split.test & data.prepared.matrix.complete()
    expected = learned.costs.cost_usd(data.inputs.take(test))
    return Trial(
        learned=learned,
        train=prepared.split.train,
        test=test,
        knobs=knob_grid(expected, params.policy.knob_steps),
        expected_cost=expected,
        quality=data.prepared.labels[test],
        cost_usd=data.prepared.matrix.cost_usd[test],
        groups=data.prepared.groups[test],
        workflow=data.prepared.matrix.workflow[test],
    )


def resampling(data: DataSet, run: Trial, resamples: int, seed: int) -> Floats:
    """(resamples, test requests) bootstrap weights, drawn by workflow and group of prompts over the whole data set.

    One `seed` draws the same requests whatever the parts: where seeds of the benchmark share test requests, their
    resamples go up and down together, and the interval of their mean is no narrower than the data allow.
    """
    weights = bootstrap_weights(data.prepared.groups, resamples, seed, data.prepared.matrix.workflow)[:, run.test]
    drawn = weights.sum(axis=1) > 0
    weights[~drawn] = 1.0
    shares: Floats = weights / weights.sum(axis=1, keepdims=True)
    return shares


def compare(data: DataSet, run: Trial, params: Params, weights: Floats, *, tagged: bool) -> dict[str, Floats]:
    """AIQ of the router and of every baseline: name -> (1 + resamples,), the value first, then its resamples.

    `weights` (resamples, test requests) are `resampling`. Everything is fitted again on resampled training requests too,
    `REFITS` times, and each resample moves by what one of these refits differs from their mean: an interval then holds
    what another draw of training requests would have changed, too.
    """
    test = data.inputs.take(run.test)
    test = test if tagged else test.untagged()
    times = bootstrap_weights(data.prepared.groups[run.train], REFITS, 0) * int(run.train.sum())
    fits = [estimates_of(run, test, params, drawn, tagged=tagged) for drawn in (None, *times)]
    values = {}
    for name, estimate in fits[0].items():
        refitted = np.array([run.aiq(fit[name]) for fit in fits[1:] if name in fit])
        moved = (refitted - refitted.mean()) * (len(refitted) / max(len(refitted) - 1, 1)) ** 0.5
        resampled = run.resampled(estimate, weights)
        values[name] = np.append(run.aiq(estimate), resampled + np.resize(moved, len(resampled)))
    alone = [run.alone, *(Singles(w @ run.cost_usd, w @ run.quality) for w in weights)]
    values["zero router"] = np.array([one.zero_router for one in alone])
    values["best single"] = np.array([one.aiq(one.cost[[one.best]], one.quality[[one.best]]) for one in alone])
    values["oracle"] = np.full(len(alone), run.oracle)
    return values


def estimates_of(
    run: Trial, test: Inputs, params: Params, drawn: Floats | None = None, *, tagged: bool
) -> dict[str, Floats]:
    """What the router and each baseline estimate on `test` requests, (n, m).

    With `drawn` (training requests,), how often each was drawn, all are fitted again so; the router as it was selected and
    calibrated. What cannot be trained is left out.
    """
    learned = run.learned
    data, pair = learned.data, learned.acceptable
    if drawn is not None:
        data = replace(data, weights=data.weights * drawn[:, None])
        tagged_head, untagged_head = (
            _refitted(h, data, tagged=on) for h, on in ((pair.tagged, True), (pair.untagged, False))
        )
        pair = replace(pair, tagged=tagged_head, untagged=untagged_head)
    train = data.inputs if tagged else data.inputs.untagged()
    models = fitted(data, train, params, BASELINES) | additive_tables(data, train)
    return {"router": pair.predict(test)} | {name: model.predict(test) for name, model in models.items()}


def additive_tables(data: TrainingData, train: Inputs) -> dict[str, AdditiveTable]:
    """The additive logit tables by name, fitted on the training part."""
    made = {f"additive-logit-{strength:g}": AdditiveTable(strength) for strength in ADDITIVE_STRENGTHS}
    return {name: model.fit(train, data.labels, data.weights) for name, model in made.items()}


def _refitted(head: Head, data: TrainingData, *, tagged: bool) -> Head:
    inputs = data.inputs if tagged else data.inputs.untagged()
    return replace(head, estimator=deepcopy(head.estimator).fit(inputs, data.labels, data.weights))


def calibration(data: DataSet, run: Trial, prepared: Prepared) -> dict[str, float]:
    """ECE, Brier and AURC on every judged outcome of the test part, before and after calibration.

    `ece_chosen` is on the outcomes of what is chosen at the knob in the middle of the sweep.
    """
    rows = prepared.split.test
    inputs, labels = data.inputs.take(rows), data.prepared.labels[rows]
    after = run.learned.acceptable.predict(inputs)
    chosen = choose(after, run.learned.costs.cost_usd(inputs), float(np.median(run.knobs[1:-1])))
    figures = calibration_figures(run.learned.acceptable.raw(inputs), after, labels, chosen)
    if figures is None:
        raise ValueError(f"{data.name}: no outcome of the test part was judged")
    seen = np.isfinite(labels)
    named = ("ece_before", "ece", "ece_chosen", "brier_before", "brier")
    return {
        "outcomes": float(figures.outcomes),
        **{name: getattr(figures, name) for name in named},
        "aurc": metrics.aurc(after[seen], labels[seen]),
    }


def confidence(data: DataSet, run: Trial) -> Confidence:
    """How the router uses what it knows, at the knob in the middle of the sweep."""
    knob = float(np.median(run.knobs[1:-1]))
    estimate = run.learned.acceptable.predict(data.inputs.take(run.test))
    columns = choose(estimate, run.expected_cost, knob)
    return confidence_figures(estimate, run, columns, run.learned.reference, knob)
