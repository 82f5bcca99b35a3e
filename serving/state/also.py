"""Which decisions another candidate is asked for too, and the money of that: a cap for each UTC day, in the store's ledger.

A request is drawn before it is decided, by a number of its own, so whether it is does not depend on the decision. The money
is held in the store before anybody is told, so that all who share it keep one cap, and becomes what feedback says of the cost.
Who is asked does not depend on what is left: where that does not hold the dearest of those who may be, nobody is asked.

A store that does not answer keeps no call waiting twice: nobody is asked until it has written something again. What it takes
later than it was waited for stays held: the cap errs to the side of spending less.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from serving.decide.also import drawn, may_be_asked
from serving.decide.decision import Also, Decision
from serving.state.budgets import bounds
from serving.state.rulebook import AlsoRules
from serving.store.ledger import ALSO, UNIT, BudgetKey, Charge, Limit, Totals, units
from serving.store.writer import DecisionStore, NotStoredError

_PERIOD: Literal["day"] = "day"


class Drawn(NamedTuple):
    """A request that another candidate may be asked for too: by which rules, and a number in [0, 1) that says whom."""

    rules: AlsoRules
    place: float


@dataclass(frozen=True, slots=True)
class Asked:
    """A decision, whether its request was drawn, and its id."""

    identifier: str
    decision: Decision
    drawn: Drawn | None


class AlsoAsked:
    """Draws requests and holds the money. Safe to share between threads; `clock` gives epoch seconds.

    `rules` gives those in force, `draw` a number in [0, 1). `stored` is whether a store keeps decisions with their prompts:
    without one no cap holds, and without prompts nothing is learnt, so nobody is asked.
    """

    def __init__(
        self,
        rules: Callable[[], AlsoRules],
        draw: Callable[[], float],
        clock: Callable[[], float],
        *,
        stored: bool,
        wait_seconds: float,
    ) -> None:
        self._rules, self._draw, self._clock = rules, draw, clock
        self._stored, self._wait = stored, wait_seconds
        self._known: tuple[BudgetKey, int] | None = None

    def drawn(self, workflow: str | None, *, private: bool) -> Drawn | None:
        """Whether this request is drawn; a `private` one never is."""
        rules = self._rules()
        if not rules.share or not self._stored or private or (rules.workflows and workflow not in rules.workflows):
            return None
        draw = self._draw()
        return Drawn(rules, draw / rules.share) if draw < rules.share else None

    def ask(self, store: DecisionStore, reference: str, asked: Sequence[Asked]) -> list[Decision]:
        """The decisions, each with who is asked too where its request was drawn and the cap holds that.

        Waits for the store, all of them together no longer than for one.
        """
        ends = time.monotonic() + self._wait
        held = [self._held(store, reference, one) for one in asked]
        return [
            one.decision if also is None or not _taken(store, *also, ends) else replace(one.decision, also=also[0])
            for one, also in zip(asked, held, strict=True)
        ]

    def _held(self, store: DecisionStore, reference: str, one: Asked) -> tuple[Also, Future[BudgetKey | None]] | None:
        """Who is to be asked, and what the store will say of the money; None where nobody is."""
        if one.drawn is None or store.failing:
            return None
        rules, place = one.drawn
        among = may_be_asked(one.decision, rules.candidates)
        if not among:
            return None
        also = drawn(among, reference, rules.share, place)
        amount = units(also.expected_cost_usd)
        dearest = max(units(other.expected_cost_usd or 0.0) for other in among)
        budget, most = self._today(), units(rules.daily_usd or 0.0) - (dearest - amount)
        if self._used(budget) + amount > most:
            return None
        try:
            return also, store.take(Charge(one.identifier, (Limit(budget, most),), amount))
        except NotStoredError:  # it is stopping
            return None

    # --- what is known of the money ---

    def keys(self) -> list[BudgetKey]:
        """What is to be read of the store: today's, while anybody may be asked."""
        return [self._today()] if self._stored and self._rules().share else []

    def told(self, totals: Mapping[BudgetKey, Totals]) -> None:
        """Takes what the store says of budgets."""
        for key, found in totals.items():
            if key.scope == ALSO:
                self._known = key, found.used

    @property
    def spent_usd(self) -> float:
        """What who was asked too cost today, as expected until feedback says it, by what the store said last."""
        return self._used(self._today()) / UNIT

    def _used(self, budget: BudgetKey) -> int:
        known = self._known
        return known[1] if known is not None and known[0] == budget else 0

    def _today(self) -> BudgetKey:
        begins, _ = bounds(_PERIOD, datetime.fromtimestamp(self._clock(), UTC))
        return BudgetKey(ALSO, _PERIOD, int(begins.timestamp()))


def _taken(store: DecisionStore, _: Also, done: Future[BudgetKey | None], ends: float) -> bool:
    """Whether the store holds the money; waits for that until `ends`, on the monotonic clock."""
    try:
        return done.result(max(ends - time.monotonic(), 0.0)) is None
    except TimeoutError:
        store.failing = True  # until it has written something: the next ones need not wait as long
    except NotStoredError:
        pass
    return False
