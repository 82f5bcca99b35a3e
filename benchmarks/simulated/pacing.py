"""What pacing a budget gives on simulated traffic: days of requests through the router and its budgets, judged by the truth.

Each day's budget is a share of what that traffic costs where nobody limits it. Three ways to keep to it are compared:
`paced`, `free` (spend as if there were no budget, and fall to the cheapest candidate when it is gone), and `cheapest`
throughout. Everything is decided by a served `Router` and `Budgets`; the simulator says what each decision was worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from serving.bundle.arrays import Bools, Columns, Floats, Floats32
from serving.bundle.request import RouteRequest, read
from serving.decide.decision import Reason, Situation
from serving.decide.policy import Policy
from serving.decide.router import Router
from serving.state.budgets import Allowance, Budgets
from serving.state.rulebook import Budget, RuleBook, Rules
from serving.store.ledger import BudgetKey, Totals
from training.simulation.simulate import SimulatedLog, simulate

Way = Literal["unlimited", "free", "paced", "cheapest"]

SHARES = (0.3, 0.5, 0.7)
_SCOPES = ("default",)
_DAY = 86_400.0


@dataclass(frozen=True)
class Traffic:
    """n requests by time, as epoch seconds `at` (n,), with the truth: `acceptable` and `cost_usd` (n, m) by candidate."""

    requests: Sequence[RouteRequest]
    embeddings: Floats32
    at: Floats
    acceptable: Floats
    cost_usd: Floats


@dataclass(frozen=True)
class Streamed:
    """What became of each request (n,): true P(acceptable), true cost in USD, and whether the budget had run out."""

    quality: Floats
    cost_usd: Floats
    cheapest: Bools
    day: Columns


def traffic_of(log: SimulatedLog, router: Router) -> Traffic:
    """A simulated log's distinct requests by time, embedded by the router; columns as the router's candidates."""
    rows = log.outcomes.drop_duplicates("request_id").sort_values("timestamp", kind="stable")
    requests = [
        RouteRequest(prompt, messages, workflow if isinstance(workflow, str) else None)
        for prompt, messages, workflow in zip(rows["prompt"], rows["messages"], rows["workflow"], strict=True)
    ]
    since = pd.to_datetime(rows["timestamp"], utc=True) - pd.Timestamp(0, tz="UTC")
    return Traffic(
        requests,
        router.encoder.encode([read(request).text for request in requests]),
        np.asarray(since.dt.total_seconds(), dtype=np.float64),
        log.acceptable.loc[rows["request_id"], router.candidates].to_numpy(),
        log.cost_usd.loc[rows["request_id"], router.candidates].to_numpy(),
    )


def stream(router: Router, traffic: Traffic, way: Way, day_usd: float, policy: Policy = Policy()) -> Streamed:  # noqa: B008
    """Sends the traffic through the router one by one, feedback at once, under a day's budget in USD."""
    now = [float(traffic.at[0])]
    budget = Budget() if way in ("unlimited", "cheapest") else Budget(day_usd=day_usd, pacing=way == "paced")
    budgets = Budgets(RuleBook(default=Rules(budget=budget)), lambda: now[0], shared=True)
    stored: dict[BudgetKey, Totals] = {}
    columns, cheapest = np.zeros(len(traffic.at), dtype=np.intp), np.zeros(len(traffic.at), dtype=bool)
    for row, request in enumerate(traffic.requests):
        now[0] = float(traffic.at[row])
        left = Allowance(most_usd=0.0) if way == "cheapest" else budgets.allowance(_SCOPES)
        situation = Situation(pace=left.pace, most_usd=left.most_usd)
        decision = router.decide(read(request), policy, situation, traffic.embeddings[row : row + 1])
        columns[row] = router.candidates.index(decision.candidate)
        expected = decision.expected_cost_usd or 0.0
        cheapest[row] = decision.reason is Reason.BUDGET and expected > left.most_usd
        budgets.pace(_SCOPES, expected)
        charge = budgets.charge(str(row), _SCOPES, float(traffic.cost_usd[row, columns[row]]))
        for budget_key, _ in charge.limits:
            had = stored.get(budget_key, Totals(0, 0, 0))
            spent = had.used + charge.amount
            stored[budget_key] = Totals(spent, spent, had.decisions + 1)
        budgets.told(stored)
    rows = np.arange(len(columns))
    day = (traffic.at // _DAY).astype(np.intp)
    return Streamed(traffic.acceptable[rows, columns], traffic.cost_usd[rows, columns], cheapest, day - day[0])


def pacing_figures(
    router: Router,
    *,
    requests: int = 4000,
    days: float = 4.0,
    seeds: Sequence[int] = (101, 102, 103, 104, 105),
    shares: Sequence[float] = SHARES,
    policy: Policy = Policy(),  # noqa: B008
) -> dict[str, object]:
    """Figures by share of the free spending; the first day, on which pacing does not know the traffic yet, counts too.

    `requests` over `days` days for each seed, none of which may be a seed that the router was trained on. Intervals are
    95%, Student's t over the seeds.
    """
    candidates = list(router.manifest.candidates)
    worlds = [traffic_of(simulate(candidates, requests=requests, days=days, seed=seed), router) for seed in seeds]
    unlimited = [stream(router, world, "unlimited", 0.0, policy) for world in worlds]
    cheapest = [stream(router, world, "cheapest", 0.0, policy) for world in worlds]
    figures: dict[str, object] = {
        "seeds": len(worlds),
        "requests": requests,
        "days": days,
        "unlimited": _summary(unlimited, None),
        "cheapest": _summary(cheapest, None),
    }
    for share in shares:
        limits = [share * one.cost_usd.sum() / (one.day.max() + 1) for one in unlimited]
        found: dict[Way, list[Streamed]] = {
            way: [stream(router, world, way, limit, policy) for world, limit in zip(worlds, limits, strict=True)]
            for way in ("free", "paced")
        }
        gain = [
            float(paced.quality.mean() - free.quality.mean())
            for paced, free in zip(found["paced"], found["free"], strict=True)
        ]
        figures[f"{share:g}"] = {
            "free": _summary(found["free"], limits),
            "paced": _summary(found["paced"], limits),
            "gain": _interval(gain),
        }
    return figures


def _summary(runs: Sequence[Streamed], limits: Sequence[float] | None) -> dict[str, object]:
    """Quality and cost per request; of a budget also the share that was spent, the worst day's, and how often it was gone."""
    summary: dict[str, object] = {
        "quality": _interval([float(run.quality.mean()) for run in runs]),
        "cost_usd": _interval([float(run.cost_usd.mean()) for run in runs]),
    }
    if limits is None:
        return summary
    daily = [np.bincount(run.day, run.cost_usd) / limit for run, limit in zip(runs, limits, strict=True)]
    summary["spent"] = _interval([float(days.mean()) for days in daily])
    summary["worst_day"] = max(float(days.max()) for days in daily)
    summary["ran_out"] = _interval([float(run.cheapest.mean()) for run in runs])
    return summary


def _interval(values: Sequence[float]) -> dict[str, float]:
    """The mean of one value per seed, with its 95% t interval (the mean itself, of one seed)."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return {"mean": mean, "low": mean, "high": mean}
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return {"mean": mean, "low": mean - half, "high": mean + half}
