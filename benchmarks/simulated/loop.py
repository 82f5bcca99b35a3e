"""The loop, closed on simulated traffic: a router serves, its decisions and feedback train the next one.

The first router learns from a log of some kinds of work; then the mix shifts to others. The service routes that traffic,
explores a bounded share of it, and is told what became of each decision. A new router is trained on the store alone. Both
are compared on later traffic of the shifted mix, twice: by the truth behind it, and by what its log alone can say, which is
what one has outside a simulation.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.paired import RESAMPLES
from serving.bundle.arrays import Bools, Columns, Floats
from serving.bundle.catalogue import Candidate
from serving.bundle.manifest import Bundle
from serving.bundle.request import RouteRequest
from serving.decide.decision import Estimates
from serving.decide.policy import Policy
from serving.decide.router import Router
from serving.decide.value import knob_for
from serving.runtime.pipeline import Service
from serving.settings import Settings
from serving.store.feedback import Feedback
from serving.store.writer import DecisionStore
from training.config import Params
from training.dataset.matrix import OutcomeMatrix, build_matrix
from training.dataset.split import conversations
from training.evaluate.baselines import Truth
from training.logs.sources import reading
from training.logs.validate import validate
from training.measure.frontier import bootstrap_weights, frontier, knob_grid, singles
from training.measure.offpolicy import Estimate, doubly_robust, snips
from training.run import train
from training.simulation.simulate import ACCEPTABLE_SCORE, SimulatedLog, simulate

# Of each kind of work the share of its requests that is kept, before and after the mix shifts.
BEFORE = {
    "support-triage": 1.0, "json-extraction": 1.0, "summarising": 1.0, "translation": 1.0,
    "sql": 0.06, "code-review": 0.06, "maths": 0.06, "creative-writing": 0.06,
}  # fmt: skip
AFTER = {
    "support-triage": 0.1, "json-extraction": 0.1, "summarising": 0.1, "translation": 0.1,
    "sql": 1.0, "code-review": 1.0, "maths": 1.0, "creative-writing": 1.0,
}  # fmt: skip
# A place between the cheapest (0) and the best (10) candidate, as a caller gives it; both routers decide by its knob.
COST_QUALITY = 7.0
_TOLD_TOGETHER = 100
# The expected cost of a candidate that a bundle does not know, so that it is not chosen at any knob.
_NEVER_USD = 1e6


@dataclass(frozen=True)
class Day:
    """Traffic of n requests with the truth behind it: `acceptable` and `cost_usd` (n, m), columns as `candidates`."""

    requests: list[RouteRequest]
    candidates: list[str]
    acceptable: Floats
    cost_usd: Floats


def shifted(log: SimulatedLog, kept: Mapping[str, float], rng: np.random.Generator) -> pd.DataFrame:
    """The rows of the log's requests that are kept, by the share of their workflow; untagged ones go."""
    first = log.outcomes.drop_duplicates("request_id").set_index("request_id")["workflow"]
    share = first.map(kept).fillna(0.0)
    chosen = set(first.index[rng.random(len(first)) < share])
    return log.outcomes[log.outcomes["request_id"].isin(chosen)]


def day(log: SimulatedLog, kept: Mapping[str, float], rng: np.random.Generator) -> Day:
    """The distinct requests of a log under another mix, by time."""
    rows = shifted(log, kept, rng).drop_duplicates("request_id")
    return Day(
        [_request(row) for row in rows.to_dict("records")],
        list(log.acceptable.columns),
        log.acceptable.loc[rows["request_id"]].to_numpy(),
        log.cost_usd.loc[rows["request_id"]].to_numpy(),
    )


def _request(row: Mapping[Any, Any]) -> RouteRequest:
    return RouteRequest(row["prompt"], row["messages"], row["workflow"], row["session_id"])


async def serve(service: Service, traffic: Day, policy: Policy, rng: np.random.Generator) -> None:
    """Routes each request and feeds back what became of it, as the truth has it, many at a time."""
    assert isinstance(service.store, DecisionStore)
    said: list[Feedback] = []
    for place, request in enumerate(traffic.requests):
        identifier, decision = await service.route(service.case(request, policy, None))
        column = traffic.candidates.index(decision.candidate)
        good = bool(rng.random() < traffic.acceptable[place, column])
        cost = float(traffic.cost_usd[place, column] * rng.lognormal(-0.02, 0.2))
        said.append(Feedback(identifier, quality=float(good), cost_usd=cost))
        if len(said) == _TOLD_TOGETHER or place == len(traffic.requests) - 1:
            await service.recorder.feedback(said, None)
            said.clear()


