"""OpenTelemetry GenAI spans as OTLP JSON: one export request per line, an array of them, or one document.

Each chat, text_completion or generate_content span is a try. Names of the semantic conventions are read, and the
older ones: prompt_tokens and completion_tokens, gen_ai.prompt, gen_ai.content.prompt events, message events, and
gen_ai.prompt.0.content. Evaluations (`evaluations`) become quality. Ids may be hex, as OTLP/JSON has them, or
base64, as protobuf's own JSON mapping writes them; enums may be numbers or names.

What makes one request: spans of one trace with the same prompt are its tries (a retry, a fallback). A span that is the same
call as one around or within it, a framework's around its client's, is left out (`nesting`). Spans of one conversation
(gen_ai.conversation.id, else session.id, else the trace) are one session, which is never split between training and test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from math import nan
from typing import Any, NamedTuple

from training.logs.cells import first_of, json_text, shown
from training.logs.io import files
from training.logs.io.files import Row
from training.logs.io.partitions import checked, outcomes_of
from training.logs.objects.path import LogPath
from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.sources.chat_bodies import parameters_text
from training.logs.sources.importer import DEFAULT, ImportOptions
from training.logs.sources.otel import otlp
from training.logs.sources.otel.evaluations import GENERATIONS, Quality, quality_of
from training.logs.sources.otel.messages import answer_text, prompt_cells
from training.logs.sources.otel.nesting import EXPECTED_ONCE, REASON, Nested, Spans, digest, key_of
from training.logs.sources.tries import Signature, Skip, beside, gather, remembered, signature

NAME = "otel"
EXPECTS = "OTLP JSON with resourceSpans that hold gen_ai.* attributes, one export request per line or one document"
COMPANIONS: frozenset[str] = frozenset()

# What OpenLLMetry wrote as llm.request.type before there was gen_ai.operation.name.
_OLDER = {"chat": "chat", "completion": "text_completion"}
_CHARACTERISTIC = ("gen_ai.request.model", "gen_ai.response.model", "gen_ai.provider.name", "gen_ai.system")
_WORKFLOWS = ("gen_ai.workflow.name", "traceloop.workflow.name", "gen_ai.agent.name")
_ERROR = (2, "2", "STATUS_CODE_ERROR")


@remembered
def recognises(path: LogPath) -> bool:
    """Whether the head holds spans in OTLP JSON."""
    return otlp.holds(path, otlp.SPANS)


@remembered
def accompanies(path: LogPath) -> bool:
    """Whether the file holds OTLP logs, which may carry evaluations, or metrics, which are of no use here."""
    return otlp.holds(path, (*otlp.LOGS, *otlp.METRICS)) and not recognises(path)


def read(path: LogPath, options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """Read one file of spans; raises OutcomeError when it has none, or when it is open which evaluation to use."""
    if not recognises(path):
        hint = "give the file with the spans beside it, or the folder; " if accompanies(path) else ""
        raise OutcomeError(f"{path}: holds no spans; {hint}expected {EXPECTS}; arrived: {files.shown_columns(path)}")
    quality = quality_of(beside(path, lambda file: recognises(file) or accompanies(file)), options)
    nested = _nested(signature(beside(path, recognises)))
    passed = {key_of(*span): cell for span, cell in quality.by_span.items() if key_of(*span) in nested.passed}

    def convert(records: files.Records) -> files.Records:
        return gather(records, lambda line, _: _tries(line, quality, options, _Passed(nested, passed)))

    if not otlp.is_document(path):
        return outcomes_of(path, format=NAME, convert=convert, wanted=frozenset(otlp.SPANS))
    return checked([otlp.read_document(path)], source=str(path), format=NAME, convert=convert)


@lru_cache(maxsize=1)  # rotated files of one folder are read one after the other, and each needs them all
def _nested(paths: Signature) -> Nested:
    """Which generations are one call with another one, in all these files together."""
    spans = Spans()
    for span, said in _spans(paths):
        trace, own = otlp.span_id(span)
        if own is not None:
            parent = otlp.parent_id(span)
            told = None if _no_generation(said) else 2 * (_model(said) is not None) + any(_tokens(said))
            spans.add(key_of(trace, own), key_of(trace, parent) if parent else None, told, *_seconds(span))
    pairs = spans.pairs()
    if not pairs:
        return Nested()
    wanted = {key for pair in pairs for key in pair}
    keyed = ((key_of(*otlp.span_id(span)), span, said) for span, said in _spans(paths))
    asked = {key: prompt_cells(span, said) for key, span, said in keyed if key in wanted}
    return spans.nested(pairs, {key: digest(cells["prompt"], cells["messages"]) for key, cells in asked.items()})


def _spans(paths: Signature) -> Iterator[tuple[Row, Row]]:
    """Every span in some files, with its attributes."""
    for name, _, _ in paths:
        with suppress(OutcomeError):  # a damaged file says so when it is itself read
            for records in otlp.partitions(name, otlp.SPANS):
                for _, request in records.numbered():
                    for _, span in otlp.spans(request):
                        if isinstance(span, dict):
                            yield span, otlp.with_event_attributes(span)


class _Passed(NamedTuple):
    """Calls that were recorded twice, and the quality of the records that are passed over, by key."""

    nested: Nested
    quality: Mapping[int, Any]


def _tries(line: Row, quality: Quality, options: ImportOptions, twice: _Passed) -> Iterator[Row | Skip]:
    """A row or a skip for each span of an export request; a skip if it has none."""
    empty = True
    for resource, span in otlp.spans(line):
        empty = False
        yield _try(span, resource, quality, options, twice)
    if empty:
        yield Skip("no spans", "", "resourceSpans with spans")


def _try(span: Any, resource: Row, quality: Quality, options: ImportOptions, twice: _Passed) -> Row | Skip:
    if not isinstance(span, dict):
        return Skip("not a span", type(span).__name__, "a span with attributes")
    said = otlp.with_event_attributes(span)
    if skip := _no_generation(said):
        return skip
    trace, identifier = otlp.span_id(span)
    key = key_of(trace, identifier)
    if key in twice.nested.passed:
        return Skip(REASON, "", EXPECTED_ONCE)
    response = said.get("gen_ai.response.id")
    prompt = prompt_cells(span, said)
    own = f"{trace}-{identifier}" if identifier else response
    judged = quality.of(trace, identifier, response)
    tokens = _tokens(said)
    cells: Row = {
        "request_id": own if trace is None else _request_id(trace, prompt, own),
        "try_id": own,
        "candidate": _model(said),
        "quality": twice.nested.quality(key, twice.quality) if judged is None else judged,
        "cost_usd": said.get("gen_ai.usage.cost"),
        "input_tokens": tokens[0],
        "output_tokens": tokens[1],
        "session_id": first_of(said.get("gen_ai.conversation.id"), said.get("session.id"), trace),
        "workflow": first_of(*(said.get(name) for name in _WORKFLOWS), _service(resource)),
        "status": "error" if _failed(span, said) else None,
        "trace_id": trace,
        **_times(span),
        **prompt,
    }
    if options.answers:
        cells["answer"] = answer_text(said)
    if options.parameters:
        cells["parameters"] = parameters_text({"tools": said.get("gen_ai.tool.definitions")})
    return cells


def _model(said: Row) -> Any:
    return first_of(said.get("gen_ai.request.model"), said.get("gen_ai.response.model"))


def _tokens(said: Row) -> tuple[Any, Any]:
    """Input and output tokens, also by their older names."""
    return (
        first_of(said.get("gen_ai.usage.input_tokens"), said.get("gen_ai.usage.prompt_tokens")),
        first_of(said.get("gen_ai.usage.output_tokens"), said.get("gen_ai.usage.completion_tokens")),
    )


def _request_id(trace: str | None, prompt: Row, own: Any) -> Any:
    """One for all spans of a trace with this prompt; the span's own where it recorded none."""
    said = prompt["prompt"] if first_of(prompt["messages"]) is None else prompt["messages"]
    if said is None:
        return own
    text = said if isinstance(said, str) else json_text(said, sort_keys=True)
    return f"{trace}/{hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"


