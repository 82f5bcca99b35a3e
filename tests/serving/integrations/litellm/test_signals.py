"""Signals: what requests and answers that pass a gateway hint of earlier answers, and what they do not."""

from __future__ import annotations

import re
import sys
from typing import Any, get_args

import pytest

from serving.api.bodies.feedback import Source
from serving.integrations.litellm.signals.found import Signal, Signals, prompt_digest
from serving.integrations.litellm.signals.schema import fits
from serving.store.feedback import JUDGEMENTS, WEAK
from training import config

RANK = {"small": 1.0, "large": 2.0}
HELLO, OTHER = prompt_digest("hello"), prompt_digest([{"role": "user", "content": "other"}])
OBJECT = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object", "required": ["a"]}}}


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def signals(clock: Clock) -> Signals:
    return Signals(clock=clock)


def asked(signals: Signals, decision: str | None, prompt: bytes = HELLO, candidate: str = "small", **more: Any) -> Any:
    return [(one.source, one.decision_id) for one in signals.asked("s", decision, prompt, candidate, RANK, **more)]


def answer(signals: Signals, decision: str, text: str | None = "hi", reason: str | None = "stop", **more: Any) -> Any:
    said = {"tool_calls": False, "schema": None, **more}
    return [one.source for one in signals.answered(decision, text, reason, **said)]


# --- what a later request says ---


def test_the_same_prompt_again_says_it_of_the_answer_before_once(signals: Signals) -> None:
    assert asked(signals, "d1") == []
    answer(signals, "d1")
    assert signals.asked("s", "d2", HELLO, "large", RANK) == [Signal("retried", 0.0, "d1")]
    answer(signals, "d2")
    assert asked(signals, "d3") == [("retried", "d2")]


def test_what_was_not_answered_yet_is_not_asked_again(signals: Signals) -> None:
    """The client or the proxy tries again, or asks in parallel."""
    assert asked(signals, "d1") == []
    assert asked(signals, "d1", candidate="large") == []
    assert asked(signals, "d2") == []
    answer(signals, "d1")
    answer(signals, "d2")
    assert asked(signals, "d2") == [], "the proxy's own"


def test_another_prompt_another_session_none_and_a_late_one_say_nothing(signals: Signals, clock: Clock) -> None:
    asked(signals, "d1")
    answer(signals, "d1")
    assert asked(signals, "d2", OTHER) == []
    assert signals.asked("t", "d3", HELLO, "small", RANK) == []
    assert signals.asked(None, "d4", HELLO, "small", RANK) == []
    clock.now += 601
    assert asked(signals, "d5") == []


def test_a_stronger_model_by_name_is_a_switch_and_a_weaker_or_an_unknown_one_is_none(signals: Signals) -> None:
    for number, (candidate, more, said) in enumerate(
        [
            ("large", {}, [("switched", "d0")]),
            ("small", {}, []),
            ("small", {"named": True}, []),
            ("unheard-of", {}, []),
        ]
    ):
        asked(signals, f"d{number}", prompt_digest(number))
        answer(signals, f"d{number}")
        assert asked(signals, None, OTHER, candidate, **more) == said
    assert asked(signals, "d9", OTHER, "large") == [], "whom the router chose nobody named"
    answer(signals, "d9")
    assert asked(signals, "d10", OTHER, "large", named=True) == [("retried", "d9")]


def test_the_same_prompt_to_a_stronger_model_is_one_signal(signals: Signals) -> None:
    asked(signals, "d1")
    answer(signals, "d1")
    assert asked(signals, None, HELLO, "large") == [("switched", "d1")]
    assert asked(signals, None, HELLO, "large") == []


# --- what an answer says of itself ---


