"""Splits: whole groups, the asked shares, time in order, and an error instead of an empty part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.examples import examples
from training.dataset.split import (
    SplitError,
    conversations,
    folds,
    group_requests,
    group_stand_ins,
    split_requests,
    stand_in,
    workflow_folds,
)

NO_TIME = np.datetime64("NaT", "us")


def days(*numbers: int) -> Any:
    return np.datetime64("2025-01-01", "us") + np.array(numbers) * np.timedelta64(1, "D")


def nothing_given(n: int) -> Any:
    return np.array([None] * n, dtype=object)


def timeless(n: int) -> Any:
    return np.full(n, NO_TIME)


def test_requests_are_grouped_through_sessions_and_texts() -> None:
    b = "the beginning of a story that two tell"
    texts = ["a", b, "c", f"{b.upper()} ", "d", "e"]
    sessions = ["s", "s", None, "t", "t", float("nan")]
    assert group_requests(texts, sessions).tolist() == [0, 0, 1, 0, 0, 2]  # type: ignore[list-item]
    assert group_requests([], []).tolist() == []
    assert group_requests(["x", "y"], [None, None]).tolist() == [0, 1]


def test_what_everybody_says_does_not_glue_conversations_together() -> None:
    texts = ["hi", "one", "Hi ", "two", "hi", "hi", "hi"]
    sessions = ["s", "s", "t", "t", "alone", None, None]
    # Requests of their own are tied by any text, conversations of several requests by a telling one.
    assert group_requests(texts, sessions).tolist() == [0, 0, 1, 1, 2, 2, 2]
    button = "please sum up for me what was said so far"
    for count, groups in ((10, 1), (11, 11)):
        texts = [text for n in range(count) for text in (button, f"question {n}")]
        assert len(set(group_requests(texts, [f"s{n // 2}" for n in range(2 * count)]).tolist())) == groups


def test_a_split_by_time_puts_the_newest_in_test() -> None:
    split = split_requests(np.arange(10), days(9, 8, 7, 6, 5, 4, 3, 2, 1, 0), nothing_given(10))
    assert split.method == "time"
    assert np.flatnonzero(split.test).tolist() == [0, 1]
    assert np.flatnonzero(split.calibration).tolist() == [2, 3]
    assert np.flatnonzero(split.train).tolist() == [4, 5, 6, 7, 8, 9]
    assert split.note == "whole groups by time; train 6, calibration 2, test 2"


def test_a_group_goes_to_the_part_of_its_last_request() -> None:
    split = split_requests(np.array([0, 1, 2, 3, 4, 0]), days(0, 1, 2, 3, 4, 5), nothing_given(6))
    assert split.test[[0, 5]].all()


def test_without_every_timestamp_the_split_is_random_and_says_so() -> None:
    stamps = days(*range(10))
    stamps[3] = NO_TIME
    split = split_requests(np.arange(10), stamps, nothing_given(10))
    assert split.method == "random"
    assert "1 of 10 requests have no timestamp" in split.note
    assert [int(mask.sum()) for mask in (split.train, split.calibration, split.test)] == [6, 2, 2]
    with pytest.raises(SplitError, match="1 of 10 requests have none"):
        split_requests(np.arange(10), stamps, nothing_given(10), method="time")


def test_one_timestamp_for_all_orders_nothing() -> None:
    split = split_requests(np.arange(10), days(*[3] * 10), nothing_given(10))
    assert split.method == "random"
    assert "all timestamps are the same" in split.note


def test_given_test_requests_are_the_test_and_their_groups_leave_the_rest() -> None:
    parts = np.array(["test", "train", None, "train", float("nan"), pd.NA, "test"], dtype=object)
    split = split_requests(np.array([0, 0, 1, 2, 3, 4, 5]), timeless(7), parts)
    assert split.method == "given"
    assert split.test.tolist() == [True, False, False, False, False, False, True]
    assert np.flatnonzero(split.dropped).tolist() == [1]
    assert split.train.sum() == 3
    assert split.calibration.sum() == 1
    assert "1 requests dropped" in split.note
    with pytest.raises(SplitError, match="none of 7"):
        split_requests(np.arange(7), timeless(7), nothing_given(7), method="given")


def test_too_few_groups_is_an_error_with_the_numbers() -> None:
    with pytest.raises(SplitError, match=r"5 requests in 2 groups .* 3 non-empty parts need at least 3 groups"):
        split_requests(np.array([0, 0, 0, 1, 1]), timeless(5), nothing_given(5))
    with pytest.raises(SplitError, match="sum to 1"):
        split_requests(np.arange(5), timeless(5), nothing_given(5), fractions=(0.5, 0.5, 0.5))


def test_folds_are_balanced_and_need_a_group_each() -> None:
    assert np.bincount(folds(np.arange(10), 3)).tolist() in ([4, 3, 3], [3, 4, 3], [3, 3, 4])
    assert sorted(np.bincount(folds(np.array([0, 0, 0, 0, 1, 1, 2, 2]), 2)).tolist()) == [4, 4]
    with pytest.raises(SplitError, match=r"3 requests .* in 2 groups .* in 3 folds needs"):
        folds(np.array([0, 1, 1]), 3)


GROUPS = st.lists(st.integers(0, 12), min_size=3, max_size=40).filter(lambda ids: len(set(ids)) >= 3)


@pytest.mark.parametrize("seed", range(3))
def test_as_a_log_without_times_grows_hardly_a_request_that_was_learned_from_comes_to_be_measured_on(seed: int) -> None:
    groups = np.random.default_rng(seed).integers(0, 2_000, 6_000)
    groups = pd.factorize(groups)[0].astype(np.intp)
    before = split_requests(groups, timeless(6_000), nothing_given(6_000), seed=seed)
    new = groups.max() + 1 + np.arange(600) // 2
    after = split_requests(np.concatenate([groups, new]), timeless(6_600), nothing_given(6_600), seed=seed)
    assert after.method == "random"
    known = slice(0, 6_000)
    # Parts are cut where their shares ask for it, so that a few groups at the cuts may go over; at a new draw 40% would.
    assert (before.train & ~after.train[known]).sum() <= 0.03 * before.train.sum()
    assert (before.train & after.test[known]).sum() == 0
    # New ones go to all parts, by their shares.
    assert abs(float(after.test[6_000:].mean()) - 0.2) < 0.1


@st.composite
def requests(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    groups = np.array(draw(GROUPS))
    n = len(groups)
    when = draw(st.lists(st.integers(0, 9) | st.none(), min_size=n, max_size=n))
    if draw(st.booleans()):
        when = [0 if day is None else day for day in when]
    stamps = np.array([NO_TIME if day is None else days(day)[0] for day in when], dtype="datetime64[us]")
    parts = draw(st.lists(st.sampled_from([None, None, None, "train", "test"]), min_size=n, max_size=n))
    return groups, stamps, np.array(parts if draw(st.booleans()) else [None] * n, dtype=object)


@examples(60)
@given(requests(), st.integers(0, 3))
def test_parts_are_disjoint_complete_whole_groups_and_repeatable(arrived: tuple[Any, Any, Any], seed: int) -> None:
    groups, stamps, parts = arrived
    try:
        split = split_requests(groups, stamps, parts, seed=seed)
    except SplitError:
        tested = groups[parts == "test"]
        assert len(set(groups) - set(tested)) < 2
        return
    masks = np.stack([split.train, split.calibration, split.test, split.dropped])
    assert (masks.sum(axis=0) == 1).all()
    assert masks[:3].any(axis=1).all()
    owners = pd.Series(masks[:3].argmax(axis=0))[~split.dropped]
    assert owners.groupby(groups[~split.dropped]).nunique().max() == 1
    if split.method == "time":
        last = pd.Series(stamps).groupby(groups).transform("max").to_numpy()
        assert stamps[split.train].max() <= last[split.calibration].min()
        assert stamps[split.train | split.calibration].max() <= last[split.test].min()
    again = split_requests(groups, stamps, parts, seed=seed)
    for name in ("train", "calibration", "test", "dropped"):
        assert (getattr(again, name) == getattr(split, name)).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=15), st.data())
def test_groups_join_exactly_what_shares_a_text_or_a_session(texts: list[str], data: st.DataObject) -> None:
    sessions = data.draw(st.lists(st.sampled_from(["s", "t", "u", None]), min_size=len(texts), max_size=len(texts)))
    groups = group_requests(texts, sessions)
    expected = list(range(len(texts)))
    # These texts are short: within a conversation of several requests they tie nothing.
    inside = {i for i, session in enumerate(sessions) if session is not None and sessions.count(session) > 1}
    for _ in texts:  # the slow definition: pass the smallest number on until nothing changes
        for i in range(len(texts)):
            for j in range(len(texts)):
                same = texts[i] == texts[j] and not {i, j} & inside
                if same or (sessions[i] is not None and sessions[i] == sessions[j]):
                    expected[i] = expected[j] = min(expected[i], expected[j])
    assert groups.tolist() == pd.factorize(np.array(expected))[0].tolist()


@settings(max_examples=60, deadline=None)
@given(GROUPS, st.integers(2, 3), st.integers(0, 3))
def test_folds_hold_whole_groups_and_repeat(ids: list[int], k: int, seed: int) -> None:
    groups = np.array(ids)
    fold = folds(groups, k, seed)
    assert set(fold.tolist()) == set(range(k))
    assert pd.Series(fold).groupby(groups).nunique().max() == 1
    assert (folds(groups, k, seed) == fold).all()
    counts = np.bincount(fold)
    assert counts.max() - counts.min() <= np.bincount(groups).max()


def test_folds_leave_whole_workflows_out_and_never_part_a_group() -> None:
    generator = np.random.default_rng(3)
    workflow = generator.permutation(np.array(["a", "b", "c", "d"] * 10 + [None] * 160, dtype=object))
    groups = np.arange(200)
    fold = workflow_folds(groups, workflow, 5)
    for name in "abcd":
        assert len(set(fold[workflow == name])) == 1
    assert len(set(fold[[name is None for name in workflow]])) > 1  # each request without a tag is one of its own
    assert len(set(fold)) == 5
    # Two of one conversation stay together, though they are of different workflows.
    groups[1] = groups[0]
    workflow[:2] = ["a", "b"]
    assert workflow_folds(groups, workflow, 5)[0] == workflow_folds(groups, workflow, 5)[1]


def test_with_few_workflows_there_is_a_fold_for_each_and_with_one_there_are_the_usual() -> None:
    groups = np.arange(40)
    two = np.array(["a", "b"] * 20, dtype=object)
    assert sorted(np.bincount(workflow_folds(groups, two, 5)).tolist()) == [20, 20]
    one = np.array(["a", None] * 20, dtype=object)
    assert workflow_folds(groups, one, 5, seed=4).tolist() == folds(groups, 5, 4).tolist()


def test_conversations_are_sessions_and_each_request_without_one() -> None:
    assert conversations(["b", None, "a", "b", None]).tolist() == [0, 2, 1, 0, 3]
    assert conversations([None, None]).tolist() == [0, 1]
    assert conversations([]).tolist() == []


def test_stand_ins_are_grouped_as_the_texts_that_they_stand_for() -> None:
    draw = np.random.default_rng(0)
    short = ["hi", "HI ", "yes please", ""]
    long = [f"please tell me all that there is to know of number {n}" for n in range(30)]
    texts = [str(one) for one in draw.choice([*short, *long, *(one.upper() for one in long)], 400)]
    sessions = [None if one < 10 else f"s{one}" for one in draw.integers(0, 150, 400).tolist()]
    stand_ins = [stand_in(text) for text in texts]
    found = group_requests(texts, sessions)
    assert 5 < len(np.unique(found)) < 200
    assert np.array_equal(group_requests(stand_ins, sessions), found)
    assert np.array_equal(group_stand_ins(stand_ins, sessions), found)
    assert group_stand_ins([], []).shape == (0,)
