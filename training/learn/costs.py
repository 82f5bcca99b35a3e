"""What an answer will cost and how long it will take: tokens, cost and latency expected of each candidate.

Tokens are predicted and priced when a decision is made, so a changed price needs no new training. Only a candidate
without a price or without logged tokens has its cost predicted from logged costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from serving.bundle.arrays import Floats
from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import Usual
from serving.decide.pricing import Pricing
from training.dataset.inputs import Inputs
from training.dataset.matrix import OutcomeMatrix
from training.learn.estimators.design import Design, Equations, stacked
from training.learn.onnx_graph import Graph

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

    def fit(self, columns: Floats, design: Design, values: Floats) -> LogRidge:
        """`columns` (n, d) standardised by `design`, `values` (n, m) >= 0 with NaN where not observed."""
        observed = np.isfinite(values)
        seen = observed & (values > 0)  # zeros have no logarithm; they count through their share of what was observed
        self.known, positive = observed.any(axis=0), seen.any(axis=0)
        logs = np.where(seen, np.log(np.where(seen, values, 1.0)), 0.0)
        counts = np.maximum(seen.sum(axis=0), 1)
        pooled = logs.sum() / max(seen.sum(), 1)
        mean = np.where(positive, logs.sum(axis=0) / counts, pooled)
        rest = np.where(seen, logs - mean, 0.0)
        per_request = seen.sum(axis=1)
        target = rest.sum(axis=1) / np.maximum(per_request, 1)
        nothing = np.zeros(columns.shape[1])
        equations = Equations(columns)
        shared = self._ridge(equations, target, per_request.astype(float), self.shared, nothing)
        weight = np.repeat(shared[:, None], values.shape[1], axis=1)
        for candidate in np.flatnonzero(positive):
            own, rows = rest[:, candidate], seen[:, candidate]
            shift = (own - columns @ shared)[rows].mean()
            mean[candidate] += shift
            weight[:, candidate] = self._ridge(equations, own - shift, rows.astype(float), self.own, shared)
        fitted = columns @ weight + mean
        smear = np.where(seen, np.exp(np.clip(logs - fitted, -5, 5)), 0.0)
        self.smear = (smear.sum(axis=0) + 20.0) / (seen.sum(axis=0) + 20.0)
        self.smear *= seen.sum(axis=0) / np.maximum(observed.sum(axis=0), 1)
        room = np.log(self.stretch)
        # The tail is taken over all candidates: one alone has few of the rare slow answers.
        self.tail = float(np.quantile((logs - fitted)[seen], 0.95)) if seen.any() else 0.0
        self.low = np.where(positive, np.where(seen, logs, np.inf).min(axis=0), 0.0) - room
        self.high = np.where(positive, np.where(seen, logs, -np.inf).max(axis=0), 0.0) + room
        self.weight, self.bias = design.fold(weight, mean)
        return self

    def _ridge(self, equations: Equations, target: Floats, weight: Floats, penalty: float, around: Floats) -> Floats:
        """(d,) coefficients, by ridge regression towards `around` (d,), without those rising columns that would fall."""
        gram, cross = equations.gram(weight), equations.columns.T @ (weight * target)
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
        log = np.clip(stacked(inputs) @ self.weight + self.bias, self.low, self.high)
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
) -> CostModel:
    """Learns every part on the given requests; `matrix` has its costs filled in.

    With the columns `rising` of the inputs, those that say how long a prompt is, no expected cost falls.
    """
    design = Design.learn(inputs)
    columns = design.columns(inputs)

    def learn(values: Floats) -> LogRidge:
        return LogRidge(shared, own, rising=rising).fit(columns, design, values)

    return CostModel(
        output_tokens=learn(matrix.output_tokens),
        logged_cost=learn(matrix.cost_usd),  # of a prompt that is longer than any seen, `Pricing` makes it more
        latency=learn(matrix.latency_ms),
        candidates=candidates,
        cost_from=cost_from,
        usual=usual_of(matrix, inputs.counted, assumed_output_tokens),
    )


def usual_of(matrix: OutcomeMatrix, counted: Floats, assumed_output_tokens: float) -> dict[str, Usual]:
    """What is usual of each candidate over the requests of `matrix`, whose counted tokens are `counted` (n,).

    What was never logged of one candidate is taken from the others: their mean answer, their ratio of tokens, their dearest
    mean cost.
    """
    answer = _mean(matrix.output_tokens)
    answer = np.where(
        np.isnan(answer), np.nanmean(answer) if np.isfinite(answer).any() else assumed_output_tokens, answer
    )
    cost = _mean(matrix.cost_usd)
    cost = np.where(np.isnan(cost), np.nanmax(cost) if np.isfinite(cost).any() else 0.0, cost)
    known = np.isfinite(matrix.input_tokens)
    logged = np.where(known, matrix.input_tokens, 0.0).sum(axis=0)
    measured = np.where(known, counted[:, None], 0.0).sum(axis=0)
    pooled = logged.sum() / measured.sum() if measured.sum() > 0 and logged.sum() > 0 else 1.0
    ratio = np.where((measured > 0) & (logged > 0), logged / np.maximum(measured, 1e-9), pooled)
    found = {}
    for column, name in enumerate(matrix.candidates):
        latency = matrix.latency_ms[:, column]
        latency = latency[np.isfinite(latency)]
        lengths = counted[np.isfinite(matrix.cost_usd[:, column])]
        lengths = lengths if len(lengths) else counted
        found[name] = Usual(
            output_tokens=float(answer[column]),
            cost_usd=float(cost[column]),
            latency_p95_ms=float(np.quantile(latency, 0.95)) if len(latency) else None,
            input_ratio=float(ratio[column]),
            counted_tokens=float(lengths.mean()) if len(lengths) else 0.0,
            longest=float(lengths.max()) if len(lengths) else 0.0,
        )
    return found


def _mean(values: Floats) -> Floats:
    """(m,) means of what is known, NaN where nothing is."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.asarray(np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), np.nan))
