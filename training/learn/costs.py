"""What an answer will cost and how long it will take: tokens, cost and latency expected of each candidate.

Tokens are predicted and priced when a decision is made, so a changed price needs no new training. Only a candidate
without a price or without logged tokens has its cost predicted from logged costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import Usual
from serving.decide.pricing import Pricing
from training.dataset.inputs import Inputs
from training.dataset.matrix import OutcomeMatrix
from training.engine.engine import Engine
from training.engine.local import ALONE
from training.learn.estimators.design import Design, linear
from training.learn.onnx_graph import Graph
from training.learn.sums import Normal, Sums, add
from training.measure.metrics import as_standing, mean_of, of_cells, quantile

CostFrom = Literal["tokens", "logged"]
_ENOUGH_TOKENS = 20


def cost_sources(matrix: OutcomeMatrix, catalogue: Mapping[str, Candidate]) -> dict[str, CostFrom]:
    """For each candidate whether its expected cost is tokens times price, or predicted from logged costs."""
    tokens = np.isfinite(matrix.input_tokens) & np.isfinite(matrix.output_tokens)
    return {
        name: "tokens"
        if (entry := catalogue.get(name)) is not None and entry.priced and tokens[:, column].sum() >= _ENOUGH_TOKENS
        else "logged"
        for column, name in enumerate(matrix.candidates)
    }


class LogRidge:
    """E[y] of a positive quantity per candidate, by ridge regression of log y with a smearing factor.

    What candidates have in common is learned from all their rows, what sets one apart from its own with a stronger
    penalty, so that a candidate with few rows borrows from the rest. Predictions stay within `stretch` times the range
    that was seen, and never fall with the columns `rising`. Source of the smearing factor: Duan 1983.
    """

    def __init__(self, shared: float, own: float, stretch: float = 1.0, rising: Sequence[int] = ()) -> None:
        self.shared = shared
        self.own = own
        self.stretch = stretch
        self.rising = rising

    def fit(
        self, inputs: Inputs, values: Floats, normal: Normal | None = None, standing: Floats | None = None
    ) -> LogRidge:
        """`values` (n, m) >= 0 with NaN where not observed; `normal` are the sums of their logarithms, where there are any.

        Rows stand for `standing` (n,), None: as many each. The lowest and highest are of the rows themselves.
        """
        observed = np.isfinite(values)
        seen = observed & (values > 0)  # zeros have no logarithm; they count through their share of what was observed
        if normal is None:
            normal = Normal.of(inputs, logarithm(values), _alike(seen, standing))
        self._solve(normal)
        weight = _alike(observed, standing)
        self.known, count = observed.any(axis=0), (weight * seen).sum(axis=0)
        logs = np.where(seen, np.log(np.where(seen, values, 1.0)), 0.0)
        rest = logs - linear(inputs, self.weight, self.bias)
        smear = np.where(seen, np.exp(np.clip(rest, -5, 5)), 0.0) * weight
        self.smear = (smear.sum(axis=0) + 20.0) / (count + 20.0)
        self.smear *= count / np.maximum((weight * observed).sum(axis=0), 1)
        room = np.log(self.stretch)
        # The tail is taken over all candidates: one alone has few of the rare slow answers.
        self.tail = 0.0
        if seen.any():
            counts = of_cells(standing, seen)
            self.tail = float(np.quantile(rest[seen], 0.95)) if counts is None else quantile(rest[seen], 0.95, counts)
        self.low = np.where(count > 0, np.where(seen, logs, np.inf).min(axis=0), 0.0) - room
        self.high = np.where(count > 0, np.where(seen, logs, -np.inf).max(axis=0), 0.0) + room
        return self

    def _solve(self, normal: Normal) -> None:
        """`weight` (dim + k, m) and `bias` (m,), of logarithms that count alike."""
        design = Design.of(normal)
        counts = normal.weight
        mean = np.where(counts > 0, normal.total / np.maximum(counts, 1), normal.total.sum() / max(counts.sum(), 1))
        level = design.sums(np.vstack([normal.gram[:-1, :, 0].T, normal.counts[:-1].T]))  # of the columns, by candidate
        cross = design.sums(np.vstack([normal.cross.T, normal.cross_tagged.T])) - mean * level
        grams = [design.gram(normal, candidate) for candidate in range(len(counts))]
        shared = self._ridge(sum(grams, np.zeros_like(grams[0])), cross.sum(axis=1), self.shared, np.zeros(len(cross)))
        weight = np.repeat(shared[:, None], len(counts), axis=1)
        for candidate in np.flatnonzero(counts > 0):
            shift = -float(level[:, candidate] @ shared) / counts[candidate]
            mean[candidate] += shift
            own = cross[:, candidate] - shift * level[:, candidate]
            weight[:, candidate] = self._ridge(grams[candidate], own, self.own, shared)
        self.weight, self.bias = design.fold(weight, mean)

    def _ridge(self, gram: Floats, cross: Floats, penalty: float, around: Floats) -> Floats:
        """(d,) coefficients, by ridge regression towards `around` (d,), without those rising columns that would fall."""
        rising = np.zeros(len(around), dtype=np.bool_)
        rising[list(self.rising)] = True
        kept = np.ones(len(around), dtype=np.bool_)
        while True:
            found = np.where(kept, around, 0.0)
            left = gram[np.ix_(kept, kept)] + penalty * np.eye(int(kept.sum()))
            found[kept] += np.linalg.solve(left, (cross - gram @ found)[kept])
            falling = rising & kept & (found < 0)
            if not falling.any():
                return found
            kept &= ~falling

    def predict(self, inputs: Inputs) -> Floats:
        """(n, m) expected values; NaN for a candidate of which none was observed."""
        log = np.clip(linear(inputs, self.weight, self.bias), self.low, self.high)
        return np.where(self.known, np.exp(log) * self.smear, np.nan)

    def predict_tail(self, inputs: Inputs) -> Floats:
        """(n, m) 95th percentiles; NaN for a candidate of which none was observed."""
        return np.asarray(self.predict(inputs) * self._tail_factor)

    @property
    def _tail_factor(self) -> Floats:
        """(m,) from the mean to the 95th percentile; a candidate that is always at 0 stays there."""
        return np.asarray(np.exp(self.tail) / np.where(self.smear > 0, self.smear, np.inf))

    @property
    def factors(self) -> tuple[Floats, Floats]:
        """(m,) each: what the exponential is multiplied with for the mean and for the tail, NaN where nothing is known."""
        mean = np.where(self.known, self.smear, np.nan)
        return mean, mean * self._tail_factor


def to_onnx(graph: Graph, parts: Sequence[tuple[LogRidge, Floats]]) -> str:
    """(n, m * parts) what each of the models expects with its factor (m,), side by side."""
    columns = graph.concat(graph.embedding, graph.features)
    log = graph.concat(*(graph.linear(columns, model.weight, model.bias) for model, _ in parts))
    low, high, factor = (
        graph.constant(np.concatenate(values))
        for values in zip(*((model.low, model.high, factor) for model, factor in parts), strict=True)
    )
    return graph.add("Mul", graph.add("Exp", graph.add("Min", graph.add("Max", log, low), high)), factor)


@dataclass(frozen=True)
class CostModel:
    """Expected answers' tokens, logged cost and latency, each (n, m), and what is usual of each candidate."""

    output_tokens: LogRidge
    logged_cost: LogRidge
    latency: LogRidge
    candidates: tuple[Candidate, ...]
    cost_from: dict[str, CostFrom]
    usual: dict[str, Usual]

    def cost_usd(self, inputs: Inputs) -> Floats:
        """(n, m) expected cost in USD, as the served router computes it."""
        pricing = Pricing(self.candidates, self.cost_from, self.usual)
        return pricing.expected(inputs.counted, self.output_tokens.predict(inputs), self.logged_cost.predict(inputs))


