"""Deterministic judges: each by hand, what they leave alone, and that they never raise on an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.sources import reading
from training.logs.sources.importer import ImportOptions
from training.logs.validate import validate
from training.quality.checks import apply_checks, check, last_number

SCHEMA = {
    "type": "object",
    "required": ["city"],
    "properties": {"city": {"type": "string"}},
    "additionalProperties": False,
}


def log(answers: list[Any], **columns: list[Any]) -> Outcomes:
    n = len(answers)
    rows = {"request_id": [str(i) for i in range(n)], "prompt": ["p"] * n, "candidate": ["a"] * n, "answer": answers}
    return validate(pd.DataFrame(rows | columns, dtype=object), source="log", format="test")


def verdict(name: str, answer: str, expected: str | None = None) -> bool | None:
    return check(name).passes(answer, expected)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        (
            "json",
            ['{"a": 1}', " [1, 2]\n", "3", '"x"'],
            ["", "{a: 1}", '{"a": 1} and more', "NaN", '{"a": Infinity}', "[" * 9999],
        ),
        ("regex:^Yes\\b", ["Yes", "Yes, it is"], ["yes", "Oh Yes", "Yesterday"]),
        ("regex:(?i)total: *[0-9]+", ["the TOTAL: 12"], ["total: twelve"]),
        (
            "answered",
            ["Sure.", "Sorry for the wait: 4", "I can't believe it is 4", "It cannot be done in O(1)"],
            ["", "  \n"],
        ),
        (
            "answered",
            ["I’m not sure, but 4 is likely"],
            [
                "I'm sorry, but I can't help with that.",
                "I cannot assist with this request.",
                "As an AI language model, I am unable to browse.",
                "I’m sorry, I won’t do that",
                "I am not able to open files.",
                "Es tut mir leid, aber dabei kann ich Ihnen nicht helfen.",
                "Lo siento, pero no puedo ayudar con eso.",
                "Je ne peux pas vous aider.",
            ],
        ),
    ],
)
def test_checks_of_the_answer_alone(name: str, good: list[str], bad: list[str]) -> None:
    assert [verdict(name, answer) for answer in good] == [True] * len(good)
    assert [verdict(name, answer) for answer in bad] == [False] * len(bad)


def test_exact_is_about_what_is_seen() -> None:
    assert verdict("exact", " Paris\n", "Paris") is True
    assert verdict("exact", "cafe\u0301  noir", "caf\u00e9 noir") is True
    assert verdict("exact", "paris", "Paris") is False
    assert verdict("exact", "Paris") is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 1,234.50.", 1234.5), ("#### 42", 42), ("5-3", 3), ("x = -2", -2), ("−7 °C", -7), ("$1,000", 1000),
        ("3.14e-2", 0.0314), (".5", 0.5), ("1,2,3", 3), ("none", None), ("gpt4", None), ("2, then 10%", 10),
    ],
)  # fmt: skip
def test_the_last_number_counts(text: str, number: float | None) -> None:
    assert last_number(text) == number


def test_numeric_answers_within_a_tolerance() -> None:
    assert verdict("numeric", "So it is 72 apples.", "48/2 = 24 #### 72") is True
    assert verdict("numeric", "So it is 71.9 apples.", "72") is False
    assert verdict("numeric:0.01", "So it is 71.9 apples.", "72") is True
    assert verdict("numeric", "many", "72") is False
    assert verdict("numeric", "72", "many") is None
    assert verdict("numeric", "72") is None


def test_a_schema_is_kept_to_and_never_fetched(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA), encoding="utf-8")
    answers = ['{"city": "Paris"}', '{"city": 3}', '{"city": "Paris", "x": 1}', "Paris"]
    assert [verdict(f"json_schema:{path}", answer) for answer in answers] == [True, False, False, False]
    path.write_text(json.dumps({"$ref": "http://127.0.0.1:1/elsewhere.json"}), encoding="utf-8")
    with pytest.raises(OutcomeError, match=r"refers to 'http://127.0.0.1:1/elsewhere.json', which is not in it"):
        verdict(f"json_schema:{path}", "{}")


@pytest.mark.parametrize(
    "text",
    [
        "jsn",
        "json:x",
        "regex",
        "regex:(",
        "numeric:much",
        "numeric:-1",
        "json_schema",
        "json_schema:/none.json",
        "a=b=json",
    ],
)
def test_a_wrong_check_says_what_is_wrong(text: str) -> None:
    with pytest.raises(OutcomeError, match="check"):
        check(text)


def test_a_broken_schema_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    for content in ("{", '{"type": "objekt"}'):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(OutcomeError, match="is no JSON schema"):
            check(f"json_schema:{path}")


def test_checks_fill_what_nobody_judged_and_say_what_they_left() -> None:
    table = log(
        ["{}", "no", None, "{}", "no", "", "{}"],
        quality=[None, None, None, 0.3, None, None, None],
        workflow=["extract", "extract", "extract", "extract", "chat", "extract", "extract-2"],
        status=["success"] * 6 + ["error"],
    )
    result, account = apply_checks(table, [check("extract*=json")])
    assert result.frame["quality"].fillna(-1).tolist() == [1.0, 0.0, -1, 0.3, -1, 0.0, 0.0]
    assert (account.passed, account.failed) == (1, 2)
    assert account.left_out == {"already judged": 2, "no answer text": 1, "no check for its workflow": 1}


def test_all_checks_have_to_pass_and_an_unknown_expectation_is_no_pass() -> None:
    table = log(["4", "I cannot help", "5"], expected=["4", None, None])
    result, account = apply_checks(table, [check("answered"), check("exact")])
    assert result.frame["quality"].fillna(-1).tolist() == [1.0, 0.0, -1]
    assert account.left_out == {"nothing to compare with": 1}


def test_before_another_judge_checks_only_fail_answers() -> None:
    result, account = apply_checks(log(["{}", "no"]), [check("json")], failures_only=True)
    assert result.frame["quality"].fillna(-1).tolist() == [-1, 0.0]
    assert (account.passed, account.failed) == (1, 1)


def test_without_answers_there_is_nothing_to_check(tmp_path: Path) -> None:
    table = validate(pd.DataFrame({"request_id": ["1"], "prompt": ["p"], "candidate": ["a"]}), source="s", format="t")
    with pytest.raises(OutcomeError, match="no answer text came with the log"):
        apply_checks(table, [check("json")])


def test_answers_of_the_outcome_table_are_read_on_demand_and_repeats_with_other_answers_are_kept(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log.jsonl"
    row = {"request_id": "1", "prompt": "p", "candidate": "a"}
    path.write_text("".join(json.dumps({**row, "answer": a}) + "\n" for a in ("x", "y", "x", "")), encoding="utf-8")
    read = reading.read([path], "auto", ImportOptions(answers=True))
    assert read.beside["answer"].tolist() == ["x", "y", ""]
    assert read.reasons == {"duplicate row": 1}
    assert reading.read([path]).beside.get("answer", pd.Series(dtype=str)).dropna().empty


@given(st.text(max_size=60), st.none() | st.text(max_size=20))
def test_no_answer_breaks_a_check(answer: str, expected: str | None) -> None:
    for name in ("json", "exact", "regex:a+", "numeric", "answered"):
        assert verdict(name, answer, expected) in (True, False, None)


@given(st.floats(-1e12, 1e12, allow_subnormal=False).map(lambda x: round(x, 3)))
def test_a_number_is_found_as_python_and_people_write_it(value: float) -> None:
    assert last_number(f"It is {value!r}") == value
    assert last_number(f"It is {value:,.3f} in all") == value


def test_litellms_responses_are_answers(tmp_path: Path) -> None:
    call = {
        "id": "c1",
        "trace_id": "t",
        "call_type": "completion",
        "model": "m",
        "response_cost": 0.1,
        "startTime": 1.7e9,
    }
    call |= {"messages": [{"role": "user", "content": "p"}], "status": "success"}
    texts = ["{}", "redacted-by-litellm", None]
    replies = [{"choices": [{"message": {"role": "assistant", "content": text}}]} for text in texts] + ["text", {}]
    rows = [{**call, "id": f"c{n}", "startTime": 1.7e9 + n, "response": reply} for n, reply in enumerate(replies)]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    read = reading.read([path], "auto", ImportOptions(answers=True))
    assert (read.formats, read.reasons) == (("litellm",), {})
    assert read.beside["answer"].fillna("none").tolist() == ["{}", *["none"] * 4]
    assert read.beside["try_id"].tolist() == [f"c{n}" for n in range(5)]
    assert reading.read([path]).beside["answer"].isna().all()
