"""A candidate without a history: what its column is worth that was fitted on a few answers, against learning all anew.

Each of four candidates is left out in turn, the router is learned on the others, and the candidate is added with so many
probes of the calibration part. The test part is for measuring alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from benchmarks.routing.protocol import DataSet
from serving.bundle.arrays import Bools, Columns, Floats
from serving.decide.value import choose, knob_for
from training.config import Params
from training.evaluate.splits import by_prompt
from training.extend.amounts import Amount, shrunk_factor
from training.extend.column import Column, fit_column, prior
from training.extend.probes import choose_probes
from training.extend.structure import Structure, structure_of
from training.learn.estimators.base import sigmoid
from training.learn.learn import learn
from training.learn.prepare import Prepared
from training.measure.frontier import Singles, bootstrap_weights, frontier, knob_grid, singles

# By mean acceptability on the training part of seed 0, which is none of the reported ones: the best, the third, the median; and
# the one with the lowest price.
HELD_OUT = (
    "gpt-4-1106-preview",
    "mistralai/mixtral-8x7b-chat",
    "claude-instant-v1",
    "mistralai/mistral-7b-chat",
)
PROBES = (50, 100, 200)
DRAWS = 3
RESAMPLES = 500
# Where between the cheapest and the best of a sweep a caller stands whose value is measured (`Policy.cost_quality`).
PLACE = 7.0
TRAIN, TEST = 0.5, 0.3


@dataclass(frozen=True)
class Arm:
    """What one router expects of the test requests: chances and costs (n, m), of the candidates `columns` of all."""

    acceptable: Floats
    cost_usd: Floats
    columns: Columns


@dataclass(frozen=True)
class Test:
    """The complete test requests, with outcomes of all candidates (n, m), and the sweep that every router is measured by."""

    labels: Floats
    cost_usd: Floats
    knobs: Floats
    weights: Floats

    def aiq(self, arm: Arm) -> Floats:
        """(1 + resamples,) its AIQ, between the costs of all candidates whoever is in its choice, then its resamples."""
        points = frontier(
            arm.acceptable, arm.cost_usd, self.labels[:, arm.columns], self.cost_usd[:, arm.columns], self.knobs
        )
        draws = zip(
            self.weights @ points.request_cost,
            self.weights @ points.request_quality,
            self.weights @ self.cost_usd,
            self.weights @ self.labels,
            strict=True,
        )
        whole = singles(self.labels, self.cost_usd).aiq(points.cost, points.quality)
        return np.array([whole, *(Singles(own, good).aiq(c, q) for c, q, own, good in draws)])

    def value(self, arm: Arm) -> Floats:
        """(1 + resamples,) quality less the knob times cost, at the place of the sweep that is asked for; then resamples."""
        knob = knob_for(PLACE, self.knobs.tolist())
        chosen = arm.columns[choose(arm.acceptable, arm.cost_usd, knob)]
        rows = np.arange(len(chosen))
        worth = self.labels[rows, chosen] - knob * self.cost_usd[rows, chosen]
        return np.append(worth.mean(), self.weights @ worth)


def without(prepared: Prepared, column: int) -> Prepared:
    """The same log as if nobody had ever tried one candidate."""
    matrix = prepared.matrix
    shape = prepared.labels.shape
    kept = np.delete(np.arange(shape[1]), column)
    cells = {
        one.name: getattr(matrix, one.name)[:, kept]
        for one in fields(matrix)
        if one.name != "candidates" and getattr(matrix, one.name).shape == shape
    }
    names = tuple(matrix.candidates[other] for other in kept)
    return replace(
        prepared,
        matrix=replace(matrix, candidates=names, **cells),
        labels=prepared.labels[:, kept],
        candidates=tuple(prepared.candidates[other] for other in kept),
    )


def new_candidate(
    data: DataSet, params: Params, seed: int, held_out: Sequence[str] = HELD_OUT, probes: Sequence[int] = PROBES
) -> dict[str, dict[str, Any]]:
    """AIQ and value of leaving a candidate out, of adding it with so many probes, and of learning all anew, with resamples.

    Candidate -> figure -> `out`, `full` and each number of probes, of which it is the mean over `DRAWS` draws.
    """
    prepared = by_prompt(data.prepared, seed, train=TRAIN, test=TEST)
    rows = prepared.split.test & prepared.matrix.complete()
    whole = learn(prepared, data.inputs, params)
    asked = data.inputs.take(rows)
    everyone = np.arange(len(prepared.matrix.candidates))
    full = Arm(whole.acceptable.predict(asked), whole.costs.cost_usd(asked), everyone)
    test = Test(
        prepared.labels[rows],
        prepared.matrix.cost_usd[rows],
        knob_grid(full.cost_usd, params.policy.knob_steps),
        # One seed for all: resamples of the seeds of the benchmark go up and down together.
        bootstrap_weights(data.prepared.groups, RESAMPLES, 0)[:, rows],
    )
    test = replace(test, weights=test.weights / test.weights.sum(axis=1, keepdims=True))
    found = {}
    for name in held_out:
        column = prepared.matrix.candidates.index(name)
        known = np.delete(everyone, column)
        learned = learn(without(prepared, column), data.inputs, params)
        acceptable, cost = learned.acceptable.predict(data.inputs), learned.costs.cost_usd(data.inputs)
        arms = {"out": [Arm(acceptable[rows], cost[rows], known)], "full": [full]}
        for count in probes:
            arms[f"{count}"] = [
                _added(data, prepared, acceptable, cost, column, count, DRAWS * seed + draw, rows)
                for draw in range(DRAWS)
            ]
        found[name] = {
            figure: {key: np.mean([measure(arm) for arm in several], axis=0) for key, several in arms.items()}
            for figure, measure in (("aiq", test.aiq), ("value", test.value))
        }
    return found


def _added(
    data: DataSet,
    prepared: Prepared,
    acceptable: Floats,
    cost: Floats,
    column: int,
    count: int,
    draw: int,
    rows: Bools,
) -> Arm:
    """The router with the candidate added by probes of the calibration part; chances and costs (n, m - 1) are of all."""
    tags = data.inputs.workflows.astype(np.float64)
    pool = np.flatnonzero(prepared.split.calibration & np.isfinite(prepared.labels[:, column]))
    everywhere = Amount(tuple(range(cost.shape[1])), 1.0)
    usual = everywhere.predict(cost)
    # Before any answer a candidate is known by its price list: here, by what its calls cost on the training part.
    spent = prepared.matrix.cost_usd[:, column]
    price = float(usual.mean() * np.nanmean(spent[prepared.split.train]) / usual[prepared.split.train].mean())
    structure: Structure = structure_of(acceptable, cost.mean(axis=0), price)
    features = np.column_stack([structure.features(acceptable[pool]), tags[pool]])
    mean, variance = prior(structure, tags.shape[1])
    drawn = choose_probes(
        features,
        variance,
        sigmoid(features @ mean),
        prepared.matrix.workflow[pool],
        usual[pool],
        count=count,
        least=1,
        budget_usd=np.inf,
        seed=draw,
    )
    probes = pool[drawn.rows]
    fitted: Column = fit_column(structure, acceptable[probes], tags[probes], prepared.labels[probes, column])
    between = float(np.log(cost).mean(axis=0).var())
    factor = shrunk_factor(spent[probes], usual[probes], between)
    return Arm(
        np.insert(acceptable[rows], column, fitted.predict(acceptable[rows], tags[rows]), axis=1),
        np.insert(cost[rows], column, usual[rows] * factor, axis=1),
        np.arange(prepared.labels.shape[1]),
    )


def shares(runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The means over seeds, and what share of learning anew's gain the probes gain, each with its 95% interval.

    Figure -> candidate -> `out`, `full`, and for each number of probes its `gain` over leaving it out with `low` and `high`;
    and `all`, the `share` of the candidates' summed gains. Resamples are of test requests and of seeds.
    """
    result: dict[str, Any] = {}
    resamples = len(next(iter(runs[0].values()))["aiq"]["out"]) - 1
    drawn = np.random.default_rng(0).integers(len(runs), size=(resamples, len(runs)))
    for figure in ("aiq", "value"):
        names = list(runs[0])

        def over_seeds(name: str, key: str, figure: str = figure) -> Floats:
            """(1 + resamples,) the mean over seeds, then of resampled seeds each with its own resample."""
            each = np.array([run[name][figure][key] for run in runs])
            again = each[drawn, np.arange(1, resamples + 1)[:, None]].mean(axis=1)
            return np.append(each[:, 0].mean(), again)

        keys = [key for key in runs[0][names[0]][figure] if key not in ("out", "full")]
        table: dict[str, Any] = {}
        total = {key: np.zeros(resamples + 1) for key in ("full", *keys)}
        for name in names:
            out = over_seeds(name, "out")
            table[name] = {"out": float(out[0]), "full": float(over_seeds(name, "full")[0])}
            for key in ("full", *keys):
                gain = over_seeds(name, key) - out
                total[key] += gain
                if key != "full":
                    table[name][key] = _with_interval(gain, "gain")
        result[figure] = table | {"all": {key: _with_interval(total[key] / total["full"], "share") for key in keys}}
    return result


def _with_interval(values: Floats, name: str) -> dict[str, float]:
    low, high = np.quantile(values[1:], [0.025, 0.975]).tolist()
    return {name: float(values[0]), "low": low, "high": high}
