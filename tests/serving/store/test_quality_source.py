"""Where a quality is from, and which of several holds: a judgement over a hint, the lower and surer of two hints."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from serving.store.feedback import ConflictError
from serving.store.tables import FEEDBACK
from serving.store.writer import DecisionStore
from tests.serving.store.rows import decision, feedback, stored, told


def held(url: str) -> tuple[Any, Any]:
    (kept,) = stored(url, FEEDBACK)
    return kept["quality"], kept["quality_source"]


@pytest.mark.parametrize("judged", [None, "judged", "thumb"])
@pytest.mark.parametrize("first", ["weak", "judgement"])
def test_a_judgement_holds_whether_it_comes_before_or_after_a_weak_quality(
    url: str, store: DecisionStore, judged: str | None, first: str
) -> None:
    store.decided(decision())
    weak, judgement = feedback(quality=0.0, source="retried"), feedback(quality=1.0, source=judged)
    came = told(store, *((weak, judgement) if first == "weak" else (judgement, weak)))
    assert not any(isinstance(one, Exception) for one in came)
    assert held(url) == (1.0, judged)
    assert bool(came[1]) is (first == "weak"), "what changes nothing is a repetition"
    assert told(store, feedback(quality=0.0, source="schema", replace=True, cost_usd=0.5)) == [{"cost_usd"}]
    assert held(url) == (1.0, judged)


def test_of_weak_qualities_the_lowest_and_surest_stays_in_any_order(url: str, store: DecisionStore) -> None:
    said = [feedback(quality=q, source=s) for q, s in ((0.5, "schema"), (0.0, "retried"), (0.0, "empty"))]
    for number, order in enumerate(permutations(said)):
        name = f"d{number}"
        store.decided(decision(name))
        assert not any(
            isinstance(one, Exception) for one in told(store, *(replace(one, decision_id=name) for one in order))
        )
    assert {(row["quality"], row["quality_source"]) for row in stored(url, FEEDBACK)} == {(0.0, "empty")}
    assert told(store, feedback("d0", quality=0.75, source="cut", replace=True)) == [{"quality", "quality_source"}]


def test_a_weak_quality_that_is_judged_alike_is_new(url: str, store: DecisionStore) -> None:
    store.decided(decision())
    assert told(store, feedback(quality=0.0, source="retried")) == [{"quality"}]
    assert told(store, feedback(quality=0.0)) == [{"quality", "quality_source"}]
    assert held(url) == (0.0, None)
    assert told(store, feedback(quality=0.0), feedback(quality=0.0, source="thumb")) == [frozenset()] * 2


def test_judgements_of_two_sources_conflict_only_where_they_differ(url: str, store: DecisionStore) -> None:
    store.decided(decision())
    assert told(store, feedback(quality=1.0, source="thumb"), feedback(quality=1.0, source="judged")) == [
        {"quality"},
        {"quality_source"},
    ]
    (conflict,) = told(store, feedback(quality=0.0, source="thumb"))
    assert isinstance(conflict, ConflictError)
    assert conflict.fields == ("quality",)
    assert held(url) == (1.0, "judged")


def test_a_failure_is_no_weak_quality(url: str, store: DecisionStore) -> None:
    for name in ("d1", "d2"):
        store.decided(decision(name))
    assert told(store, feedback(quality=0.0, error=True), feedback(quality=0.5, source="cut")) == [
        {"quality", "error"},
        frozenset(),
    ]
    assert told(store, feedback("d2", quality=0.5, source="cut"), feedback("d2", quality=0.0, error=True)) == [
        {"quality"},
        {"quality", "quality_source", "error"},
    ]
    assert {(row["quality"], row["quality_source"]) for row in stored(url, FEEDBACK)} == {(0.0, None)}
    # there was no failure after all, only the hint
    assert told(store, feedback(quality=0.5, source="cut", error=False, replace=True)) == [
        {"quality", "quality_source", "error"}
    ]
