"""Judgements from elsewhere: the named rules, the join, and that every judgement is used or left out with a reason."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.examples import examples
from training.logs import rescale
from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.validate import validate
from training.quality.checks import apply_checks, check
from training.quality.scores import ScoreAccount, join_scores


def log(**columns: list[Any]) -> Outcomes:
    n = len(next(iter(columns.values())))
    rows: dict[str, Any] = {
        "request_id": [f"r{i}" for i in range(n)],
        "prompt": [f"p{i}" for i in range(n)],
        "candidate": ["a"] * n,
    }
    return validate(pd.DataFrame(rows | columns), source="log", format="test")


def judged(
    table: Outcomes, path: Path, rows: list[dict[str, Any]], rule: str = "unit", **kw: Any
) -> tuple[Any, ScoreAccount]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result, account = join_scores(table, path, rescale.rule(rule), **kw)
    return result.frame["quality"].fillna(-1).tolist(), account


@pytest.mark.parametrize(
    ("rule", "cells", "expected"),
    [
        ("unit", [0, 1, 0.5, "0.25"], [0, 1, 0.5, 0.25]),
        ("boolean", [True, False, "yes", "No", 1, 0], [1, 0, 1, 0, 1, 0]),
        ("thumbs", ["up", "DOWN", "+1", -1, True, "false", "👍", "👎", 1.0], [1, 0, 1, 0, 1, 0, 1, 0, 1]),
        ("stars", [1, 2, 3, 4, 5, "4.5"], [0, 0.25, 0.5, 0.75, 1, 0.875]),
        ("ten", [1, 10, 5.5], [0, 1, 0.5]),
        ("percent", [0, 100, 12.5], [0, 1, 0.125]),
        ("minmax:0:10", [0, 10, 4], [0, 1, 0.4]),
        ("minmax:5:1", [5, 1, 2], [0, 1, 0.75]),
        ("categorical:good=1,so-so=0.5,bad=0", ["Good", "so-so", " bad "], [1, 0.5, 0]),
        ("categorical:3=1,2=0.5", ["3", 2], [1, 0.5]),
    ],
)
def test_each_rule_by_hand(rule: str, cells: list[Any], expected: list[float]) -> None:
    assert [rescale.rule(rule).quality(cell) for cell in cells] == expected


@pytest.mark.parametrize(
    ("rule", "cells"),
    [
        ("unit", [1.01, -0.1, True, "high", math.inf, [1], 10**400]),
        ("boolean", ["maybe", 2, 0.5]),
        ("thumbs", [0, "sideways", 2]),
        ("stars", [0, 6, "five"]),
        ("ten", [0, 11]),
        ("percent", [101, -1]),
        ("categorical:good=1", ["great", None or []]),
    ],
)
def test_what_a_rule_does_not_know_is_marked(rule: str, cells: list[Any]) -> None:
    assert [rescale.rule(rule).quality(cell) is rescale.BAD for cell in cells] == [True] * len(cells)
    assert [rescale.rule(rule).quality(cell) for cell in (None, "", float("nan"))] == [None] * 3


@pytest.mark.parametrize(
    "text",
    ["five", "stars:2", "minmax", "minmax:1:1", "minmax:a:b", "categorical", "categorical:good", "categorical:x=2"],
)
def test_a_rule_that_does_not_exist_is_an_error(text: str) -> None:
    with pytest.raises(OutcomeError, match="rule"):
        rescale.rule(text)


@given(st.sampled_from(["unit", "stars", "ten", "percent", "minmax:-2:3", "minmax:3:-2"]), st.floats(-20, 120))
def test_a_numeric_rule_keeps_to_the_unit_interval_and_to_its_order(rule: str, value: float) -> None:
    made = rescale.rule(rule)
    worst, best = made.span or (0, 0)
    quality = made.quality(value)
    if min(worst, best) <= value <= max(worst, best):
        assert 0 <= quality <= 1
        assert math.isclose(worst + quality * (best - worst), value, abs_tol=1e-9)
    else:
        assert quality is rescale.BAD


def test_judgements_win_over_the_log_and_repeats_are_averaged(tmp_path: Path) -> None:
    table = log(quality=[0.0, 1.0, None, None])
    rows = [
        {"request_id": "r0", "score": 1},
        {"request_id": "r1", "score": 1},
        {"request_id": "r2", "score": 1},
        {"request_id": "r2", "score": 0},
    ]
    quality, account = judged(table, tmp_path / "s.jsonl", rows)
    assert quality == [1.0, 1.0, 0.5, -1]
    assert (account.read, account.used, account.judged, account.replaced, account.averaged) == (4, 4, 3, 1, 1)
    assert table.frame["quality"].fillna(-1).tolist() == [0, 1, -1, -1]


def test_what_cannot_be_used_is_counted_with_its_reason(tmp_path: Path) -> None:
    table = log(
        candidate=["a", "b", "a", "a"],
        request_id=["r0", "r0", "r2", "r3"],
        prompt=["p", "p", "q", "x"],
        status=["success"] * 3 + ["error"],
    )
    rows = [
        {"request_id": "r0", "candidate": "b", "stars": 5},
        {"request_id": "r0", "stars": 5},
        {"request_id": "r0", "candidate": "z", "stars": 5},
        {"request_id": "gone", "stars": 5},
        {"request_id": "r2", "stars": 9},
        {"request_id": "r2", "stars": "what a wonderful secret answer it was"},
        {"request_id": "r2"},
        {"stars": 3},
        {"request_id": "r3", "stars": 5},
    ]
    quality, account = judged(table, tmp_path / "s.jsonl", rows, "stars")
    assert quality == [-1, 1.0, -1, 0.0]
    assert account.used == 1
    assert account.reasons == {
        "value does not fit stars": 2,
        "the request has several candidates, and the judgement names none": 1,
        "the request has no outcome of this candidate": 1,
        "no such request_id in the log": 1,
        "has no value": 1,
        "says not what it judges": 1,
        "the try failed: its quality is 0": 1,
    }
    assert "secret" not in account.left_out.to_csv()


@pytest.mark.parametrize(("which", "expected"), [("last", [-1, 1.0, -1]), ("all", [1.0, 1.0, -1])])
def test_a_judgement_of_a_trace_applies_to_its_last_try_or_to_all(
    tmp_path: Path, which: Any, expected: list[float]
) -> None:
    table = log(trace_id=["t", "t", "u"], timestamp=["2026-01-01T00:00:01", "2026-01-01T00:00:09", "2026-01-02"])
    quality, _ = judged(table, tmp_path / "s.jsonl", [{"traceId": "t", "value": 1}], trace_scores=which)
    assert quality == expected


def test_a_trace_may_be_what_the_log_calls_a_request_and_a_session_works_too(tmp_path: Path) -> None:
    table = log(session_id=["s", "s", None])
    rows = [{"trace_id": "r2", "value": 0.5}, {"session_id": "s", "value": 0}]
    assert judged(table, tmp_path / "s.jsonl", rows)[0] == [-1, 0.0, 0.5]


def test_several_names_need_a_choice(tmp_path: Path) -> None:
    rows = [{"request_id": "r0", "name": "helpful", "value": 1}, {"request_id": "r0", "name": "polite", "value": 0}]
    with pytest.raises(OutcomeError, match=r"helpful, polite; choose one with --score-name"):
        judged(log(quality=[None]), tmp_path / "s.jsonl", rows)
    quality, account = judged(log(quality=[None]), tmp_path / "s.jsonl", rows, name="polite")
    assert (quality, account.reasons) == ([0.0], {"of another name": 1})


def csv(path: Path, rows: pd.DataFrame) -> Path:
    rows.to_csv(path, index=False)
    return path


def parquet(path: Path, rows: pd.DataFrame) -> Path:
    rows.to_parquet(path)
    return path


@pytest.mark.parametrize(("name", "write"), [("s.csv", csv), ("s.parquet", parquet)])
def test_judgements_come_as_tables_too(tmp_path: Path, name: str, write: Callable[[Path, pd.DataFrame], Path]) -> None:
    path = write(tmp_path / name, pd.DataFrame({"request_id": ["r0", "r1", "nope"], "thumb": ["up", "down", "up"]}))
    result, account = join_scores(log(quality=[None, None]), path, rescale.rule("thumbs"))
    assert result.frame["quality"].tolist() == [1.0, 0.0]
    assert (account.read, account.used, account.reasons) == (3, 2, {"no such request_id in the log": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"id": 1, "text": "x"}\n', "not a file of judgements; expected request_id"),
        ('{"request_id": "r0", "score": 7}\n', "no judgement could be used .*other rules: unit, boolean"),
        ('{"request_id": "other", "score": 1}\n', "no such request_id in the log: 1"),
    ],
)
def test_a_hopeless_file_of_judgements_is_an_error(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "s.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(OutcomeError, match=message):
        join_scores(log(quality=[None]), path, rescale.rule("unit"))
    with pytest.raises(OutcomeError, match="expected a file of judgements"):
        join_scores(log(quality=[None]), tmp_path / "none.jsonl", rescale.rule("unit"))


CELL = st.none() | st.booleans() | st.integers(-2, 7) | st.sampled_from(["r0", "r1", "a", "b", "t", "up", "", "x y"])
JUDGEMENT = st.dictionaries(
    st.sampled_from(["request_id", "trace_id", "candidate", "score", "label"]), CELL, max_size=5
)


@examples(20)
@given(st.lists(JUDGEMENT | st.just([]), max_size=8), st.sampled_from(["unit", "stars", "thumbs", "boolean"]))
def test_used_and_left_out_make_up_what_was_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], rule: str
) -> None:
    table = log(
        request_id=["r0", "r0", "r1"], prompt=["p", "p", "q"], candidate=["a", "b", "a"], trace_id=["t", "t", "u"]
    )
    fits = {"request_id": "r1", "score": {"unit": 1, "stars": 5, "thumbs": "up", "boolean": True}[rule]}
    path = tmp_path_factory.mktemp("any") / "s.jsonl"
    sure = [fits] * (4 * len(rows) + 1)  # what does not fit is then no fifth of them
    quality, account = judged(table, path, [*sure, *rows], rule)
    assert account.read == account.used + len(account.left_out) == len(sure) + len(rows)
    assert all(value == -1 or 0 <= value <= 1 for value in quality)


def test_a_try_of_its_own_identifier_is_found_by_it(tmp_path: Path) -> None:
    table = log(request_id=["t:1", "t:1"], prompt=["p", "p"], candidate=["a", "b"], try_id=["call-1", "call-2"])
    rows = [{"request_id": "call-2", "value": 1}, {"request_id": "t:1", "candidate": "a", "value": 0}]
    assert judged(table, tmp_path / "s.jsonl", rows)[0] == [0.0, 1.0]


def test_a_judgement_from_elsewhere_takes_a_weak_quality_s_place_and_replaces_none(tmp_path: Path) -> None:
    table = log(quality=[0.0, 0.0, 1.0], quality_source=["retried", "cut", "thumb"])
    path = tmp_path / "scores.jsonl"
    path.write_text('{"request_id": "r0", "value": 1}\n', encoding="utf-8")
    result, account = join_scores(table, path, rescale.rule("unit"))
    assert account.replaced == 0
    assert result.frame["quality"].tolist() == [1.0, 0.0, 1.0]
    assert result.frame["quality_source"].fillna("").tolist() == ["", "cut", "thumb"]


def test_checks_judge_what_only_a_weak_source_spoke_of() -> None:
    table = log(quality=[0.0, 1.0], quality_source=["retried", None], answer=["fine", "fine"])
    result, account = apply_checks(table, [check("answered")])
    assert account.left_out == {"already judged": 1}
    assert result.frame["quality"].tolist() == [1.0, 1.0]
    assert result.frame["quality_source"].isna().all()


def test_an_observation_is_a_try_and_of_otlp_the_span_of_a_trace(tmp_path: Path) -> None:
    table = log(try_id=["o1", f"{1:032x}-{2:016x}", "o3"])
    rows = [{"observation_id": "o1", "value": 0.25}, {"observationId": f"{2:016x}", "traceId": "t", "value": 0.75}]
    quality, account = judged(table, tmp_path / "s.jsonl", [*rows, {"observation_id": "o9", "value": 1}])
    assert quality == [0.25, 0.75, -1]
    assert account.reasons == {"no such observation_id in the log": 1}


def test_a_request_that_is_named_too_goes_before_an_observation(tmp_path: Path) -> None:
    table = log(try_id=["o1", "o2"])
    quality, _ = judged(table, tmp_path / "s.jsonl", [{"request_id": "r1", "observation_id": "elsewhere", "value": 1}])
    assert quality == [-1, 1]
