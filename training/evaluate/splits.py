"""Three ways to part one log: at random by prompt, by time, and with whole workflows left out.

A random split lets a router learn a data set's identity: the workflow of a test request was always in training. What it
is worth on later traffic, and on workflows that nobody showed it, are other questions, asked here of the same log.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from serving.bundle.arrays import Bools, Floats
from serving.bundle.manifest import Objective
from training.config import ConfigError, Params
from training.dataset.inputs import Inputs
from training.dataset.matrix import OutcomeMatrix, standing_of, workflow_names
from training.dataset.split import Split, SplitError, split_requests
from training.engine.engine import Engine, Progress, silent
from training.engine.local import HERE
from training.errors import TrainingError
from training.evaluate.evaluation import SplitLine
from training.evaluate.sweep import CompleteOutcomes
from training.learn.costs import cost_sources
from training.learn.estimators.base import Factory, NotTrainableError
from training.learn.estimators.registry import factories
from training.learn.estimators.tables import WorkflowTable
from training.learn.prepare import Prepared
from training.learn.training_data import cell_weights, cost_model, decay_of, part_propensity
from training.measure.frontier import Frontier, Resamples, Singles, bootstrap_aiq, frontier, knob_grid, singles
from training.measure.metrics import known_mean

RANDOM, TIME, WORKFLOWS = "random by prompt", "by time", "workflows left out"
# Each workflow is left out once, with others, in one of so many parts; each part is a training of its own.
PARTS = 4
STAGE = "evaluate by other splits"


@dataclass(frozen=True, kw_only=True)
class Tested(CompleteOutcomes):
    """Complete outcomes of n test requests, and what they were expected to cost, (n, m)."""

    knobs: Floats
    expected_cost: Floats

    @property
    def alone(self) -> Singles:
        return singles(self.quality, self.cost_usd, self.standing)

    def points(self, estimate: Floats) -> Frontier:
        return frontier(estimate, self.expected_cost, self.quality, self.cost_usd, self.knobs, self.standing)

    def aiq(self, estimate: Floats) -> float:
        points = self.points(estimate)
        return self.alone.aiq(points.cost, points.quality)

    def resampled(self, estimate: Floats, weights: Floats | Resamples) -> Floats:
        """(resamples,) AIQ with each row of `weights` (resamples, n)."""
        return bootstrap_aiq(self.points(estimate), self.quality, self.cost_usd, weights)


def redraw(prepared: Prepared, train: Bools, test: Bools) -> Prepared:
    """The same log with other parts; what is in neither part is the calibration part."""
    nothing = np.zeros(len(train), dtype=np.bool_)
    split = Split(train=train, calibration=~train & ~test, test=test, dropped=nothing, method="random", note="")
    return replace(prepared, split=split)


def by_prompt(prepared: Prepared, seed: int, train: float = 0.6, test: float = 0.3) -> Prepared:
    """Random parts by prompt: whole groups of requests, about the given shares."""
    labels, member = np.unique(prepared.groups, return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(labels))[member] / len(labels)
    return redraw(prepared, place < train, place >= 1.0 - test)


def by_time(prepared: Prepared, params: Params) -> Prepared:
    """The newest groups are the test part, with the run's shares; raises SplitError where not every request has a time."""
    stamps = prepared.matrix.timestamp
    known = stamps[~np.isnat(stamps)]
    if len(known) == len(stamps) and len(np.unique(known)) < 2:
        raise SplitError(f"a split by time needs different timestamps; all {len(stamps)} requests have the same one")
    shares = params.split.train, params.split.calibration, 1.0 - params.split.train - params.split.calibration
    given = np.full(len(stamps), None, dtype=object)
    split = split_requests(prepared.groups, stamps, given, fractions=shares, method="time", seed=params.split.seed)
    return replace(prepared, split=split)


def without_workflows(prepared: Prepared, seed: int, parts: int) -> list[Prepared]:
    """Each workflow in the test part of exactly one of at most `parts` redraws, and never in that one's training part.

    Requests without a workflow count as one. A conversation or a prompt of a left-out workflow that is in another one too
    is kept out of training.
    """
    workflow = workflow_names(prepared.matrix.workflow)
    names = np.unique(workflow)
    parts = min(parts, len(names))
    place = np.random.default_rng(seed).permutation(len(names)) % parts
    drawn = []
    for part in range(parts):
        left = np.isin(workflow, names[place == part])
        shared = np.isin(prepared.groups, prepared.groups[left])
        drawn.append(redraw(prepared, ~shared, left))
    return drawn


