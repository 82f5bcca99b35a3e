"""A call that a framework and the client within it both recorded counts once, in Langfuse's exports and in OTLP alike."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.examples import examples
from tests.training.logs.sources.test_langfuse import CONVERSATION, export, observation, score
from tests.training.logs.sources.test_otel import START, evaluation, event, line, span
from training.logs.outcomes import Outcomes
from training.logs.sources import reading
from training.logs.sources.importer import ImportOptions
from training.logs.sources.otel.nesting import REASON, Pair, Spans, digest, key_of

BARE = {"usage_details": {}, "cost_details": {}, "total_cost": None}
LANGCHAIN = {"name": "ChatOpenAI", "end": 3.0, "input": json.dumps({"messages": CONVERSATION, "tools": []})}


def generation(id: str, parent: str = "", end: float | None = None, second: int = 0, **cells: Any) -> dict[str, Any]:
    row = observation(id, second=second, parent_observation_id=parent, **cells)
    if end is not None:
        row["end_time"] = observation("x", second=int(end))["start_time"]
        row["latency"] = end - second
    return row


def langfuse(
    folder: Path, rows: list[dict[str, Any]], scores: list[dict[str, Any]] | None = None, **options: Any
) -> Outcomes:
    return reading.read([export(folder, rows, scores or [])], options=ImportOptions(**options))


def kept(result: Outcomes) -> list[str]:
    return result.beside["try_id"].tolist()


def test_the_innermost_counts_and_the_frameworks_is_skipped_with_its_reason(tmp_path: Path) -> None:
    rows = [
        generation("outer", end=4, input=json.dumps({"messages": CONVERSATION}), name="ChatOpenAI"),
        observation("step", type="SPAN", parent_observation_id="outer"),
        generation("inner", "step", second=1, name="litellm-acompletion"),
    ]
    result = langfuse(tmp_path, rows)
    assert kept(result) == ["inner"]
    assert result.frame["cost_usd"].tolist() == [0.003]
    assert result.reasons == {REASON: 1, "span, not a generation": 1}


def test_the_outer_counts_where_the_inner_lacks_model_or_counts(tmp_path: Path) -> None:
    rows = [generation("outer", end=4), generation("inner", "outer", second=1, **BARE)]
    assert kept(langfuse(tmp_path / "counts", rows)) == ["outer"]
    rows = [generation("outer", end=4), generation("inner", "outer", second=1, provided_model_name="")]
    assert kept(langfuse(tmp_path / "model", rows)) == ["outer"]
    rows = [generation("outer", end=4, **BARE), generation("inner", "outer", second=1, **BARE)]
    assert kept(langfuse(tmp_path / "neither", rows)) == ["inner"]


def test_another_prompt_or_another_time_is_another_call(tmp_path: Path) -> None:
    other = json.dumps([{"role": "user", "content": "Summarise."}])
    rows = [generation("outer", end=4), generation("tool", "outer", second=1, input=other)]
    assert sorted(kept(langfuse(tmp_path / "prompt", rows))) == ["outer", "tool"]
    rows = [generation("outer"), generation("later", "outer", second=60)]
    assert sorted(kept(langfuse(tmp_path / "time", rows))) == ["later", "outer"]
    rows = [generation("first"), generation("again", second=3)]
    assert sorted(kept(langfuse(tmp_path / "retry", rows))) == ["again", "first"]


def test_retries_within_a_frameworks_span_are_tries_of_one_request(tmp_path: Path) -> None:
    rows = [
        generation("outer", end=9),
        generation("failed", "outer", second=1, level="ERROR", **BARE),
        generation("answered", "outer", second=4),
    ]
    result = langfuse(tmp_path, rows)
    assert kept(result) == ["failed", "answered"]
    assert result.frame["request_id"].nunique() == 1


def test_three_of_one_call_and_the_order_of_the_file_does_not_matter(tmp_path: Path) -> None:
    rows = [
        generation("outermost", end=9),
        generation("between", "outermost", second=1, end=8, **BARE),
        generation("innermost", "between", second=2),
    ]
    for seed in range(4):
        random.Random(seed).shuffle(rows)
        assert kept(langfuse(tmp_path / str(seed), rows)) == ["innermost"]


def test_spans_in_two_files_of_one_folder_find_each_other(tmp_path: Path) -> None:
    folder = export(tmp_path, [generation("inner", "outer", second=1)], [])
    (folder / "observations_v2" / "2026-05-29T15-00-00.jsonl").write_text(json.dumps(generation("outer", end=4)) + "\n")
    assert kept(reading.read([folder])) == ["inner"]


def test_what_was_said_of_the_frameworks_generation_is_said_of_the_call(tmp_path: Path) -> None:
    rows = [generation("outer", end=4), generation("inner", "outer", second=1)]
    result = langfuse(tmp_path, rows, [score("s", 0.25, observation_id="outer")])
    assert result.frame["quality"].tolist() == [0.25]
    own = [score("s", 0.25, observation_id="outer"), score("t", 0.75, observation_id="inner")]
    assert langfuse(tmp_path / "own", rows, own).frame["quality"].tolist() == [0.75]
    traced = [generation("outer", end=4), generation("inner", "outer", second=1, **BARE)]
    assert langfuse(tmp_path / "trace", traced, [score("s", 0.5)]).frame["quality"].tolist() == [0.5]


def said(number: int, parent: int | None = None, text: str = "hello", **cells: Any) -> Span:
    messages = [{"role": "user", "parts": [{"type": "text", "content": text}]}]
    one = span(
        number, attributes={"gen_ai.input.messages": json.dumps(messages), **cells.pop("attributes", {})}, **cells
    )
    if parent is not None:
        one.parent_span_id = parent.to_bytes(8, "big")
    return one


def otlp(folder: Path, *lines: bytes, **options: Any) -> Outcomes:
    folder.mkdir(exist_ok=True)
    for number, content in enumerate(lines):
        (folder / f"{number}.jsonl").write_bytes(content)
    return reading.read([folder], options=ImportOptions(**options))


@pytest.mark.parametrize("apart", [False, True])
def test_spans_of_genai_follow_the_same_rule(tmp_path: Path, apart: bool) -> None:
    outer = said(1, attributes={"gen_ai.provider.name": "langchain"}, end_time_unix_nano=START + 4_000_000_000)
    step = said(2, 1, attributes={"gen_ai.operation.name": "invoke_agent"})
    inner, tool = said(3, 2), said(4, 2, "another question")
    lines = [line(inner), line(step, tool, outer)] if apart else [line(inner, step, tool, outer)]
    result = otlp(tmp_path / "log", *lines)
    assert sorted(name[-1] for name in kept(result)) == ["3", "4"]
    assert result.reasons == {REASON: 1, "operation is no generation": 1}


def test_the_outer_span_counts_where_the_inner_has_no_counts(tmp_path: Path) -> None:
    none = {"gen_ai.usage.input_tokens": None, "gen_ai.usage.output_tokens": None}
    result = otlp(tmp_path / "log", line(said(2, 1, attributes=none), said(1)))
    assert [name[-1] for name in kept(result)] == ["1"]
    assert result.frame["input_tokens"].tolist() == [101]


def test_an_evaluation_of_the_frameworks_span_judges_the_call(tmp_path: Path) -> None:
    judged = event("gen_ai.evaluation.result", **evaluation("helpful", value=0.75))
    result = otlp(tmp_path / "log", line(said(2, 1), said(1, events=[judged])))
    assert [name[-1] for name in kept(result)] == ["2"]
    assert result.frame["quality"].tolist() == [0.75]


def test_what_was_asked_is_the_same_whoever_recorded_it() -> None:
    plain = [{"role": "user", "content": "Where is\n it?"}]
    parts = [{"role": "human", "content": [{"type": "text", "text": "Where is it?"}]}]
    spoken = [{"role": "user", "parts": [{"type": "text", "content": "Where  is it?"}]}]
    assert digest(None, plain) == digest(None, parts) == digest(None, spoken) == digest("Where is it?", None)
    assert digest(None, plain) != digest("Where was it?", None)
    assert digest(None, None) is None
    assert digest(None, [{"role": "user", "content": 7}]) is None


def test_a_span_that_is_its_own_ancestor_stands_within_nothing() -> None:
    spans = Spans()
    for key, parent in ((1, 2), (2, 1), (3, 3), (4, 9)):
        spans.add(key, parent, 3, 0.0, 1.0)
    pairs = spans.pairs()
    assert set(pairs) <= {Pair(1, 2), Pair(2, 1)}
    assert spans.nested(pairs, dict.fromkeys(range(5), b"same")).passed == frozenset()


@examples(200)
@given(
    st.lists(
        st.tuples(st.integers(-1, 11), st.none() | st.integers(0, 3), st.sampled_from([b"p", b"q", None])), max_size=12
    )
)
def test_of_every_call_something_counts(found: list[tuple[int, int | None, bytes | None]]) -> None:
    """Parents come before or after, cycles and strangers among them: what is passed over is stood for by what counts."""
    spans = Spans()
    for number, (parent, told, _) in enumerate(found):
        spans.add(key_of(str(number)), None if parent < 0 else key_of(str(parent)), told, np.nan, np.nan)
    asked = {key_of(str(number)): said for number, (_, _, said) in enumerate(found)}
    nested = spans.nested(spans.pairs(), asked)
    generations = {key_of(str(number)) for number, (_, told, _) in enumerate(found) if told is not None}
    stood = [one for others in nested.stands_for.values() for one in others]
    assert nested.passed <= generations
    assert sorted(stood) == sorted(nested.passed)
    assert nested.stands_for.keys().isdisjoint(nested.passed)
    assert all(asked[key] == asked[other] is not None for key, others in nested.stands_for.items() for other in others)
