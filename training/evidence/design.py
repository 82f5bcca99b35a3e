"""The design of a purchase: how many requests are drawn, who each is asked of, and which pairs are to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from serving.bundle.arrays import Bools, Columns, Floats
from serving.decide.value import Setting
from training.evidence.belief import Belief
from training.evidence.frame import SamplingFrame
from training.learn.heads.violation import independent
from training.measure.frontier import knob_grid

# A candidate that it would not pay to ask of so many drawn requests is asked of none.
_WORTH = 0.5
_LEAST = 0.01
# A candidate that is the reference in so many draws of the belief is asked every time.
_MAY_BE_REFERENCE = 0.02
# What costs less than this share of the reference is asked every time.
_CHEAP = 0.1
# What is free is worth no more than what costs so little.
_LEAST_USD = 1e-7
_DRAWS = 24
_LOOKED_AT = 1_500
_KNOBS = 40
_ROUNDS = 20


@dataclass(frozen=True)
class Outlook:
    """What the belief expects: `chosen` (m,) the share of requests that each candidate would get around the target, and
    `reference` (m,) how likely each is the best single one; `spread` (n, m) the posterior deviation of each chance."""

    chosen: Floats
    reference: Floats
    knob: float
    chances: Floats
    spread: Floats

    @property
    def best(self) -> int:
        return int(self.reference.argmax())


@dataclass(frozen=True)
class Design:
    """`requests` are drawn, and each is put to the candidates that are `asked` (m,); `learning` (n, m) is the probability of
    each pair that is to learn from."""

    asked: Bools
    requests: int
    learning: Floats


def outlook(frame: SamplingFrame, belief: Belief, target: float, seed: int) -> Outlook:
    """By draws from the belief, each of them routed at the knob where it is expected to violate as much as is allowed."""
    generator = np.random.default_rng(seed)
    rows = np.sort(generator.permutation(len(frame))[:_LOOKED_AT])
    m = len(frame.candidates)
    chosen, best, knobs = np.zeros(m), np.zeros(m), []
    every = []
    for _ in range(_DRAWS):
        chances = belief.chances(frame.shape, belief.drawn(generator))
        every.append(chances)
        reference = int(chances.mean(axis=0).argmax())
        best[reference] += 1.0 / _DRAWS
        knob, columns = _routed(chances[rows], frame.cost_usd[rows], reference, 1.0 - target)
        knobs.append(knob)
        chosen += np.bincount(columns, minlength=m) / len(rows) / _DRAWS
    stack = np.array(every)
    return Outlook(chosen, best, float(np.median(knobs)), stack.mean(axis=0), stack.std(axis=0))


def _routed(chances: Floats, cost: Floats, reference: int, alpha: float) -> tuple[float, Columns]:
    """The highest knob at which no more than `alpha` is expected to be violated, and where it sends the requests."""
    violation = independent(chances.copy(), reference)
    rows = np.arange(len(chances))
    found = 0.0, np.full(len(chances), reference, dtype=np.intp)
    for knob in knob_grid(cost, _KNOBS).tolist():
        columns = Setting(knob, guarded=True).choose(chances, violation, cost)
        if violation[rows, columns].mean() > alpha:
            break
        found = knob, columns
    return found


def asked(frame: SamplingFrame, seen: Outlook, named: Sequence[str]) -> Bools:
    """(m,) the candidates that each drawn request is put to: those that are `named`, and those that it pays to ask.

    What may be the reference always is, and so is what costs next to nothing beside it. Of another candidate it is found of how
    many drawn requests it should be asked for the lowest variance of the violation rate for the money, which follows the square
    root of how many requests it would get over what it costs (Neyman 1934). From half of them on it is asked of all, else of
    none: then the router that is trained on the purchase leaves it out, and the money draws more requests.
    """
    cost = frame.cost_usd[frame.sendable].mean(axis=0)
    fixed = np.isin(frame.names, list(named))
    fixed |= (seen.reference > _MAY_BE_REFERENCE) | (cost <= _CHEAP * cost[seen.best])
    fixed[[seen.best, int(cost.argmin())]] = True
    found = np.ones(len(cost))
    for _ in range(_ROUNDS):
        variance = float((seen.chosen / found).sum())
        wanted = np.sqrt(seen.chosen * float(found @ cost) / (variance * np.maximum(cost, 1e-12)))
        found = np.where(fixed, 1.0, np.clip(wanted, _LEAST, 1.0))
    return np.asarray(found >= _WORTH)


def drawn_cells(frame: SamplingFrame, asked: Bools) -> Bools:
    """(n, m) the outcomes that are bought of each request if it is drawn: what the log knows already is not asked again."""
    return np.asarray(frame.unknown & asked)


def learning(frame: SamplingFrame, seen: Outlook, taken: Bools, price: Floats, budget_usd: float) -> Floats:
    """(n, m) the probability of each pair that is bought to learn from, for this much money in expectation.

    A pair is worth what its outcome can be expected to improve the decision by (the knowledge gradient, Frazier, Powell &
    Dayanik 2008), over the square root of its price; a tenth of the money is spread evenly, so that every probability is above
    0. `price` (n, m) is that of an answer with its grade. Not of the requests `taken` (n,), which are bought to certify on, nor
    where an answer was logged: grading the log is cheaper than planning it.
    """
    open_ = frame.unknown & ~np.isfinite(frame.labels) & ~frame.answered & ~taken[:, None]
    if not open_.any() or budget_usd <= 0:
        return np.zeros(price.shape)
    value = seen.chances - seen.knob * frame.cost_usd
    ranked = np.sort(value, axis=1)
    top = value >= ranked[:, -1:]
    behind = np.where(top, ranked[:, -1:] - ranked[:, -2:-1], ranked[:, -1:] - value)
    deviation = np.maximum(seen.spread, 1e-6)
    z = behind / deviation
    gain = deviation * (np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi) - z * ndtr(-z))
    wanted = np.where(open_, gain / np.sqrt(np.maximum(price, _LEAST_USD)), 0.0)
    evenly = np.where(open_, 1.0, 0.0)
    return _scaled(wanted, price, 0.9 * budget_usd) + _scaled(evenly, price, 0.1 * budget_usd)


def _scaled(wanted: Floats, cost: Floats, budget_usd: float) -> Floats:
    """`wanted` times what makes it probabilities, at most .5, that cost the budget in expectation."""
    low, high = 0.0, 1e12
    for _ in range(100):
        scale = np.sqrt(max(low, 1e-12) * high)
        spent = float((np.minimum(scale * wanted, 0.5) * cost).sum())
        low, high = (scale, high) if spent < budget_usd else (low, scale)
    return np.asarray(np.minimum(low * wanted, 0.5))
