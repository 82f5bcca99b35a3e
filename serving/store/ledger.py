"""The budgets' money, as the store keeps it: one place for every service that shares the store.

A decision is charged with what it is expected to cost, and its charge becomes what feedback says of the cost, whenever that
comes. So a budget's use is the sum of its charges, and a decision that nobody reports on stays charged as expected. Everything
here happens inside the caller's transaction, which holds a budget's row from its first statement on: nobody else's charge comes
between what is read and what is written. Amounts are in billionths of a dollar.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, bindparam, func, literal, select, tuple_

from serving.store.tables import ALSO_FEEDBACK, BUDGETS, CHARGES, DECISIONS, FEEDBACK, insert_new

# The scope of what is spent on candidates that are asked too; no scope of the rules is called so.
ALSO = "also"
UNIT = 1_000_000_000
_MOST = 2**62  # what a column holds, with room for a sum
_KEY = (BUDGETS.c.scope, BUDGETS.c.period, BUDGETS.c.begins)


class BudgetKey(NamedTuple):
    """One budget in one of its periods: the rules' scope, "day" or "month", and when it begins, in epoch seconds."""

    scope: str
    period: str
    begins: int


class Totals(NamedTuple):
    """What a budget's decisions cost (`used`), what feedback has said of that (`settled`), and how many there are."""

    used: int
    settled: int
    decisions: int


class Limit(NamedTuple):
    """A budget, and what it may hold; None: whatever comes."""

    budget: BudgetKey
    most: int | None


@dataclass(frozen=True, slots=True)
class Charge:
    """What one decision costs the budgets that it is under. Nothing is charged where one of them cannot hold it.

    Without a decision's id it is the sum of so many `decisions`, which feedback cannot correct.
    """

    decision_id: str
    limits: tuple[Limit, ...]
    amount: int
    decisions: int = 1

    def added_to(self, sum_: Charge | None) -> Charge:
        """The sum of this and of others under the same budgets, whatever those may hold."""
        if sum_ is None:
            return replace(self, decision_id="")
        return replace(sum_, amount=min(sum_.amount + self.amount, _MOST), decisions=sum_.decisions + self.decisions)


def units(usd: float) -> int:
    """USD in billionths; what no column could hold counts as the most that one can."""
    return round(min(usd * UNIT, _MOST))