@pytest.mark.parametrize(
    ("text", "reason", "more", "said"),
    [
        ("hi", "stop", {}, []),
        (None, "stop", {}, ["empty"]),
        (" \n", "stop", {}, ["empty"]),
        (None, "tool_calls", {"tool_calls": True}, []),
        ("hi", "length", {}, ["cut"]),
        ("", "length", {}, ["empty", "cut"]),
        ("", "content_filter", {}, []),
        ('{"a": 1}', "stop", {"schema": OBJECT}, []),
        ('{"b": 1}', "stop", {"schema": OBJECT}, ["schema"]),
        ('{"a": ', "length", {"schema": OBJECT}, ["schema", "cut"]),
        ("", "stop", {"schema": OBJECT}, ["empty"]),
        ("[1]", "stop", {"schema": {"type": "json_object"}}, ["schema"]),
        ("plain", "stop", {"schema": {"type": "text"}}, []),
    ],
)
def test_an_answer(signals: Signals, text: str | None, reason: str, more: Any, said: list[str]) -> None:
    assert answer(signals, "d1", text, reason, **more) == said


def test_without_the_library_json_is_parsed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.integrations.litellm.signals.schema.find_spec", lambda _: None)
    assert (fits('{"b": 1}', OBJECT), fits("{", OBJECT)) == (True, False)


def named(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"schema": schema}}


DOUBLING = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": False}


@pytest.mark.parametrize(
    ("text", "asked_for"),
    [
        ('"aaa"', named({"$defs": DOUBLING, "$ref": "#/$defs/d0"})),  # 2 to the 40 steps
        ('"aaa"', named({"$ref": "#"})),
        ('"aaa"', named({"$ref": "http://127.0.0.1:9/schema.json"})),
        ('"aaa"', named({"type": 7})),
        ('"aaa"', named({"$schema": "http://json-schema.org/draft-07/schema#", "$ref": "#/nowhere"})),
        ("[" * 60_000, named({})),
        ("x" * 70_000, named({})),
        ('"aaa"', named({"const": "x" * 40_000})),
    ],
)
def test_what_takes_too_much_or_is_no_schema_says_nothing(text: str, asked_for: dict[str, Any]) -> None:
    assert fits('"aaa"', named({"type": "string"})) is True  # the library is loaded now
    calls = 0

    def counted(*_: Any) -> None:
        nonlocal calls
        calls += 1

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        found = fits(text, asked_for)
    finally:
        sys.setprofile(before)
    assert found is None
    assert calls < 3_000_000, "work is bounded, whatever machine does it"


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": "(a+)+$"},
        {"$schema": "http://json-schema.org/draft-07/schema#", "items": {"pattern": "(a+)+$"}},
        {"patternProperties": {"(a+)+$": {}}, "additionalProperties": False},
        {"uniqueItems": True},
    ],
)
def test_what_no_number_of_steps_bounds_is_passed_over(schema: dict[str, Any]) -> None:
    evil = "a" * 40 + "!"
    for text in (f'"{evil}"', f'{{"{evil}": 1}}', f'["{evil}", "{evil}"]'):
        assert fits(text, named(schema)) is True


# --- what is kept ---


def test_memory_is_bounded_and_holds_no_text(clock: Clock) -> None:
    signals = Signals(most_sessions=10, clock=clock)
    for number in range(1_000):
        signals.asked(f"secret session {number % 100}", f"d{number}", prompt_digest(f"secret {number}"), "small", RANK)
    assert len(signals) == 10
    assert len(signals._open) <= 40
    assert sum(map(len, signals._sessions.values())) <= 40
    assert not re.search("secret", repr(vars(signals)))
    clock.now += 601
    signals.asked("another", "d", HELLO, "small", RANK)
    assert (len(signals), len(signals._open)) == (1, 1)


def test_digests_are_keyed_and_of_the_whole_prompt() -> None:
    one, other = Signals(), Signals()
    assert one._hash(b"x") != other._hash(b"x")
    turns = [{"role": "user", "content": "go on"}]
    assert prompt_digest(turns) != prompt_digest([*turns, {"role": "assistant", "content": "x"}, *turns])
    assert prompt_digest([{"b": 1, "a": 2}]) == prompt_digest([{"a": 2, "b": 1}])


def test_the_sources_are_the_same_everywhere() -> None:
    assert (JUDGEMENTS, WEAK) == (config.JUDGEMENTS, config.WEAK)
    assert set(get_args(Source)) == {*JUDGEMENTS, *WEAK}
