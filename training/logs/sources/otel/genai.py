"""OpenTelemetry GenAI spans as OTLP JSON: one export request per line, an array of them, or one document.

Each chat, text_completion or generate_content span is a try. Names of the semantic conventions are read, and the
older ones: prompt_tokens and completion_tokens, gen_ai.prompt, gen_ai.content.prompt events, message events, and
gen_ai.prompt.0.content. Evaluations (`evaluations`) become quality. Ids may be hex, as OTLP/JSON has them, or
base64, as protobuf's own JSON mapping writes them; enums may be numbers or names.

What makes one request: spans of one trace with the same prompt are its tries (a retry, a fallback), but for a span directly
around another one of a generation, a framework's around its client's. Spans of one conversation (gen_ai.conversation.id, else
session.id, else the trace) are one session, which is never split between training and test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.logs.cells import first_of, json_text, shown
from training.logs.io import files
from training.logs.io.files import Row
from training.logs.io.partitions import checked, outcomes_of
from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.sources.chat_bodies import parameters_text
from training.logs.sources.options import DEFAULT, ImportOptions
from training.logs.sources.otel import otlp
from training.logs.sources.otel.evaluations import GENERATIONS, Quality, quality_of
from training.logs.sources.otel.messages import answer_text, prompt_cells
from training.logs.sources.tries import Skip, beside, gather, remembered

NAME = "otel"
EXPECTS = "OTLP JSON with resourceSpans that hold gen_ai.* attributes, one export request per line or one document"
COMPANIONS: frozenset[str] = frozenset()

# What OpenLLMetry wrote as llm.request.type before there was gen_ai.operation.name.
_OLDER = {"chat": "chat", "completion": "text_completion"}
_CHARACTERISTIC = ("gen_ai.request.model", "gen_ai.response.model", "gen_ai.provider.name", "gen_ai.system")
_WORKFLOWS = ("gen_ai.workflow.name", "traceloop.workflow.name", "gen_ai.agent.name")
_ERROR = (2, "2", "STATUS_CODE_ERROR")


@remembered
def recognises(path: Path) -> bool:
    """Whether the head holds spans in OTLP JSON."""
    return otlp.holds(path, otlp.SPANS)


@remembered
def accompanies(path: Path) -> bool:
    """Whether the file holds OTLP logs, which may carry evaluations, or metrics, which are of no use here."""
    return otlp.holds(path, (*otlp.LOGS, *otlp.METRICS)) and not recognises(path)


def read(path: Path, options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """Read one file of spans; raises OutcomeError when it has none, or when it is open which evaluation to use."""
    if not recognises(path):
        hint = "give the file with the spans beside it, or the folder; " if accompanies(path) else ""
        raise OutcomeError(f"{path}: holds no spans; {hint}expected {EXPECTS}; arrived: {files.shown_columns(path)}")
    quality = quality_of(beside(path, lambda file: recognises(file) or accompanies(file)), options)

    nested = _Nested()

    def convert(records: files.Records) -> files.Records:
        return gather(records, lambda line, _: _tries(line, quality, options, nested))

    if not otlp.is_document(path):
        return outcomes_of(path, format=NAME, convert=convert, wanted=frozenset(otlp.SPANS))
    return checked([otlp.read_document(path)], source=str(path), format=NAME, convert=convert)


class _Nested:
    """Which generations' spans stand directly around one another, of the last so many that were read."""

    _KEPT = 65_536

    def __init__(self) -> None:
        self._spans: dict[tuple[str | None, str | None], None] = {}
        self._parents: dict[tuple[str | None, str | None], None] = {}

    def is_nested(self, trace: str | None, span: str | None, parent: str | None) -> bool:
        """Whether the span is around one that was read before, or within one."""
        found = (trace, span) in self._parents or (parent is not None and (trace, parent) in self._spans)
        for known, name in ((self._spans, span), (self._parents, parent)):
            known[(trace, name)] = None
            if len(known) > self._KEPT:
                del known[next(iter(known))]
        return found


def _tries(line: Row, quality: Quality, options: ImportOptions, nested: _Nested) -> Iterator[Row | Skip]:
    """A row or a skip for each span of an export request; a skip if it has none."""
    empty = True
    for resource, span in otlp.spans(line):
        empty = False
        yield _try(span, resource, quality, options, nested)
    if empty:
        yield Skip("no spans", "", "resourceSpans with spans")


def _try(span: Any, resource: Row, quality: Quality, options: ImportOptions, nested: _Nested) -> Row | Skip:
    if not isinstance(span, dict):
        return Skip("not a span", type(span).__name__, "a span with attributes")
    said = otlp.with_event_attributes(span)
    if skip := _no_generation(said):
        return skip
    trace, identifier = otlp.span_id(span)
    response = said.get("gen_ai.response.id")
    prompt = prompt_cells(span, said)
    own = f"{trace}-{identifier}" if identifier else response
    alone = trace is None or nested.is_nested(trace, identifier, otlp.parent_id(span))
    cells: Row = {
        "request_id": own if alone else _request_id(trace, prompt, own),
        "try_id": own,
        "candidate": first_of(said.get("gen_ai.request.model"), said.get("gen_ai.response.model")),
        "quality": quality.of(trace, identifier, response),
        "cost_usd": said.get("gen_ai.usage.cost"),
        "input_tokens": first_of(said.get("gen_ai.usage.input_tokens"), said.get("gen_ai.usage.prompt_tokens")),
        "output_tokens": first_of(said.get("gen_ai.usage.output_tokens"), said.get("gen_ai.usage.completion_tokens")),
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
    start = otlp.first_field(span, "startTimeUnixNano", "start_time_unix_nano")
    end = otlp.first_field(span, "endTimeUnixNano", "end_time_unix_nano")
    started, ended = otlp.whole(start), otlp.whole(end)
    latency = (ended - started) / 1e6 if started and ended else None
    return {"timestamp": None if started == 0 else start, "latency_ms": latency}
