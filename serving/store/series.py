"""What the store says of the last minutes and hours: how many decisions, whereto, why, at what cost, and the odd ones.

All times are epoch seconds, all sums are made by the database, and `key` None means the decisions of all API keys.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Integer, Select, and_, case, cast, func, or_, select

from serving.account.days import rest_of
from serving.account.window import By, Window
from serving.decide.decision import OTHER, Reason
from serving.store.days.kept import hold, kept
from serving.store.days.tables import SUMS
from serving.store.tables import DECISIONS, FEEDBACK

MINUTE, DAY = 60.0, 86_400.0
Asked = TypeVar("Asked", bound=Select[*tuple[Any, ...]])
_EVER = 100_000 * DAY  # of the year 2243; what is later is of a clock that is wrong
_MOST_LABELS = 1_000  # candidates of one time and their reasons; bundles' names alone are told apart


@dataclass(frozen=True)
class Minute:
    """The decisions that were made in the minute from `begins` on, and their costs in USD as far as they are known.

    `actual_usd` is None where feedback has told the cost of none of them.
    """

    begins: float
    decisions: int
    expected_usd: float
    actual_usd: float | None
    reference_usd: float


@dataclass(frozen=True)
class Costs:
    """Sums over decisions. Of the `costed` ones feedback has told the cost; of these, and of all, what was expected is known.

    `reference_expected_usd` is what the decisions with an expected cost were expected to cost at the reference.
    """

    decisions: int
    expected_usd: float
    reference_expected_usd: float
    costed: int
    actual_usd: float
    expected_of_costed_usd: float


@dataclass(frozen=True)
class Odd:
    """One decision that was made without what is usual; `model` is who was recommended."""

    id: str
    at: float
    workflow: str | None
    reason: str
    model: str


def minutes(connection: Connection, now: float, count: int, key: str | None = None) -> list[Minute]:
    """The last `count` minutes, the one that is not over yet last; those without a decision as well."""
    d, last = DECISIONS.c, now // MINUTE
    minute = d.at / MINUTE
    # PostgreSQL's cast rounds, and not every SQLite has a floor; its own cast cuts off.
    whole = cast(minute if connection.dialect.name == "sqlite" else func.floor(minute), Integer)
    begins = (last - count + 1) * MINUTE
    summed = (d.expected_cost_usd, FEEDBACK.c.cost_usd, d.reference_expected_cost_usd)
    asked = select(whole, func.count(), *(func.sum(one) for one in summed)).select_from(_told())
    asked = _own(asked, key).where(d.at >= begins, d.at < (last + 1) * MINUTE).group_by(whole)
    known: dict[int, list[Any]] = {place: sums for place, *sums in connection.execute(asked)}
    found = []
    for place in range(int(last) - count + 1, int(last) + 1):
        decisions, expected, actual, reference = known.get(place, (0, None, None, None))
        told = None if actual is None else float(actual)
        found.append(Minute(place * MINUTE, int(decisions), float(expected or 0.0), told, float(reference or 0.0)))
    return found


def made(connection: Connection, since: float, until: float, key: str | None = None) -> tuple[int, float | None]:
    """How many decisions were made between two times, and when the first of them was."""
    d = DECISIONS.c
    asked = select(func.count(), func.min(d.at)).where(d.at >= since, d.at < until)
    row: Sequence[Any] = connection.execute(_own(asked, key)).one()
    return int(row[0]), row[1]


def total(connection: Connection, key: str | None = None) -> int:
    """How many decisions are in the store: of days that are summed as these have it, the others are counted."""
    hold(connection)
    found = 0
    everything = Window(By.DAY, 0.0, _EVER, key)
    days = kept(connection, everything.since, everything.until)
    if days:
        sums = SUMS.sums.c
        asked = select(func.coalesce(func.sum(sums.decisions), 0)).where(sums.apart == "", sums.day.in_(days))
        found = int(connection.scalar(asked if key is None else asked.where(sums.key == key)) or 0)
    counted = _own(select(func.count()).select_from(DECISIONS), key)
    if days:
        d = DECISIONS.c
        counted = counted.where(or_(rest_of(d.at, everything, days), d.at < 0, d.at >= _EVER))
    return found + int(connection.execute(counted).scalar_one())


def whereto(
    connection: Connection, since: float, candidates: Collection[str], key: str | None = None
) -> tuple[dict[str, int], dict[str, int]]:
    """How many decisions went to each candidate since a time, and how many were made for each reason, the most first.

    Who answers a decision that was held back may have any name: one that is not among `candidates` is counted as another.
    """
    d = DECISIONS.c
    made_up = and_(d.reason == Reason.HELD_BACK.value, d.candidate.not_in(candidates))
    label = case((made_up, OTHER), else_=d.candidate)
    asked = _own(select(label, d.reason, func.count().label("n")), key).where(d.at >= since)
    asked = asked.group_by(label, d.reason).order_by(func.count().desc(), label, d.reason).limit(_MOST_LABELS)
    by_candidate: dict[str, int] = {}
    by_reason: dict[str, int] = {}
    for candidate, reason, decisions in connection.execute(asked):
        by_candidate[candidate] = by_candidate.get(candidate, 0) + decisions
        by_reason[reason] = by_reason.get(reason, 0) + decisions
    return _most_first(by_candidate), _most_first(by_reason)


def costs(connection: Connection, since: float, key: str | None = None) -> Costs:
    """What the decisions since a time cost, and were expected to."""
    d, told = DECISIONS.c, FEEDBACK.c.cost_usd
    both = and_(told.is_not(None), d.expected_cost_usd.is_not(None))
    asked = select(
        func.count(),
        func.sum(d.expected_cost_usd),
        func.sum(case((d.expected_cost_usd.is_not(None), d.reference_expected_cost_usd))),
        func.count(told),
        func.sum(told),
        func.sum(case((both, d.expected_cost_usd))),
    ).select_from(_told())
    row = connection.execute(_own(asked, key).where(d.at >= since)).one()
    decisions, expected, reference, costed, actual, of_costed = (value or 0 for value in row)
    return Costs(int(decisions), float(expected), float(reference), int(costed), float(actual), float(of_costed))


def latest(
    connection: Connection, reasons: Sequence[Reason], since: float, most: int, key: str | None = None
) -> list[Odd]:
    """The latest decisions since a time that were made for one of the reasons, the last first."""
    d = DECISIONS.c
    asked = _own(select(d.id, d.at, d.workflow, d.reason, d.candidate), key)
    asked = asked.where(d.at >= since, d.reason.in_([one.value for one in reasons]))
    return [Odd(*row) for row in connection.execute(asked.order_by(d.at.desc(), d.id).limit(most))]


def _told() -> Any:
    return DECISIONS.outerjoin(FEEDBACK, FEEDBACK.c.decision_id == DECISIONS.c.id)


def _own(asked: Asked, key: str | None) -> Asked:
    return asked if key is None else asked.where(DECISIONS.c.key == key)


def _most_first(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))
