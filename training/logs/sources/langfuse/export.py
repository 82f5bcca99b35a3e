"""Langfuse's observations: the blob-storage export, the UI's export, and what `live` downloads.

A generation is one try. Those of one of the router's decisions are tries of one request, which has the decision's id, and
so are those of one trace with the same input, whichever LLM they asked; its conversation is the session, else the trace. All
other observations are counted and left out, and so is a generation that is the same call as one around or within it
(`otel.nesting`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from training.logs import typed
from training.logs.cells import blank
from training.logs.io import files
from training.logs.io.files import Records
from training.logs.io.partitions import outcomes_of
from training.logs.objects.path import LogPath
from training.logs.outcomes import OutcomeError, Outcomes, Unreadable
from training.logs.sources.chat_bodies import parameters_text
from training.logs.sources.importer import DEFAULT, ImportOptions
from training.logs.sources.langfuse import live
from training.logs.sources.langfuse.decided import Decisions
from training.logs.sources.langfuse.fields import (
    Cells,
    both,
    column,
    has,
    identifier,
    is_generation,
    is_internal,
    is_observations,
    is_scores,
    mapping,
    number,
)
from training.logs.sources.langfuse.nested import surveyed
from training.logs.sources.langfuse.prompt import Asked, answered, asked
from training.logs.sources.langfuse.scores import (
    ENRICHED,
    LEGACY,
    Judgements,
    judgements,
)
from training.logs.sources.otel.nesting import Nested, key_of, passed_over

NAME = "langfuse"
EXPECTS = "observations exported from Langfuse (id, trace_id or traceId, type, start_time or startTime, ...)"
COMPANIONS: frozenset[str] = frozenset()
SCHEMES: frozenset[str] = frozenset({"langfuse"})

# What an export has beside observations: scores (of some hours there are none), manifests, the older export's traces.
_OTHER_TABLES = ("scores", "manifests", "traces")
_FIELDS = (
    "id", "trace_id", "type", "start_time", "end_time", "input", "provided_model_name", "model", "usage",
    "usage_details", "input_usage", "output_usage", "total_cost", "cost_details", "latency", "level", "environment",
    "session_id", "prompt_name", "trace_name", "name",
)  # fmt: skip
_TYPES = frozenset({
    "SPAN", "EVENT", "AGENT", "TOOL", "CHAIN", "RETRIEVER", "EVALUATOR", "EMBEDDING", "GUARDRAIL",
})  # fmt: skip
_WANTED_TYPE = "an observation of type GENERATION"
# Between a second and a thousand of it: a latency this many times its duration in seconds is in milliseconds.
_BETWEEN_UNITS = 1000**0.5


def recognises(path: LogPath) -> bool:
    """Whether the head has an observation's fields, in either spelling."""
    return is_observations(path)


def accompanies(path: LogPath) -> bool:
    """Whether a file is exported with observations: scores, which `read` looks up, or a table that it does not need."""
    if is_scores(path):
        return True
    exported = path.parent.parent
    return path.parent.name in _OTHER_TABLES and any((exported / name).is_dir() for name in (ENRICHED, LEGACY))


