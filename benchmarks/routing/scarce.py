"""Learning from little: few requests, one outcome of each, grades, and workflows that training never saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.routing.protocol import DataSet, Trial, additive_tables, estimates_of, trial
from serving.bundle.arrays import Floats
from serving.decide.value import choose
from training.config import Params
from training.evaluate.baselines import fitted
from training.evaluate.splits import by_prompt, redraw, without_workflows
from training.learn.estimators.linear import Ridge
from training.learn.estimators.neighbours import NearestNeighbours
from training.learn.estimators.tables import WorkflowTable
from training.learn.learn import learn
from training.learn.prepare import Prepared
from training.measure import metrics
from training.measure.frontier import Singles, singles
from training.measure.offpolicy import doubly_robust, mask_to_one
from training.simulation.simulate import SimulatedLog

REPEATS = 60
MASKINGS = 4
SIZES = (150, 300, 600, 1_200)
PER_CANDIDATE = (500, 2_000, 10_000)
PLAIN = (WorkflowTable.name, NearestNeighbours.name, Ridge.name)


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
        error=matrix.error & ~hidden,
        propensity=np.where(prepared.split.train[:, None], propensity, 1.0),
    )
    hidden_log = replace(prepared, matrix=partial, labels=hide(data.prepared.labels))
    return replace(data, prepared=hidden_log)


def learning_curve(
    data: DataSet, params: Params, seed: int, sizes: Sequence[int] = SIZES
) -> dict[str, dict[str, float]]:
    """AIQ by the number of logged requests: size -> router and baselines that learned from the same ones.

    All are tested on the same requests; a size that the training part does not reach is left out.
    """
    whole = by_prompt(data.prepared, seed)
    order = np.random.default_rng(seed).permutation(int(whole.groups.max()) + 1)[whole.groups]
    order = np.where(whole.split.train, order, np.iinfo(np.intp).max)
    ranked = np.argsort(order, kind="stable")
    found = {}
    for size in sizes:
        if whole.split.train.sum() < size:
            continue
        train = np.zeros(len(order), dtype=np.bool_)
        train[ranked[:size]] = True
        run = trial(data, redraw(whole, train, whole.split.test), params)
        found[f"{size}"] = aiq_of_all(data, run, params)
    return found


def aiq_of_all(data: DataSet, run: Trial, params: Params) -> dict[str, float]:
    """AIQ of the router and of the baselines, with workflow tags, of the zero router and of the oracle."""
    estimates = estimates_of(run, data.inputs.take(run.test), params, tagged=True)
    values = {name: run.aiq(estimate) for name, estimate in estimates.items()}
    return values | {"zero router": run.alone.zero_router, "oracle": run.oracle}


def one_outcome(
    data: DataSet, prepared: Prepared, full: Trial, params: Params, seed: int, repeats: int
) -> dict[str, float]:
    """Learning from one outcome per prompt against learning from all, and how often DR's interval holds the truth.

    Headroom with and without workflow tags, that of the additive logit tables on the same rows too.
    """
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
    untagged = test.untagged()
    tables = additive_tables(learned.data, learned.data.inputs)
    return {
        "headroom_full": full.headroom(full.learned.acceptable.predict(test)),
        "headroom_one": run.headroom(estimate),
        "headroom_full_untagged": full.headroom(full.learned.acceptable.predict(untagged)),
        "headroom_one_untagged": run.headroom(learned.acceptable.predict(untagged)),
        **{f"headroom_one_{name}": run.headroom(table.predict(test)) for name, table in tables.items()},
        "dr_coverage": float(np.mean(covered)) if covered else float("nan"),
        "value": truth,
    }


def with_true_outcomes(data: DataSet, log: SimulatedLog, seed: int) -> DataSet:
    """A simulated log as if each request had been tried on every candidate: outcomes drawn from the truth, mean costs."""
    matrix = data.prepared.matrix
    chance, cost = (
        frame.loc[list(matrix.request_id), list(matrix.candidates)].to_numpy(dtype=np.float64)
        for frame in (log.acceptable, log.cost_usd)
    )
    quality = (np.random.default_rng(seed).random(chance.shape) < chance).astype(np.float64)
    everything, nothing = np.ones(chance.shape), np.zeros(chance.shape, dtype=np.bool_)
    complete = replace(
        matrix,
        quality=quality,
        cost_usd=cost,
        attempted=~nothing,
        error=nothing,
        chained=nothing,
        propensity=everything,
    )
    return replace(data, prepared=replace(data.prepared, matrix=complete, labels=quality))


def outcomes_per_candidate(
    data: DataSet, params: Params, seed: int, counts: Sequence[int] = PER_CANDIDATE
) -> dict[str, dict[str, float]]:
    """AIQ with so many outcomes of each candidate on average, one of each request: count -> router and baselines."""
    whole = by_prompt(data.prepared, seed, train=0.9, test=0.1)
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(whole.split.train))
    found = {}
    for count in counts:
        if len(rows) < count * len(data.prepared.matrix.candidates):
            continue
        train = np.zeros(len(whole.groups), dtype=np.bool_)
        train[rows[: count * len(data.prepared.matrix.candidates)]] = True
        part = redraw(whole, train, whole.split.test)
        partial = masked(data, part, seed)
        run = trial(partial, partial.prepared, params)
        found[f"{count}"] = aiq_of_all(partial, run, params)
    return found


def graded(data: DataSet, params: Params, seed: int) -> dict[str, float]:
    """AIQ of expected quality on a graded log: the router's, and of baselines that learned the grades of the same rows."""
    prepared = by_prompt(data.prepared, seed)
    run = trial(data, prepared, params)
    quality = run.learned.quality
    if quality is None:
        raise ValueError(f"{data.name} is not graded")
    matrix, test = data.prepared.matrix, data.inputs.take(run.test)
    run = replace(run, quality=matrix.quality[run.test])
    grades = replace(run.learned.data, labels=matrix.quality[run.train])
    models = fitted(grades, grades.inputs, params, PLAIN)
    return {
        "router": run.aiq(quality.predict(test)),
        **{name: run.aiq(model.predict(test)) for name, model in models.items()},
        "zero router": run.alone.zero_router,
        "oracle": run.oracle,
    }


