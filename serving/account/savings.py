"""What routing saved against sending everything to the reference, from sums over decisions and the feedback on them.

What the reference would have cost is not known, for its answers were not written. Where it answered itself, its cost is the
one that was told. Elsewhere it is what the decision expected of it, times how far the reference's own answers cost more or
less than was expected of them: a ratio, with a 95% interval from sums by conversation (linearised, and on a logarithmic scale,
for costs are skew), widened by how much single conversations stray from it. Where fewer than `ENOUGH` conversations tell, the
ratio is that of all candidates' answers, between the lowest and the highest of theirs; where these do not tell either, the
reference would have cost no less than its prompts alone, and nothing says how much at most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from math import exp, hypot, log, sqrt
from typing import NamedTuple

ENOUGH = 30  # conversations, from which on a ratio or a variance is taken from them
_Z = 1.959964  # of a normal distribution, two-sided 95%
_FURTHEST = 20.0  # a limit is no more than so many times e away, whatever costs were told


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


@dataclass(frozen=True, slots=True)
class Ratio:
    """What answers cost for each dollar that was expected; `high` None: nothing says.

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


@dataclass(slots=True)
class Part:
    """What a line's decisions had to go without under one reference, over those that are compared and that it did not answer.

    `own_usd` is what it answered itself; `squared` sums the squares of the expected cost by conversation, `prompts_usd` what
    the prompts alone would have cost there.
    """

    own_usd: float = 0.0
    expected_usd: float = 0.0
    squared: float = 0.0
    prompts_usd: float = 0.0

    def add(self, other: Part) -> None:
        _add(self, other)


@dataclass(slots=True)
class Sums:
    """Sums over some decisions. `parts` are by the reference; the squares and products of what was judged by conversation.

    `actual_usd` and `expected_usd` are of the `costed` ones, `compared_usd` is what those that are compared cost: the costed
    that were not held back and whose reference is known.
    """

    decisions: int = 0
    costed: int = 0
    actual_usd: float = 0.0
    expected_usd: float = 0.0
    compared: int = 0
    compared_usd: float = 0.0
    failed: int = 0
    held_back: int = 0
    without_reference: int = 0
    exploration_usd: float = 0.0
    also_usd: float = 0.0
    judge_usd: float = 0.0
    judged: int = 0
    judged_conversations: int = 0
    quality: float = 0.0
    quality_squared: float = 0.0
    quality_product: float = 0.0
    judged_squared: float = 0.0
    parts: dict[str, Part] = field(default_factory=dict)

    def add(self, other: Sums) -> None:
        """Adds other decisions' sums."""
        _add(self, other)
        for reference, part in other.parts.items():
            self.parts.setdefault(reference, Part()).add(part)


def _add(one: Part | Sums, other: Part | Sums) -> None:
    for each in fields(one):
        if each.name != "parts":
            setattr(one, each.name, getattr(one, each.name) + getattr(other, each.name))


@dataclass(frozen=True, slots=True)
class Line:
    """The account of some decisions, in USD: `saved_usd` is `reference_usd - compared_usd - also_usd - judge_usd`.

    `actual_usd` is what all `costed` decisions cost, and `expected_usd` what was expected of these; `compared_usd` leaves out
    those that were held back and those `without_reference`. A failed call would have cost the reference nothing either. What
    exploring cost is expected, against whom would have been chosen, and is in what was paid: it is not subtracted again.
    Quality is that of judged answers, hints at bad ones and failed calls left out, with a 95% interval.
    """

    name: str | None
    decisions: int
    costed: int
    uncosted: int
    compared: int
    without_reference: int
    held_back: int
    failed: int
    actual_usd: float
    expected_usd: float
    compared_usd: float
    reference_usd: float
    reference_low: float
    reference_high: float | None
    exploration_usd: float
    also_usd: float
    judge_usd: float
    saved_usd: float
    saved_low: float
    saved_high: float | None
    saving: float | None
    judged: int
    quality: float | None
    quality_low: float | None
    quality_high: float | None


@dataclass(frozen=True, slots=True)
class Account:
    """What was saved between two times (epoch seconds), by line; `other` is what came to no line of its own."""

    by: str
    since: float
    until: float
    ratios: tuple[Ratio, ...]
    total: Line
    lines: tuple[Line, ...]
    other: Line | None

    @property
    def method(self) -> Method | None:
        """What the reference's cost is worked out from, the least sure one where there are several references."""
        return max((one.method for one in self.ratios), key=list(Method).index, default=None)


def account(
    by: str,
    since: float,
    until: float,
    lines: Mapping[str | None, Sums],
    other: Sums | None,
    total: Sums,
    answers: Sequence[Answers],
    *,
    judge_usd: float = 0.0,
) -> Account:
    """The account of what was summed. `judge_usd` is what judging cost beyond what feedback says, and is in the total alone."""
    ratios = {name: ratio_of(name, answers) for name in sorted(total.parts)}
    return Account(
        by,
        since,
        until,
        tuple(ratios.values()),
        line(None, total, ratios, judge_usd),
        tuple(line(name, sums, ratios) for name, sums in lines.items()),
        None if other is None else line(None, other, ratios),
    )


