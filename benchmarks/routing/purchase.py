"""Buying what a log lacks: the plan against the same money spent otherwise, and whether the chances that it states come true.

Answers come from outcomes that are known, so that nothing is sent: of the public sets their own, of the simulated log drawn
from its truth. Each log has one outcome per request; the simulated one has feedback on 5% of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from serving.bundle.arrays import Bools, Floats
from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import OperatingPoint
from serving.decide.value import Setting
from training.certify.certify import certify, cross_fitted
from training.certify.operating import violations
from training.config import Params
from training.dataset.matrix import build_matrix
from training.evidence.plan import Planned, plan
from training.learn.encode import encode, with_kinds
from training.learn.learn import learn
from training.learn.prepare import prepare
from training.learn.refit import is_small, learn_for_serving
from training.logs.outcomes import Outcomes
from training.logs.sources.reading import read
from training.logs.validate import validate
from training.prices.catalogue import SHIPPED, load_catalogue
from training.prices.costs import fill_costs
from training.simulation.simulate import simulate

# USD for each set: about what certifies something, and far from what certifies all that can be.
BUDGETS = {"simulated log": 1.0, "RouterBench": 3.0, "RouteLLM": 2.0}
# For the table of chances: from hardly anything to more than enough, in shares of the above.
CHANCES = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.8, 1.0)
REQUESTS = {"simulated log": 6_000, "RouterBench": 3_000, "RouteLLM": 3_000}
FEEDBACK = 0.05
# Seeds for each of the benchmark's: one purchase near the edge of what can be certified differs much from the next.
REPEATS = 2
ARMS = ("plan", "same prompts for all", "pairs at random")


@dataclass(frozen=True)
class Known:
    """A log with one outcome per request, and what every candidate would have given: by request and candidate whether it is
    acceptable, and its cost in USD."""

    log: Outcomes
    acceptable: pd.DataFrame
    cost_usd: pd.DataFrame
    catalogue: dict[str, Candidate]


def known_log(name: str, folder: Path | None, params: Params, seed: int) -> Known:
    """The simulated log of a seed, or so many requests of a public set with one outcome each, drawn uniformly."""
    catalogue, generator = load_catalogue(SHIPPED), np.random.default_rng([seed, 13])
    if folder is None:
        made = simulate(
            [catalogue[one] for one in params.simulate.candidates],
            requests=REQUESTS[name],
            seed=seed,
            shadow_share=0.0,
            judged_share=FEEDBACK,
        )
        drawn = (generator.random(made.acceptable.shape) < made.acceptable.to_numpy()).astype(np.float64)
        outcome = pd.DataFrame(drawn, index=made.acceptable.index, columns=made.acceptable.columns)
        return Known(validate(made.outcomes, source=name, format="simulated"), outcome, made.cost_usd, catalogue)
    frame = read([folder]).frame.assign(split=None)
    matrix, _ = fill_costs(build_matrix(frame), catalogue, params.costs.assumed_output_tokens)
    rows = generator.permutation(np.flatnonzero(matrix.complete()))[: REQUESTS[name]]
    matrix = matrix.take(rows)
    names, ids = list(matrix.candidates), list(matrix.request_id)
    acceptable = pd.DataFrame((matrix.quality >= params.label.acceptable).astype(float), index=ids, columns=names)
    cost = pd.DataFrame(matrix.cost_usd, index=ids, columns=names)
    first = frame.drop_duplicates("request_id").set_index("request_id").loc[ids].reset_index()
    column = generator.integers(0, len(names), len(ids))
    logged = first.assign(
        candidate=np.array(names, dtype=object)[column],
        quality=acceptable.to_numpy()[np.arange(len(ids)), column],
        cost_usd=cost.to_numpy()[np.arange(len(ids)), column],
        propensity=1.0 / len(names),
        status="success",
    )
    return Known(validate(logged, source=name, format="public"), acceptable, cost, catalogue)


def compared(name: str, folder: Path | None, params: Params, seed: int) -> dict[str, dict[str, float]]:
    """For each way to spend the budget: the certified saving, whether the truth exceeds alpha, and what was spent."""
    known, budget = known_log(name, folder, params, seed), BUDGETS[name]
    unforeseen = replace(params, plan=replace(params.plan, draws=1))
    made = planned(known, unforeseen, budget, seed)
    found = {}
    for arm in ARMS:
        spend = made.asked_for.expected_usd
        rows = _planned_rows(known, made) if arm == ARMS[0] else _otherwise(known, made, spend, arm, seed)
        found[arm] = outcome_of(known, rows, params)
    return found


def foreseen(name: str, folder: Path | None, params: Params, seed: int, share: float) -> dict[str, float]:
    """The chance of success that the plan stated for a budget, its saving then, and what came of it."""
    known = known_log(name, folder, params, seed)
    made = planned(known, params, round(BUDGETS[name] * share, 6), seed)
    real = outcome_of(known, _planned_rows(known, made), params)
    stated = made.asked_for.foreseen
    return {
        "budget_usd": made.asked_for.budget_usd,
        "chance": stated.chance,
        "certified": real["certified"],
        "saving_foreseen": stated.saving,
        "saving": real["saving"],
        "expected_usd": made.asked_for.expected_usd,
        "spent_usd": real["spent_usd"],
    }


def planned(known: Known, params: Params, budget_usd: float, seed: int) -> Planned:
    return plan(
        known.log,
        params,
        known.catalogue,
        Path(".cache"),
        budget_usd=budget_usd,
        target=params.policy.quality_target,
        seed=seed,
        budgets=(),
    )


def outcome_of(known: Known, bought: pd.DataFrame, params: Params) -> dict[str, float]:
    """What a router that is trained on the log and on what was bought is certified for, and what it does on all requests."""
    whole = pd.concat([known.log.frame, bought.astype(known.log.frame.dtypes.to_dict())], ignore_index=True)
    table = validate(whole, source="log and purchase", format="canonical")
    prepared = prepare(table.frame, params, known.catalogue)
    prepared, inputs = with_kinds(prepared, encode(prepared, params, Path(".cache"))[0], params)
    learned = learn(prepared, inputs, params)
    served = learn_for_serving(learned, prepared, inputs, params)
    if not is_small(prepared, params):
        raise ValueError("expected a log that is certified on whole")
    split = prepared.split
    among = split.train | split.calibration | split.test
    data, _ = cross_fitted(learned, served, prepared, inputs, params, among)
    points, default = certify(data, served, prepared.matrix.candidates, params)
    point = next(one for one in points if one.name == default)
    columns = _setting(point, prepared.matrix.candidates).choose(
        served.acceptable.predict(inputs), served.violations(inputs), served.costs.cost_usd(inputs)
    )
    names, ids = list(prepared.matrix.candidates), list(prepared.matrix.request_id)
    rate = float(violations(known.acceptable.loc[ids, names].to_numpy(), columns, served.reference).mean())
    certified = point.certificate is not None and (point.saving or 0.0) > 0.0
    return {
        "certified": float(certified),
        "saving": float(point.saving or 0.0) if certified else 0.0,
        "exceeded": float(certified and rate > 1.0 - (point.quality_target or 0.0)),
        "spent_usd": float(bought["cost_usd"].sum()),
    }


def _setting(point: OperatingPoint, names: Sequence[str]) -> Setting:
    always = None if point.always is None else list(names).index(point.always)
    return Setting(point.knob, guarded=point.guard is not None, always=always)


def _planned_rows(known: Known, made: Planned) -> pd.DataFrame:
    cells = ((pair.request_id, pair.candidate, pair.propensity, pair.purpose) for pair in made.file.pairs)
    return _rows(known, cells)


def _otherwise(known: Known, made: Planned, budget_usd: float, arm: str, seed: int) -> pd.DataFrame:
    """The same money on all candidates of requests drawn at random, or on pairs drawn at random; nothing known is bought."""
    # In the plan's own order, so that what is compared is how the money is spent, not who happened to be drawn.
    frame, generator = made.frame, np.random.default_rng(seed)
    unknown, price = frame.unknown, frame.cost_usd
    if arm == ARMS[1]:
        order = generator.permutation(np.flatnonzero(frame.sendable))
        drawn = order[: int(np.searchsorted(np.cumsum((unknown * price).sum(axis=1)[order]), budget_usd, side="right"))]
        cells, share = np.zeros(unknown.shape, dtype=np.bool_), np.ones(unknown.shape)
        cells[drawn] = unknown[drawn]
    else:
        each = budget_usd / float((unknown * price).sum())
        cells = (generator.random(unknown.shape) < each) & unknown
        # Of the requests of which anything was bought, each candidate was asked with this probability.
        share = np.asarray(
            each / (1.0 - (1.0 - each) ** unknown.sum(axis=1, keepdims=True).clip(1)) * np.ones(unknown.shape)
        )
    return _rows(known, _cells(frame.matrix.request_id.tolist(), frame.names, cells, share))


def _cells(
    ids: Sequence[str], names: Sequence[str], cells: Bools, share: Floats
) -> Iterable[tuple[str, str, float, str]]:
    for row, column in np.argwhere(cells).tolist():
        yield str(ids[row]), names[column], min(float(share[row, column]), 1.0), "certify"


def _rows(known: Known, cells: Iterable[tuple[str, str, float, str]]) -> pd.DataFrame:
    """Outcome rows of what was bought, as it is known to come out."""
    ids, names, share, purpose = (list(column) for column in zip(*cells, strict=True))
    first = known.log.frame.drop_duplicates("request_id").set_index("request_id")
    rows = known.acceptable.index.get_indexer(pd.Index(ids)), known.acceptable.columns.get_indexer(pd.Index(names))
    nothing = np.full(len(ids), np.nan)
    return (
        first.loc[ids]
        .reset_index()
        .assign(
            candidate=names,
            quality=known.acceptable.to_numpy()[rows],
            cost_usd=known.cost_usd.to_numpy()[rows],
            propensity=share,
            purpose=purpose,
            status="success",
            input_tokens=nothing,
            output_tokens=nothing,
            latency_ms=nothing,
        )
    )


def part(name: str, folder: Path | None, params: Params, seeds: Sequence[int]) -> dict[str, Any]:
    """Both tables for one set: arm -> figures, each with its value for every seed; and a line for each budget."""
    several = range(seeds[0], seeds[0] + REPEATS * len(seeds))
    runs = [compared(name, folder, replace(params, fit=replace(params.fit, seed=seed)), seed) for seed in several]
    arms = {arm: {key: [run[arm][key] for run in runs] for key in runs[0][arm]} for arm in ARMS}
    lead = {arm: _interval(np.subtract(arms[ARMS[0]]["saving"], arms[arm]["saving"])) for arm in ARMS[1:]}
    chances = []
    if name != "RouteLLM":
        chances = [
            foreseen(name, folder, replace(params, fit=replace(params.fit, seed=seed)), seed, share)
            for seed, share in zip(range(seeds[0], seeds[0] + len(CHANCES)), CHANCES, strict=True)
        ]
    return {"budget_usd": BUDGETS[name], "seeds": len(runs), "arms": arms, "lead": lead, "chances": chances}


def _interval(differences: Floats) -> dict[str, float]:
    """Mean over seeds with its 95% interval, by Student's t."""
    n = len(differences)
    error = float(np.std(differences, ddof=1) / n**0.5) if n > 1 else float("nan")
    width = float(t.ppf(0.975, max(n - 1, 1))) * error
    mean = float(np.mean(differences))
    return {"mean": mean, "low": mean - width, "high": mean + width}
