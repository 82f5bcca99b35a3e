"""From an allowance to a decision that its budgets hold: decided, charged, and decided again where others took the money."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

from sqlalchemy.exc import SQLAlchemyError

from serving.decide.decision import Decision
from serving.settings import Settings
from serving.state.also import AlsoAsked
from serving.state.budgets import Allowance, Budgets, BudgetSpentError
from serving.store.engine import StoreError, open_engine
from serving.store.ledger import BudgetKey, Charge, Totals
from serving.store.transaction import totals_of
from serving.store.waiting.watched import Watched
from serving.store.writer import DecisionStore, NotStoredError

logger = logging.getLogger(__name__)

_TRIES = 4


def opened(settings: Settings, budgets: Budgets, also: AlsoAsked, clock: Callable[[], float]) -> DecisionStore | None:
    """The store that the settings name, which tells the budgets what it says of them, from now on; raises StoreError."""
    if not settings.store:
        return None

    def watched() -> list[BudgetKey]:
        return [*budgets.keys(), *also.keys()]

    def told(totals: Mapping[BudgetKey, Totals], written: Sequence[Charge] = ()) -> None:
        budgets.told(totals, written)
        also.told(totals)

    engine = open_engine(settings.store)
    try:
        told(totals_of(engine, watched()))
    except SQLAlchemyError as error:
        engine.dispose()
        kind = type(getattr(error, "orig", None) or error).__name__
        raise StoreError(f"what budgets have used cannot be read from the store ({kind}): is it locked?") from None
    return DecisionStore(
        engine,
        settings.store_queue,
        clock,
        most_bytes=settings.store_queue_bytes,
        watched=Watched(watched, told, settings.watch_seconds),
    )


class Reservations:
    """Charges decisions to budgets, in the store where there is one.

    A store that does not answer within `wait_seconds` must not keep a call from its LLM: the decision is then held by what
    this process knows, is counted in `unconfirmed`, has a warning, and is charged when the store answers again.
    """

    def __init__(self, budgets: Budgets, store: DecisionStore | None, wait_seconds: float) -> None:
        self.unconfirmed = 0
        self._budgets, self._store, self._wait = budgets, store, wait_seconds

    def waits(self, scopes: Sequence[str]) -> bool:
        """Whether `decided` may wait for the store, which must not happen in an event loop."""
        return self._store is not None and self._budgets.exact(scopes)

    def decided(self, identifier: str, scopes: Sequence[str], decide: Callable[[Allowance], Decision]) -> Decision:
        """What `decide` gives for what the budgets leave, charged to them under the decision's id.

        Raises BudgetSpentError where a budget that rejects cannot hold it, and what `decide` raises; nothing is charged then.
        """
        for tries in range(1, _TRIES + 1):
            allowance = self._budgets.allowance(scopes)
            decision = decide(allowance)
            usd = decision.expected_cost_usd or 0.0
            held = max(usd, decision.held_usd or 0.0)
            charge = self._budgets.charge(identifier, scopes, usd, last=tries == _TRIES)
            try:
                self._budgets.admit(scopes, held)
                confirmed = self._charged(charge, scopes)
            except BudgetSpentError:
                if tries == _TRIES or held > allowance.most_usd:  # nothing that is cheaper was left to choose
                    raise
                continue
            self._budgets.pace(scopes, usd)
            warned = allowance.warned if confirmed else (*allowance.warned, "unconfirmed")
            return replace(decision, warnings=(*decision.warnings, *warned)) if warned else decision
        raise AssertionError("the last try returns or raises")

    def tried(self, scopes: Sequence[str], decide: Callable[[Allowance], Decision]) -> Decision:
        """What `decided` would give by what this process knows, and raises as that does; nothing is charged, nobody asked."""
        allowance = self._budgets.allowance(scopes)
        decision = decide(allowance)
        self._budgets.admit(scopes, max(decision.expected_cost_usd or 0.0, decision.held_usd or 0.0))
        return replace(decision, warnings=(*decision.warnings, *allowance.warned)) if allowance.warned else decision

    def _charged(self, charge: Charge, scopes: Sequence[str]) -> bool:
        """Charges it; False where the store could not confirm that. Raises BudgetSpentError."""
        store = self._store
        if store is None or not self._budgets.exact(scopes):
            self._budgets.hold(charge)
            if store is not None and charge.limits:
                store.charge(charge)
            return True
        self._budgets.check(charge)  # what is spent here already need not be asked for
        if not store.failing:
            try:
                taken = store.take(charge)
                full = taken.result(self._wait)
            except TimeoutError:
                self._held_meanwhile(charge, taken)
                return False
            except NotStoredError:
                pass
            else:
                if full is not None:
                    raise self._budgets.refused(full)
                return True
        self._budgets.hold(charge)
        self._unconfirmed()
        store.charge(charge)
        return False

    def _held_meanwhile(self, charge: Charge, taken: Future[BudgetKey | None]) -> None:
        """Holds here what the store has yet to take; what it refuses then was answered all the same, and is charged."""
        self._budgets.hold(charge)
        self._unconfirmed()
        if self._store is not None:
            self._store.failing = True  # until it has written something: the next ones need not wait as long

        def came(done: Future[BudgetKey | None]) -> None:
            if done.exception() is None and done.result() is None:
                self._budgets.told({}, [charge])
            elif self._store is not None:
                self._store.charge(charge)

        taken.add_done_callback(came)

    def _unconfirmed(self) -> None:
        self.unconfirmed += 1
        if self.unconfirmed == 1:
            logger.warning("the store does not confirm what budgets are charged; this process goes by what it knows")
