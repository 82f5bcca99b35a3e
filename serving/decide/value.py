"""What each candidate is worth at a knob, and which one that makes the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf

import numpy as np

from serving.bundle.arrays import AnyFloats, Bools, Columns
from serving.bundle.manifest import Manifest, OperatingPoint
from serving.decide.decision import Row, Situation
from serving.decide.policy import Policy


def scores(value: AnyFloats, cost_usd: AnyFloats, knob: float) -> AnyFloats:
    """Worth of each candidate, `value - knob * cost_usd`: the Lagrangian of "most quality for a mean cost"."""
    worth: AnyFloats = value - knob * cost_usd
    return worth


def choose(value: AnyFloats, cost_usd: AnyFloats, knob: float, eligible: Bools | None = None) -> Columns:
    """(n,) the column with the highest score in each row; among equal scores the cheaper, then the first.

    Parameters: value (n, m) in [0, 1]; cost_usd (n, m) >= 0; knob >= 0 in 1/USD, infinity = the cheapest; eligible
    (n, m), of which every row has a candidate. Raises ValueError where one of the eligible is worth NaN: an argmax would
    take it for the best.
    """
    worth = -cost_usd if np.isinf(knob) else scores(value, cost_usd, knob)
    if eligible is not None:
        worth = np.where(eligible, worth, -np.inf)
    best = worth.max(axis=1, keepdims=True)
    if np.isnan(best).any():
        row = int(np.isnan(best[:, 0]).argmax())
        raise ValueError(
            f"expected an estimate and a cost of every candidate, got NaN in row {row}: {worth[row].tolist()}"
        )
    columns: Columns = np.where(worth == best, cost_usd, np.inf).argmin(axis=1)
    return columns


def dominating(value: Sequence[float], cost_usd: Sequence[float], column: int, among: Sequence[int]) -> list[int]:
    """Those of the columns `among` that are both surer and cheaper than `column`, in the order given; `value` is (m,)."""
    return [one for one in among if value[one] > value[column] and cost_usd[one] < cost_usd[column]]


def knob_for(cost_quality: float, knobs: Sequence[float]) -> float:
    """The knob at `cost_quality` from 0 (the cheapest) to 10 (quality alone), by its place in the bundle's sweep.

    `knobs` rise from 0. Places in between are interpolated in the logarithm, as the sweep is spaced.
    """
    if cost_quality <= 0 or len(knobs) < 2:
        return float("inf") if cost_quality <= 0 else float(knobs[0])
    if cost_quality >= 10:
        return 0.0
    inside = np.log([knob for knob in knobs if 0 < knob < float("inf")])
    place = (1.0 - cost_quality / 10.0) * (len(inside) - 1)
    return float(np.exp(np.interp(place, np.arange(len(inside)), inside)))


def cost_quality_for(knob: float, knobs: Sequence[float]) -> float:
    """The place from 0 to 10 at which `knob_for` gives a knob; 0 for one above the sweep, 10 for one below it."""
    inside = np.log([one for one in knobs if 0 < one < float("inf")])
    if len(inside) < 2 or knob <= 0:
        return 10.0
    place = float(np.interp(np.log(knob), inside, np.arange(len(inside))))
    return 10.0 * (1.0 - place / (len(inside) - 1))


def crossings(worth: Sequence[float], cost: Sequence[float], eligible: Sequence[int]) -> list[float]:
    """The knobs above 0 at which the best of the eligible columns becomes another one, rising; `worth` and `cost` (m,).

    At a knob k each column is a line, `worth - k * cost`: from one knob to the next the best is on their upper envelope.
    """
    columns = [one for one in eligible if np.isfinite(worth[one]) and np.isfinite(cost[one])]
    if not columns:
        return []
    knobs: list[float] = []
    best, knob = max(columns, key=lambda one: (worth[one], -cost[one])), 0.0
    while cheaper := [one for one in columns if cost[one] < cost[best]]:
        # The next best is the cheaper one that overtakes first; of several the cheapest, for it goes on as the best.
        overtaking = {one: (worth[best] - worth[one]) / (cost[best] - cost[one]) for one in cheaper}
        best = min(cheaper, key=lambda one: (overtaking[one], cost[one]))
        knob = max(knob, overtaking[best])
        knobs.append(knob)
    return knobs


@dataclass(frozen=True, slots=True)
class Setting:
    """How one operating point decides; candidates are columns.

    By the knob, on the value as it is or, where it is `guarded`, on what choosing a candidate breaks: minus the chance that it
    fails where the reference would not have. A knob that weighs this against cost is the Lagrangian of "least cost for a
    violation rate", which is what a certificate is about: what a candidate does where the reference would have failed as well
    is worth nothing to it. With `always`, one column whatever the request. The columns `without` are not in the choice.
    """

    knob: float
    guarded: bool = False
    always: int | None = None
    without: tuple[int, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest, point: OperatingPoint) -> Setting:
        """How a bundle's operating point decides."""
        columns = {candidate.name: column for column, candidate in enumerate(manifest.candidates)}
        return cls(
            point.knob,
            guarded=point.guard is not None,
            always=None if point.always is None else columns[point.always],
            without=tuple(columns[name] for name in point.without),
        )

    def worth(self, value: AnyFloats, violation: AnyFloats) -> AnyFloats:
        """What the knob weighs against cost, of the shape of both."""
        return -violation if self.guarded else value

    def choose(self, value: AnyFloats, violation: AnyFloats, cost_usd: AnyFloats) -> Columns:
        """(n,) the chosen columns, no rule applied; `value`, `violation` and `cost_usd` (n, m)."""
        if self.always is not None:
            return np.full(len(value), self.always, dtype=np.intp)
        eligible = None
        if self.without:
            eligible = np.ones(value.shape, dtype=np.bool_)
            eligible[:, self.without] = False
        return choose(self.worth(value, violation), cost_usd, self.knob, eligible)


def rank(value: Sequence[float], cost_usd: Sequence[float], knob: float, eligible: Sequence[int]) -> list[int]:
    """The eligible columns of one request from best to worst, ordered as `choose` would; `value` and `cost_usd` (m,)."""
    worth = [-cost if isinf(knob) else one - knob * cost for one, cost in zip(value, cost_usd, strict=True)]
    return sorted(eligible, key=lambda column: (-worth[column], cost_usd[column], column))


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a choice is made by: `worth` and `cost` (m,) in the units of the setting's knob, `pace` added to that.

    `value` (m,) is what the objective is about, `limit` (m,) what the budgets hold against each candidate, and `seen` all that
    is expected.
    """

    policy: Policy
    situation: Situation
    setting: Setting
    value: list[float]
    worth: list[float]
    cost: list[float]
    limit: list[float]
    seen: Row

    def late(self, eligible: Sequence[int]) -> list[int]:
        """Who is expected to be slower than is preferred, best first; nobody, where the budgets hold no other."""
        preferences, seen = self.policy.preferences, self.seen
        if preferences is None or not preferences.hurries:
            return []
        held = [one for one in eligible if self.limit[one] <= self.situation.most_usd]
        late = [one for one in held if not preferences.on_time(seen.latency[one], seen.latency_p95[one])]
        if len(late) == len(held):
            return []
        return rank(self.worth, self.cost, self.setting.knob + self.situation.pace, late)
