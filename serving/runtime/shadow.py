"""A shadow bundle: asked about live traffic as well, off the answer's path, and never answering."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Engine, and_, case, func, select

from serving.bundle.arrays import Floats32
from serving.bundle.request import RouteRequest, text_of
from serving.decide.policy import NoEligibleCandidateError, Policy, Reason
from serving.decide.router import Decision, Situation
from serving.runtime.live import Live
from serving.store.decisions import DECISIONS

logger = logging.getLogger(__name__)

Outcome = Literal["agrees", "differs", "no_candidate", "failed", "dropped"]
_MOST_WAITING = 1000
# The decisions that a bundle makes by itself. The others depend on the conversation, a budget or a draw as well, or were
# made without the bundle; the shadow is asked without any of these.
COMPARED = (Reason.BEST_VALUE, Reason.ONLY_ELIGIBLE, Reason.REFERENCE, Reason.NOVEL, Reason.LOW_CONFIDENCE)


@dataclass(frozen=True)
class Compared:
    """Live against shadow over some decisions; `workflow` None is requests without a tag, or all of them in the total."""

    workflow: str | None
    decisions: int
    agreement: float
    live_cost_usd: float | None
    shadow_cost_usd: float | None
    live_confidence: float | None
    shadow_confidence: float | None


class Shadow:
    """Asks the shadow bundle in one thread of its own. Whatever goes wrong there is counted and logged, never raised."""

    def __init__(self, live: Live, most_waiting: int = _MOST_WAITING) -> None:
        self.live = live
        self._room = threading.BoundedSemaphore(most_waiting)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._failing = False

    def ask(
        self,
        request: RouteRequest,
        policy: Policy,
        decision: Decision,
        embedding: Floats32 | None,
        then: Callable[[Decision | None, Outcome], None],
    ) -> None:
        """Calls `then` with what the shadow would have decided (None if nothing) and how that compares.

        `embedding` (1, dim) is the prompt's by the encoder of `decision.bundle`, where the shadow's is the same; None: it
        embeds itself. Where too many wait, the shadow is not asked.
        """
        if not self._room.acquire(blocking=False):
            then(None, "dropped")
            return

        def work() -> None:
            try:
                then(*self._compare(request, policy, decision, embedding))
            finally:
                self._room.release()

        try:
            self._pool.submit(work)
        except RuntimeError:  # it is stopping
            self._room.release()
            then(None, "dropped")

    def _compare(
        self, request: RouteRequest, policy: Policy, decision: Decision, embedding: Floats32 | None
    ) -> tuple[Decision | None, Outcome]:
        try:
            serving = self.live.current
            own = serving.embed(text_of(request)) if embedding is None else embedding
            would = serving.router.decide(request, policy, Situation(), own)
        except NoEligibleCandidateError:
            return None, "no_candidate"
        except Exception:  # a shadow is on trial: its faults are a finding, and not the request's
            if not self._failing:
                logger.exception("the shadow bundle fails; further failures are only counted")
            self._failing = True
            return None, "failed"
        self._failing = False
        return would, "agrees" if would.candidate == decision.candidate else "differs"

    def close(self) -> None:
        """Stops watching for other bundles and finishes what waits."""
        self.live.stop()
        self._pool.shutdown(wait=True)


def compared(engine: Engine, live: str, shadow: str, since: float) -> list[Compared]:
    """What the store says of two bundles, by their versions: the total first, then each workflow, the busiest first.

    Counts decisions since a time (seconds since the epoch) that both bundles made by themselves; empty if there are none.
    Costs are means in USD.
    """
    d = DECISIONS.c
    priced = and_(d.expected_cost_usd.is_not(None), d.shadow_expected_cost_usd.is_not(None))
    query = (
        select(
            d.workflow,
            func.count(),
            func.sum(case((d.candidate == d.shadow_candidate, 1), else_=0)),
            func.sum(case((priced, 1), else_=0)),
            func.sum(case((priced, d.expected_cost_usd), else_=0.0)),
            func.sum(case((priced, d.shadow_expected_cost_usd), else_=0.0)),
            func.sum(d.confidence),
            func.sum(d.shadow_confidence),
        )
        .where(d.at >= since, d.bundle == live, d.shadow_bundle == shadow, d.shadow_confidence.is_not(None))
        .where(d.confidence.is_not(None), d.reason.in_([reason.value for reason in COMPARED]))
        .group_by(d.workflow)
        .order_by(func.count().desc(), d.workflow)
    )
    with engine.connect() as connection:
        rows = [(row[0], [float(value or 0) for value in row[1:]]) for row in connection.execute(query)]
    if not rows:
        return []
    total = [sum(column) for column in zip(*(sums for _, sums in rows), strict=True)]
    return [_means(workflow, sums) for workflow, sums in [(None, total), *rows]]


def _means(workflow: str | None, sums: list[float]) -> Compared:
    count, agreeing, priced, live_usd, shadow_usd, live_confidence, shadow_confidence = sums
    return Compared(
        workflow,
        int(count),
        agreeing / count,
        live_usd / priced if priced else None,
        shadow_usd / priced if priced else None,
        live_confidence / count,
        shadow_confidence / count,
    )
