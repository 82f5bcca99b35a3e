"""What routing saved against sending everything to the reference, from sums over decisions and the feedback on them.

What the reference would have cost is not known, for its answers were not written. Where it answered itself, be it as another's
fallback, its cost is the one that was told; where it was chosen and another stood in for it, routing saved nothing, and what
was told is taken too. Elsewhere it is what the decision expected of it, times how far the reference's own answers cost more or
less than was expected of them in the same stratum, a workflow's decisions for a key: a ratio, with a 95% interval from sums by
conversation (linearised, and on a logarithmic scale, for costs are skew), widened by how much single conversations stray from
it. In strata of few such conversations it is drawn to that of the others, see `ratios_of`. Where fewer than `ENOUGH`
conversations tell at all, the ratio is that of all candidates' answers, between the lowest and the highest of theirs; where
these do not tell either, the reference would have cost no less than its prompts alone, and nothing says how much at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from math import exp, hypot, log, sqrt
from typing import NamedTuple

from serving.account.intervals import student, wilson
from serving.account.ratios import ENOUGH, FURTHEST, Answers, Method, Ratio, Ratios, Stratum, ratios_of

__all__ = ["ENOUGH", "Account", "Line", "Method", "Part", "Ratio", "Sums", "Under", "account", "line"]


class Under(NamedTuple):
    """What a part of a line's decisions is of: their reference, and the stratum that they are in."""

    reference: str
    stratum: Stratum | None = None


@dataclass(slots=True)
class Part:
    """What a line's decisions had to go without under one reference, over those that are compared, for which it was not chosen
    and which it did not answer.

    `own_usd` is what was paid at those where it was chosen or answered; `squared` sums the squares of the expected cost by
    conversation, `prompts_usd` what the prompts alone would have cost there.
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
    uncompared_exploration_usd: float = 0.0
    uncompared_also_usd: float = 0.0
    uncompared_judge_usd: float = 0.0
    judged: int = 0
    judged_conversations: int = 0
    quality: float = 0.0
    quality_squared: float = 0.0
    quality_product: float = 0.0
    judged_squared: float = 0.0
    held_back_judged: int = 0
    held_back_quality: float = 0.0
    parts: dict[Under, Part] = field(default_factory=dict)

    def add(self, other: Sums) -> None:
        """Adds other decisions' sums."""
        _add(self, other)
        for under, part in other.parts.items():
            self.parts.setdefault(under, Part()).add(part)


def _add(one: Part | Sums, other: Part | Sums) -> None:
    for each in fields(one):
        if each.name != "parts":
            setattr(one, each.name, getattr(one, each.name) + getattr(other, each.name))


