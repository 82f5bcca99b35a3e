"""Exploring: some requests go elsewhere, with the probability written down, and never more than a certificate has paid for."""

from __future__ import annotations

from typing import NamedTuple

from serving.bundle.manifest import OperatingPoint
from serving.decide.decision import Reason


class Choice(NamedTuple):
    """Columns, the chosen one first and then the others from best to worst; why; and the chosen one's probability."""

    order: list[int]
    reason: Reason
    propensity: float


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
        return Choice(order, reason, 1.0 - rate)
    others = len(order) - 1
    column = order[1 + min(int(draw / rate * others), others - 1)]
    return Choice(first(order, column), Reason.EXPLORE, rate / others)


def first(order: list[int], column: int) -> list[int]:
    """The order with one column put first."""
    return [column, *(other for other in order if other != column)]