@dataclass(frozen=True)
class CostSums:
    """The sums over logarithms of answers' tokens, logged costs and latencies: of each the sums, and its target in them."""

    parts: tuple[tuple[Sums, int], ...]

    @classmethod
    def of(cls, inputs: Inputs, matrix: OutcomeMatrix, slot: Columns, slots: int, engine: Engine = ALONE) -> CostSums:
        """By `slot` (n,); what is known of the same outcomes is added up together, each request for what it stands for."""
        targets = [logarithm(values) for values in (matrix.output_tokens, matrix.cost_usd, matrix.latency_ms)]
        groups: dict[bytes, list[int]] = {}
        for number, target in enumerate(targets):
            groups.setdefault(np.isfinite(target).tobytes(), []).append(number)
        found: dict[int, tuple[Sums, int]] = {}
        for group in groups.values():
            weights = _alike(np.isfinite(targets[group[0]]), matrix.standing)
            sums = add(inputs, weights, [targets[number] for number in group], slot, slots, engine)
            found.update({number: (sums, place) for place, number in enumerate(group)})
        return cls(tuple(found[number] for number in range(len(targets))))

    def without(self, slot: int) -> tuple[Normal, Normal, Normal]:
        """Of all slots but that one."""
        tokens, cost, latency = (sums.without(slot, target) for sums, target in self.parts)
        return tokens, cost, latency

    def all(self) -> tuple[Normal, Normal, Normal]:
        tokens, cost, latency = (sums.all(target) for sums, target in self.parts)
        return tokens, cost, latency