@dataclass(frozen=True, slots=True)
class Line:
    """The account of some decisions, in USD: `saved_usd` is `reference_usd - compared_usd - also_usd - judge_usd`.

    Routing's own costs are those of the compared decisions too; what they came to at the others is told as `uncompared_…`.
    `actual_usd` is what all `costed` decisions cost, and `expected_usd` what was expected of these; `compared_usd` leaves out
    those that were held back and those `without_reference`. A failed call would have cost the reference nothing either. What
    exploring cost is expected, against whom would have been chosen, and is in what was paid: it is not subtracted again.
    Quality is that of judged answers, hints at bad ones and failed calls left out, with a 95% interval; that of decisions that
    were held back is none of routing's, and its mean is told apart.
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
    uncompared_exploration_usd: float
    uncompared_also_usd: float
    uncompared_judge_usd: float
    saved_usd: float
    saved_low: float
    saved_high: float | None
    saving: float | None
    judged: int
    quality: float | None
    quality_low: float | None
    quality_high: float | None
    held_back_judged: int
    held_back_quality: float | None


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

    @property
    def ends(self) -> str:
        """What is said before the ends of an interval of costs: a level has only what its own answers tell."""
        return "95%" if self.method is Method.OWN else "between"


def account(
    by: str,
    since: float,
    until: float,
    lines: Mapping[str | None, Sums],
    other: Sums | None,
    total: Sums,
    answers: Sequence[Answers],
    strata: Mapping[Stratum | None, Sequence[Answers]] | None = None,
    *,
    judge_usd: float = 0.0,
) -> Account:
    """The account of what was summed; `answers` are of all decisions, `strata` of each stratum's.

    `judge_usd` is what judging cost beyond what feedback says, and is in the total alone.
    """
    names = sorted({one.reference for one in total.parts})
    ratios = {name: ratios_of(name, answers, strata or {}) for name in names}
    return Account(
        by,
        since,
        until,
        tuple(one.pool for one in ratios.values()),
        line(None, total, ratios, judge_usd),
        tuple(line(name, sums, ratios) for name, sums in lines.items()),
        None if other is None else line(None, other, ratios),
    )


def line(name: str | None, sums: Sums, ratios: Mapping[str, Ratios], judge_usd: float = 0.0) -> Line:
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
        uncompared_exploration_usd=sums.uncompared_exploration_usd,
        uncompared_also_usd=sums.uncompared_also_usd,
        uncompared_judge_usd=sums.uncompared_judge_usd,
        saved_usd=usd - paid,
        saved_low=low - paid,
        saved_high=None if high is None else high - paid,
        saving=(usd - paid) / usd if usd > 0 else None,
        judged=sums.judged,
        quality=quality,
        quality_low=quality_low,
        quality_high=quality_high,
        held_back_judged=sums.held_back_judged,
        held_back_quality=sums.held_back_quality / sums.held_back_judged if sums.held_back_judged else None,
    )


def _reference(parts: Mapping[Under, Part], ratios: Mapping[str, Ratios]) -> tuple[float, float, float | None]:
    """What the references would have cost, and between what; the limits of several are added, as if they erred alike."""
    usd = low = 0.0
    high: float | None = 0.0
    for name in dict.fromkeys(one.reference for one in parts):
        of_it = {under.stratum: part for under, part in parts.items() if under.reference == name}
        found, down, up = _one_reference(of_it, ratios[name])
        usd += found
        low += max(found - down, 0.0)
        high = None if high is None or up is None else high + found + up
    return usd, low, high


def _one_reference(parts: Mapping[Stratum | None, Part], ratios: Ratios) -> tuple[float, float, float | None]:
    """What a reference would have cost, and by how much less or more. Strata with a ratio of their own err each by itself, but
    for conversations that are in several; all others err alike, and as these do, for the pool is of their answers too."""
    rest, usd = Part(), 0.0
    apart: list[tuple[float, float]] = []
    alike_down, alike_up = 0.0, 0.0
    for stratum, part in parts.items():
        one = ratios.of(stratum)
        if one is ratios.elsewhere:
            rest.add(part)
            continue
        away = one.ratio * part.expected_usd
        usd += part.own_usd + away
        down, up = _limits(one, part)
        if stratum in ratios.own:
            apart.append((away * (1.0 - down), away * (up - 1.0)))
        else:
            alike_down, alike_up = alike_down + away * (1.0 - down), alike_up + away * (up - 1.0)
    one, away = ratios.elsewhere, ratios.elsewhere.ratio * rest.expected_usd
    usd += rest.own_usd + away
    if one.high is None and rest.expected_usd > 0:
        return usd, max(away - rest.prompts_usd, 0.0), None
    down, up = _limits(one, rest)
    alike_down, alike_up = alike_down + away * (1.0 - down), alike_up + away * (up - 1.0)
    downs, ups = [one[0] for one in apart], [one[1] for one in apart]
    return (
        usd,
        _together(downs, ratios.overlap) + alike_down,
        _together(ups, ratios.overlap) + alike_up,
    )


def _together(halves: Sequence[float], overlap: float) -> float:
    """By how much strata err together, where each conversation is in `overlap` of them."""
    return min(sum(halves), sqrt(overlap) * hypot(*halves))


def _limits(one: Ratio, part: Part) -> tuple[float, float]:
    """The factors between which the sum is, by the ratio's interval and by what single conversations stray from it."""
    if not (part.expected_usd > 0 and one.ratio > 0 and one.low > 0 and one.high):
        return 1.0, 1.0
    strays = student(one.conversations - 1) * sqrt(one.spread * part.squared) / part.expected_usd
    down, up = (hypot(log(away), strays) for away in (one.ratio / one.low, one.high / one.ratio))
    return exp(-min(down, FURTHEST)), exp(min(up, FURTHEST))


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
