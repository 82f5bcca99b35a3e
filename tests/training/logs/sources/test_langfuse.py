"""Langfuse: the export to blob storage, the UI's export, scores as quality, and the API, against a server of ours."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.integrations.langfuse import payload
from tests.conftest import QUICK, router_train_here, setting
from tests.examples import examples
from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.repeated.repeats import concat
from training.logs.sources import reading
from training.logs.sources.importer import ImportOptions
from training.logs.sources.langfuse import export as langfuse_export
from training.logs.sources.langfuse import live as langfuse_live
from training.logs.sources.langfuse import scores as langfuse_scores
from training.logs.sources.langfuse.fields import camel
from training.logs.sources.langfuse.live import Project, Query

Row = dict[str, Any]
START = datetime(2026, 5, 29, 13, 46, 19, 963000)
CONVERSATION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Où est la gare ?"}]
OBJECTS = ("metadata", "usage_details", "cost_details", "tool_definitions")
LISTS = ("tags", "tool_calls", "tool_call_names")
PROMPT = "canary prompt, seen by nobody"


def stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")


def observation(id: str, *, trace: str = "t1", second: int = 0, unit: float = 1.0, **cells: Any) -> Row:
    """One row of observations_v2 with every published field; it took 1.5 s, and `unit` is 1000 for milliseconds."""
    start = START + timedelta(seconds=second)
    plain: Row = {
        "id": id, "trace_id": trace, "project_id": "p1", "environment": "production", "type": "GENERATION",
        "parent_observation_id": "", "start_time": stamp(start), "end_time": stamp(start + timedelta(seconds=1.5)),
        "name": "chat", "metadata": {"tier": "pro"}, "level": "DEFAULT", "status_message": "", "version": "",
        "input": json.dumps(CONVERSATION), "output": json.dumps({"role": "assistant", "content": "Là-bas."}),
        "provided_model_name": "gpt-4o", "model_parameters": json.dumps({"temperature": 0.7}),
        "usage_details": {"input": 100, "input_cached_tokens": 20, "output": 30, "total": 150},
        "cost_details": {"input": 0.001, "output": 0.002, "total": 0.003},
        "completion_start_time": None, "prompt_name": "", "prompt_version": None, "total_cost": 0.003,
        "latency": 1.5 * unit, "time_to_first_token": None, "model_id": "m1", "created_at": stamp(start),
        "updated_at": stamp(start), "prompt_id": "", "tool_calls": [], "tool_call_names": [], "tool_definitions": {},
        "usage_pricing_tier_id": None, "usage_pricing_tier_name": None, "input_price": "0.000005",
        "output_price": "0.00003", "total_price": None, "user_id": "u1", "session_id": "s1", "trace_name": "support",
        "tags": ["prod"], "release": "", "bookmarked": False, "public": False,
    }  # fmt: skip
    return {**plain, **cells}


def score(id: str, value: Any = 1.0, *, name: str = "helpful", kind: str = "NUMERIC", **cells: Any) -> Row:
    """One row of scores; of a trace unless it names an observation."""
    plain: Row = {
        "id": id, "timestamp": stamp(START), "project_id": "p1", "environment": "production", "trace_id": "t1",
        "observation_id": None, "session_id": None, "dataset_run_id": None, "name": name, "value": value,
        "source": "ANNOTATION", "comment": None, "data_type": kind, "string_value": None, "created_at": stamp(START),
        "updated_at": stamp(START),
    }  # fmt: skip
    return {**plain, **cells}


def as_jsonl(rows: list[Row]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def as_csv(rows: list[Row]) -> bytes:
    def cell(value: Any) -> str:
        if value is None:
            return ""
        if isinstance(value, bool):
            return str(value).lower()
        return json.dumps(value) if isinstance(value, dict | list) else str(value)

    file = io.StringIO(newline="")
    writer = csv.writer(file, quoting=csv.QUOTE_ALL)
    writer.writerow(rows[0])
    writer.writerows([cell(value) for value in row.values()] for row in rows)
    return file.getvalue().encode()


def as_parquet(rows: list[Row]) -> bytes:
    """Objects as maps, totals as decimals, times as timestamps; the prices are not in it."""
    names = [name for name in rows[0] if not name.endswith("_price")]
    types: dict[str, pa.DataType] = {
        "metadata": pa.map_(pa.string(), pa.string()), "usage_details": pa.map_(pa.string(), pa.uint64()),
        "cost_details": pa.map_(pa.string(), pa.float64()), "tool_definitions": pa.map_(pa.string(), pa.string()),
        "total_cost": pa.decimal128(18, 12), **dict.fromkeys(LISTS, pa.list_(pa.string())),
    }  # fmt: skip
    columns = {}
    for name in names:
        cells = [row[name] for row in rows]
        if name in OBJECTS:
            cells = [list(value.items()) for value in cells]
        if name == "total_cost":
            cells = [None if value is None else Decimal(str(value)) for value in cells]
        if name in ("start_time", "end_time"):
            cells = [None if value is None else datetime.fromisoformat(value) for value in cells]
        columns[name] = pa.array(cells, types.get(name))
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


WRITERS: dict[str, Callable[[list[Row]], bytes]] = {
    "jsonl": as_jsonl,
    "json": orjson.dumps,
    "csv": as_csv,
    "parquet": as_parquet,
    "jsonl.gz": lambda rows: gzip.compress(as_jsonl(rows)),
    "csv.gz": lambda rows: gzip.compress(as_csv(rows)),
}


def export(folder: Path, observations: list[Row], scores: list[Row], kind: str = "jsonl") -> Path:
    """A blob-storage export of one run, as Langfuse lays it out."""
    for table, rows in (("observations_v2", observations), ("scores", scores)):
        (folder / table).mkdir(parents=True, exist_ok=True)
        if rows:
            (folder / table / f"2026-05-29T14-00-00.{kind}").write_bytes(WRITERS[kind](rows))
    (folder / "manifests").mkdir(exist_ok=True)
    (folder / "manifests" / "2026-05-29T14-00-00.json").write_bytes(orjson.dumps({"files": [{"key": "k"}]}))
    return folder


def imported(folder: Path, **options: Any) -> Outcomes:
    return reading.read([folder], options=ImportOptions(**options))


CLEAN = [
    observation("o1"),
    observation("o2", second=5, provided_model_name="claude", level="ERROR", usage_details={}, cost_details={}),
    observation("o3", trace="t2", second=9, session_id="", input="Plain text?", trace_name="faq", prompt_name="faq-v2"),
    observation("o4", trace="t2", second=1, total_cost=0.25, usage_details={"input": 7, "output": 9, "total": 16}),
    observation("span", trace="t2", second=50, type="SPAN", provided_model_name=""),
    observation("vec", trace="t2", second=60, type="EMBEDDING"),
    observation("judge", second=70, environment="langfuse-llm-as-a-judge"),
]
SCORES = [score("s1", 0.5, observation_id="o1"), score("s2", 0.75, trace_id="t2"), score("s3", 1.0, trace_id=None)]


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_of_the_export_reads_as_the_same_outcomes(tmp_path: Path, kind: str) -> None:
    result = imported(export(tmp_path, CLEAN, SCORES, kind))
    frame = result.frame
    assert result.formats == ("langfuse",)
    assert result.rows_read == 7
    assert result.reasons == {
        "span, not a generation": 1, "embedding, not a generation": 1, "call of Langfuse's own evaluator": 1,
    }  # fmt: skip
    assert frame["candidate"].tolist() == ["gpt-4o", "claude", "gpt-4o", "gpt-4o"]
    assert frame["messages"].tolist() == [CONVERSATION, CONVERSATION, None, CONVERSATION]
    assert frame["prompt"].tolist()[2] == "Plain text?"
    assert frame["quality"].tolist()[:3] == [0.5, 0.0, 0.75]
    assert math.isnan(frame["quality"][3])
    assert frame["cost_usd"].tolist() == [0.003, 0.003, 0.003, 0.25]
    assert frame["input_tokens"].fillna(-1).tolist() == [120, -1, 120, 7]
    assert frame["output_tokens"].fillna(-1).tolist() == [30, -1, 30, 9]
    assert frame["latency_ms"].tolist() == [1500.0] * 4
    assert frame["timestamp"][0].isoformat() == "2026-05-29T13:46:19.963000+00:00"
    assert frame["session_id"].tolist() == ["s1", "s1", "t2", "s1"]
    assert frame["workflow"].tolist() == ["support", "support", "faq-v2", "support"]
    assert frame["status"].tolist() == ["success", "error", "success", "success"]


def test_one_input_in_one_trace_is_one_request_with_a_try_for_each_llm(tmp_path: Path) -> None:
    ids = imported(export(tmp_path, CLEAN, SCORES)).frame["request_id"].tolist()
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert [id.split("/")[0] for id in ids] == ["t1", "t1", "t2", "t2"]


@pytest.mark.parametrize(("unit", "word"), [(1.0, "seconds"), (1000.0, "milliseconds")])
def test_the_unit_of_latency_is_told_by_the_times_and_said(tmp_path: Path, unit: float, word: str) -> None:
    rows = [observation(f"o{n}", second=n, unit=unit) for n in range(3)]
    rows.append(observation("open", end_time=None, latency=2.0 * unit))
    result = imported(export(tmp_path, rows, SCORES[:1]))
    assert result.frame["latency_ms"].tolist() == [1500.0] * 3 + [2000.0]
    assert f"langfuse: latency is in {word}, as end_time - start_time shows" in result.notes


def test_without_latency_the_times_give_it(tmp_path: Path) -> None:
    row = observation("o1")
    del row["latency"]
    assert imported(export(tmp_path, [row], SCORES[:1])).frame["latency_ms"].tolist() == [1500.0]


def test_windows_of_an_export_are_one_log(tmp_path: Path) -> None:
    export(tmp_path, CLEAN[:2], SCORES[:1])
    later = tmp_path / "observations_v2" / "2026-05-29T15-00-00.jsonl"
    later.write_bytes(as_jsonl([CLEAN[1], observation("late", second=3600)]))
    (tmp_path / "observations_v2" / "2026-05-29T16-00-00.jsonl").write_bytes(as_jsonl([CLEAN[4]]))
    (tmp_path / "scores" / "2026-05-29T15-00-00.jsonl").write_bytes(as_jsonl([score("s9", 0.25)]))
    (tmp_path / "scores" / "2026-05-29T16-00-00.json").write_bytes(b"[]")
    result = imported(tmp_path)
    assert result.rows_read == 5
    assert result.reasons == {"duplicate row": 1, "span, not a generation": 1}
    assert result.frame["quality"].tolist() == [0.5, 0.0, 0.25]  # the trace's last generation is in the later window


def test_the_older_export_is_read_where_the_newer_one_is_missing(tmp_path: Path) -> None:
    export(tmp_path, CLEAN[:1], SCORES[:1])
    older = [
        {name: cell for name, cell in row.items() if name not in ("session_id", "trace_name")} for row in CLEAN[:1]
    ]
    for name, rows in (("2026-05-29T14-00-00", older), ("2026-05-29T13-00-00", [{**older[0], "id": "o0"}])):
        (tmp_path / "observations").mkdir(exist_ok=True)
        (tmp_path / "observations" / f"{name}.csv").write_bytes(as_csv(rows))
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "2026-05-29T14-00-00.jsonl").write_bytes(as_jsonl([{"id": "t1", "name": "x", "input": "y"}]))
    result = imported(tmp_path)
    assert result.reasons == {"also exported in observations_v2": 1}
    assert result.frame["session_id"].tolist() == ["t1", "s1"]


def ui(row: Row, **cells: Any) -> Row:
    """The row as the UI exports it: camelCase, other names for some fields, and a column for every score."""
    names = {"provided_model_name": "model", "tags": "traceTags"}
    plain = {names.get(name, camel(name)): cell for name, cell in row.items() if name != "session_id"}
    plain["startTime"] = row["start_time"].replace(" ", "T")[:-3] + "Z"
    plain["endTime"] = row["end_time"].replace(" ", "T")[:-3] + "Z"
    totals = {
        side: sum(n for kind, n in row["usage_details"].items() if kind.startswith(side))
        for side in ("input", "output")
    }
    return {**plain, "inputUsage": totals["input"], "outputUsage": totals["output"], "comments": [], **cells}


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
def test_the_export_of_the_ui_has_its_scores_in_columns(tmp_path: Path, kind: str) -> None:
    rows = [
        ui(observation("o1", unit=1000), helpful=[4, 5], tone=None, input=CONVERSATION),
        ui(observation("o2", unit=1000, trace="t2", total_cost=0, usage_details={}, cost_details={}), helpful=None, tone=None),
        ui(observation("o3", type="SPAN"), helpful=None, tone=None),
    ]  # fmt: skip
    path = tmp_path / f"1780000000-lf-observations-export-p1.{kind}"
    path.write_bytes(WRITERS[kind](rows))
    with pytest.raises(OutcomeError, match=r"'helpful' is not in \[0, 1\] \(2 numbers from 4 to 5\)"):
        reading.read([path])
    result = reading.read([path], options=ImportOptions(score_range=(1, 5)))
    frame = result.frame
    assert frame["quality"].fillna(-1).tolist() == [0.875, -1]
    assert frame["cost_usd"].fillna(-1).tolist() == [0.003, -1]  # 0 without details: no price was known
    assert frame["input_tokens"].fillna(-1).tolist() == [120, -1]
    assert frame["latency_ms"].tolist() == [1500.0, 1500.0]
    assert frame["candidate"].tolist() == ["gpt-4o", "gpt-4o"]
    assert frame["messages"].tolist() == [CONVERSATION, CONVERSATION]
    assert frame["session_id"].tolist() == ["t1", "t2"]
    assert result.reasons == {"span, not a generation": 1}


def test_the_documented_example_of_the_ui_is_recognised_with_its_file_of_scores(tmp_path: Path) -> None:
    example = {
        "id": "obs_01", "traceId": "trace_01", "name": "openai-chat", "type": "GENERATION", "model": "gpt-4o-mini",
        "startTime": "2025-04-12T10:23:14.512Z", "endTime": "2025-04-12T10:23:16.108Z",
        "input": CONVERSATION, "output": {"role": "assistant", "content": "The email asks ..."},
        "usage": {"input": 412, "output": 87, "total": 499, "unit": "TOKENS"}, "totalCost": 0.000183,
        "level": "DEFAULT", "metadata": {"customer_tier": "pro"}, "tags": ["prod", "summarize"],
    }  # fmt: skip
    (tmp_path / "generations.json").write_bytes(orjson.dumps([example]))
    judged = {camel(name): cell for name, cell in score("s1", 0.5, trace_id="trace_01").items()}
    (tmp_path / "judged.csv").write_bytes(as_csv([judged]))
    result = imported(tmp_path)
    row = result.frame.iloc[0]
    assert (row["candidate"], row["quality"], row["cost_usd"]) == ("gpt-4o-mini", 0.5, 0.000183)
    assert (row["input_tokens"], row["output_tokens"], round(row["latency_ms"])) == (412, 87, 1596)
    assert result.rows_read == 1
    with pytest.raises(OutcomeError, match="holds scores, not observations"):
        reading.read([tmp_path / "judged.csv"])


@pytest.mark.parametrize(
    ("cell", "prompt", "messages"),
    [
        ("just text", "just text", None),
        ('"quoted"', "quoted", None),
        ('{"broken": ', '{"broken": ', None),
        (json.dumps({"messages": CONVERSATION, "tools": []}), None, CONVERSATION),
        (json.dumps({"role": "user", "content": "hi"}), None, [{"role": "user", "content": "hi"}]),
        (json.dumps({"prompt": "hi"}), "hi", None),
        (json.dumps({"input": "hi", "instructions": "be"}), None,
         [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]),
        (json.dumps({"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}), None,
         [{"role": "user", "content": [{"text": "hi"}]}]),
        (json.dumps([{"role": "tool", "content": {"name": "f"}}]), None, [{"role": "tool", "content": '{"name": "f"}'}]),
        (json.dumps({"question": "why", "n": 1}), '{"question": "why", "n": 1}', None),
        (json.dumps(["a", "b"]), "a\nb", None),
    ],
)  # fmt: skip
def test_what_was_asked_is_found_in_the_input(tmp_path: Path, cell: str, prompt: Any, messages: Any) -> None:
    frame = imported(export(tmp_path, [observation("o1", input=cell)], SCORES[:1])).frame
    assert frame["messages"][0] == messages
    assert (frame["prompt"][0] if prompt else prompt) == prompt


def test_answers_travel_only_when_asked_for(tmp_path: Path) -> None:
    file = next((export(tmp_path, CLEAN[:1], SCORES) / "observations_v2").iterdir())
    records = next(iter(reading.files.partitions(file)))
    with_answers = langfuse_export._Reading(langfuse_export.Judgements(), True, False, set())
    assert with_answers.convert(records).table["answer"].tolist() == ["Là-bas."]
    assert (
        "answer"
        not in langfuse_export._Reading(langfuse_export.Judgements(), False, False, set()).convert(records).table
    )


# Scores.


def qualities(folder: Path, **options: Any) -> list[float]:
    return [float(value) for value in imported(folder, **options).frame["quality"].fillna(-1)]


TWO = [observation("o1"), observation("o2", second=5, input="second")]


def test_a_score_of_a_trace_counts_for_its_last_generation_or_for_all(tmp_path: Path) -> None:
    export(tmp_path, [TWO[1], TWO[0], observation("span", second=9, type="SPAN")], [score("s1", 0.5)])
    assert qualities(tmp_path) == [0.5, -1]
    assert qualities(tmp_path, trace_scores="all") == [0.5, 0.5]
    assert "quality is the score 'helpful': 0 observations and 1 traces (its last generation)" in str(
        imported(tmp_path).notes
    )


def test_the_generations_own_score_goes_before_its_traces(tmp_path: Path) -> None:
    export(tmp_path, TWO, [score("s1", 0.5), score("s2", 1.0, observation_id="o2")])
    assert qualities(tmp_path) == [-1, 1.0]


def test_several_scores_of_one_answer_are_averaged_and_a_changed_one_counts_once(tmp_path: Path) -> None:
    changed = score("s1", 0.0, observation_id="o1", updated_at=stamp(START + timedelta(hours=1)))
    scores = [changed, score("s1", 1.0, observation_id="o1"), score("s2", 0.5, observation_id="o1")]
    assert qualities(export(tmp_path, TWO[:1], scores)) == [0.25]


def test_one_of_several_scores_has_to_be_chosen(tmp_path: Path) -> None:
    scores = [score("s1", 3), score("s2", name="tone", kind="CATEGORICAL", value=0, string_value="good")]
    export(tmp_path, TWO, scores)
    with pytest.raises(OutcomeError) as error:
        imported(tmp_path)
    assert "has 2 scores and one of them is quality: helpful (1 numbers from 3 to 3); tone (1 good)" in str(error.value)
    assert "say which: --score-name NAME" in str(error.value)
    with pytest.raises(OutcomeError, match=r"has no score 'x'; --score-name can be: helpful .*; tone"):
        imported(tmp_path, score_name="x")


def test_numbers_need_a_range_unless_they_are_qualities(tmp_path: Path) -> None:
    export(tmp_path, TWO, [score("s1", 4, observation_id="o1"), score("s2", 1, observation_id="o2")])
    with pytest.raises(OutcomeError, match=r"--score-rule minmax:WORST:BEST, such as minmax:1:5"):
        imported(tmp_path)
    assert qualities(tmp_path, score_range=(1, 5)) == [0.75, 0.0]
    assert qualities(tmp_path, score_range=(5, 1)) == [0.25, 1.0]
    outside = imported(tmp_path, score_range=(2, 5))
    assert outside.reasons == {"quality outside [0, 1]": 1}


def test_labels_need_a_mapping(tmp_path: Path) -> None:
    labels = [("o1", "good"), ("o2", "bad")]
    scores = [score(o, 0, name="tone", kind="CATEGORICAL", string_value=s, observation_id=o) for o, s in labels]
    export(tmp_path, TWO, scores)
    with pytest.raises(OutcomeError, match=r"labels \(1 good, 1 bad\).*--score-rule categorical:LABEL=QUALITY"):
        imported(tmp_path)
    assert qualities(tmp_path, score_mapping={"Good": 1.0, "bad": 0.25}) == [1.0, 0.25]
    some = imported(tmp_path, score_mapping={"good": 0.5})
    assert some.frame["quality"].fillna(-1).tolist() == [0.5, -1]
    assert "langfuse: scores with a label that --score-rule lacks are not used: 1 bad" in some.notes


@pytest.mark.parametrize("value", [1, 1.0, True, "true", "1"])
def test_true_is_quality_one(tmp_path: Path, value: Any) -> None:
    export(tmp_path, TWO[:1], [score("s1", value, kind="BOOLEAN")])
    assert qualities(tmp_path) == [1.0]


def test_free_text_and_the_scores_of_sessions_are_no_quality(tmp_path: Path) -> None:
    text = score("s1", 0, name="remark", kind="TEXT", string_value=PROMPT)
    session = score("s2", 1, trace_id=None, session_id="s1")
    result = imported(export(tmp_path, TWO, [text, session]))
    assert result.notes[0] == "langfuse: no score was exported with the observations: quality is unknown"
    assert result.frame["quality"].isna().all()
    export(tmp_path, TWO, [session, score("s3", 0.5)])
    assert "1 scores 'helpful' judge a session or experiment, or hold free text" in str(imported(tmp_path).notes)


# Dirty exports.


def test_every_row_of_a_dirty_export_is_used_or_skipped_with_a_reason(tmp_path: Path) -> None:
    export(tmp_path, [], [*SCORES, {"id": 5}, score("", "x"), score("s8", "high"), score("s9", 1, name=None)])
    rows = [
        observation("ok", input=PROMPT), observation("ok"), observation("null", input=None), observation(""),
        observation("typed", input=7), observation("cost", total_cost=-1.0, second=1), observation("many", level=3),
        observation("tokens", usage_details={"input": "many"}, second=2), observation("date", start_time="yesterday"),
        observation("late", latency="slow", second=3), observation("model", provided_model_name=None, second=4),
        observation("odd", type="POEM"), observation("none", type=None), observation("map", usage_details="{", second=5),
        observation("list", input=[1, {"role": 2}], second=6), observation("half", input="\ud800 half", second=7),
    ]  # fmt: skip
    lines = [json.dumps(row).encode() for row in rows]
    lines += [
        lines[0][:100],
        b"[1]",
        b'"text"',
        b"\xff\xfe",
        json.dumps(observation("latin", second=8)).encode("latin-1"),
    ]
    (tmp_path / "observations_v2" / "w.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    result = imported(tmp_path)
    assert result.rows_read == len(lines) == len(result.frame) + len(result.skipped)
    assert result.reasons == {
        "unreadable line": 4, "observation of no known type": 2, "duplicate observation id": 1, "no prompt": 1,
        "observation has no id": 1, "prompt is not text": 1, "cost_usd is negative": 1, "timestamp is not a date": 1,
        "input_tokens is not a number": 1, "latency_ms is not a number": 1, "no candidate": 1,
    }  # fmt: skip
    assert PROMPT not in result.skipped.to_csv()
    assert "POEM" not in result.skipped.to_csv()


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8), st.just([]),
    st.just({"a": [None]}), st.just("[{]"), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["input", "output", "total"]), st.one_of(st.none(), st.text(max_size=2))),
)  # fmt: skip
DAMAGE = st.dictionaries(st.sampled_from(sorted(observation("o"))), JUNK, max_size=4)


@examples(20)
@given(damages=st.lists(DAMAGE, max_size=6), cut=st.integers(0, 3000), camelled=st.booleans())
def test_used_and_skipped_are_all_rows(
    tmp_path_factory: pytest.TempPathFactory, damages: list[Row], cut: int, camelled: bool
) -> None:
    folder = tmp_path_factory.mktemp("dirty") / "observations_v2"
    folder.mkdir()
    rows = [observation("ok"), *({**observation(f"o{n}"), **damage} for n, damage in enumerate(damages))]
    spelt = [{camel(name): cell for name, cell in row.items()} for row in rows] if camelled else rows
    lines = [json.dumps(row).encode("utf-8", "surrogatepass") for row in spelt]
    (folder / "w.jsonl").write_bytes(b"\n".join(lines) + b"\n" + lines[0][:cut])
    result = reading.read([folder])
    assert result.rows_read == len(rows) + (cut > 0)
    assert len(result.frame) + len(result.skipped) == result.rows_read
    assert (result.skipped["reason"] != "").all()


@examples(15)
@given(
    facts=st.lists(
        st.tuples(st.integers(0, 10**9), st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=30
    ),
    kind=st.sampled_from(sorted(WRITERS)),
)
def test_rows_costs_and_tokens_are_those_of_the_source(
    tmp_path_factory: pytest.TempPathFactory, facts: list[tuple[int, int, int]], kind: str
) -> None:
    rows = [
        observation(f"o{n}", second=n, trace=f"t{n % 3}", input=f"question {n}", total_cost=nano / 1e9,
                    usage_details={"input": read, "output": written, "total": read + written})
        for n, (nano, read, written) in enumerate(facts)
    ]  # fmt: skip
    frame = imported(export(tmp_path_factory.mktemp("clean"), rows, SCORES[:1], kind)).frame
    assert len(frame) == len(facts)
    assert math.isclose(frame["cost_usd"].sum(), sum(fact[0] for fact in facts) / 1e9, rel_tol=1e-9, abs_tol=1e-12)
    assert frame["input_tokens"].sum() == sum(fact[1] for fact in facts)
    assert frame["output_tokens"].sum() == sum(fact[2] for fact in facts)


# The API.


class Server:
    """A stand-in for the API: pages of observations and scores, by cursor, with the same parameters and shapes."""

    def __init__(self, observations: list[Row], scores: list[Row]) -> None:
        self.tables = {"/api/public/v2/observations": observations, "/api/public/v3/scores": scores}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.page = 2
        self.breaks_at: int | None = None
        self.status = 200
        self.authorization: set[str | None] = set()

    def answer(self, path: str, query: dict[str, str]) -> Row:
        table = self.tables[path]
        clock = "startTime" if path.endswith("observations") else "timestamp"
        low = query.get("fromStartTime" if clock == "startTime" else "fromTimestamp", "")
        high = query["toStartTime" if clock == "startTime" else "toTimestamp"]
        moments = [datetime.fromisoformat(row[clock]) for row in table]
        after = datetime.fromisoformat(low) if low else datetime.min.replace(tzinfo=UTC)
        rows = [r for r, m in zip(table, moments, strict=True) if after <= m < datetime.fromisoformat(high)]
        start = int(query.get("cursor", "0"))
        more = start + self.page < len(rows)
        meta: Row = {"limit": 50, "cursor": str(start + self.page)} if more else {"limit": 50}
        return {"data": rows[start : start + self.page], "meta": meta}


@contextmanager
def serving(server: Server) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlparse(self.path)
            query = {name: values[0] for name, values in parse_qs(url.query).items()}
            server.authorization.add(self.headers["Authorization"])
            if server.breaks_at == len(server.asked):
                self.close_connection = True
                return  # the connection is closed without an answer
            server.asked.append((url.path, query))
            body = orjson.dumps(server.answer(url.path, query) if server.status == 200 else {"message": "no"})
            self.send_response(server.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}"
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def api_observation(id: str, **cells: Any) -> Row:
    row = {camel(name): cell for name, cell in observation(id, **cells).items()}
    return {
        **row,
        "startTime": row["startTime"].replace(" ", "T") + "Z",
        "endTime": row["endTime"].replace(" ", "T") + "Z",
    }


def api_score(id: str, value: Any, kind: str, subject: Row, name: str = "helpful") -> Row:
    moment = START.isoformat() + "Z"
    return {
        "id": id, "projectId": "p1", "name": name, "value": value, "dataType": kind, "source": "API",
        "timestamp": moment, "environment": "default", "createdAt": moment, "updatedAt": moment, "subject": subject,
    }  # fmt: skip


@pytest.fixture
def server() -> Server:
    rows = [api_observation(f"o{n}", second=n, trace=f"t{n % 2}", input=f"question {n}") for n in range(5)]
    scores = [
        api_score("s1", 0.5, "NUMERIC", {"kind": "observation", "id": "o0", "traceId": "t0"}),
        api_score("s2", True, "BOOLEAN", {"kind": "trace", "id": "t1"}),
        api_score("s3", 1.0, "NUMERIC", {"kind": "session", "id": "s1"}),
    ]
    return Server(rows, scores)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("LANGFUSE_BASE_URL", raising=False)
    monkeypatch.setenv("LANGFUSE_PUBLIC_KEY", "pk-lf-1")
    monkeypatch.setenv("LANGFUSE_SECRET_KEY", "sk-lf-secret")
    return monkeypatch


def live(url: str, cache: Path) -> Outcomes:
    return concat(list(langfuse_export.read_url(url, ImportOptions(cache=cache))))


def test_a_project_is_read_over_the_api(server: Server, keys: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with serving(server) as url:
        keys.setenv("LANGFUSE_HOST", url)
        frame = live("langfuse:?from=2026-05-01&to=2026-06-01&name=chat", tmp_path).frame
    frame = frame.sort_values("prompt", ignore_index=True)
    assert frame["prompt"].tolist() == [f"question {n}" for n in range(5)]
    assert frame["quality"].fillna(-1).tolist() == [0.5, -1, -1, 1.0, -1]
    assert frame["cost_usd"].sum() == pytest.approx(0.015)
    assert [path.rsplit("/", 1)[1] for path, _ in server.asked] == ["observations"] * 3 + ["scores"] * 2
    first = server.asked[0][1]
    assert (first["type"], first["name"], first["fromStartTime"]) == ("GENERATION", "chat", "2026-05-01T00:00:00Z")
    assert first["toStartTime"] == "2026-06-01T00:00:00Z"
    assert server.authorization == {"Basic cGstbGYtMTpzay1sZi1zZWNyZXQ="}
    assert b"sk-lf-secret" not in b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())


@pytest.mark.parametrize("breaks_at", range(5))
def test_a_broken_download_goes_on_where_it_stopped(
    server: Server, keys: pytest.MonkeyPatch, tmp_path: Path, breaks_at: int
) -> None:
    server.breaks_at = breaks_at
    with serving(server) as url:
        keys.setenv("LANGFUSE_HOST", url)
        with pytest.raises(OutcomeError, match="run it again and it goes on from there"):
            live("langfuse:", tmp_path)
        assert len(server.asked) == breaks_at
        server.breaks_at = None
        assert len(live("langfuse:", tmp_path).frame) == 5
    # Every page was asked for once, and none of them is left half written.
    assert len(server.asked) == 5
    assert not list(tmp_path.rglob(".*"))


def test_the_importer_reads_its_url_from_the_usual_cache(
    server: Server, keys: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys.chdir(tmp_path)
    with serving(server) as url:
        keys.setenv("LANGFUSE_HOST", url)
        parts = list(langfuse_export.read_url("langfuse:", ImportOptions(trace_scores="all")))
    quality = [value for part in parts for value in part.frame["quality"].fillna(-1)]
    assert sorted(quality) == [-1, -1, 0.5, 1.0, 1.0]
    (folder,) = (tmp_path / ".cache" / "langfuse").iterdir()
    assert folder.stat().st_mode & 0o077 == 0  # prompts are its owner's to read


def test_a_finished_download_is_taken_further(server: Server, keys: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Clock(datetime):
        at = datetime.now(UTC)

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return cls.at

    keys.setattr(langfuse_live, "datetime", Clock)
    with serving(server) as url:
        keys.setenv("LANGFUSE_HOST", url)
        live("langfuse:", tmp_path)
        new = api_observation("new", second=0, trace="t9", input="later")
        new["startTime"] = new["endTime"] = (Clock.at + timedelta(seconds=30)).replace(tzinfo=None).isoformat() + "Z"
        server.tables["/api/public/v2/observations"].append(new)
        Clock.at += timedelta(minutes=1)
        frame = live("langfuse:", tmp_path).frame
    assert "later" in frame["prompt"].tolist()
    assert len(frame) == 6
    # Windows overlap by an hour: a generation that started before the last one ended may have come in since.
    ended = datetime.fromisoformat(server.asked[0][1]["toStartTime"])
    assert datetime.fromisoformat(server.asked[5][1]["fromStartTime"]) == ended - timedelta(hours=1)


def test_what_is_downloaded_twice_is_read_once_as_it_was_last(
    server: Server, keys: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    moment = (datetime.now(UTC) - timedelta(minutes=10)).isoformat()
    for row in server.tables["/api/public/v2/observations"]:
        row["startTime"] = row["endTime"] = moment
    with serving(server) as url:
        keys.setenv("LANGFUSE_HOST", url)
        before = live("langfuse:", tmp_path)
        server.tables["/api/public/v2/observations"][0]["totalCost"] = 0.75
        after = live("langfuse:", tmp_path)
    assert len(before.frame) == len(after.frame) == 5
    assert 0.75 not in before.frame["cost_usd"].tolist()
    assert 0.75 in after.frame["cost_usd"].tolist()
    assert after.reasons["duplicate observation id"] == 5


@pytest.mark.parametrize(
    ("status", "message"),
    [(401, "check LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"), (404, "export to blob storage or from the UI")],
)
def test_a_refusal_says_what_to_do(
    server: Server, keys: pytest.MonkeyPatch, tmp_path: Path, status: int, message: str
) -> None:
    server.status = status
    with serving(server) as url, pytest.raises(OutcomeError) as error:
        langfuse_live.download(Query(), Project(url, "pk", "sk-secret"), tmp_path)
    assert message in str(error.value)
    assert "sk-secret" not in str(error.value)


def test_a_project_without_generations_and_a_server_that_runs_in_circles_are_errors(
    server: Server, keys: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving(server) as url:
        keys.setenv("LANGFUSE_HOST", url)
        with pytest.raises(OutcomeError, match="no generation there"):
            live("langfuse:?to=2020-01-01", tmp_path)
        server.answer = lambda path, query: {"data": [], "meta": {"limit": 1, "cursor": "same"}}  # type: ignore[method-assign]
        with pytest.raises(OutcomeError, match="the same page of observations_v2 again and again"):
            live("langfuse:", tmp_path)


def test_a_row_that_is_not_the_apis_is_an_error_without_its_text(
    server: Server, keys: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.tables["/api/public/v2/observations"][1]["usageDetails"] = {"input": PROMPT}
    with serving(server) as url:
        keys.setenv("LANGFUSE_HOST", url)
        with pytest.raises(OutcomeError, match="does not fit the API's own types") as error:
            live("langfuse:", tmp_path)
    assert PROMPT not in str(error.value)


def test_wrong_urls_missing_keys_and_damaged_states_are_errors(tmp_path: Path) -> None:
    assert langfuse_live.recognises_url("langfuse:?from=2026-01-01")
    assert not langfuse_live.recognises_url("hf:some/set")
    assert langfuse_export.recognises_url("langfuse:")
    parsed = langfuse_live.parse_url("langfuse:?from=2026-01-01T01:00:00%2B01:00&environment=production")
    assert parsed == Query(since="2026-01-01T00:00:00+00:00", environment="production")
    with pytest.raises(OutcomeError, match="'since' is not known; expected langfuse:"):
        langfuse_live.parse_url("langfuse:?since=1")
    with pytest.raises(OutcomeError, match="'may' is not a time"):
        langfuse_live.parse_url("langfuse:?from=may")
    with pytest.raises(OutcomeError, match="needs LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY"):
        langfuse_live.project({})
    assert langfuse_live.project({"LANGFUSE_PUBLIC_KEY": "a", "LANGFUSE_SECRET_KEY": "b"}).server == (
        "https://cloud.langfuse.com"
    )
    account = Project("http://127.0.0.1:9", "pk", "sk")
    folder = tmp_path / langfuse_live._key(Query(), account)
    folder.mkdir()
    (folder / "state.json").write_text('{"scores": {"page": 1}}')
    with pytest.raises(OutcomeError, match="delete its folder to start anew"):
        langfuse_live.download(Query(), account, tmp_path)


# From export to router.


def test_one_command_trains_a_router_on_an_export(tmp_path: Path) -> None:
    rows, scores = [], []
    for n in range(240):
        for model, cost in (("gpt-4o-mini", 0.0002), ("gpt-4o", 0.004)):
            id = f"{model}-{n}"
            rows.append(observation(id, trace=f"t{n}", second=n, session_id="", provided_model_name=model,
                                    input=f"question {n} of kind {n % 7}", total_cost=cost))  # fmt: skip
            good = model == "gpt-4o" or n % 3 > 0
            scores.append(score(f"s-{id}", 5 if good else 1, trace_id=f"t{n}", observation_id=id))
    export(tmp_path / "langfuse", rows, scores)
    arguments = ["run", "--data", tmp_path / "langfuse", "--out", tmp_path / "models", "--no-track", *setting(*QUICK)]
    refused = router_train_here(*arguments)
    assert refused.returncode == 2
    assert "--score-rule minmax:WORST:BEST" in refused.stderr
    trained = router_train_here(*arguments, "--score-rule", "minmax:1:5")
    assert trained.returncode == 0, trained.stderr
    assert "480 rows read as langfuse: 480 used, 0 skipped" in trained.stdout
    assert "langfuse: latency is in seconds" in trained.stdout
    assert (tmp_path / "models" / "current" / "manifest.json").is_file()


# What the router itself writes to Langfuse.


def own_score(decision: str, value: float = 0.9, **cells: Any) -> Row:
    return score(f"{decision}-router_confidence", value, name="router_confidence", source="API", **cells)


def test_the_names_of_the_routers_own_scores_are_those_that_it_writes() -> None:
    assert set(payload.SCORES) == langfuse_scores.OWN


def test_what_the_router_wrote_is_no_quality_and_its_spans_are_no_generations(tmp_path: Path) -> None:
    rows = [*CLEAN, observation("decided", type="SPAN", name=payload.SPAN, trace="t1")]
    own = [own_score("d-1", observation_id="o1"), own_score("d-2", trace_id="t2")]
    result = imported(export(tmp_path, rows, [*SCORES, *own]))
    assert (
        result.frame["quality"].fillna(-1).tolist()
        == imported(export(tmp_path / "x", CLEAN, SCORES)).frame["quality"].fillna(-1).tolist()
    )
    assert "langfuse: 2 scores that the router itself wrote (router_confidence, ...) are passed over" in result.notes
    assert result.reasons["span, not a generation"] == 2
    alone = imported(export(tmp_path / "alone", CLEAN, own))
    assert alone.frame["quality"].dropna().tolist() == [0.0]  # the failure
    with pytest.raises(OutcomeError, match="--score-name router_confidence: that is what the router itself wrote"):
        imported(export(tmp_path / "named", CLEAN, own), score_name="router_confidence")


def test_columns_of_the_ui_with_the_routers_scores_are_passed_over(tmp_path: Path) -> None:
    row = {camel(name): cell for name, cell in observation("o1").items()}
    file = tmp_path / "observations.jsonl"
    file.write_bytes(as_jsonl([{**row, "helpful": [0.5], "router_confidence": [0.9], "router_cost_usd": [2.5]}]))
    result = reading.read([file])
    assert result.frame["quality"].tolist() == [0.5]
