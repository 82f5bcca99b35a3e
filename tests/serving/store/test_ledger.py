"""The budgets' money in the store: nothing is lost, nothing is taken twice, and late feedback still corrects."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from serving.store.engine import open_engine
from serving.store.ledger import BudgetKey, Charge, Limit, Totals, units
from serving.store.tables import CHARGES
from serving.store.transaction import totals_of
from serving.store.waiting.watched import Watched
from serving.store.writer import DecisionStore
from tests.patience import PATIENCE, until
from tests.serving.store.rows import acknowledged, decision, feedback, locked, stored

DAY = BudgetKey("default", "day", 0)
KEY = BudgetKey("key:k", "month", 0)


def charge(identifier: str, usd: float, *budgets: BudgetKey, most: float | None = None) -> Charge:
    limit = None if most is None else units(most)
    return Charge(identifier, tuple(Limit(one, limit) for one in budgets or (DAY,)), units(usd))


def totals(store: DecisionStore, *budgets: BudgetKey) -> list[Totals]:
    found = totals_of(store.engine, budgets or (DAY,))
    return [found[one] for one in budgets or (DAY,)]


def test_a_charge_becomes_what_feedback_says_whenever_that_comes(store: DecisionStore) -> None:
    for name in ("a", "b"):
        assert store.take(charge(name, 0.25, DAY, KEY, most=1.0)).result(PATIENCE) is None
        store.decided(decision(name, key="k"))
    assert acknowledged(store, feedback("a", cost_usd=0.125)) == [True]
    assert totals(store, DAY, KEY) == [Totals(units(0.375), units(0.125), 2)] * 2
    assert acknowledged(store, feedback("b")) == [True]  # without a cost: as expected
    assert totals(store) == [Totals(units(0.375), units(0.375), 2)]
    assert acknowledged(store, feedback("b", cost_usd=0.5)) == [True]
    assert acknowledged(store, feedback("a", cost_usd=0.25, replace=True), feedback("b", cost_usd=0.5)) == [True, False]
    assert totals(store) == [Totals(units(0.75), units(0.75), 2)]


def test_what_does_not_fit_one_of_its_budgets_is_charged_to_none(store: DecisionStore) -> None:
    assert store.take(charge("a", 0.75, KEY, most=1.0)).result(PATIENCE) is None
    assert store.take(charge("b", 0.5, DAY, KEY, most=1.0)).result(PATIENCE) == KEY
    assert totals(store, DAY, KEY) == [Totals(0, 0, 0), Totals(units(0.75), 0, 1)]
    store.charge(charge("b", 0.5, DAY, KEY, most=1.0))  # whatever the budgets hold
    until(lambda: totals(store, KEY) == [Totals(units(1.25), 0, 2)])


def test_the_same_decision_is_charged_once(url: str, store: DecisionStore) -> None:
    for _ in range(3):
        assert store.take(charge("a", 0.5, most=0.75)).result(PATIENCE) is None
    assert totals(store) == [Totals(units(0.5), 0, 1)]
    assert len(stored(url, CHARGES)) == 1


def test_several_stores_never_take_the_same_money(url: str, store: DecisionStore) -> None:
    other = DecisionStore(open_engine(url))
    with ThreadPoolExecutor(16) as pool:
        stores = (store, other) * 100
        came = list(
            pool.map(lambda n: stores[n].take(charge(f"d{n}", 0.03, DAY, KEY, most=1.0)).result(PATIENCE), range(200))
        )
    other.close(PATIENCE)
    assert came.count(None) == 33
    assert totals(store, DAY, KEY) == [Totals(units(0.99), 0, 33)] * 2


def test_a_budget_begins_with_what_its_period_has_cost_already(store: DecisionStore) -> None:
    store.decided(decision("before", at=-1.0))
    store.decided(decision("said", key="k"))
    store.decided(decision("open", key="k", workflow="None"))
    store.decided(decision("untagged"))
    acknowledged(store, feedback("said", cost_usd=2.0))
    assert totals(store, DAY, KEY, BudgetKey("workflow:None", "day", 0)) == [
        Totals(units(3.0), units(2.0), 3),
        Totals(units(2.5), units(2.0), 2),
        Totals(units(0.5), 0, 1),
    ]


def test_who_watches_is_told_what_was_written_and_what_others_spent(url: str) -> None:
    told: list[tuple[Any, Any]] = []
    watched = Watched(lambda: [DAY], lambda totals, written: told.append((dict(totals), list(written))), 0.01)
    store, other = DecisionStore(open_engine(url), watched=watched), DecisionStore(open_engine(url))
    mine = charge("a", 0.25)
    store.charge(mine)
    until(lambda: any(mine in written for _, written in told))
    assert other.take(charge("b", 0.5)).result(PATIENCE) is None
    until(lambda: told[-1] == ({DAY: Totals(units(0.75), 0, 2)}, []))
    store.close(PATIENCE)
    other.close(PATIENCE)


def test_what_a_full_queue_has_no_room_for_is_charged_in_sum(tmp_path: Path) -> None:
    told: list[Charge] = []
    watched = Watched(lambda: [], lambda _, charges: told.extend(charges), PATIENCE)
    store = DecisionStore(open_engine(str(tmp_path / "d.db")), most_waiting=3, watched=watched)
    with locked(tmp_path / "d.db") as connection:
        for number in range(200):
            store.charge(charge(f"d{number}", 0.01, *((DAY, KEY) if number % 2 else (DAY,))))
        assert store.waiting + len(told) <= 4  # one more may be in the writer's hands
        connection.rollback()
    until(lambda: totals(store, DAY, KEY) == [Totals(units(2.0), 0, 200), Totals(units(1.0), 0, 100)])
    store.close(PATIENCE)
    assert sum(one.amount for one in told) == units(2.0)  # so that nothing counts as waiting any more
    assert sum(one.decisions for one in told) == 200
    assert len(stored(str(tmp_path / "d.db"), CHARGES)) < 20


def test_a_total_that_has_reached_the_most_makes_no_room(store: DecisionStore) -> None:
    for name in ("a", "b", "c"):
        assert store.take(Charge(name, (Limit(DAY, None),), 2**61)).result(PATIENCE) is None
        store.decided(decision(name))
    assert totals(store) == [Totals(2**62, 0, 3)]
    for name in ("a", "b", "c"):
        assert acknowledged(store, feedback(name, cost_usd=0.0)) == [True]
    assert totals(store)[0].used == 2**62