def unseen_workflows(data: DataSet, params: Params, seed: int, parts: int) -> dict[str, float]:
    """Leave-workflows-out: the mean AIQ on workflows that training never saw, of the router and of both zero routers.

    `zero router` is chosen in hindsight, on the new workflows themselves; `zero router, training` on the others.
    """
    values: list[tuple[float, ...]] = []
    for prepared in without_workflows(data.prepared, seed, parts):
        run = trial(data, prepared, params)
        if run.test.sum() < params.policy.minimum_requests:
            continue
        estimate = run.learned.acceptable.predict(data.inputs.take(run.test).untagged())
        known = prepared.split.train & data.prepared.matrix.complete()
        alone = singles(data.prepared.labels[known], data.prepared.matrix.cost_usd[known])
        values.append((run.aiq(estimate), run.alone.zero_router, chosen_before(alone, run.alone), run.oracle))
    names = ("router", "zero router", "zero router, training", "oracle")
    means = dict(zip(names, np.mean(values, axis=0).tolist(), strict=True))
    return means | {"parts": float(len(values))}


def chosen_before(training: Singles, test: Singles) -> float:
    """AIQ on the test requests of the mixtures of single candidates that were best on the training requests.

    Between its points lie mixtures of neighbours, whether or not that was wise: nothing is chosen on the test requests.
    """
    hull = set(zip(*metrics.non_decreasing_hull(training.cost, training.quality), strict=True))
    kept = np.flatnonzero([pair in hull for pair in zip(training.cost, training.quality, strict=True)])
    order = kept[np.argsort(test.cost[kept], kind="stable")]
    low, high = float(test.cost[test.cheapest]), float(test.cost[test.best])
    if high <= low:
        return float(np.interp(low, test.cost[order], test.quality[order]))
    inside = test.cost[order][(test.cost[order] > low) & (test.cost[order] < high)]
    knots = np.concatenate([[low], inside, [high]])
    heights = np.interp(knots, test.cost[order], test.quality[order])
    return float(np.trapezoid(heights, knots) / (high - low))
