"""What it would cost to ask another candidate too, by a log of what was asked so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

_DAY = pd.Timedelta(days=1)


@dataclass(frozen=True)
class AlsoCost:
    """By a log: `decisions_per_day`, and the mean cost in USD of asking another candidate too, NaN where it is not known.

    `by_candidate` has the mean cost of each candidate of which any is known: those that were served or asked too.
    """

    decisions_per_day: float
    cost_usd: float
    by_candidate: Mapping[str, float]

    def daily_usd(self, share: float) -> float:
        """What a share of the decisions would cost in a day."""
        return share * self.decisions_per_day * self.cost_usd


def also_cost(frame: pd.DataFrame, reference: str) -> AlsoCost:
    """What asking others too would cost for the requests of an outcome table, whose first row of each is who was served.

    Who is asked is drawn as the service does it (`serving.decide.also`) among the candidates whose cost is known, whatever its
    rules would exclude: the reference for half of those that another served, else each other for an equal part. What an error
    cost is none of a candidate's usual cost. The days are those between the first and the last decision that have a time.
    """
    answers = frame[frame["status"] != "error"]
    means = answers.groupby("candidate", sort=True)["cost_usd"].mean().dropna()
    by_candidate = {str(name): float(value) for name, value in means.items()}
    served = frame.drop_duplicates("request_id")
    timed = served["timestamp"].dropna()
    days = float((timed.max() - timed.min()) / _DAY) if len(timed) > 1 else 0.0
    per_day = (len(timed) - 1) / days if days > 0 else float("nan")
    costs = served["candidate"].map(
        {name: _beside(name, by_candidate, reference) for name in served["candidate"].unique()}
    )
    known = costs.to_numpy(dtype=np.float64)
    known = known[np.isfinite(known)]
    return AlsoCost(per_day, float(known.mean()) if len(known) else float("nan"), by_candidate)


def _beside(served: str, costs: Mapping[str, float], reference: str) -> float:
    """The expected cost of who is asked beside one that is served; NaN where nobody is."""
    others = [cost for name, cost in costs.items() if name not in (served, reference)]
    favoured = [costs[reference]] if reference != served and reference in costs else []
    halves = [sum(group) / len(group) for group in (favoured, others) if group]
    return sum(halves) / len(halves) if halves else float("nan")