def close_loop(
    folder: Path,
    cache: Path,
    params: Params,
    catalogue: Mapping[str, Candidate],
    *,
    requests: int = 12_000,
    explore: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """Everything once, in `folder`; figures by name, for a log of `requests` before each mix is drawn from it.

    `before` and `after` hold each router's truth on the later traffic (acceptable share, USD per request, worth = share
    less knob times cost, AIQ of its whole frontier) and, `where_explored`, on the part of it on which the log explores, the
    same truth and what the log alone says of it. Elsewhere one candidate had to answer: no log says what others would do.
    """
    candidates = [catalogue[name] for name in params.simulate.candidates]
    rng = np.random.default_rng(seed)
    logs = [simulate(candidates, requests=requests, days=params.simulate.days, seed=seed + n) for n in range(3)]
    first = shifted(logs[0], BEFORE, rng)
    table = validate(first, source="simulated", format="simulated")
    truth = Truth(logs[0].acceptable, logs[0].cost_usd)
    before = train(table, params, catalogue, out=folder / "before", cache=cache, truth=truth).bundle
    knob = knob_for(COST_QUALITY, before.manifest.knobs)
    served, later = (day(log, AFTER, rng) for log in logs[1:])
    stores = [folder / "decisions.db", folder / "later.db"]
    for store, one in zip(stores, (served, later), strict=True):
        serve_all(before, store, one, Policy(knob=knob), explore, rng)
    outcomes = reading.read([str(stores[0])])
    after = train(outcomes, params, catalogue, out=folder / "after", cache=cache).bundle
    return {
        "requests": {
            "before": int(first["request_id"].nunique()),
            "served": len(served.requests),
            "later": len(later.requests),
        },
        "explored": float((outcomes.frame["propensity"] < 0.5).mean()),
        "knob": knob,
        **compared({"before": before, "after": after}, later, stores[1], knob),
    }


def serve_all(
    bundle: Bundle, store: Path, traffic: Day, policy: Policy, explore: float, rng: np.random.Generator
) -> None:
    """Serves traffic in this process, every answer judged, into a store."""
    settings = Settings(bundle=str(bundle.folder), store=str(store), explore=explore, embed_wait_ms=60_000)
    service = Service(settings)
    service._random.seed(int(rng.integers(2**32)))
    try:
        asyncio.run(serve(service, traffic, policy, rng))
    finally:
        service.close()


def compared(bundles: Mapping[str, Bundle], later: Day, store: Path, knob: float) -> dict[str, Any]:
    """Each bundle on later traffic: by its truth, and by what the store alone, a log of it, can say.

    `gain` is the true difference of worth, after less before, with its 95% interval: paired by request, whole
    conversations resampled.
    """
    estimates = {name: Router(bundle).estimate(later.requests) for name, bundle in bundles.items()}
    columns = {name: _choices(Router(bundle), later, knob) for name, bundle in bundles.items()}
    log = build_matrix(reading.read([str(store)]).frame, later.candidates)
    model = _in_order(Router(bundles["after"]), later.candidates, estimates["after"])
    knobs = knob_grid(later.cost_usd, 62)
    explored = np.nanmax(log.propensity, axis=1) < 1.0
    found: dict[str, Any] = {}
    for name in bundles:
        estimate, expected = _in_order(Router(bundles[name]), later.candidates, estimates[name])
        curve = frontier(estimate, expected, later.acceptable, later.cost_usd, knobs)
        found[name] = {
            **_truth(later, columns[name], knob, np.ones(len(columns[name]), dtype=np.bool_)),
            "aiq": singles(later.acceptable, later.cost_usd).aiq(curve.cost, curve.quality),
            "where_explored": {
                **_truth(later, columns[name], knob, explored),
                **estimated(log, columns[name], model, knob, explored),
            },
        }
    gaps = _worth(later, columns["after"], knob) - _worth(later, columns["before"], knob)
    return {**found, "gain": gain(gaps, conversations([request.session_id for request in later.requests]))}


def gain(gaps: Floats, groups: Columns) -> dict[str, float]:
    """The mean of differences (n,) and its 95% percentile bootstrap interval: `groups` (n,) are drawn as one."""
    low, high = np.quantile(bootstrap_weights(groups, RESAMPLES, 0) @ gaps, [0.025, 0.975]).tolist()
    return {"worth": float(gaps.mean()), "low": low, "high": high}


def _in_order(router: Router, candidates: Sequence[str], seen: Estimates) -> tuple[Floats, Floats]:
    """P(acceptable) and expected cost (n, m), columns as `candidates`; a candidate that a bundle lacks is never chosen."""
    found = []
    for array, missing in ((seen.acceptable, -1.0), (seen.cost_usd, _NEVER_USD)):
        made = np.full((len(array), len(candidates)), missing)
        for column, name in enumerate(candidates):
            if name in router.candidates:
                made[:, column] = array[:, router.candidates.index(name)]
        found.append(made)
    return found[0], found[1]


def _choices(router: Router, later: Day, knob: float) -> Columns:
    """Whom the router sends each request to. What is novel or unsure goes to its reference, as in the log that it wrote."""
    decisions = router.route_many(later.requests, Policy(knob=knob))
    return np.array([later.candidates.index(decision.candidate) for decision in decisions])


def _worth(later: Day, columns: Columns, knob: float) -> Floats:
    """(n,) what each choice is worth by the truth."""
    rows = np.arange(len(columns))
    return np.asarray(later.acceptable[rows, columns] - knob * later.cost_usd[rows, columns])


def _truth(later: Day, columns: Columns, knob: float, among: Bools) -> dict[str, float]:
    """What these choices (n,) give on the requests `among` (n,), by the truth."""
    rows = np.flatnonzero(among)
    share, cost = (float(each[rows, columns[rows]].mean()) for each in (later.acceptable, later.cost_usd))
    return {"requests": len(rows), "acceptable": share, "cost_usd": cost, "worth": share - knob * cost}


def estimated(
    log: OutcomeMatrix, columns: Columns, model: tuple[Floats, Floats], knob: float, among: Bools
) -> dict[str, Any]:
    """What the log alone says of the choices on the requests `among` (n,): doubly robust and SNIPS, with 95% intervals.

    Requests of a conversation are not independent of each other.
    """
    label = np.where(np.isfinite(log.quality), (log.quality >= ACCEPTABLE_SCORE).astype(float), np.nan)
    worth, propensity = (label - knob * log.cost_usd)[among], log.propensity[among]
    predicted = np.where(model[1] < _NEVER_USD, model[0] - knob * model[1], 0.0)[among]
    groups = conversations(list(log.session_id))[among]
    return {
        "doubly_robust": _shown(doubly_robust(worth, propensity, columns[among], predicted, groups=groups)),
        "snips": _shown(snips(worth, propensity, columns[among], groups=groups)),
    }


def _shown(estimate: Estimate) -> dict[str, Any]:
    return asdict(estimate)