@dataclass
class Ledger:
    """The budgets that one transaction is about, read and held, and what it changes of them."""

    connection: Connection
    totals: dict[BudgetKey, Totals] = field(default_factory=dict)
    _changed: set[BudgetKey] = field(default_factory=set)

    def hold(self, budgets: Iterable[BudgetKey]) -> None:
        """Reads the budgets and keeps others from them until the transaction ends.

        Always in the same order, so that no two wait for each other; a budget that the store does not have yet begins
        with what the decisions of its period have cost so far.
        """
        wanted = sorted(set(budgets) - self.totals.keys())
        if not wanted:
            return
        held = select(*_KEY, BUDGETS.c.used, BUDGETS.c.settled, BUDGETS.c.decisions)
        held = held.where(tuple_(*_KEY).in_(wanted)).order_by(*_KEY).with_for_update()
        found = {BudgetKey(*row[:3]): Totals(*row[3:]) for row in self.connection.execute(held)}
        missing = [key for key in wanted if key not in found]
        if missing:
            for key in missing:
                self.connection.execute(insert_new(self.connection.engine, BUDGETS), _begun(self.connection, key))
            found |= {BudgetKey(*row[:3]): Totals(*row[3:]) for row in self.connection.execute(held)}
        self.totals |= found

    def charge(self, charge: Charge) -> BudgetKey | None:
        """Charges a decision's budgets once, however often it is called; gives the one that cannot hold it, if there is one.

        The budgets are held already.
        """
        if charge.decision_id:
            charged = {(row["scope"], row["period"]) for row in self.charges_of([charge.decision_id])}
            if any((budget.scope, budget.period) in charged for budget, _ in charge.limits):
                return None
        for budget, most in charge.limits:
            if most is not None and self.totals[budget].used + charge.amount > most:
                return budget
        rows = [
            {**budget._asdict(), "decision_id": charge.decision_id, "amount": charge.amount, "settled": False}
            for budget, _ in charge.limits
        ]
        if rows and charge.decision_id:
            self.connection.execute(insert_new(self.connection.engine, CHARGES), rows)
        for budget, _ in charge.limits:
            self._add(budget, charge.amount, 0, charge.decisions)
        return None

    def charges_of(self, decisions: Collection[str]) -> Sequence[Mapping[str, Any]]:
        """The charges of decisions, as rows."""
        if not decisions:
            return []
        asked = select(CHARGES).where(CHARGES.c.decision_id.in_(sorted(decisions)))
        return [dict(row) for row in self.connection.execute(asked).mappings()]

    def settle(self, charge: Mapping[str, Any], usd: float | None) -> None:
        """Makes a charge what its decision did cost, as expected where that is not known. Its budget is held already."""
        key = budget_of(charge)
        before: int = charge["amount"]
        now = before if usd is None else units(usd)
        same = and_(
            CHARGES.c.decision_id == charge["decision_id"],
            CHARGES.c.scope == key.scope,
            CHARGES.c.period == key.period,
        )
        self.connection.execute(CHARGES.update().where(same).values(amount=now, settled=True))
        self._add(key, now - before, now - (before if charge["settled"] else 0), 0)

    def _add(self, key: BudgetKey, used: int, settled: int, decisions: int) -> None:
        had = self.totals[key]
        self.totals[key] = Totals(_sum(had.used, used), _sum(had.settled, settled), had.decisions + decisions)
        self._changed.add(key)

    def write(self) -> None:
        """Writes the totals that have changed."""
        if not self._changed:
            return
        where = and_(*(column == bindparam(f"_{column.name}") for column in _KEY))
        rows = [
            {**{f"_{name}": value for name, value in key._asdict().items()}, **self.totals[key]._asdict()}
            for key in sorted(self._changed)
        ]
        self.connection.execute(BUDGETS.update().where(where), rows)
        self._changed.clear()


def _sum(had: int, more: int) -> int:
    """A total with what is added to it. One that has reached the most stays there: what it holds beyond that is not known."""
    return had if had >= _MOST else min(had + more, _MOST)


def budget_of(charge: Mapping[str, Any]) -> BudgetKey:
    """The budget that a row of charges is about."""
    return BudgetKey(charge["scope"], charge["period"], charge["begins"])


def _begun(connection: Connection, key: BudgetKey) -> dict[str, Any]:
    """A budget's first row: what its period's decisions have cost, by feedback or as expected."""
    kind, _, name = key.scope.partition(":")
    also = key.scope == ALSO
    told = ALSO_FEEDBACK if also else FEEDBACK
    expected = DECISIONS.c.also_expected_cost_usd if also else DECISIONS.c.expected_cost_usd
    cost = func.sum(func.coalesce(told.c.cost_usd, expected))
    asked = select(
        func.coalesce(cost, 0.0), func.coalesce(cost.filter(told.c.decision_id.is_not(None)), 0.0), func.count()
    ).select_from(DECISIONS.join(told, told.c.decision_id == DECISIONS.c.id, isouter=True))
    inside = DECISIONS.c.at >= key.begins
    of_it = {
        "workflow": DECISIONS.c.workflow == name,
        "key": DECISIONS.c.key == name,
        ALSO: DECISIONS.c.also_candidate.is_not(None),
    }.get(kind, literal(True))
    used, settled, decisions = connection.execute(asked.where(inside, of_it)).one()
    return {**key._asdict(), "used": units(used), "settled": units(settled), "decisions": decisions}
