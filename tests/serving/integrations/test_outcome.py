"""What became of a decision survives JSON, and what is no outcome is refused by the field that is wrong."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.integrations.outcome import Attempt, OutcomeFormatError, ToldOutcome

TOLD = ToldOutcome(
    decision_id="d-1",
    trace_id="0af7651916cd43dd8448eb211c80319c",
    observation_id="b7ad6b7169203331",
    call_id="c-1",
    model="mini",
    started=1_790_000_000.25,
    ended=1_790_000_001.5,
    cost_usd=0.00025,
    input_tokens=120,
    output_tokens=30,
    latency_ms=1250.0,
    error=False,
    attempts=(Attempt("large", error="Timeout", started=1_790_000_000.25, ended=1_790_000_000.75), Attempt("mini")),
    decision={"model": "large", "ranks": ["large", "mini"], "confidence": 0.93, "held_back": None},
)

text = st.none() | st.text()
number = st.floats(allow_nan=False, allow_infinity=False)


def test_an_outcome_is_the_same_after_json() -> None:
    assert ToldOutcome.from_json(TOLD.to_json()) == TOLD


@given(
    st.builds(
        ToldOutcome,
        decision_id=st.text(),
        trace_id=text,
        observation_id=text,
        call_id=text,
        model=text,
        started=number,
        ended=number,
        cost_usd=st.none() | number,
        input_tokens=st.none() | st.integers(0, 2**53),
        output_tokens=st.none() | st.integers(0, 2**53),
        latency_ms=st.none() | number,
        error=st.booleans(),
        attempts=st.lists(st.builds(Attempt, st.text(), text, st.none() | number), max_size=3).map(tuple),
        decision=st.dictionaries(st.text(), st.none() | number | st.text() | st.booleans(), max_size=3),
    )
)
def test_any_outcome_is_the_same_after_json(told: ToldOutcome) -> None:
    assert ToldOutcome.from_json(told.to_json()) == told


def test_a_newer_versions_field_is_passed_over_and_an_absent_one_is_unknown() -> None:
    short = {"decision_id": "d", "started": 1, "ended": 2, "shade": "green", "attempts": [{"model": "m", "of": 3}]}
    told = ToldOutcome.from_json(orjson.dumps(short))
    assert (told.decision_id, told.cost_usd, told.error, told.attempts) == ("d", None, False, (Attempt("m"),))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"decision_id": None}, "decision_id: expected str; arrived: NoneType"),
        ({"cost_usd": "0.1"}, "cost_usd: expected int or float; arrived: str"),
        ({"input_tokens": True}, "input_tokens: expected int; arrived: bool"),
        ({"attempts": ["x"]}, r"attempts\[0\]\.: expected a JSON object; arrived: str"),
        ({"attempts": [{"error": "x"}]}, r"attempts\[0\]\.model: expected str; arrived: NoneType"),
        ({"decision": []}, "decision: expected dict; arrived: list"),
    ],
)
def test_a_wrong_field_is_named_with_what_arrived(change: dict[str, object], says: str) -> None:
    with pytest.raises(OutcomeFormatError, match=says):
        ToldOutcome.from_json(orjson.dumps({**orjson.loads(TOLD.to_json()), **change}))


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b"1"])
def test_what_is_no_object_is_refused(text: bytes) -> None:
    with pytest.raises(OutcomeFormatError, match="an outcome: expected a JSON object"):
        ToldOutcome.from_json(text)
