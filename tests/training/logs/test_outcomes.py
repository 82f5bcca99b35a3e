"""The outcome table: what is kept, what is skipped and why, and that nothing is lost between the two."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from training.logs.outcomes import COLUMNS, OutcomeError, Outcomes, Unreadable
from training.logs.repeated.repeats import concat
from training.logs.validate import validate

GOOD: dict[str, Any] = {"request_id": "r", "prompt": "hello", "candidate": "a", "quality": 1.0}
DTYPES = {
    **dict.fromkeys(
        ("request_id", "prompt", "candidate", "session_id", "workflow", "status", "split", "purpose", "quality_source"),
        "str",
    ),
    **dict.fromkeys(("quality", "cost_usd", "latency_ms", "propensity"), "float64"),
    **dict.fromkeys(("input_tokens", "output_tokens"), "Int64"),
    "messages": "object",
    "timestamp": "datetime64[us, UTC]",
}


def check(*records: dict[str, Any], **more: Any) -> Outcomes:
    raw = pd.DataFrame(list(records), dtype=object)
    return validate(raw, source="log.jsonl", format="canonical", **more)


def with_good(**cells: Any) -> Outcomes:
    """A good row first, so that the second one may fail alone."""
    return check({**GOOD, "request_id": "good"}, {**GOOD, **cells})


def only(**cells: Any) -> Any:
    """The row that `GOOD` with these cells becomes."""
    result = check({**GOOD, **cells})
    assert result.reasons == {}
    return result.frame.iloc[0]


def test_a_plain_row_keeps_its_values_and_every_column_has_its_type() -> None:
    result = check(GOOD)
    assert tuple(result.frame.columns) == COLUMNS
    assert {name: str(dtype) for name, dtype in result.frame.dtypes.items()} == DTYPES
    row = result.frame.iloc[0]
    assert (row["request_id"], row["prompt"], row["candidate"], row["quality"]) == ("r", "hello", "a", 1.0)
    assert row["status"] == "success"
    assert row[["cost_usd", "input_tokens", "timestamp", "session_id", "split", "messages"]].isna().all()
    assert (result.rows_read, len(result.skipped), result.formats) == (1, 0, ("canonical",))


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"request_id": None}, "no request_id"),
        ({"request_id": "  "}, "no request_id"),
        ({"request_id": ["r"]}, "request_id is not text"),
        ({"candidate": ""}, "no candidate"),
        ({"prompt": None}, "no prompt"),
        ({"prompt": " \n\t"}, "no prompt"),
        ({"prompt": {"text": "x"}}, "prompt is not text"),
        ({"prompt": None, "messages": []}, "no prompt"),
        ({"prompt": None, "messages": [{"role": "user", "content": " "}]}, "no prompt"),
        ({"messages": "not json"}, "messages is not a list of messages"),
        ({"messages": [{"content": "no role"}]}, "messages is not a list of messages"),
        ({"messages": {"role": "user", "content": "x"}}, "messages is not a list of messages"),
        ({"quality": "good"}, "quality is not a number"),
        ({"quality": float("inf")}, "quality is not a number"),
        ({"quality": 1.01}, "quality outside [0, 1]"),
        ({"quality": "-0.5"}, "quality outside [0, 1]"),
        ({"cost_usd": -1}, "cost_usd is negative"),
        ({"cost_usd": True}, "cost_usd is not a number"),
        ({"cost_usd": "1_000"}, "cost_usd is not a number"),
        ({"input_tokens": -3}, "input_tokens is negative"),
        ({"output_tokens": 2.5}, "output_tokens is not a whole number"),
        ({"output_tokens": 1e300}, "output_tokens is too large"),
        ({"latency_ms": -0.1}, "latency_ms is negative"),
        ({"timestamp": "yesterday"}, "timestamp is not a date"),
        ({"timestamp": "now"}, "timestamp is not a date"),
        ({"timestamp": 12}, "timestamp is not a date"),
        ({"timestamp": "0001-01-01T00:00:00Z"}, "timestamp is not a date"),
        ({"timestamp": "2025-02-30"}, "timestamp is not a date"),
        ({"propensity": 0}, "propensity outside (0, 1]"),
        ({"propensity": 1.2}, "propensity outside (0, 1]"),
        ({"status": "ok"}, "status is neither success nor error"),
        ({"split": "validation"}, "split is neither train nor test"),
        ({"request_id": "good", "quality": 1.0}, "duplicate row"),
        ({"request_id": "good", "prompt": "other"}, "request has two different prompts"),
    ],
)
def test_a_bad_row_is_skipped_with_its_reason(cells: dict[str, Any], reason: str) -> None:
    result = with_good(**cells)
    assert result.reasons == {reason: 1}
    assert result.skipped["row"].tolist() == [2]
    assert result.skipped["source"].tolist() == ["log.jsonl"]
    assert result.skipped["expected"].iloc[0]
    assert len(result.frame) == 1


@pytest.mark.parametrize(
    ("arrived", "quality"),
    [(True, 1.0), (False, 0.0), ("True", 1.0), ("0.25", 0.25), (Decimal("0.5"), 0.5), (np.float32(0.5), 0.5), (1, 1.0)],
)
def test_quality_is_read_from_what_logs_hold(arrived: Any, quality: float) -> None:
    assert only(quality=arrived)["quality"] == quality


@pytest.mark.parametrize("arrived", [None, "", "nan", "NULL", float("nan"), pd.NA])
def test_missing_quality_is_null_and_not_a_fault(arrived: Any) -> None:
    assert np.isnan(only(quality=arrived)["quality"])


@pytest.mark.parametrize(
    "arrived",
    [
        1_735_787_045,
        1_735_787_045_000,
        "1735787045",
        1_735_787_045.0,
        "2025-01-02T03:04:05Z",
        "2025-01-02T03:04:05",
        "2025-01-02 04:04:05+01:00",
        dt.datetime(2025, 1, 2, 3, 4, 5),
        dt.datetime(2025, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        pd.Timestamp("2025-01-02T03:04:05Z"),
        np.datetime64("2025-01-02T03:04:05"),
    ],
)
def test_a_timestamp_is_the_same_instant_in_every_notation(arrived: Any) -> None:
    assert only(timestamp=arrived)["timestamp"] == pd.Timestamp("2025-01-02T03:04:05Z")


def test_an_error_row_has_quality_zero_whatever_it_says() -> None:
    assert only(status="Error", quality="n/a?")["quality"] == 0.0
    assert only(status="error", quality=None)["quality"] == 0.0


def test_a_date_is_read_whatever_digits_the_others_have() -> None:
    times = ["2025-01-01T00:00:00.1234567Z", "2270-05-05", "2025-01-01T00:00:00.123456+00:00"]
    rows = [{**GOOD, "request_id": str(n), "timestamp": time} for n, time in enumerate(times)]
    found = validate(pd.DataFrame(rows), source="test", format="test")
    assert not len(found.skipped), found.reasons
    first, late, same = found.frame["timestamp"]
    assert first == same == pd.Timestamp("2025-01-01T00:00:00.123456Z")
    assert late.year == 2270


def test_model_stands_for_candidate_only_where_that_is_absent() -> None:
    assert check({"request_id": "r", "prompt": "x", "model": "m"}).frame["candidate"].tolist() == ["m"]
    assert only(model="m")["candidate"] == "a"


def test_identifiers_are_stripped_and_numbers_become_text() -> None:
    row = only(request_id=7.0, session_id=" s ", workflow="", candidate=" a ")
    assert (row["request_id"], row["session_id"], row["candidate"]) == ("7", "s", "a")
    assert pd.isna(row["workflow"])


def test_messages_win_over_a_prompt_and_lose_what_parquet_padded_them_with() -> None:
    row = only(messages=np.array([{"role": "user", "content": "hi", "tool_calls": None}], dtype=object))
    assert row["messages"] == [{"role": "user", "content": "hi"}]
    assert pd.isna(row["prompt"])


def test_messages_may_be_json_text_and_parts() -> None:
    messages = '[{"role": "user", "content": [{"type": "text", "text": "hi"}]}]'
    assert only(messages=messages)["messages"][0]["content"] == [{"type": "text", "text": "hi"}]


def test_one_user_message_is_the_same_prompt_as_its_text() -> None:
    rows = [{"prompt": "hi"}, {"messages": [{"role": "user", "content": "hi"}]}]
    shared = {"request_id": "r", "quality": 1}
    result = check({**shared, "candidate": "a", **rows[0]}, {**shared, "candidate": "b", **rows[1]})
    assert result.reasons == {}


def test_half_a_surrogate_pair_cannot_reach_later_stages() -> None:
    row = only(prompt="a\ud800b", candidate="\udc00", session_id="\ud83d\ude00")
    assert (row["prompt"], row["candidate"], row["session_id"]) == ("a\ufffdb", "\ufffd", "\U0001f600")
    assert only(messages=[{"role": "user", "content": "\ud800"}])["messages"][0]["content"] == "\ufffd"


def test_the_first_failing_column_names_the_reason() -> None:
    assert with_good(quality="x", cost_usd=-1).reasons == {"quality is not a number": 1}


def test_the_skip_report_never_shows_a_prompt() -> None:
    secret = "my account number is 12345, and here is the rest of a long question"
    for cells in (
        {"prompt": [secret]},
        {"messages": secret},
        {"quality": secret},
        {"request_id": "good", "prompt": secret},
    ):
        assert "account" not in with_good(**cells).skipped.to_csv()
    assert with_good(quality="bad").skipped["value"].tolist() == ["bad"]


def test_rows_are_reported_by_their_number_in_the_source() -> None:
    lost = Unreadable(3, "unreadable line", "a line of 9 bytes", "JSON")
    result = check(GOOD, {**GOOD, "quality": 2}, rows=[2, 4], unreadable=[lost])
    assert result.skipped["row"].tolist() == [3, 4]
    assert result.skipped["reason"].tolist() == ["unreadable line", "quality outside [0, 1]"]
    assert result.origin["row"].tolist() == [2]
    assert result.rows_read == 3


def test_nothing_usable_says_what_arrived_and_what_to_do() -> None:
    raw = pd.DataFrame({"id": ["1", "2"], "text": ["x", "y"]})
    with pytest.raises(OutcomeError) as error:
        validate(raw, source="log.csv", format="canonical")
    assert str(error.value) == (
        "log.csv: no usable outcome (format canonical); expected the columns request_id, candidate and prompt or "
        "messages; arrived: id, text; 2 rows skipped (no request_id: 2). Add or rename: request_id, candidate, "
        "prompt or messages; data/README.md describes the table."
    )
    with pytest.raises(OutcomeError, match="the table has no rows"):
        validate(raw.head(0), source="log.csv", format="canonical")


def test_concat_counts_repeats_and_contradictions_between_parts() -> None:
    first = check(GOOD, {**GOOD, "quality": 7})
    second = check({**GOOD, "request_id": "s"}, GOOD, {**GOOD, "prompt": "other"})
    both = concat([first, second])
    assert both.frame["request_id"].tolist() == ["r", "s"]
    assert both.reasons == {
        "quality outside [0, 1]": 1,
        "request has two different prompts": 1,
        "duplicate row": 1,
    }
    assert both.rows_read == 5
    with pytest.raises(OutcomeError, match="got none"):
        concat([])


CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(codec=None), max_size=8),
    st.binary(max_size=4),
    st.decimals(),
    st.datetimes(),
    st.dates(),
    st.complex_numbers(),
    st.sampled_from([pd.NA, pd.NaT, np.float32("nan"), np.datetime64("NaT"), 10**5000, b"\xff", "1e999", "[]", "[[]]"]),
    st.recursive(st.none() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=2), max_leaves=4),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
    st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.text(max_size=4)}), max_size=2),
)
PLAUSIBLE: dict[str, st.SearchStrategy[Any]] = {
    "request_id": st.sampled_from(["r1", "r2", 3]),
    "prompt": st.sampled_from(["p", "q"]),
    "candidate": st.sampled_from(["a", "b"]),
    "quality": st.floats(0, 1),
}
ROW = st.fixed_dictionaries({name: PLAUSIBLE.get(name, st.none()) | CELLS for name in COLUMNS})


@examples(20)
@given(st.lists(ROW, max_size=7), st.sets(st.sampled_from(COLUMNS[4:])))
def test_used_and_skipped_add_up_for_any_cells(wild: list[dict[str, Any]], absent: set[str]) -> None:
    records = [{**dict.fromkeys(COLUMNS), **GOOD, "request_id": "always"}, *wild]
    cells = {name: [record[name] for record in records] for name in COLUMNS if name not in absent}
    raw = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in cells.items()})
    result = validate(raw, source="wild", format="canonical")
    assert result.rows_read == len(records) == len(result.frame) + len(result.skipped)
    assert sorted([*result.origin["row"], *result.skipped["row"]]) == list(range(1, len(records) + 1))
    assert {name: str(dtype) for name, dtype in result.frame.dtypes.items()} == DTYPES
    again = validate(result.frame, source="again", format="canonical")
    assert again.reasons == {}
    pd.testing.assert_frame_equal(again.frame, result.frame)


@examples(6)
@given(st.lists(ROW, min_size=1, max_size=6), st.lists(ROW, min_size=1, max_size=6))
def test_concat_loses_no_row(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    parts = [check({**GOOD, "request_id": "always"}, *records) for records in (left, right)]
    both = concat(parts)
    assert both.rows_read == 2 + len(left) + len(right) == len(both.frame) + len(both.skipped)
    assert both.reasons["duplicate row"] >= 1
    assert both.frame.groupby("request_id")["prompt"].nunique().max() <= 1


@pytest.mark.parametrize(
    ("status", "means"),
    [(200, "success"), ("204", "success"), (302.0, "success"), (404, "error"), ("503", "error"), (599, "error")],
)
def test_an_http_status_is_understood(status: object, means: str) -> None:
    read = validate(
        pd.DataFrame([{"request_id": "r", "prompt": "p", "candidate": "a", "status": status}]), source="x", format="t"
    )
    assert read.frame["status"].tolist() == [means]
    assert read.frame["quality"].tolist() == ([0.0] if means == "error" else pytest.approx([float("nan")], nan_ok=True))


@pytest.mark.parametrize("status", [0, 99, 600, "20O", True])
def test_any_other_number_is_no_status(status: object) -> None:
    rows = [{"request_id": "r", "prompt": "p", "candidate": "a", "status": one} for one in (status, "success")]
    read = validate(pd.DataFrame(rows), source="x", format="t")
    assert read.reasons == {"status is neither success nor error": 1}


def test_a_cell_that_is_empty_is_called_so() -> None:
    rows = [{"request_id": one, "prompt": one, "candidate": "a"} for one in "abc"]
    rows[0]["prompt"], rows[1]["candidate"] = " ", ""
    told = validate(pd.DataFrame(rows).assign(quality=1), source="test", format="test")
    assert told.skipped["value"].tolist() == ["empty", "empty"]
