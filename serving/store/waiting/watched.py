"""Budgets that are read again and again by the thread that writes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from serving.store.ledger import BudgetKey, Charge, Totals
from serving.store.transaction import FAULTS, Item, Written, totals_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Watched:
    """Budgets that are read again every `seconds`: `budgets` says which, `told` takes what the store says of them.

    `told` is given the charges that were written with it as well: nothing comes between the two.
    """

    budgets: Callable[[], Sequence[BudgetKey]]
    told: Callable[[Mapping[BudgetKey, Totals], Sequence[Charge]], None]
    seconds: float


class Watch:
    """When budgets were read last, and who is told; nobody, where none are watched."""

    def __init__(self, engine: Engine, watched: Watched | None) -> None:
        self._engine, self._watched = engine, watched
        self._looked = time.monotonic()

    def patience(self) -> float | None:
        """Seconds until it is time to look; None: never."""
        return None if self._watched is None else max(self._looked + self._watched.seconds - time.monotonic(), 0.0)

    def look(self) -> None:
        """Reads the budgets, if it is time to. What fails is tried again at the next turn."""
        if self._watched is None or time.monotonic() < self._looked + self._watched.seconds:
            return
        self._looked = time.monotonic()
        try:
            self._watched.told(totals_of(self._engine, self._watched.budgets()), ())
        except FAULTS as error:
            logger.warning("the budgets cannot be read (%s)", type(getattr(error, "orig", None) or error).__name__)

    def wrote(self, items: Sequence[Item], written: Written) -> None:
        """Tells what a transaction came to, with the charges that nobody waits for."""
        if self._watched is not None:
            charges = [item.charge for item in items if item.charge is not None and item.done is None]
            self._watched.told(written.totals, charges)