def quick_estimators(params: Params, mean_cost: Floats) -> dict[str, Factory]:
    """Those of `evaluate.split_estimators`, each with its first settings; raises ConfigError.

    Where graded quality is to be maximised, those that estimate it alone.
    """
    names = params.evaluate.split_estimators
    if not names:
        raise ConfigError("evaluate.split_estimators is empty: name an estimator, or set evaluate.splits=false")
    kinds = factories(replace(params.fit, estimators=names), mean_cost)
    if Objective(params.policy.objective) is Objective.ACCEPTABLE:
        return kinds
    return {name: kind for name, kind in kinds.items() if kind().graded}


def split_figures(
    prepared: Prepared, inputs: Inputs, params: Params, engine: Engine = HERE, progress: Progress = silent
) -> tuple[SplitLine, ...]:
    """The router's AIQ by each split, learned again with the quick estimators; a line without figures says why.

    The router is the plain mean of the quick estimators, one model for requests with a workflow that was in training and
    one for the others, as it is served. Raises ConfigError.
    """
    draws: dict[str, list[Prepared] | str] = {
        RANDOM: [by_prompt(prepared, params.split.seed, params.split.train, _test_share(params))],
        TIME: _or_reason(prepared, params),
        WORKFLOWS: _each_left_out(prepared, params),
    }
    lines = {name: _line(name, drawn, params) for name, drawn in draws.items()}
    parts = {
        name: [part for part in draws[name] if not isinstance(part, str) and _testable(part).any()]
        for name, line in lines.items()
        if line.why_not is None
    }
    every = [_without_texts(part) for drawn in parts.values() for part in drawn]
    of = [name for name, drawn in parts.items() for _ in drawn]
    relearned: dict[str, list[_Relearned]] = {name: [] for name in parts}
    found = engine.map(
        _relearned_or_not, (every, inputs, params), range(len(every)), STAGE, progress, name=of.__getitem__
    )
    for name, one in zip(of, found, strict=True):
        if isinstance(one, TrainingError):
            lines[name] = replace(lines[name], why_not=lines[name].why_not or str(one))
        else:
            relearned[name].append(one)
    return tuple(
        line if line.why_not is not None else _measured(line, relearned[name], params) for name, line in lines.items()
    )


def _line(name: str, drawn: Sequence[Prepared] | str, params: Params) -> SplitLine:
    """The line of a split without figures yet, with why there will be none."""
    line = SplitLine(name, params.evaluate.split_estimators)
    if isinstance(drawn, str):
        return replace(line, why_not=drawn)
    line = replace(line, requests=_complete(drawn), parts=len(drawn))
    return line if _enough(drawn, params) else replace(line, why_not=_too_few(line.requests, params))


def _without_texts(part: Prepared) -> Prepared:
    """What is learned from, without what is heavy to send and is not looked at."""
    nothing = np.full(len(part.labels), None, dtype=object)
    return replace(part, matrix=replace(part.matrix, requests=nothing, texts=nothing), volume=None)


def _relearned_or_not(
    given: tuple[Sequence[Prepared], Inputs, Params], place: int
) -> _Relearned | NotTrainableError | SplitError:
    parts, inputs, params = given
    try:
        return _relearned(parts[place], inputs, params)
    except (NotTrainableError, SplitError) as error:
        return error


@dataclass(frozen=True, kw_only=True)
class _Relearned(CompleteOutcomes):
    """What was learned for one part's n complete test requests: estimates and expected cost (n, m), and the outcomes; `weight`
    (n,) as of `OutcomeMatrix`."""

    weight: Floats
    router: Floats
    table: Floats
    expected_cost: Floats


def _relearned(part: Prepared, inputs: Inputs, params: Params) -> _Relearned:
    """Fits the quick estimators, the workflow table and costs on the training part; raises NotTrainableError, SplitError."""
    rows, tested = part.split.train, _testable(part)
    value = part.value(Objective(params.policy.objective))
    matrix, train, test = part.matrix.take(rows), inputs.take(rows), inputs.take(tested)
    target = value[rows]
    unjudged = np.array(matrix.candidates)[~np.isfinite(target).any(axis=0)]
    if len(unjudged):
        raise NotTrainableError(
            f"no training request of this split has a judged outcome of {', '.join(unjudged)}; "
            "figures need one of every candidate"
        )
    propensity, _ = part_propensity(part, inputs, rows, params)
    decay = decay_of(matrix, params.fit.half_life_days)
    weights = cell_weights(matrix, part.labels[rows], propensity, params.fit.weight_clip, decay)
    kinds = quick_estimators(params, known_mean(matrix.cost_usd, matrix.standing))
    table: dict[str, Factory] = {WorkflowTable.name: lambda: WorkflowTable(params.fit.table_strength[0])}
    everything = np.ones(len(train), dtype=np.bool_)
    costs = cost_model(part, _costs_alone(part, matrix), train, everything, params)
    return _Relearned(
        router=_estimate(kinds, train, target, weights, test),
        table=_estimate(table, train, target, weights, test),
        expected_cost=costs.cost_usd(test),
        quality=value[tested],
        cost_usd=part.matrix.cost_usd[tested],
        groups=part.groups[tested],
        workflow=part.matrix.workflow[tested],
        weight=part.matrix.weight[tested],
    )


