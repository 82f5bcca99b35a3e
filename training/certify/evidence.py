"""What calibration requests say about violations: of how many requests of the traffic each one speaks, and how surely."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2_contingency

from serving.bundle.arrays import Bools, Columns, Floats
from serving.decide.value import Setting
from training.dataset.matrix import ENOUGH_DRAWN, workflow_names
from training.measure.bounds import RateBound, rate_upper
from training.measure.offpolicy import importance_weights

# Complete requests are of other workflows than the rest if chance would give as much of a difference this rarely.
_UNFAIR = 0.001
_MIXES = np.linspace(0.0, 1.0, 21)
_NOTHING = 1e9


@dataclass(frozen=True)
class Expected:
    """What heads expect of requests, (n, m) each: the chance to be acceptable, that of a violation, the cost in USD."""

    acceptable: Floats
    violation: Floats
    cost_usd: Floats

    def take(self, rows: Bools | Columns) -> Expected:
        return Expected(self.acceptable[rows], self.violation[rows], self.cost_usd[rows])

    def choices(self, setting: Setting) -> Columns:
        """(n,) where a setting sends the requests."""
        return setting.choose(self.acceptable, self.violation, self.cost_usd)


@dataclass(frozen=True)
class CalibrationData:
    """The calibration requests: what is expected of the candidates on them, and what is known to have come of it.

    `acceptable`, `violation` and `expected_cost` (n, m) are the served estimates; where they are those of heads that were
    learned without the request, by folds, `served` is what the heads that are served expect. `labels`, `cost` and `propensity`
    (n, m) are observed, NaN elsewhere; `judged` (n, m) is the share of a propensity that is being judged (None: 1); `complete`
    (n,) marks requests with every outcome known, `groups` (n,) conversations. `drawn` (n,) marks those that were drawn at
    random to buy outcomes for, each with the propensity of being bought then. `standing` (n,) is how many requests of a sampled
    log each stands for (None: as many each).
    """

    acceptable: Floats
    violation: Floats
    expected_cost: Floats
    labels: Floats
    cost: Floats
    propensity: Floats
    complete: Bools
    groups: Columns
    workflow: NDArray[np.object_]
    drawn: Bools
    served: Expected | None = None
    judged: Floats | None = None
    standing: Floats | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Bools | Columns) -> CalibrationData:
        optional = ("served", "judged", "standing")
        taken = {one.name: getattr(self, one.name)[rows] for one in fields(self) if one.name not in optional}
        return CalibrationData(
            **taken,
            served=None if self.served is None else self.served.take(rows),
            judged=None if self.judged is None else self.judged[rows],
            standing=None if self.standing is None else self.standing[rows],
        )

    @property
    def asked(self) -> Bools:
        """(n,) requests whose outcomes were made to be known, whatever would come of them: complete and drawn ones."""
        return np.asarray(self.complete | self.drawn)

    def certain(self) -> CalibrationData:
        """These requests, of which every outcome is known, as such: none was drawn, and nothing was left to chance."""
        ones = np.ones(self.labels.shape)
        return replace(self, propensity=ones, judged=None, drawn=np.zeros(len(self), dtype=np.bool_))

    def usable(self) -> CalibrationData:
        """Those with a propensity for every outcome that was observed, and for at least one; and those that were drawn.

        Of requests that were tried on every candidate, `complete` ones are certain (propensity 1), and those of which not
        everything was judged are left out. Where judging left few complete, as when each answer is judged apart, all of
        them count as complete instead, each outcome with the probability that it was judged.
        """
        known, judged = np.isfinite(self.propensity), np.isfinite(self.labels)
        rows = self.asked | (known.any(axis=1) & ~(judged & ~known).any(axis=1))
        everywhere = (known.all(axis=1) | self.complete) & ~self.drawn
        complete = self.complete & ~self.drawn
        seen = judged[everywhere].sum(axis=0).min(initial=len(self))
        if complete.sum() >= seen / 2:
            certain = np.where(complete[:, None], 1.0, self.propensity)
            share = None if self.judged is None else np.where(complete[:, None], 1.0, self.judged)
            return replace(self, propensity=certain, judged=share).take(rows & (self.asked | ~everywhere))
        return replace(self, complete=everywhere | self.complete).take(rows)


@dataclass(frozen=True)
class Evidence:
    """What one routing of n requests is known to have broken.

    `losses` (n,) 1 where it failed and the reference is not known to have failed too, `weights` (n,) 1 / the probability with
    which that was seen (0 where it was not), `shares` (n,) how many requests of the traffic each one stands for. `stretch` is
    what the bound is multiplied by.
    """

    columns: Columns
    losses: Floats
    weights: Floats
    shares: Floats
    groups: Columns
    exact: bool
    stretch: float = 1.0

    @property
    def rows(self) -> Bools:
        """(n,) the requests that count."""
        return np.asarray(self.shares > 0)

    def bound(self, delta: float, inside: Bools | None = None) -> RateBound:
        """The violation rate and its upper bound, of all requests or of those `inside`."""
        rows = self.rows if inside is None else self.rows & inside
        found = rate_upper(self.losses[rows], self.weights[rows], self.groups[rows], delta, self.shares[rows])
        return replace(found, upper=min(self.stretch * found.upper, 1.0))

    @property
    def method(self) -> Literal["clopper-pearson", "clustered", "weighted"]:
        """How the bound is made: see `Certificate`."""
        if not self.exact:
            return "weighted"
        groups = self.groups[self.rows]
        return "clopper-pearson" if len(np.unique(groups)) == len(groups) else "clustered"


@dataclass(frozen=True)
class Traffic:
    """How the calibration requests stand for the traffic: `weights` (n,), 1 on average, and `strata` (n,).

    Within a stratum, complete requests are a fair sample of the others. `reweighted` says that there are several.
    """

    weights: Floats
    strata: Columns

    @property
    def reweighted(self) -> bool:
        return bool(self.strata.any())


def traffic(data: CalibrationData) -> Traffic:
    """One stratum, or the workflows where complete requests are no fair sample of all of them.

    Complete requests may come from an evaluation run, whose prompts somebody picked. Where their workflows differ from those
    of the other requests by more than chance explains (a test of homogeneity, one request of each conversation), workflows
    are weighted to their shares among these others, which are traffic: within a workflow, the run counts as fair. Drawn
    requests are traffic too. Within a workflow each counts for as many as it stands for.
    """
    return stands_for(data.workflow, data.groups, data.complete & ~data.drawn, data.standing)


def stands_for(
    workflow: NDArray[np.object_], groups: Columns, picked: Bools, standing: Floats | None = None
) -> Traffic:
    """How n requests stand for the traffic, of which those that are not `picked` (n,) are: see `traffic`."""
    n = len(workflow)
    counts = np.ones(n) if standing is None or not n else standing * (n / standing.sum())
    alike = Traffic(counts, np.zeros(n, dtype=np.intp))
    names, code = np.unique(workflow_names(workflow), return_inverse=True)
    first = np.zeros(n, dtype=np.bool_)
    first[np.unique(groups, return_index=True)[1]] = True
    table = np.array([np.bincount(code[first & side], minlength=len(names)) for side in (picked, ~picked)])
    table = table[:, table.sum(axis=0) > 0]
    if table.shape[1] < 2 or (table.sum(axis=1) == 0).any():
        return alike
    if chi2_contingency(table, correction=False).pvalue >= _UNFAIR:
        return alike
    found, wanted = np.bincount(code, counts) / n, np.bincount(code[~picked], counts[~picked], minlength=len(names))
    return Traffic(np.asarray(counts * (wanted / wanted.sum() / found)[code]), code)


def _sides(data: CalibrationData) -> tuple[Bools, Bools]:
    return data.asked, np.asarray(~data.asked)


def evidence(data: CalibrationData, stands_for: Traffic, setting: Setting, reference: int, delta: float) -> Evidence:
    """What is known of a setting's violations on the calibration requests.

    A complete request shows a violation as it is, and so does one that was drawn, where the reference and the chosen candidate
    were both asked. One with some outcomes shows the chosen candidate's failure with its propensity, and mostly not whether the
    reference would have failed too: all of it counts as a violation then, which is more than can be held against the routing.
    So the former say more, and the others are more. How much either side counts for is what promises the lowest bound by the
    served estimates, before any label is read: each side's mean is of the same traffic, so that every mixture of the two is
    valid. Where enough requests were drawn, they and the complete ones count alone: what they say is right however the log
    chose, and whichever answers somebody liked to judge.
    """
    columns = setting.choose(data.acceptable, data.violation, data.expected_cost)
    rows = np.arange(len(columns))
    same = columns == reference  # the reference cannot be violated by itself, seen or not
    weights = importance_weights(np.isfinite(data.labels), data.propensity, columns, clip=np.inf)
    weights = np.where(same, 1.0, weights)
    broken = (data.labels[rows, columns] == 0) & (data.labels[:, reference] != 0) & ~same
    mix = _mix(data, columns, weights, same, delta)
    shares = _mixed(data, stands_for, mix)
    exact = bool(data.asked[shares > 0].all()) and bool((weights[shares > 0] == 1.0).all())
    exact = exact and len(np.unique(shares[shares > 0])) <= 1
    stretch = 1.0
    if data.served is not None:
        stretch = _stretch(float((~same).mean()), float((data.served.choices(setting) != reference).mean()))
    return Evidence(columns, broken.astype(np.float64), weights, shares, data.groups, exact, stretch)


def _stretch(certified: float, served: float) -> float:
    """How much more the served heads give away than those that are certified out of fold, at least 1.

    What is certified out of fold is the mean of several heads, and what is served was learned from all of their requests. Where
    little tells requests apart, such heads flip from giving nothing away to giving everything at slightly different knobs, and
    the served ones may flip before the others.
    """
    return max(served / certified, 1.0) if certified > 0.0 else 1.0


def _mix(data: CalibrationData, columns: Columns, weights: Floats, same: Bools, delta: float) -> float:
    """How much of all the complete requests count for, from 0 to 1: what promises the lowest bound.

    The promise is the expected rate, one more failure, and as many standard errors as the confidence takes.
    """
    sides = _sides(data)
    if not (sides[0].any() and sides[1].any()):
        return float(sides[0].any())
    if data.drawn.sum() >= ENOUGH_DRAWN:  # whose word needs no belief in how the log chose and judged
        return 1.0
    rows = np.arange(len(columns))
    failing = np.where(same, 0.0, 1.0 - np.clip(data.acceptable[rows, columns], 0.0, 1.0))
    breaking = data.violation[rows, columns]
    rates = (float(breaking.mean()), float(failing.mean()))
    promises = [_promise(weights[side & ~same], max(rate, 1e-6)) for side, rate in zip(sides, rates, strict=True)]
    counts = [int(side.sum()) for side in sides]
    parts = (_MIXES, 1.0 - _MIXES)
    more = np.maximum(*(part * heaviest / n for part, (heaviest, _), n in zip(parts, promises, counts, strict=True)))
    variance = (
        sum(part**2 * squares / n for part, (_, squares), n in zip(parts, promises, counts, strict=True)) + more**2
    )
    rate = _MIXES * rates[0] + (1.0 - _MIXES) * rates[1]
    promised = rate + more + NormalDist().inv_cdf(1.0 - delta) * np.sqrt(variance)
    return float(_MIXES[promised.argmin()])


def _promise(weights: Floats, rate: float) -> tuple[float, float]:
    """The heaviest of the weights, and the variance of one request's weighted failure at this rate of failures.

    As good as infinite where the log has none of what is chosen.
    """
    if not len(weights):
        return 1.0, rate
    if not (weights > 0).any():
        return _NOTHING, _NOTHING
    return float(weights.max()), rate * float((weights**2).mean())


def _mixed(data: CalibrationData, stands_for: Traffic, mix: float) -> Floats:
    """(n,) the weights of the traffic with the complete requests counting for `mix` of all, in each stratum apart.

    Where one side has no request, the other counts for all.
    """
    code, k = stands_for.strata, int(stands_for.strata.max(initial=0)) + 1
    total = np.bincount(code, stands_for.weights, k)
    sides = [np.where(rows, stands_for.weights, 0.0) for rows in _sides(data)]
    sums = [np.bincount(code, side, k) for side in sides]
    part = np.where(sums[1] == 0, 1.0, np.where(sums[0] == 0, 0.0, mix))
    shares = np.zeros(len(data))
    for side, have, wanted in zip(sides, sums, (part, 1.0 - part), strict=True):
        shares += side * (wanted * total / np.where(have > 0, have, 1.0))[code]
    return shares