def read(path: LogPath, options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """Read one file of observations, with the scores beside it; raises OutcomeError when it holds something else."""
    if is_scores(path):
        raise OutcomeError(f"{path}: holds scores, not observations; give the folder that has both")
    if not recognises(path):
        raise OutcomeError(f"{path}: not a {NAME} file; expected {EXPECTS}; arrived: {files.shown_columns(path)}")
    yield from _read(path, options, set())


def _read(path: LogPath, options: ImportOptions, seen: set[str]) -> Iterator[Outcomes]:
    """The generations of a file but those whose ids were `seen` before, to which its own are added."""
    twice = _exported_twice(path)
    judged = judgements(path, options)
    nested, decisions = surveyed(path)
    reading = _Reading(
        judged, options.answers, twice, seen, parameters=options.parameters, nested=nested, decisions=decisions
    )
    more = ("output",) * options.answers + ("model_parameters",) * options.parameters
    wanted = both((*_FIELDS, *more))
    for part in outcomes_of(path, format=NAME, convert=reading.convert, wanted=wanted):
        yield replace(part, notes=(*reading.judgements.notes, *reading.notes))


def recognises_url(url: str) -> bool:
    """Whether the URL stands for a project on a Langfuse server (`live`)."""
    return live.recognises_url(url)


def read_url(url: str, options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """Download a project's observations and scores as far as they are missing into `options.cache`, and read them.

    Raises OutcomeError, after which it can be run again.
    """
    seen: set[str] = set()
    for page in reversed(live.pages(url, options.cache)):  # of two states of one generation the later counts
        yield from _read(page, options, seen)


def _exported_twice(path: LogPath) -> bool:
    """Whether a file of the older export has the newer one of the same time window beside it."""
    newer = path.parent.parent / ENRICHED
    if path.parent.name != LEGACY or not newer.is_dir():
        return False
    return any(files.stem(file) == files.stem(path) for file in newer.iterdir())


@dataclass
class _Reading:
    """One file on its way in: what has been seen of it so far."""

    judgements: Judgements
    answers: bool
    twice: bool
    seen: set[str]
    milliseconds: bool | None = None
    parameters: bool = False
    nested: Nested = field(default_factory=Nested)
    decisions: Decisions = field(default_factory=Decisions)

    def __post_init__(self) -> None:
        judged = {key_of(id): quality for id, quality in self.judgements.by_observation.items()}
        self._of_passed = {key: quality for key, quality in judged.items() if key in self.nested.passed}

    @property
    def notes(self) -> tuple[str, ...]:
        """In which unit the latencies are, if there was a duration to tell it by."""
        if self.milliseconds is None:
            return ()
        unit = "milliseconds" if self.milliseconds else "seconds"
        return (f"langfuse: latency is in {unit}, as end_time - start_time shows",)

    def convert(self, records: Records) -> Records:
        """The generations among some observations as outcome columns, and why the others are none."""
        reasons = self._reasons(records.table)
        kept = [place for place, reason in enumerate(reasons) if reason is None]
        left_out = [
            Unreadable(row, reason.reason, reason.value, reason.expected)
            for row, reason in zip(records.rows, reasons, strict=True)
            if reason is not None
        ]
        table = records.table.iloc[kept].reset_index(drop=True)
        rows = [records.rows[place] for place in kept]
        return Records(self._outcomes(table), rows, [*records.unreadable, *left_out])

    def _reasons(self, table: pd.DataFrame) -> list[Unreadable | None]:
        columns = (column(table, name) for name in ("id", "type", "environment"))
        return [self._reason(id, kind, environment) for id, kind, environment in zip(*columns, strict=True)]

    def _reason(self, id: Any, kind: Any, environment: Any) -> Unreadable | None:
        """Why an observation is no outcome (its row is filled in later), or None if it is one."""
        if not is_generation(kind):
            return _no_generation(kind)
        if is_internal(environment):
            return Unreadable(0, "call of Langfuse's own evaluator", "", "a call of the application")
        if self.twice:
            return Unreadable(0, "also exported in observations_v2", "", "each observation once")
        known = identifier(id)
        if known is None:
            return Unreadable(0, "observation has no id", type(id).__name__, "text")
        if known in self.seen:
            return Unreadable(0, "duplicate observation id", "", "each observation once")
        self.seen.add(known)
        return passed_over() if key_of(known) in self.nested.passed else None

    def _quality(self, id: str | None, trace: str | None) -> float | None:
        """A generation's quality: what was said of itself, of the one around it for the same call, or of its trace."""
        own = self.judgements.of(id, None)
        if own is None and id is not None and self._of_passed:
            own = self.nested.quality(key_of(id), self._of_passed)
        return self.judgements.of(id, trace) if own is None else own

    def _outcomes(self, table: pd.DataFrame) -> pd.DataFrame:
        ids = [identifier(cell) for cell in column(table, "id")]
        traces = [identifier(cell) for cell in column(table, "trace_id")]
        inputs = [asked(cell) for cell in column(table, "input")]
        sessions, models = column(table, "session_id"), column(table, "provided_model_name", "model")
        decided = [self.decisions.of(*of, self.nested) for of in zip(ids, traces, strict=True)]
        asked_for = [_request_id(*parts) for parts in zip(ids, traces, inputs, strict=True)]
        columns: dict[str, Cells] = {
            "request_id": [own if one is None else one.id for own, one in zip(asked_for, decided, strict=True)],
            "trace_id": list(traces),
            "try_id": list(ids),
            "prompt": [question.prompt for question in inputs],
            "messages": [question.messages for question in inputs],
            "candidate": [
                model if one is None or one.candidate is None else one.candidate
                for model, one in zip(models, decided, strict=True)
            ],
            "quality": [self._quality(id, trace) for id, trace in zip(ids, traces, strict=True)],
            "cost_usd": _costs(table),
            "input_tokens": _tokens(table, "input"),
            "output_tokens": _tokens(table, "output"),
            "latency_ms": self._latencies(table),
            "timestamp": column(table, "start_time"),
            "session_id": [trace if blank(own) else own for own, trace in zip(sessions, traces, strict=True)],
            "workflow": column(table, "prompt_name", "trace_name", "name"),
            "status": [_status(cell) for cell in column(table, "level")],
        }
        if self.answers:
            columns["answer"] = [answered(cell) for cell in column(table, "output")]
        if self.parameters:
            said = zip(column(table, "input"), column(table, "model_parameters"), strict=True)
            columns["parameters"] = [parameters_text(*places) for places in said]
        return pd.DataFrame(
            {name: pd.Series(cells, dtype=object) for name, cells in columns.items()}, index=range(len(table))
        )

    def _latencies(self, table: pd.DataFrame) -> Cells:
        """Milliseconds from `latency`, whose unit depends on the integration's age; without it, from the times."""
        cells = column(table, "latency")
        seconds = _durations(table)
        given = np.array([np.nan if (value := number(cell)) is None else value for cell in cells], dtype="float64")
        both_known = (given > 0) & (seconds > 0)
        if self.milliseconds is None and both_known.any():
            ratios = given[both_known] / seconds[both_known]
            self.milliseconds = bool(np.median(ratios) > _BETWEEN_UNITS)
        factor = 1.0 if self.milliseconds else 1000.0
        return [_latency(*row, factor) for row in zip(cells, given.tolist(), seconds.tolist(), strict=True)]


def _no_generation(kind: Any) -> Unreadable:
    word = kind.strip().upper() if isinstance(kind, str) else ""
    if word in _TYPES:
        return Unreadable(0, f"{word.lower()}, not a generation", word, _WANTED_TYPE)
    # A word that is no type may be anything, so that not even one is shown.
    arrived = f"text, {len(kind)} characters" if isinstance(kind, str) else type(kind).__name__
    return Unreadable(0, "observation of no known type", arrived, _WANTED_TYPE)


def _request_id(id: str | None, trace: str | None, question: Asked) -> str | None:
    """One for all generations of a trace with this input; a generation without trace or input is its own request."""
    if question.messages is not None:
        key = typed.messages_key(question.messages)
    elif isinstance(question.prompt, str):
        key = question.prompt
    else:
        return id
    if trace is None:
        return id
    return f"{trace}/{hashlib.blake2b(key.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"


def _costs(table: pd.DataFrame) -> Cells:
    """US dollars. Nothing where Langfuse writes 0 because it knew no price: then there are no details either."""
    totals = column(table, "total_cost")
    detailed = has(table, "cost_details")
    details = [mapping(cell) for cell in column(table, "cost_details")]
    return [_cost(total, detail, detailed) for total, detail in zip(totals, details, strict=True)]


def _cost(total: Any, details: Mapping[str, Any], detailed: bool) -> Any:
    if blank(total):
        return details.get("total") if not blank(details.get("total")) else _sum(details, "")
    return None if detailed and not details and number(total) == 0 else total


def _tokens(table: pd.DataFrame, side: str) -> Cells:
    """Tokens of one side, "input" or "output": all their kinds together (cached, audio, reasoning ...)."""
    details = [mapping(cell) for cell in column(table, "usage_details", "usage")]
    return [_count(*row, side) for row in zip(details, column(table, f"{side}_usage"), strict=True)]


def _count(usage: Mapping[str, Any], total: Any, side: str) -> Any:
    """The details' sum, else the column's total, in which 0 means that nothing is known; None for other units."""
    if not blank(usage.get("unit")) and str(usage["unit"]).upper() != "TOKENS":
        return None
    detailed = _sum(usage, side)
    if detailed is not None:
        return detailed
    return None if number(total) == 0 else total


def _sum(details: Mapping[str, Any], word: str) -> Any:
    """The sum of the entries whose name has the word; the first that is no number, for validation to refuse; or None."""
    cells = [cell for name, cell in details.items() if word in name and name != "total" and not blank(cell)]
    if not cells:
        return None
    numbers = [number(cell) for cell in cells]
    if None in numbers:
        return next(cell for cell, value in zip(cells, numbers, strict=True) if value is None)
    return sum(value for value in numbers if value is not None)


def _status(level: Any) -> str | None:
    return "error" if isinstance(level, str) and level.strip().upper() == "ERROR" else None


def _durations(table: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """end_time - start_time in seconds, NaN where one of them is unknown; shape (n,)."""
    start, end = (
        typed.instant(pd.Series(column(table, name), dtype=object)).values for name in ("start_time", "end_time")
    )
    return np.asarray((end - start).dt.total_seconds().to_numpy(dtype="float64", na_value=np.nan))


def _latency(cell: Any, given: float, seconds: float, factor: float) -> Any:
    if blank(cell):
        return seconds * 1000 if seconds >= 0 else None
    return cell if np.isnan(given) else given * factor
