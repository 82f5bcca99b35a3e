"""gen_ai.evaluation.result -> quality: as an event of the span, as a log record, or as a span below the one it judges.

The conventions define it as an event that belongs to the judged span, or names the response by gen_ai.response.id. A
later evaluation of the same name replaces an earlier one.
"""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from training.logs.cells import first_of, shown
from training.logs.io.files import Row
from training.logs.objects.path import LogPath
from training.logs.outcomes import OutcomeError
from training.logs.sources.importer import ImportOptions
from training.logs.sources.otel import otlp
from training.logs.sources.tries import Signature, signature

_NAME = "gen_ai.evaluation.name"
_VALUE = "gen_ai.evaluation.score.value"
_LABEL = "gen_ai.evaluation.score.label"
_RESPONSE = "gen_ai.response.id"
# The operations whose spans are tries, of which evaluations are made.
GENERATIONS = frozenset({"chat", "text_completion", "generate_content"})
_CHUNK = 1 << 20
Key = tuple[str | None, str | None]


class Evaluation(NamedTuple):
    """One score: its name, its number and label as they arrived, the judged span and response."""

    name: str
    value: Any
    label: Any
    span: Key
    response: str | None


@dataclass(frozen=True)
class Quality:
    """Quality cells by judged span (trace and span id) and by judged response."""

    by_span: dict[Key, Any] = field(default_factory=dict)
    by_response: dict[str, Any] = field(default_factory=dict)

    def of(self, trace: str | None, span: str | None, response: Any) -> Any:
        """The quality of a span, None if nobody judged it."""
        if (trace, span) in self.by_span:
            return self.by_span[trace, span]
        return self.by_response.get(response) if isinstance(response, str) else None


def quality_of(paths: Sequence[LogPath], options: ImportOptions) -> Quality:
    """The chosen evaluation of every span and response in these files.

    `options.score_name` chooses by name, `score_range` rescales numbers, `score_mapping` gives labels a quality.
    Raises OutcomeError when several names are there and none was chosen, or labels have no quality.
    """
    if options.score_range is not None and options.score_range[0] == options.score_range[1]:
        raise OutcomeError(f"the range of scores is {options.score_range}; expected two different numbers")
    found = _evaluations(signature(paths))
    counts = Counter(evaluation.name for evaluation in found)
    name = _chosen(counts, options.score_name, paths)
    quality = Quality()
    chosen = [evaluation for evaluation in found if evaluation.name == name]
    _require_numbers(chosen, options, paths)
    for evaluation in chosen:
        cell = _quality(evaluation, options)
        if evaluation.span[1] is not None:
            quality.by_span[evaluation.span] = cell
        if evaluation.response is not None:
            quality.by_response[evaluation.response] = cell
    return quality


def _chosen(counts: Counter[str], name: str | None, paths: Sequence[LogPath]) -> str | None:
    listed = ", ".join(f"{found} ({count})" for found, count in counts.most_common())
    if name is not None and counts and name not in counts:
        raise OutcomeError(f"{paths[0].parent}: no evaluation is named {name!r}; found: {listed}")
    if name is not None or not counts:
        return name
    if len(counts) > 1:
        raise OutcomeError(
            f"{paths[0].parent}: several evaluations, of which one is quality; choose its name: {listed}"
        )
    return next(iter(counts))


def _require_numbers(chosen: Sequence[Evaluation], options: ImportOptions, paths: Sequence[LogPath]) -> None:
    labels = Counter(shown(e.label, phrase=True) for e in chosen if first_of(e.value) is None)
    if labels and not options.score_mapping:
        listed = ", ".join(f"{label} ({count})" for label, count in labels.most_common(20))
        raise OutcomeError(
            f"{paths[0].parent}: the evaluation {chosen[0].name!r} has labels without a score; "
            f"give a mapping from each to a quality in [0, 1]: {listed}"
        )


def _quality(evaluation: Evaluation, options: ImportOptions) -> Any:
    """The quality cell: the label's, if it is mapped, else the number, rescaled if there is a range."""
    mapping = dict(options.score_mapping)
    if isinstance(evaluation.label, str) and evaluation.label in mapping:
        return mapping[evaluation.label]
    value = first_of(evaluation.value)
    if value is None:
        return shown(evaluation.label)
    try:
        number = float(value)  # whole numbers are text in OTLP's JSON
    except (TypeError, ValueError):
        return shown(value)
    lowest, highest = options.score_range or (0.0, 1.0)
    return (number - lowest) / (highest - lowest)


@lru_cache(maxsize=1)  # rotated files of one folder are read one after the other, and each needs them all
def _evaluations(paths: Signature) -> tuple[Evaluation, ...]:
    found: list[Evaluation] = []
    for name, _, _ in paths:
        if _mentions(name):
            found += _in_file(name)
    return tuple(found)


def _mentions(path: LogPath) -> bool:
    """Whether a file can hold evaluations: most hold none, and looking for the name is quicker than parsing."""
    needle, tail = _NAME.encode(), b""
    try:
        with path.open("rb") as raw, gzip.open(raw) if path.suffix.lower() == ".gz" else nullcontext(raw) as file:
            while chunk := file.read(_CHUNK):
                if needle in tail + chunk:
                    return True
                tail = chunk[-len(needle) :]
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return True
    return False


def _in_file(path: LogPath) -> Iterator[Evaluation]:
    for records in otlp.partitions(path, (*otlp.SPANS, *otlp.LOGS)):
        for _, request in records.numbered():
            for _, span in otlp.spans(request):
                yield from _of_span(span)
            for _, record in otlp.log_records(request):
                if isinstance(record, dict):
                    yield from _evaluation(otlp.attributes(record), otlp.span_id(record))


def _of_span(span: Any) -> Iterator[Evaluation]:
    if not isinstance(span, dict):
        return
    trace, _ = key = otlp.span_id(span)
    said = otlp.attributes(span)
    judged = key if said.get("gen_ai.operation.name") in GENERATIONS else (trace, otlp.parent_id(span))
    yield from _evaluation(said, judged)
    for event in otlp.events(span):
        yield from _evaluation(otlp.attributes(event), key, said.get(_RESPONSE))


def _evaluation(said: Row, span: Key, response: Any = None) -> Iterator[Evaluation]:
    """The evaluation in these attributes, if there is one; one that failed has neither a number nor a label."""
    name, value, label = said.get(_NAME), said.get(_VALUE), said.get(_LABEL)
    if not isinstance(name, str) or first_of(value, label) is None:
        return
    judged = first_of(said.get(_RESPONSE), response)
    yield Evaluation(name, value, label, span, judged if isinstance(judged, str) else None)
