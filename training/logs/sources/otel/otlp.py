"""OTLP JSON: finding spans and log records in export requests, and attributes as plain values.

Source: opentelemetry-proto, trace/v1, logs/v1 and common/v1, in their JSON encoding (lowerCamelCase names; snake_case,
which protobuf libraries can write, is read too). Nothing here raises over a malformed part: it is given back as it is,
for the caller to count.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import re
import zlib
from collections.abc import Iterator
from typing import Any

import pandas as pd

from training.logs.cells import parse_json
from training.logs.io import files
from training.logs.io.files import Row
from training.logs.objects.path import LogPath
from training.logs.outcomes import OutcomeError

SPANS = ("resourceSpans", "resource_spans")
LOGS = ("resourceLogs", "resource_logs")
METRICS = ("resourceMetrics", "resource_metrics")

_SCOPES = ("scopeSpans", "scope_spans", "instrumentationLibrarySpans")
_LOG_SCOPES = ("scopeLogs", "scope_logs")
_PLAIN = frozenset({"stringvalue", "boolvalue", "intvalue", "doublevalue", "bytesvalue"})
_HEX = re.compile(r"(?:[0-9a-fA-F]{16}){1,2}")
_MAX_DEPTH = 40
# Events whose attributes describe the whole call, as the span's own do.
_DETAILS = frozenset(
    {"gen_ai.content.prompt", "gen_ai.content.completion", "gen_ai.client.inference.operation.details"}
)


def holds(path: LogPath, names: tuple[str, ...]) -> bool:
    """Whether the head of a text file has an object that begins with one of these fields.

    By text, not by parsing: an export request of many spans is longer than the head, and on one line. Inside a JSON
    text the quotes would be escaped.
    """
    if files.kind(path) not in (*files.LINES, ".json"):
        return False
    return re.search(r'\{\s*"(?:' + "|".join(names) + r')"\s*:', files.head_text(path)) is not None


def is_document(path: LogPath) -> bool:
    """Whether the file is one JSON object over several lines."""
    return files.kind(path) == ".json" and files.head_text(path).lstrip().partition("\n")[0].strip() == "{"


def read_document(path: LogPath) -> files.Records:
    """A file that is one JSON object, as one record; raises OutcomeError when it is not."""
    try:
        data = path.read_bytes()
        document = parse_json(
            (gzip.decompress(data) if path.suffix.lower() == ".gz" else data).removeprefix(b"\xef\xbb\xbf")
        )
    except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise OutcomeError(
            f"{path}: expected one JSON object, but it is not valid JSON ({error}); "
            "one export request per line (.jsonl) survives a damaged one"
        ) from error
    if not isinstance(document, dict):
        raise OutcomeError(f"{path}: expected one JSON object, got {type(document).__name__}")
    return files.Records(pd.DataFrame({name: [cell] for name, cell in document.items()}, dtype=object), [1], [])


def partitions(path: LogPath, names: tuple[str, ...]) -> Iterator[files.Records]:
    """The export requests of a file, with these fields only."""
    if is_document(path):
        yield read_document(path)
    else:
        yield from files.partitions(path, frozenset(names))


def spans(request: Row) -> Iterator[tuple[Row, Any]]:
    """Every span of an export request, after its resource's attributes."""
    return _entries(request, SPANS, _SCOPES, ("spans",))


def log_records(request: Row) -> Iterator[tuple[Row, Any]]:
    """Every log record of an export request, after its resource's attributes."""
    return _entries(request, LOGS, _LOG_SCOPES, ("logRecords", "log_records"))


def events(span: Row) -> list[Row]:
    """The events of a span, in order."""
    return [event for event in _items(span, ("events",)) if isinstance(event, dict)]


def attributes(holder: Any) -> Row:
    """The attributes of a span, event, log record or resource as plain values; {} where there are none."""
    return _pairs(holder.get("attributes"), 0) if isinstance(holder, dict) else {}


def with_event_attributes(span: Row) -> Row:
    """A span's attributes, with those of its events that describe the whole call; the span's own win."""
    said: Row = {}
    for event in events(span):
        if event.get("name") in _DETAILS:
            said.update(attributes(event))
    return {**said, **attributes(span)}


def span_id(entry: Row) -> tuple[str | None, str | None]:
    """Trace and span id of a span or log record, in lower-case hex."""
    return _hex(first_field(entry, "traceId", "trace_id")), _hex(first_field(entry, "spanId", "span_id"))


def parent_id(span: Row) -> str | None:
    """The parent's span id in lower-case hex."""
    return _hex(first_field(span, "parentSpanId", "parent_span_id"))


def first_field(entry: Row, *names: str) -> Any:
    """The first of these fields that is set."""
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def whole(cell: Any) -> int | None:
    """A 64-bit whole number, which JSON carries as text; None when it is no such number."""
    if isinstance(cell, str) and cell.isascii() and cell.isdigit() and len(cell) <= 20:
        return int(cell)
    return cell if isinstance(cell, int) and not isinstance(cell, bool) else None


def _entries(
    request: Row, names: tuple[str, ...], scopes: tuple[str, ...], leaves: tuple[str, ...]
) -> Iterator[tuple[Row, Any]]:
    """The entries below resources and scopes; what is malformed on the way is an entry itself, so that it is counted."""
    for resource in _items(request, names):
        shared = attributes(resource.get("resource")) if isinstance(resource, dict) else {}
        for scope in _items(resource, scopes):
            for entry in _items(scope, leaves):
                yield shared, entry


def _items(parent: Any, names: tuple[str, ...]) -> list[Any]:
    if not isinstance(parent, dict):
        return [parent]
    found = first_field(parent, *names)
    if found is None or found != found:  # NaN: a field that other records of the partition have
        return []
    return found if isinstance(found, list) else [found]


def _pairs(items: Any, depth: int) -> Row:
    if not isinstance(items, list) or depth > _MAX_DEPTH:
        return {}
    found = [item for item in items if isinstance(item, dict) and isinstance(item.get("key"), str)]
    return {item["key"]: _value(item.get("value"), depth + 1) for item in found}


def _value(value: Any, depth: int) -> Any:
    if not isinstance(value, dict) or depth > _MAX_DEPTH:
        return None if isinstance(value, dict) else value
    for name, content in value.items():
        kind = name.replace("_", "").lower()
        if kind in _PLAIN:
            return content
        inner = content.get("values") if isinstance(content, dict) else None
        if kind == "arrayvalue":
            return [_value(item, depth + 1) for item in inner] if isinstance(inner, list) else []
        if kind == "kvlistvalue":
            return _pairs(inner, depth + 1)
    return None


def _hex(cell: Any) -> str | None:
    if not isinstance(cell, str) or not cell:
        return None
    if _HEX.fullmatch(cell):
        return cell.lower()
    try:
        return base64.b64decode(cell, validate=True).hex() or None
    except (binascii.Error, ValueError):
        return cell