def line(name: str | None, sums: Sums, ratios: Mapping[str, Ratio], judge_usd: float = 0.0) -> Line:
    """The account of some decisions; `judge_usd` is what judging them cost beyond what their feedback says."""
    usd, low, high = _reference(sums.parts, ratios)
    judge = sums.judge_usd + judge_usd
    paid = sums.compared_usd + sums.also_usd + judge
    quality, quality_low, quality_high = _quality(sums)
    return Line(
        name=name,
        decisions=sums.decisions,
        costed=sums.costed,
        uncosted=sums.decisions - sums.costed,
        compared=sums.compared,
        without_reference=sums.without_reference,
        held_back=sums.held_back,
        failed=sums.failed,
        actual_usd=sums.actual_usd,
        expected_usd=sums.expected_usd,
        compared_usd=sums.compared_usd,
        reference_usd=usd,
        reference_low=low,
        reference_high=high,
        exploration_usd=sums.exploration_usd,
        also_usd=sums.also_usd,
        judge_usd=judge,
        saved_usd=usd - paid,
        saved_low=low - paid,
        saved_high=None if high is None else high - paid,
        saving=(usd - paid) / usd if usd > 0 else None,
        judged=sums.judged,
        quality=quality,
        quality_low=quality_low,
        quality_high=quality_high,
    )


def ratio_of(reference: str, answers: Iterable[Answers]) -> Ratio:
    """What the reference's answers cost for each dollar expected, by its own answers if there are enough, else by all."""
    known = [one for one in answers if one.expected > 0]
    own = next((one for one in known if one.candidate == reference), None)
    if own is not None and own.conversations >= ENOUGH:
        low, high = _interval(own)
        ratio = own.told / own.expected
        return Ratio(reference, Method.OWN, ratio, low, high, _spread(own), own.conversations, own.decisions)
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


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """The 95% interval of a rate; `trials` need be no whole number. Without any trial nothing is known: (0, 1)."""
    if trials <= 0:
        return 0.0, 1.0
    rate, square = successes / trials, _Z * _Z / trials
    centre, half = rate + square / 2, _Z * sqrt(rate * (1 - rate) / trials + square / (4 * trials))
    return max((centre - half) / (1 + square), 0.0), min((centre + half) / (1 + square), 1.0)


def _reference(parts: Mapping[str, Part], ratios: Mapping[str, Ratio]) -> tuple[float, float, float | None]:
    """What the references would have cost, and between what; the limits of several are added, as if they erred alike."""
    usd = low = 0.0
    high: float | None = 0.0
    for name, part in parts.items():
        one = ratios[name]
        known, rest = part.own_usd, one.ratio * part.expected_usd
        usd += known + rest
        if one.high is None and part.expected_usd > 0:
            low += known + min(part.prompts_usd, rest)
            high = None
            continue
        down, up = _limits(one, part)
        low += known + rest * down
        high = None if high is None else high + known + rest * up
    return usd, low, high


def _limits(one: Ratio, part: Part) -> tuple[float, float]:
    """The factors between which the sum is, by the ratio's interval and by what single conversations stray from it."""
    if not (part.expected_usd > 0 and one.ratio > 0 and one.low > 0 and one.high):
        return 1.0, 1.0
    strays = _t(one.conversations - 1) * sqrt(one.spread * part.squared) / part.expected_usd
    down, up = (hypot(log(away), strays) for away in (one.ratio / one.low, one.high / one.ratio))
    return exp(-min(down, _FURTHEST)), exp(min(up, _FURTHEST))


def _residual(one: Answers) -> float:
    """The sum over conversations of the squares of what each cost beyond the ratio."""
    ratio = one.told / one.expected
    return max(one.told_squared - 2 * ratio * one.product + ratio * ratio * one.expected_squared, 0.0)


def _interval(one: Answers) -> tuple[float, float]:
    """The 95% interval of a candidate's ratio."""
    ratio = one.told / one.expected
    if ratio <= 0:
        return 0.0, 0.0
    counted = one.conversations / (one.conversations - 1)
    half = _t(one.conversations - 1) * sqrt(counted * _residual(one)) / one.told
    return ratio * exp(-min(half, _FURTHEST)), ratio * exp(min(half, _FURTHEST))


def _spread(one: Answers) -> float:
    """As `Ratio.spread`: a conversation strays in proportion to what is expected of it."""
    ratio = one.told / one.expected
    if ratio <= 0:
        return 0.0
    counted = one.conversations / (one.conversations - 1)
    return counted * _residual(one) / (ratio * ratio * one.expected_squared)


def _quality(sums: Sums) -> tuple[float | None, float | None, float | None]:
    """The mean quality of what was judged, and its interval: on as many answers as judging them one by one would be worth."""
    if not sums.judged:
        return None, None, None
    mean = min(max(sums.quality / sums.judged, 0.0), 1.0)
    trials = _worth(sums, mean)
    return mean, *wilson(mean * trials, trials)


def _worth(sums: Sums, mean: float) -> float:
    """How many answers by themselves tell as much as those that were judged, several of a conversation perhaps."""
    judged, conversations = float(sums.judged), sums.judged_conversations
    if conversations >= judged:
        return judged
    if conversations < ENOUGH or not 0 < mean < 1:
        return float(conversations)
    strayed = sums.quality_squared - 2 * mean * sums.quality_product + mean * mean * sums.judged_squared
    variance = max(strayed, 0.0) * conversations / (conversations - 1) / (judged * judged)
    return judged if variance <= 0 else min(mean * (1 - mean) / variance, judged)


def _t(freedom: float) -> float:
    """The two-sided 95% quantile of Student's t, to four digits from `ENOUGH` on (Cornish and Fisher)."""
    z, n = _Z, max(freedom, 1.0)
    return z + (z**3 + z) / (4 * n) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n * n)
