"""What a reference's own answers cost for each dollar that was expected of them: of everything, and of each stratum.

A stratum is a workflow's decisions for a key. Answers run longer in one than in another, and routing sends not the same share
of each to the reference; one ratio for all would put the cost of those it saw on those it did not see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import exp, hypot, log, sqrt
from typing import NamedTuple

from serving.account.intervals import student

ENOUGH = 30  # conversations, from which on a ratio or a variance is taken from them
_FEW = 5  # conversations, from which on a stratum tells how much strata differ
FURTHEST = 20.0  # a limit is no more than so many times e away, whatever costs were told


class Method(StrEnum):
    """What the reference's cost is worked out from, the surer first."""

    OWN = "reference's own answers"
    OTHERS = "other candidates' answers"
    PROMPTS = "prompt alone"


class Answers(NamedTuple):
    """One candidate's own answers of known cost: conversations, decisions, and sums over conversations.

    `told` is what a conversation's answers cost, `expected` what was expected of them.
    """

    candidate: str
    conversations: int
    decisions: int
    told: float
    expected: float
    told_squared: float
    product: float
    expected_squared: float
    told_squared_expected: float
    told_expected_squared: float
    expected_cubed: float

    def plus(self, other: Answers) -> Answers:
        """The same candidate's, of both."""
        sums = map(sum, zip(self[1:], other[1:], strict=True))
        return Answers(self.candidate, *sums)  # type: ignore[arg-type]


class Stratum(NamedTuple):
    """A workflow's decisions for a key; None in place of it: those of all strata that are not told apart."""

    workflow: str | None
    key: str | None


@dataclass(frozen=True, slots=True)
class Ratio:
    """What answers cost for each dollar that was expected, between `low` and `high`; `high` None: nothing says.

    By the reference's own answers these are a 95% interval. By others' they are only the lowest and the highest that any of
    them says, which has no level: the reference's answers may be longer than all of theirs.

    `spread` is the variance of one conversation's own ratio, over the square of the ratio.
    """

    reference: str
    method: Method
    ratio: float
    low: float
    high: float | None
    spread: float
    conversations: int
    answers: int


@dataclass(frozen=True, slots=True)
class Ratios:
    """One reference's: the `pool` of all answers, the ratios of strata that have `own` answers enough, of those that have few
    (`near` the others'), and what is taken `elsewhere`. `overlap` is in how many strata a conversation is, on average."""

    pool: Ratio
    elsewhere: Ratio
    own: Mapping[Stratum | None, Ratio] = field(default_factory=dict)
    near: Mapping[Stratum | None, Ratio] = field(default_factory=dict)
    overlap: float = 1.0

    def of(self, stratum: Stratum | None) -> Ratio:
        """The ratio that is taken in a stratum."""
        return self.own.get(stratum) or self.near.get(stratum) or self.elsewhere


def ratios_of(reference: str, answers: Sequence[Answers], strata: Mapping[Stratum | None, Sequence[Answers]]) -> Ratios:
    """A reference's ratio in each stratum: its own there; with few conversations drawn to that of `elsewhere`, the more so the
    less the strata differ; and without any that of `elsewhere`: where strata differ their mean, in an interval that is wider by
    how much they do, else the pool's."""
    pool = ratio_of(reference, answers)
    told = {
        stratum: one
        for stratum, several in strata.items()
        for one in several
        if one.candidate == reference and one.expected > 0 and one.told > 0
    }
    if pool.method is not Method.OWN or not told or not pool.ratio > 0:
        return Ratios(pool, pool)
    within = _within(told.values(), pool)
    several = [one for one in told.values() if one.conversations >= _FEW]
    between, mean, error = _between(several, within)
    freedom = max(len(several) - 1, 2)
    elsewhere = pool
    if between > 0:  # the pool's is mostly of the strata that it answers most
        alone = replace(pool, ratio=exp(mean), low=exp(mean), high=exp(mean))
        elsewhere = _wider(alone, student(freedom) * hypot(error, sqrt(between)))
    if len(several) < 2:  # nothing says how much strata differ; what was expected may be right there
        elsewhere = replace(elsewhere, low=min(elsewhere.low, 1.0), high=max(elsewhere.high or 1.0, 1.0))
    own, near = {}, {}
    for stratum, one in told.items():
        if _effective(one) >= ENOUGH:
            found = _own(reference, one)
            own[stratum] = found if stratum is not None else _wider(found, student(freedom) * sqrt(between))
        else:
            near[stratum] = _near(reference, one, elsewhere, between, within)
    overlap = max(sum(one.conversations for one in told.values()) / pool.conversations, 1.0)
    return Ratios(pool, elsewhere, own, near, overlap)


def ratio_of(reference: str, answers: Iterable[Answers]) -> Ratio:
    """What the reference's answers cost for each dollar expected, by its own answers if there are enough, else by all.

    Own ones are enough where they tell as much as `ENOUGH` conversations of equal cost; else they are among all.
    """
    known = [one for one in answers if one.expected > 0]
    own = next((one for one in known if one.candidate == reference), None)
    if own is not None and _effective(own) >= ENOUGH:
        return _own(reference, own)
    enough = [one for one in known if one.conversations >= ENOUGH]
    told, expected = sum(one.told for one in enough), sum(one.expected for one in enough)
    conversations, decisions = sum(one.conversations for one in enough), sum(one.decisions for one in enough)
    if not told > 0:
        return Ratio(reference, Method.PROMPTS, 1.0, 0.0, None, 0.0, conversations, decisions)
    pooled = told / expected
    # What is expected of the reference may be right as it is, whatever the others' answers came to.
    lows, highs = zip((1.0, 1.0), *map(_interval, enough), strict=True)
    spread = max(map(_spread, enough))
    return Ratio(reference, Method.OTHERS, pooled, min(lows), max(highs), spread, conversations, decisions)


