"""The plan's file: what is written is read, and what is wrong in it is said."""

from __future__ import annotations

import json
import stat
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from training.replay import pairs
from training.replay.pairs import Pair, PlanError, PlanFile, PlanHeader, read_plan, write_plan

HEADER = PlanHeader("a fingerprint", 7, 2.5, "large", ("a note",))
PAIR = Pair(
    "r1", "small", "certify", 1.0, 0.001, "What is 2 + 2?\u2028é", None, {}, "sums", "s1", "2026-10-01T00:00:00Z"
)
OTHER = replace(
    PAIR,
    candidate="large",
    purpose="learn",
    propensity=0.25,
    prompt=None,
    messages=[{"role": "user", "content": "hi"}],
    parameters={"tools": [{"type": "function"}]},
    expected="4",
)


def test_what_is_written_is_read_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "plan.jsonl"
    write_plan(path, PlanFile(HEADER, (PAIR, OTHER)))
    assert read_plan(path) == PlanFile(HEADER, (PAIR, OTHER))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first, *rest = path.read_text(encoding="utf-8").split("\n")
    assert json.loads(first)["plan"] == {**asdict(HEADER), "notes": ["a note"], "version": 1}
    assert len(rest) == 3


def test_half_a_surrogate_pair_is_written_as_what_every_reader_takes(tmp_path: Path) -> None:
    write_plan(tmp_path / "p", PlanFile(HEADER, (replace(PAIR, prompt="\ud800!"),)))
    assert read_plan(tmp_path / "p").pairs[0].prompt == "\ufffd!"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"propensity": 0}, "line 2: propensity: 0 arrived; expected: it has to be greater than 0"),
        ({"propensity": 1.5}, "line 2: propensity: 1.5 arrived; expected: it has to be less than or equal to 1"),
        ({"purpose": "fun"}, "line 2: purpose: \"fun\" arrived; expected: it has to be 'certify' or 'learn'"),
        ({"expected_usd": None}, "line 2: expected_usd: null arrived; expected: it has to be a valid number"),
        ({"candidate": ""}, 'line 2: candidate: "" arrived; expected: String should have at least 1 character'),
        ({"messages": []}, "line 2: prompt, messages: both arrived; expected one of the two"),
        ({"prompt": None}, "line 2: prompt, messages: neither arrived; expected one of the two"),
        ({"price": 1}, "line 2: price: 1 arrived; expected: Unexpected keyword argument"),
    ],
)
def test_a_line_that_is_no_pair_is_said(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.jsonl"
    write_plan(path, PlanFile(HEADER, ()))
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**asdict(PAIR), **changed}) + "\n")
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_field_a_repeated_pair_and_no_json_are_said(tmp_path: Path) -> None:
    path = tmp_path / "plan.jsonl"
    for lines, said in (
        ([{key: value for key, value in asdict(PAIR).items() if key != "workflow"}], "workflow: nothing arrived"),
        ([asdict(PAIR), asdict(PAIR)], 'line 3: request_id, candidate: "r1" of "small" is line 2 already'),
        (["{"], "line 2: the line: "),
    ):
        write_plan(path, PlanFile(HEADER, ()))
        with path.open("a", encoding="utf-8") as file:
            file.writelines((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
        with pytest.raises(PlanError, match=r"router-train plan|Remove one") as caught:
            read_plan(path)
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: nothing arrived"),
        ('{"request_id": "r"}\n', "line 1: something else arrived"),
        ('{"plan": {"version": 2}}\n', "line 1: version: 2 arrived; expected 1"),
        (
            '{"plan": {"version": 1, "seed": 1, "budget_usd": 1, "reference": "a"}}\n',
            "line 1: log: nothing arrived",
        ),
    ],
)
def test_what_is_no_plan_is_said(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PlanError) as caught:
        read_plan(path)
    assert said in str(caught.value)


def test_no_line_is_read_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.jsonl"
    write_plan(path, PlanFile(HEADER, (replace(PAIR, prompt="x" * 5000),)))
    monkeypatch.setattr(pairs, "_LONGEST_LINE", 4000)
    with pytest.raises(PlanError, match="line 2: longer than 4,000 bytes"):
        read_plan(path)


def test_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"none.jsonl: cannot be read \(No such file"):
        read_plan(tmp_path / "none.jsonl")
