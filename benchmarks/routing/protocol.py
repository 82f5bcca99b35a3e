"""`make benchmark`: five seeds on public outcome data and on the simulated log, written to docs/benchmarks.md.

Every figure in it is computed here; the README quotes them from docs/benchmarks.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from serving.bundle.arrays import Bools, Floats
from serving.bundle.catalogue import Candidate
from serving.decide.value import Setting, choose
from training.certify.evidence import CalibrationData
from training.certify.operating import operating_points, violations
from training.config import Params
from training.dataset.inputs import Inputs
from training.evaluate.baselines import fitted
from training.evaluate.confidence import calibration_figures, confidence_figures
from training.evaluate.evaluation import Confidence
from training.evaluate.splits import Tested, without_workflows
from training.learn.encode import encode
from training.learn.learn import Learned, learn
from training.learn.prepare import Prepared, prepare
from training.logs.sources.reading import read
from training.measure import metrics
from training.measure.bounds import clopper_pearson_upper
from training.measure.frontier import Singles, bootstrap_weights, frontier, knob_grid
from training.measure.offpolicy import doubly_robust, mask_to_one

# Everything that was tuned was tuned on seeds below this one.
FIRST_SEED = 10
SEEDS = 5
RESPLITS = 100
REPEATS = 50
BASELINES = ("workflow-table", "knn", "k-means-table", "ridge", "direct-classifier")
# What the two encoders, and routers that meet an unknown workflow, are compared with: quick to fit many times over.
LIGHT = ("workflow-table", "k-means-table", "table+low-rank", "hierarchical-ridge", "logistic", "knn")


@dataclass(frozen=True)
class DataSet:
    """A prepared log with its inputs; `simulated` marks invented outcomes."""

    name: str
    prepared: Prepared
    inputs: Inputs
    simulated: bool


@dataclass(frozen=True)
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

    `weights` (resamples, test requests) are `resampling`.
    """
    train, test = run.learned.data.inputs, data.inputs.take(run.test)
    if not tagged:
        train, test = train.untagged(), test.untagged()
    baselines = fitted(run.learned.data, train, params, BASELINES)
    estimates = {"router": run.learned.acceptable.predict(test)}
    estimates |= {name: model.predict(test) for name, model in baselines.items()}
    values = {
        name: np.append(run.aiq(estimate), run.resampled(estimate, weights)) for name, estimate in estimates.items()
    }
    resampled = [Singles(w @ run.cost_usd, w @ run.quality) for w in weights]
    alone = [run.alone, *resampled]
    values["zero router"] = np.array([one.zero_router for one in alone])
    values["best single"] = np.array([one.aiq(one.cost[[one.best]], one.quality[[one.best]]) for one in alone])
    values["oracle"] = np.full(len(alone), run.oracle)
    return values


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


def certificates(
    data: DataSet, run: Trial, params: Params, seed: int, resplits: int, target: float
) -> list[dict[str, float]]:
    """Re-splits of what training never saw into a calibration and an untouched half, each certified and then checked."""
    matrix = data.prepared.matrix
    held = np.flatnonzero(~run.train & matrix.complete())
    estimate = run.learned.acceptable.predict(data.inputs.take(held))
    expected = run.learned.costs.cost_usd(data.inputs.take(held))
    labels, cost = data.prepared.labels[held], matrix.cost_usd[held]
    groups = data.prepared.groups[held]
    names, member = np.unique(groups, return_inverse=True)
    knobs = knob_grid(run.learned.data.expected_cost, params.policy.certificate_knobs)
    reference = run.learned.reference
    found = []
    for repeat in range(resplits):
        half = np.random.default_rng([seed, repeat]).permutation(len(names))[member] < len(names) / 2
        certified = operating_points(
            CalibrationData(
                acceptable=estimate[half],
                expected_cost=expected[half],
                labels=labels[half],
                cost=cost[half],
                propensity=np.ones(labels[half].shape),
                complete=np.ones(int(half.sum()), dtype=np.bool_),
                groups=groups[half],
                workflow=matrix.workflow[held][half],
            ),
            knobs,
            [target],
            reference,
            matrix.candidates,
            delta=params.policy.delta,
            minimum=params.policy.minimum_requests,
            seed=seed,
        )[0]
        rest = ~half
        always = reference if certified.always is not None else None
        columns = Setting(certified.knob, guard=reference, always=always).choose(estimate[rest], expected[rest])
        spent = cost[rest][np.arange(int(rest.sum())), columns]
        broken = violations(labels[rest], columns, reference)
        found.append(
            {
                "certified": float(certified.certificate is not None),
                "violation_rate": float(broken.mean()),
                "lower": 1.0 - clopper_pearson_upper(len(broken) - int(broken.sum()), len(broken), params.policy.delta),
                "saving": 1.0 - float(spent.mean() / cost[rest, reference].mean()),
                "requests": float(len(broken)),
            }
        )
    return found