def _own(reference: str, own: Answers) -> Ratio:
    low, high = _interval(own)
    ratio = own.told / own.expected
    return Ratio(reference, Method.OWN, ratio, low, high, _spread(own), own.conversations, own.decisions)


def _effective(one: Answers) -> float:
    """As many conversations of equal cost as would tell as much (Kish): one that is most of the cost tells little by others."""
    return one.expected * one.expected / one.expected_squared if one.expected_squared > 0 else 0.0


def _within(told: Iterable[Answers], pool: Ratio) -> float:
    """As `Ratio.spread`, around each stratum's own ratio."""
    strata = list(told)
    free = sum(one.conversations for one in strata) - len(strata)
    if free <= 0:
        return pool.spread
    strayed = sum(_residual(one) / (one.told / one.expected) ** 2 for one in strata)
    return strayed / sum(one.expected_squared for one in strata) * (1.0 + len(strata) / free)


def _between(strata: Sequence[Answers], within: float) -> tuple[float, float, float]:
    """The variance of the logarithms of strata's ratios beyond what chance makes, and their mean, in which each stratum counts
    the more alike the more they differ, with its standard error. Source: DerSimonian & Laird 1986."""
    if len(strata) < 2 or within <= 0:
        return 0.0, 0.0, 0.0
    logs = [log(one.told / one.expected) for one in strata]
    weights = [1.0 / _variance(one, within) for one in strata]
    total, mean = sum(weights), _mean(logs, weights)
    strayed = sum(weight * (one - mean) ** 2 for weight, one in zip(weights, logs, strict=True))
    between = max(strayed - (len(strata) - 1), 0.0) / (total - sum(weight * weight for weight in weights) / total)
    weights = [1.0 / (_variance(one, within) + between) for one in strata]
    return between, _mean(logs, weights), 1.0 / sqrt(sum(weights))


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(weight * one for weight, one in zip(weights, values, strict=True)) / sum(weights)


def _variance(one: Answers, within: float) -> float:
    """The variance of a stratum's ratio over the square of it."""
    return within * one.expected_squared / one.expected**2


def _near(reference: str, one: Answers, elsewhere: Ratio, between: float, within: float) -> Ratio:
    """A stratum's ratio drawn to that of the others."""
    chance = _variance(one, within)
    weight = between / (between + chance) if between > 0 else 0.0
    ratio = weight * one.told / one.expected + (1.0 - weight) * elsewhere.ratio
    half = weight * student(max(one.conversations - 1, 2)) * sqrt(chance)
    down = hypot(half, (1.0 - weight) * log(elsewhere.ratio / elsewhere.low))
    up = hypot(half, (1.0 - weight) * log((elsewhere.high or elsewhere.ratio) / elsewhere.ratio))
    low, high = ratio * exp(-min(down, FURTHEST)), ratio * exp(min(up, FURTHEST))
    # How much conversations stray is known from all of them.
    conversations = max(elsewhere.conversations, one.conversations)
    return Ratio(reference, Method.OWN, ratio, low, high, within, conversations, one.decisions)


def _wider(one: Ratio, half: float) -> Ratio:
    """The ratio in an interval that is wider by so much on a logarithmic scale."""
    if not half > 0 or not one.low > 0 or not one.high:
        return one
    down, up = (hypot(log(away), half) for away in (one.ratio / one.low, one.high / one.ratio))
    return replace(one, low=one.ratio * exp(-min(down, FURTHEST)), high=one.ratio * exp(min(up, FURTHEST)))


def _residual(one: Answers) -> float:
    """The sum over conversations of the squares of what each cost beyond the ratio."""
    ratio = one.told / one.expected
    return max(one.told_squared - 2 * ratio * one.product + ratio * ratio * one.expected_squared, 0.0)


def _leverage(one: Answers) -> float:
    """The factor by which residuals are too small, for a conversation of much expected cost draws the ratio to itself (HC3)."""
    ratio, plain = one.told / one.expected, _residual(one)
    if plain <= 0:
        return 1.0
    drawn = one.told_squared_expected - 2 * ratio * one.told_expected_squared + ratio * ratio * one.expected_cubed
    return 1.0 + 2.0 * max(drawn, 0.0) / (one.expected * plain)


def _interval(one: Answers) -> tuple[float, float]:
    """The 95% interval of a candidate's ratio."""
    ratio = one.told / one.expected
    if ratio <= 0:
        return 0.0, 0.0
    counted = one.conversations / (one.conversations - 1)
    half = student(one.conversations - 1) * sqrt(counted * _leverage(one) * _residual(one)) / one.told
    return ratio * exp(-min(half, FURTHEST)), ratio * exp(min(half, FURTHEST))


def _spread(one: Answers) -> float:
    """As `Ratio.spread`: a conversation strays in proportion to what is expected of it."""
    ratio = one.told / one.expected
    if ratio <= 0:
        return 0.0
    counted = one.conversations / (one.conversations - 1)
    return counted * _residual(one) / (ratio * ratio * one.expected_squared)