def _estimate(kinds: Mapping[str, Factory], train: Inputs, target: Floats, weights: Floats, test: Inputs) -> Floats:
    """(n, m) mean over estimators; requests of a workflow that training lacks by models that were fitted without tags."""
    tagged = np.asarray(test.workflows[:, train.workflows.any(axis=0)].any(axis=1))
    estimate = np.empty((len(test), target.shape[1]))
    for rows, seen, asked in ((tagged, train, test), (~tagged, train.untagged(), test.untagged())):
        if not rows.any():
            continue
        found, reasons = [], []
        for name, kind in kinds.items():
            try:
                found.append(kind().fit(seen, target, weights).predict(asked.take(rows)))
            except NotTrainableError as error:
                reasons.append(f"{name}: {error}")
        if not found:
            raise NotTrainableError("no quick estimator could be trained: " + "; ".join(reasons))
        estimate[rows] = np.mean(found, axis=0)
    return estimate


def _costs_alone(prepared: Prepared, matrix: OutcomeMatrix) -> OutcomeMatrix:
    """Without what an expected cost does not rest on, so that nothing is fitted to it."""
    sources = cost_sources(matrix, {c.name: c for c in prepared.candidates})
    by_tokens = np.array([sources[name] == "tokens" for name in matrix.candidates])
    return replace(
        matrix,
        latency_ms=np.full(matrix.latency_ms.shape, np.nan),
        cost_usd=np.where(by_tokens, np.nan, matrix.cost_usd),
        input_tokens=np.where(by_tokens, matrix.input_tokens, np.nan),
        output_tokens=np.where(by_tokens, matrix.output_tokens, np.nan),
    )


def _measured(line: SplitLine, parts: Sequence[_Relearned], params: Params) -> SplitLine:
    """The figures over all parts together, and the paired interval of the router minus the table."""
    expected = np.concatenate([part.expected_cost for part in parts])
    tested = Tested(
        quality=np.concatenate([part.quality for part in parts]),
        cost_usd=np.concatenate([part.cost_usd for part in parts]),
        groups=np.concatenate([part.groups for part in parts]),
        workflow=np.concatenate([part.workflow for part in parts]),
        standing=standing_of(np.concatenate([part.weight for part in parts])),
        knobs=knob_grid(expected, params.policy.knob_steps),
        expected_cost=expected,
    )
    router = np.concatenate([part.router for part in parts])
    table = np.concatenate([part.table for part in parts])
    seed, resamples = params.evaluate.seed, params.evaluate.resamples
    weights = Resamples.draw(tested.groups, resamples, seed, tested.workflow, tested.standing)
    lead = tested.resampled(router, weights) - tested.resampled(table, weights)
    low, high = np.quantile(lead, [0.025, 0.975])
    return replace(
        line,
        workflows=len(set(tested.workflow.tolist()) - {None}),
        aiq=tested.aiq(router),
        workflow_table=tested.aiq(table),
        zero_router=tested.alone.zero_router,
        lead=(float(low), float(high)),
    )


def _or_reason(prepared: Prepared, params: Params) -> list[Prepared] | str:
    try:
        return [by_time(prepared, params)]
    except SplitError as error:
        return str(error)


def _each_left_out(prepared: Prepared, params: Params) -> list[Prepared] | str:
    named = {name for name in prepared.matrix.workflow if name is not None}
    if len(named) < 2:
        return f"the log names {len(named) or 'no'} workflow; leaving one out takes at least 2"
    return without_workflows(prepared, params.split.seed, PARTS)


def _test_share(params: Params) -> float:
    return 1.0 - params.split.train - params.split.calibration


def _testable(part: Prepared) -> Bools:
    return np.asarray(part.split.test & part.matrix.complete())


def _complete(drawn: Sequence[Prepared]) -> int:
    return sum(int(_testable(part).sum()) for part in drawn)


def _enough(drawn: Sequence[Prepared], params: Params) -> bool:
    return _complete(drawn) >= params.policy.minimum_requests


def _too_few(found: int, params: Params) -> str:
    return (
        f"{found} test requests have a judged, costed outcome of every candidate; "
        f"{params.policy.minimum_requests} are needed"
    )