def masked(data: DataSet, prepared: Prepared, seed: int) -> DataSet:
    """The same log as if each training request had been tried on one candidate, drawn uniformly."""
    matrix = data.prepared.matrix
    m = len(matrix.candidates)
    uniform = np.full(matrix.quality.shape, 1.0 / m)
    complete = np.where(np.isfinite(matrix.quality), matrix.quality, 0.0)
    kept, propensity = mask_to_one(complete, uniform, seed)
    hidden = ~np.isfinite(kept) & prepared.split.train[:, None]

    def hide(values: Floats) -> Floats:
        return np.where(hidden, np.nan, values)

    partial = replace(
        matrix,
        quality=hide(matrix.quality),
        cost_usd=hide(matrix.cost_usd),
        input_tokens=hide(matrix.input_tokens),
        output_tokens=hide(matrix.output_tokens),
        latency_ms=hide(matrix.latency_ms),
        attempted=matrix.attempted & ~hidden,
        propensity=np.where(prepared.split.train[:, None], propensity, 1.0),
    )
    hidden_log = replace(prepared, matrix=partial, labels=hide(data.prepared.labels))
    return replace(data, prepared=hidden_log)


def one_outcome(
    data: DataSet, prepared: Prepared, full: Trial, params: Params, seed: int, repeats: int
) -> dict[str, float]:
    """Learning from one outcome per prompt against learning from all, and how often DR's interval holds the truth."""
    partial = masked(data, prepared, seed)
    learned = learn(partial.prepared, partial.inputs, params)
    test = data.inputs.take(full.test)
    run = replace(full, learned=learned, expected_cost=learned.costs.cost_usd(test))
    estimate = learned.acceptable.predict(test)
    columns = choose(estimate, run.expected_cost, float(np.median(run.knobs[1:-1])))
    truth = float(run.quality[np.arange(len(columns)), columns].mean())
    uniform = np.full(run.quality.shape, 1.0 / run.quality.shape[1])
    covered = []
    for repeat in range(repeats):
        kept, propensity = mask_to_one(run.quality, uniform, 1000 * seed + repeat)
        value = doubly_robust(kept, propensity, columns, estimate)
        covered.append(value.low <= truth <= value.high)
    return {
        "headroom_full": full.headroom(full.learned.acceptable.predict(test)),
        "headroom_one": run.headroom(estimate),
        "dr_coverage": float(np.mean(covered)),
        "value": truth,
    }


def unseen_workflows(data: DataSet, params: Params, seed: int, parts: int) -> dict[str, float]:
    """Leave-workflows-out: the mean AIQ on workflows that training never saw, of the router and of the zero router."""
    values: list[tuple[float, float, float]] = []
    for prepared in without_workflows(data.prepared, seed, parts):
        run = trial(data, prepared, params)
        if run.test.sum() < params.policy.minimum_requests:
            continue
        estimate = run.learned.acceptable.predict(data.inputs.take(run.test).untagged())
        values.append((run.aiq(estimate), run.alone.zero_router, run.oracle))
    router, zero, oracle = np.mean(values, axis=0)
    return {"router": float(router), "zero router": float(zero), "oracle": float(oracle), "parts": float(len(values))}


def confidence(data: DataSet, run: Trial) -> Confidence:
    """How the router uses what it knows, at the knob in the middle of the sweep."""
    knob = float(np.median(run.knobs[1:-1]))
    estimate = run.learned.acceptable.predict(data.inputs.take(run.test))
    columns = choose(estimate, run.expected_cost, knob)
    return confidence_figures(estimate, run, columns, run.learned.reference, knob)
