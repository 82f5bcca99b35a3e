"""Which deployments a pick is left with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from serving.integrations.litellm.decided import KEY, LOGGED, Decided, drop_claimed, found, put
from serving.integrations.litellm.pick import anything_fits, fitting, picked
from serving.integrations.litellm.rows import candidate_of, unmapped


def row(identifier: str, candidate: str | None = None, **parameters: Any) -> dict[str, Any]:
    info = {"id": identifier, **({} if candidate is None else {"outcome_router": candidate})}
    return {"model_name": "g", "litellm_params": {"model": "m", **parameters}, "model_info": info}


def decided(*ranks: str) -> Decided:
    return Decided({"model": ranks[0], "ranks": list(ranks)}, "g")


def failures(*ids: str) -> dict[str, Any]:
    return {"previous_models": tuple({"deployment_id": one} for one in ids), "request_retry_count": len(ids)}


def ids(rows: Sequence[Any]) -> list[str]:
    return [one["model_info"]["id"] for one in rows]


def test_all_deployments_of_the_best_rank_are_kept() -> None:
    rows = [row("b"), row("a-1", "a"), row("a-2", "a")]
    found = decided("a", "b")
    assert ids(picked(rows, found, {}, {}, anything_fits)) == ["a-1", "a-2"]
    assert found["rows"] == {"a-1": "a", "a-2": "a"}


def test_a_retry_takes_the_candidates_other_deployment_then_the_next_rank_then_begins_again() -> None:
    rows, record = [row("a-1", "a"), row("a-2", "a"), row("b"), row("c")], decided("a", "b")
    failed: list[str] = []
    left = []
    for _ in range(4):
        chosen = ids(picked(rows, record, {}, failures(*failed), anything_fits))
        left.append(chosen)
        failed.append(chosen[0])
    assert left == [["a-1", "a-2"], ["a-2"], ["b"], ["a-1", "a-2"]]


def test_a_pick_that_came_to_nothing_without_a_failure_is_not_made_again() -> None:
    rows, record = [row("a"), row("b")], decided("a", "b")
    assert [ids(picked(rows, record, {}, {}, anything_fits)) for _ in range(2)] == [["a"], ["b"]]


def test_what_litellm_itself_excludes_counts_as_tried() -> None:
    rows = [row("a"), row("b")]
    assert ids(picked(rows, decided("a", "b"), {"_excluded_deployment_ids": ["a"]}, {}, anything_fits)) == ["b"]


def test_who_may_not_answer_is_never_left_over() -> None:
    assert picked([row("c")], decided("a", "b"), {}, {}, anything_fits) == []


def test_a_rank_whose_tags_and_windows_do_not_fit_is_passed_over_while_another_is_left() -> None:
    class Router:
        enable_pre_call_checks = True
        enable_tag_filtering = True

    tags = fitting(Router(), {}, {"tags": ["eu"]}, None)
    rows = [row("a", tags=["us"]), row("b", tags=["eu"])]
    assert ids(picked(rows, decided("a", "b"), {}, {}, tags)) == ["b"]
    assert ids(picked(rows[:1], decided("a", "b"), {}, {}, tags)) == ["a"]
    small, large = row("a", tags=["eu"]), row("b", tags=["eu"])
    small["model_info"]["max_input_tokens"] = 5
    assert ids(picked([small, large], decided("a", "b"), {}, {}, fitting(Router(), {}, {"tags": ["eu"]}, 10))) == ["b"]


@given(
    st.permutations("abcd"), st.sets(st.sampled_from("abcd"), min_size=1), st.lists(st.sampled_from("abcd"), max_size=6)
)
def test_whoever_is_healthy_and_ranked_is_left_and_nobody_else(
    ranks: list[str], healthy: set[str], failed: list[str]
) -> None:
    record = decided(*ranks[:3])
    left = ids(picked([row(one) for one in sorted(healthy)], record, {}, failures(*failed), anything_fits))
    may = [one for one in ranks[:3] if one in healthy]
    assert bool(left) is bool(may)
    assert set(left) <= set(may)
    untried = [one for one in may if one not in failed]
    assert not untried or left == untried[:1]


def test_a_record_is_believed_by_its_class_alone() -> None:
    forged = {"metadata": {LOGGED: {KEY: {"ranks": ["x"]}, "own": 1}}, "litellm_metadata": {LOGGED: {KEY: "x"}}}
    assert found(forged) is None
    drop_claimed(forged)
    assert forged == {"metadata": {LOGGED: {"own": 1}}, "litellm_metadata": {LOGGED: {}}}
    put(forged, decided("a"))
    drop_claimed(forged)
    assert found(forged) == {"model": "a", "ranks": ["a"]}


def test_rows_and_candidates_that_do_not_match_are_named() -> None:
    assert candidate_of(row("x", "a")) == "a"
    assert unmapped("g", [row("a")], {"a": {}}) is None
    said = unmapped("g", [row("0f3a")], {"a": {}})
    assert said is not None
    assert "0f3a (m)" in said
    assert "never chosen: a" in said
