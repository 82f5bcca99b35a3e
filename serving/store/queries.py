"""What is asked of the store: how a shadow bundle compares, and the router itself where its decisions were held back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Engine, Select, and_, case, func, select

from serving.decide.decision import Reason
from serving.store.tables import DECISIONS, FEEDBACK

# The decisions that a bundle makes by itself. The others depend on the conversation, a budget or a draw as well, or were
# made without the bundle; the shadow is asked without any of these.
COMPARED = (
    Reason.BEST_VALUE,
    Reason.UNCERTIFIED,
    Reason.ONLY_ELIGIBLE,
    Reason.REFERENCE,
    Reason.NOVEL,
    Reason.LOW_CONFIDENCE,
)


MOST = 100  # workflows in one comparison: anybody may make up tags


@dataclass(frozen=True)
class Compared:
    """Live against shadow over some decisions; `workflow` None is requests without a tag, or all of them in the total."""

    workflow: str | None
    decisions: int
    agreement: float | None
    live_cost_usd: float | None
    shadow_cost_usd: float | None
    live_confidence: float | None
    shadow_confidence: float | None


@dataclass(frozen=True)
class Spent:
    """What calls that were held back cost by feedback, and were expected to cost had they been routed: of the same calls."""

    decisions: int
    cost_usd: float
    expected_cost_usd: float


@dataclass(frozen=True)
class ComparedHeldBack(Compared):
    """The same of decisions that were held back, and what was spent on those of which that is known; None: on none."""

    spent: Spent | None


def compared(engine: Engine, live: str, shadow: str, since: float) -> list[Compared]:
    """What the store says of two bundles, by their versions: the total first, then the busiest workflows, up to `MOST`.

    Counts decisions since a time (seconds since the epoch) that both bundles made by themselves; empty if there are none.
    Costs are means in USD, of the decisions where both are known.
    """
    d = DECISIONS.c
    both = and_(d.expected_cost_usd.is_not(None), d.shadow_expected_cost_usd.is_not(None))
    asked = _sums(both, both).where(d.at >= since, d.bundle == live, d.shadow_bundle == shadow)
    asked = asked.where(d.confidence.is_not(None), d.shadow_confidence.is_not(None))
    return _compared(engine, asked.where(d.reason.in_([reason.value for reason in COMPARED])))


def held_back(engine: Engine, live: str, since: float) -> list[ComparedHeldBack]:
    """The same of the decisions of a bundle that were held back: who answered against whom it would have chosen itself.

    Who answered need be no candidate, of which nothing is expected: each mean, and the agreement, is over the decisions where
    it is known. What was spent is what feedback says, of a fallback and of a failure too.
    """
    d, told = DECISIONS.c, FEEDBACK.c.cost_usd
    both = and_(told.is_not(None), d.shadow_expected_cost_usd.is_not(None))
    asked = _sums(d.expected_cost_usd.is_not(None), d.shadow_expected_cost_usd.is_not(None)).add_columns(
        *(func.sum(case((both, value), else_=0)) for value in (1, told, d.shadow_expected_cost_usd))
    )
    asked = asked.select_from(DECISIONS.outerjoin(FEEDBACK, FEEDBACK.c.decision_id == d.id))
    asked = asked.where(d.at >= since, d.bundle == live, d.shadow_bundle == live, d.shadow_confidence.is_not(None))
    return [_held_back(one, sums) for one, sums in _rows(engine, asked.where(d.reason == Reason.HELD_BACK.value))]


def _held_back(workflow: str | None, sums: list[float]) -> ComparedHeldBack:
    *common, told, spent, expected = sums
    means, sure = _means(workflow, common), common[4]
    means = replace(means, agreement=common[1] / sure if sure else None)
    return ComparedHeldBack(**asdict(means), spent=Spent(int(told), spent, expected) if told else None)


def _sums(live: ColumnElement[bool], shadow: ColumnElement[bool]) -> Select[*tuple[Any, ...]]:
    """What is summed, over decisions whose costs are those to be counted."""
    d = DECISIONS.c
    return select(
        func.count(),
        func.sum(case((d.candidate == d.shadow_candidate, 1), else_=0)),
        *(func.sum(case((known, 1), else_=0)) for known in (live, shadow, d.confidence.is_not(None))),
        func.sum(case((live, d.expected_cost_usd), else_=0.0)),
        func.sum(case((shadow, d.shadow_expected_cost_usd), else_=0.0)),
        func.sum(d.confidence),
        func.sum(d.shadow_confidence),
    )


def _compared(engine: Engine, query: Select[*tuple[Any, ...]]) -> list[Compared]:
    return [_means(workflow, sums) for workflow, sums in _rows(engine, query)]


def _rows(engine: Engine, query: Select[*tuple[Any, ...]]) -> list[tuple[str | None, list[float]]]:
    """The sums of all and then of each workflow; nothing where there are no decisions."""
    d = DECISIONS.c
    each = query.add_columns(d.workflow).group_by(d.workflow).order_by(func.count().desc(), d.workflow).limit(MOST)
    with engine.connect() as connection:
        total = [float(value or 0) for value in connection.execute(query).one()]
        rows = [(workflow, [float(value or 0) for value in sums]) for *sums, workflow in connection.execute(each)]
    return [(None, total), *rows] if rows else []


def _means(workflow: str | None, sums: list[float]) -> Compared:
    count, agreeing, live_priced, shadow_priced, sure, live_usd, shadow_usd, live_confidence, shadow_confidence = sums
    return Compared(
        workflow,
        int(count),
        agreeing / count,
        live_usd / live_priced if live_priced else None,
        shadow_usd / shadow_priced if shadow_priced else None,
        live_confidence / sure if sure else None,
        shadow_confidence / count,
    )