def _service(resource: Row) -> Any:
    """The service's name, unless it is what an SDK says where nobody named it: unknown_service:python."""
    name = resource.get("service.name")
    return None if isinstance(name, str) and name.startswith("unknown_service") else name


def _no_generation(said: Row) -> Skip | None:
    expected = "an operation of " + ", ".join(sorted(GENERATIONS))
    operation = said.get("gen_ai.operation.name")
    if first_of(operation) is None:
        older = said.get("llm.request.type")
        operation = _OLDER.get(older, older) if isinstance(older, str) else None
    if first_of(operation) is not None:
        known = isinstance(operation, str) and operation in GENERATIONS
        return None if known else Skip("operation is no generation", shown(operation), expected)
    if not any(name in said for name in _CHARACTERISTIC):
        return Skip("not a GenAI span", "", "a span with gen_ai.* attributes")
    return None


def _failed(span: Row, said: Row) -> bool:
    status = span.get("status")
    code = status.get("code") if isinstance(status, dict) else None
    return code in _ERROR or first_of(said.get("error.type")) is not None


def _times(span: Row) -> Row:
    """Start and duration; in uint64 nanoseconds as text, of which 0 means that it was not set."""
    start, end = _cells_of_times(span)
    started, ended = otlp.whole(start), otlp.whole(end)
    latency = (ended - started) / 1e6 if started and ended else None
    return {"timestamp": None if started == 0 else start, "latency_ms": latency}


def _seconds(span: Row) -> tuple[float, float]:
    """Start and end in epoch seconds, NaN where they were not set."""
    started, ended = (otlp.whole(cell) for cell in _cells_of_times(span))
    return (started / 1e9 if started else nan, ended / 1e9 if ended else nan)


def _cells_of_times(span: Row) -> tuple[Any, Any]:
    start = otlp.first_field(span, "startTimeUnixNano", "start_time_unix_nano")
    return start, otlp.first_field(span, "endTimeUnixNano", "end_time_unix_nano")
