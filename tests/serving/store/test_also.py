"""Feedback on who was asked too stands beside that on the decision, in any order, and each settles its own money."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from serving.store.feedback import ConflictError, UnknownDecisionError
from serving.store.ledger import ALSO, BudgetKey, Charge, Limit, Totals, units
from serving.store.tables import ALSO_FEEDBACK, FEEDBACK
from serving.store.transaction import totals_of
from serving.store.writer import DecisionStore
from tests.patience import PATIENCE
from tests.serving.store.rows import acknowledged, decision, feedback, stored, told

DAY, TOO = BudgetKey("default", "day", 0), BudgetKey(ALSO, "day", 0)
SERVED, ASKED = "acme/small", "acme/large"


def asked(identifier: str = "d1", **changes: Any) -> dict[str, Any]:
    """A decision that another was asked for too."""
    also = {"also_candidate": ASKED, "also_propensity": 0.05, "also_expected_cost_usd": 0.25}
    return decision(identifier, **{**also, **changes})


def charge(store: DecisionStore, identifier: str, usd: float, budget: BudgetKey, most: float = 1.0) -> bool:
    """Whether the budget holds it."""
    return store.take(Charge(identifier, (Limit(budget, units(most)),), units(usd))).result(PATIENCE) is None


def totals(store: DecisionStore) -> tuple[Totals, Totals]:
    found = totals_of(store.engine, [DAY, TOO])
    return found[DAY], found[TOO]


SAID = {
    "served": feedback(quality=0.25, cost_usd=0.125, output_tokens=7),
    "asked": feedback(quality=1.0, cost_usd=0.5, candidate=ASKED, latency_ms=12.5),
    "later": feedback(quality=None, input_tokens=3, candidate=ASKED),
}


@pytest.mark.parametrize("order", list(permutations(SAID)), ids="-".join)
@pytest.mark.parametrize("together", [True, False])
def test_feedback_of_both_in_any_order(url: str, store: DecisionStore, order: tuple[str, ...], together: bool) -> None:
    assert charge(store, "d1", 0.5, DAY)
    assert charge(store, "d1", 0.25, TOO)
    store.decided(asked())
    said = [SAID[name] for name in order]
    came = acknowledged(store, *said) if together else [one for each in said for one in acknowledged(store, each)]
    assert came == [True] * 3
    assert acknowledged(store, *said) == [False] * 3, "the same again changes nothing"
    [served], [other] = stored(url, FEEDBACK), stored(url, ALSO_FEEDBACK)
    assert (served["candidate"], served["quality"], served["cost_usd"], served["output_tokens"]) == (
        None,
        0.25,
        0.125,
        7,
    )
    assert (served["input_tokens"], served["latency_ms"], served["error"]) == (None, None, False)
    assert (other["candidate"], other["quality"], other["cost_usd"], other["input_tokens"]) == (ASKED, 1.0, 0.5, 3)
    assert (other["output_tokens"], other["latency_ms"], other["error"]) == (None, 12.5, False)
    assert totals(store) == (Totals(units(0.125), units(0.125), 1), Totals(units(0.5), units(0.5), 1))


def test_each_has_its_own_conflicts_and_replacements(url: str, store: DecisionStore) -> None:
    store.decided(asked())
    assert acknowledged(store, feedback(quality=0.5), feedback(quality=1.0, candidate=ASKED)) == [True, True]
    came = told(store, feedback(quality=0.75), feedback(quality=0.5, candidate=ASKED))
    assert [type(one) for one in came] == [ConflictError, ConflictError]
    assert acknowledged(store, feedback(quality=0.0, candidate=ASKED, error=True, replace=True)) == [True]
    [served], [other] = stored(url, FEEDBACK), stored(url, ALSO_FEEDBACK)
    assert (served["quality"], served["error"]) == (0.5, False)
    assert (other["quality"], other["error"]) == (0.0, True)


def test_feedback_of_neither_is_a_fallbacks_as_ever(url: str, store: DecisionStore) -> None:
    store.decided(asked())
    store.decided(decision("d2"))
    said = [feedback(candidate="open/medium"), feedback("d2", candidate=ASKED), feedback(candidate=ASKED)]
    assert acknowledged(store, *said) == [True] * 3
    assert [(row["decision_id"], row["candidate"]) for row in stored(url, FEEDBACK)] == [
        ("d1", "open/medium"),
        ("d2", ASKED),
    ]
    assert [row["decision_id"] for row in stored(url, ALSO_FEEDBACK)] == ["d1"]


def test_who_was_served_may_be_named(url: str, store: DecisionStore) -> None:
    store.decided(asked())
    assert acknowledged(store, feedback(candidate=SERVED)) == [True]
    assert [row["candidate"] for row in stored(url, FEEDBACK)] == [SERVED]
    assert stored(url, ALSO_FEEDBACK) == []


def test_another_key_has_no_say(url: str, store: DecisionStore) -> None:
    store.decided(asked(key="mine"))
    came = told(store, feedback(candidate=ASKED), key="other")
    assert [type(one) for one in came] == [UnknownDecisionError]
    assert stored(url, ALSO_FEEDBACK) == []


def test_without_a_cost_it_stays_as_expected_and_is_settled(store: DecisionStore) -> None:
    assert charge(store, "d1", 0.25, TOO)
    store.decided(asked())
    assert acknowledged(store, feedback(candidate=ASKED)) == [True]
    assert totals(store)[1] == Totals(units(0.25), units(0.25), 1)
    assert acknowledged(store, feedback(cost_usd=0.75)) == [True]
    assert totals(store)[1] == Totals(units(0.25), units(0.25), 1), "that is what the decision itself cost"


def test_both_charges_of_a_decision_are_taken_and_each_once(store: DecisionStore) -> None:
    for _ in range(2):
        assert charge(store, "d1", 0.5, DAY)
        assert charge(store, "d1", 0.25, TOO)
    assert totals(store) == (Totals(units(0.5), 0, 1), Totals(units(0.25), 0, 1))
    assert not charge(store, "d2", 0.5, TOO, most=0.7)


def test_a_cap_begins_with_what_its_day_has_cost_already(store: DecisionStore) -> None:
    for row in (asked("open"), asked("said"), asked("before", at=-1.0), decision("nobody else")):
        store.decided(row)
    assert acknowledged(store, feedback("said", cost_usd=2.0, candidate=ASKED), feedback("open", cost_usd=9.0))
    assert totals(store)[1] == Totals(units(2.25), units(2.0), 2)