def _alike(known: Bools, standing: Floats | None) -> Floats:
    """(n, m) what each cell counts for: 1, or what its row stands for, 1 on average of each candidate's `known` ones."""
    return np.ones(known.shape) if standing is None else as_standing(known, standing)


def logarithm(values: Floats) -> Floats:
    """Of what is above 0, NaN of all else."""
    seen = np.isfinite(values) & (values > 0)
    return np.where(seen, np.log(np.where(seen, values, 1.0)), np.nan)


def fit_costs(
    inputs: Inputs,
    matrix: OutcomeMatrix,
    candidates: tuple[Candidate, ...],
    cost_from: dict[str, CostFrom],
    *,
    shared: float,
    own: float,
    assumed_output_tokens: float,
    rising: Sequence[int] = (),
    sums: tuple[Normal, Normal, Normal] | None = None,
) -> CostModel:
    """Learns every part on the given requests; `matrix` has its costs filled in.

    With the columns `rising` of the inputs, those that say how long a prompt is, no expected cost falls. `sums` are those of
    `CostSums` over these requests, where they were added up before.
    """
    if sums is None:
        sums = CostSums.of(inputs, matrix, np.zeros(len(inputs), dtype=np.intp), 1).all()

    def learn(values: Floats, normal: Normal) -> LogRidge:
        return LogRidge(shared, own, rising=rising).fit(inputs, values, normal, matrix.standing)

    return CostModel(
        output_tokens=learn(matrix.output_tokens, sums[0]),
        logged_cost=learn(
            matrix.cost_usd, sums[1]
        ),  # of a prompt that is longer than any seen, `Pricing` makes it more
        latency=learn(matrix.latency_ms, sums[2]),
        candidates=candidates,
        cost_from=cost_from,
        usual=usual_of(matrix, inputs.counted, assumed_output_tokens),
    )


def usual_of(matrix: OutcomeMatrix, counted: Floats, assumed_output_tokens: float) -> dict[str, Usual]:
    """What is usual of each candidate over the requests of `matrix`, whose counted tokens are `counted` (n,).

    What was never logged of one candidate is taken from the others: their mean answer, their ratio of tokens, their dearest
    mean cost. Each request counts for as many of the log as it stands for.
    """
    standing = matrix.standing
    answer = _mean(matrix.output_tokens, standing)
    answer = np.where(
        np.isnan(answer), np.nanmean(answer) if np.isfinite(answer).any() else assumed_output_tokens, answer
    )
    cost = _mean(matrix.cost_usd, standing)
    cost = np.where(np.isnan(cost), np.nanmax(cost) if np.isfinite(cost).any() else 0.0, cost)
    known = np.isfinite(matrix.input_tokens)
    logged = _sums(np.where(known, matrix.input_tokens, 0.0), standing)
    measured = _sums(np.where(known, counted[:, None], 0.0), standing)
    pooled = logged.sum() / measured.sum() if measured.sum() > 0 and logged.sum() > 0 else 1.0
    ratio = np.where((measured > 0) & (logged > 0), logged / np.maximum(measured, 1e-9), pooled)
    found = {}
    for column, name in enumerate(matrix.candidates):
        timed, costed = np.isfinite(matrix.latency_ms[:, column]), np.isfinite(matrix.cost_usd[:, column])
        if not costed.any():
            costed = np.ones(len(counted), dtype=np.bool_)
        latency, lengths = matrix.latency_ms[timed, column], counted[costed]
        of_timed, of_costed = (None if standing is None else standing[rows] for rows in (timed, costed))
        found[name] = Usual(
            output_tokens=float(answer[column]),
            cost_usd=float(cost[column]),
            latency_p95_ms=_p95(latency, of_timed) if len(latency) else None,
            input_ratio=float(ratio[column]),
            counted_tokens=float(mean_of(lengths, of_costed)) if len(lengths) else 0.0,
            longest=float(lengths.max()) if len(lengths) else 0.0,
        )
    return found


def _mean(values: Floats, standing: Floats | None) -> Floats:
    """(m,) means of what is known, NaN where nothing is."""
    known = np.isfinite(values)
    total, count = _sums(np.where(known, values, 0.0), standing), _sums(known.astype(np.float64), standing)
    return np.asarray(np.where(known.any(axis=0), total / np.where(count > 0, count, 1.0), np.nan))


def _sums(values: Floats, standing: Floats | None) -> Floats:
    return np.asarray(values.sum(axis=0) if standing is None else standing @ values)


def _p95(values: Floats, standing: Floats | None) -> float:
    return float(np.quantile(values, 0.95)) if standing is None else quantile(values, 0.95, standing)
