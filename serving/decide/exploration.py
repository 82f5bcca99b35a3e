"""What is drawn: some requests go elsewhere to learn, and some decisions are held back, with the probability written down.

What is explored is never more than a certificate has paid for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from serving.bundle.manifest import Certificate, OperatingPoint
from serving.decide.decision import Decision, HeldBack, Reason, Situation, known_or_none
from serving.decide.eligibility import NoEligibleCandidateError
from serving.decide.policy import Policy


class Choice(NamedTuple):
    """Columns, the chosen one first and then the others from best to worst; why; and the chosen one's probability.

    Where something was drawn it was `among` these, of which the first has probability 1 - `rate` and the others equal parts of
    that.
    """

    order: list[int]
    reason: Reason
    propensity: float
    among: Sequence[int] = ()
    rate: float = 0.0

    @property
    def instead(self) -> int | None:
        """Who would have been chosen where another was explored; preferences may have put that one behind other fallbacks."""
        return self.among[0] if self.reason is Reason.EXPLORE else None

    def chance(self, column: int) -> float:
        """The probability with which a column was to be chosen, whatever was drawn."""
        if not self.among:
            return 1.0 if column == self.order[0] else 0.0
        if column == self.among[0]:
            return 1.0 - self.rate
        return self.rate / (len(self.among) - 1) if column in self.among else 0.0


def rate_of(explore: float, point: OperatingPoint | None) -> float:
    """The share that may be explored: under a target no more than the point has set aside for it, elsewhere all that is asked.

    An explored request adds at most its own probability to the rate of violations, and a point is certified at its alpha
    less that share, so the certificate holds for all requests together. Where one candidate always answers, nothing is.
    """
    if point is None:
        return explore
    if point.always is not None:
        return 0.0
    return explore if point.quality_target is None and point.certificate is None else min(explore, point.explore)


def explored(order: list[int], reason: Reason, rate: float, draw: float) -> Choice:
    """The first of `order` with probability 1 - rate, each other one with an equal part of `rate`."""
    if len(order) == 1:
        return Choice(order, reason, 1.0)
    if draw >= rate:
        return Choice(order, reason, 1.0 - rate, order, rate)
    others = len(order) - 1
    column = order[1 + min(int(draw / rate * others), others - 1)]
    return Choice(first(order, column), Reason.EXPLORE, rate / others, order, rate)


def first(order: list[int], column: int) -> list[int]:
    """The order with one column put first."""
    return [column, *(other for other in order if other != column)]


class Made(NamedTuple):
    """The router's own decision, and what tells what another one of the same request would have been.

    `certified` gives the certificate that reaches a choice. Where the rules leave nobody there may be no decision to follow:
    then `refused` says why, and it is answered only if it is held back.
    """

    decision: Decision
    choice: Choice
    limit: list[float]
    certified: Callable[[Choice], Certificate | None]
    refused: NoEligibleCandidateError | None = None


@dataclass(frozen=True, slots=True)
class Otherwise:
    """Who answers where a decision is held back: its candidate's column, None for one that is not known to be a candidate.

    `apart` is one that is called by a name of its own, as a model group that is there already: the rules' limits are not held
    against it, and `barred` says that they exclude it by what is known.
    """

    column: int | None
    apart: bool = False
    barred: bool = False


def shared(made: Made, policy: Policy, situation: Situation, otherwise: Otherwise) -> Decision:
    """The decision where not every one is followed: the router's own, or that of who answers otherwise.

    A candidate obeys the rules and the budgets as well: where these exclude it the router's own decision is followed, whatever
    was drawn. Raises NoEligibleCandidateError where there is none to follow.
    """
    own, share, column, barred = made.decision, min(policy.share, situation.share), otherwise.column, otherwise.barred
    if column is not None and not otherwise.apart:
        barred = own.alternatives[column].ruled_out is not None or not made.limit[column] <= situation.most_usd
    held = situation.hold > share and not barred
    if made.refused is not None and not held:
        raise made.refused
    if barred:
        return own
    if not held:
        chance = share * own.propensity
        return replace(own, propensity=chance + 1.0 - share if column == made.choice.order[0] else chance)
    instead = _stranger(own, policy) if column is None else _candidate(made, column)
    chance = 0.0 if column is None else made.choice.chance(column)
    none = made.refused is not None
    fallbacks = () if none else (own.candidate, *own.fallbacks)
    if policy.preferences is not None and not policy.preferences.fallbacks:
        fallbacks = ()
    return replace(
        instead,
        fallbacks=tuple(name for name in fallbacks if name != instead.candidate),
        reason=Reason.HELD_BACK,
        propensity=share * chance + 1.0 - share,
        held_back=None if none else HeldBack(own.candidate, own.confidence, own.expected_cost_usd),
        instead=None,
    )


def _candidate(made: Made, column: int) -> Decision:
    """The decision for another candidate."""
    seen = made.decision.alternatives[column]
    return replace(
        made.decision,
        candidate=seen.candidate,
        confidence=seen.confidence,
        expected_cost_usd=seen.expected_cost_usd,
        certificate=made.certified(Choice([column], Reason.HELD_BACK, 1.0)),
        held_usd=known_or_none(made.limit[column]),
    )


def _stranger(own: Decision, policy: Policy) -> Decision:
    """The decision for one that is no candidate, of whom nothing is expected."""
    nothing = replace(own, confidence=None, expected_cost_usd=None, certificate=None, held_usd=None)
    return replace(nothing, candidate=policy.otherwise or "")
