"""Langfuse's scores as quality: found beside the observations, one of them chosen, looked up by observation or trace.

Scores are small beside the log, so they are held in memory; the observations are only streamed through to find each
scored trace's last generation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from training.logs import typed
from training.logs.cells import first_of, parsed
from training.logs.io import files
from training.logs.objects.path import LogPath
from training.logs.outcomes import OutcomeError
from training.logs.sources.importer import ImportOptions
from training.logs.sources.langfuse.fields import (
    JSON,
    Cells,
    both,
    column,
    identifier,
    is_generation,
    is_internal,
    is_observations,
    is_scores,
    mapping,
    number,
    snake,
)
from training.logs.sources.langfuse.nested import nested
from training.logs.sources.langfuse.scores_rule import ScoreRule, Tally, choose
from training.logs.sources.otel.nesting import key_of
from training.logs.sources.tries import Signature, signature

ENRICHED, LEGACY, SCORES = "observations_v2", "observations", "scores"

# What the router itself writes onto the traces of its decisions: what it expected and what was paid, and no judgement.
OWN = frozenset({
    "router_confidence", "router_expected_cost_usd", "router_cost_usd", "router_reference_cost_usd", "router_saved_usd",
})  # fmt: skip

_SCORE_FIELDS = (
    "id", "trace_id", "observation_id", "name", "value", "data_type", "string_value", "subject", "updated_at",
    "timestamp",
)  # fmt: skip
_JUDGING = frozenset({"NUMERIC", "BOOLEAN", "CATEGORICAL"})
_CORE_FIELDS = ("id", "trace_id", "type", "start_time", "environment")
# The columns of an observation; the UI's export has one more for every score.
_OBSERVATION_FIELDS = frozenset({
    *_CORE_FIELDS, "project_id", "parent_observation_id", "end_time", "name", "metadata", "level", "status_message",
    "version", "input", "output", "model", "provided_model_name", "model_parameters", "completion_start_time",
    "prompt_id", "prompt_name", "prompt_version", "created_at", "updated_at", "usage", "usage_details", "cost_details",
    "provided_usage_details", "provided_cost_details", "internal_model_id", "model_id", "latency",
    "time_to_first_token", "input_cost", "output_cost", "total_cost", "input_usage", "output_usage", "total_usage",
    "input_price", "output_price", "total_price", "trace_name", "trace_tags", "trace_timestamp", "user_id",
    "session_id", "tags", "release", "bookmarked", "public", "comments", "scores", "is_root_observation",
    "tool_definitions", "tool_calls", "tool_call_names", "tool_definitions_count", "tool_calls_count",
    "usage_pricing_tier_id", "usage_pricing_tier_name",
})  # fmt: skip


@dataclass(frozen=True)
class Judgements:
    """Quality by observation and, where a trace's score counts for all its generations, by trace; what was found."""

    by_observation: Mapping[str, float] = field(default_factory=dict)
    by_trace: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def of(self, observation: str | None, trace: str | None) -> float | None:
        """The quality of one generation; its own score goes before its trace's. None if nobody judged it."""
        own = self.by_observation.get(observation) if observation else None
        return own if own is not None or not trace else self.by_trace.get(trace)


class _Score(NamedTuple):
    of_trace: bool
    target: str
    value: float | str
    version: str


@dataclass
class _Found:
    """Scores by name and id, and how many of each name judge no answer."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    scores: dict[str, dict[str, _Score]] = field(default_factory=dict)
    unused: Counter[str] = field(default_factory=Counter)
    own: int = 0

    def add(self, name: str, id: str, score: _Score) -> None:
        """Keep a score; of two states of one score the later one. The router's own are only counted."""
        if name in OWN:
            self.own += 1
            return
        known = self.scores.setdefault(name, {})
        if id in known and known[id].version > score.version:
            return
        known[id] = score
        self.tallies.setdefault(name, Tally()).add(score.value)


def judgements(path: LogPath, options: ImportOptions) -> Judgements:
    """The quality of the generations in an export of observations, from the scores exported with it.

    They are in the folder `scores` beside the observations' folder, in a file of scores beside this one, or in
    columns of the observations (the UI's export). Raises OutcomeError when it is not clear which score is quality.
    """
    scores = signature(_score_files(path))
    observations = signature(file for file in files.in_folder(path.parent) if file == path or is_observations(file))
    known = tuple(sorted(options.score_mapping.items()))
    return _judgements(scores, observations, options.score_name, options.score_range, known, options.trace_scores)


@lru_cache(maxsize=2)  # every file of a folder asks for the same
def _judgements(
    scores: Signature,
    observations: Signature,
    score_name: str | None,
    score_range: tuple[float, float] | None,
    score_mapping: tuple[tuple[str, float], ...],
    trace_scores: Literal["last", "all"],
) -> Judgements:
    require_judging(score_name)
    options = ImportOptions(score_name, score_range, dict(score_mapping), trace_scores)
    score_paths = [name for name, _, _ in scores]
    observation_paths = [name for name, _, _ in observations]
    found = _from_score_files(score_paths) if scores else _from_columns(observation_paths)
    where = str((score_paths or observation_paths)[0].parent)
    rule = choose(found.tallies, options, where)
    if rule is None:
        none = "langfuse: no score was exported with the observations: quality is unknown"
        return Judgements(notes=(none, *_own_note(found)))
    own, of_traces, unmapped = _qualities(found.scores[rule.name].values(), rule)
    notes = (*_notes(rule, found, len(own), len(of_traces), unmapped, trace_scores), *_own_note(found))
    if trace_scores == "all":
        return Judgements(own, of_traces, notes)
    last = _last_generations(observation_paths, of_traces.keys()) if of_traces else {}
    return Judgements({**{last[trace]: of_traces[trace] for trace in last}, **own}, {}, notes)


def _score_files(path: LogPath) -> list[LogPath]:
    in_export = path.parent.name in (ENRICHED, LEGACY)
    beside = (path.parent.parent if in_export else path.parent) / SCORES
    found = [file for file in files.in_folder(beside) if is_scores(file)]
    return found if in_export else [*found, *(file for file in files.in_folder(path.parent) if is_scores(file))]


def _from_score_files(paths: Iterable[LogPath]) -> _Found:
    found = _Found()
    for path in paths:
        for records in files.partitions(path, both(_SCORE_FIELDS)):
            columns = {name: column(records.table, name) for name in _SCORE_FIELDS}
            for cells in zip(*columns.values(), strict=True):
                _add_score(found, dict(zip(columns, cells, strict=True)))
    return found


def _add_score(found: _Found, row: Mapping[str, Any]) -> None:
    name, id = identifier(row["name"]), identifier(row["id"])
    if name is None or id is None:
        return
    target = _target(row)
    value = _value(row)
    if target is None or value is None:
        found.unused[name] += 1
        return
    found.add(name, id, _Score(*target, value, str(row["updated_at"] or row["timestamp"] or "")))


def _target(row: Mapping[str, Any]) -> tuple[bool, str] | None:
    """Whether a trace is judged, and which trace or observation; None for sessions and experiments."""
    subject = mapping(row["subject"])
    if subject:
        judged = identifier(subject.get("id"))
        kind = subject.get("kind")
        return (kind == "trace", judged) if judged and kind in ("trace", "observation") else None
    observation, trace = identifier(row["observation_id"]), identifier(row["trace_id"])
    if observation:
        return False, observation
    return (True, trace) if trace else None


def _value(row: Mapping[str, Any]) -> float | str | None:
    """The number or the label of a score; None for free text and for what cannot be read."""
    kind = str(row["data_type"]).strip().upper()
    if kind not in _JUDGING:
        return None
    if kind == "CATEGORICAL":
        return identifier(first_of(row["string_value"], row["value"]))
    value = row["value"]
    if kind == "BOOLEAN" and str(value).strip().lower() in ("true", "false"):
        return float(str(value).strip().lower() == "true")
    return number(value)


def _from_columns(paths: Iterable[LogPath]) -> _Found:
    """Scores that are columns of the observations, each cell a list of what that observation was given."""
    found = _Found()
    for path in paths:
        extra = [name for name in files.columns(path) if snake(name) not in _OBSERVATION_FIELDS]
        if not extra or "traceId" not in files.columns(path):
            continue
        for records in files.partitions(path, frozenset({"id", *extra})):
            ids = column(records.table, "id")
            for name in extra:
                _add_column(found, name, ids, _raw_column(records.table, name))
    return found


def _raw_column(table: pd.DataFrame, name: str) -> Cells:
    names = [str(known).strip() for known in table.columns]
    return table.iloc[:, names.index(name)].astype(object).tolist() if name in names else [None] * len(table)


def _add_column(found: _Found, name: str, ids: Cells, cells: Cells) -> None:
    for id, cell in zip(ids, cells, strict=True):
        values, target = parsed(cell, JSON), identifier(id)
        if target is None or not isinstance(values, list):
            continue
        for place, value in enumerate(values):
            read = identifier(value) if isinstance(value, str) else number(value)
            if read is not None:
                found.add(name, f"{target} {place}", _Score(False, target, read, ""))


def _qualities(scores: Iterable[_Score], rule: ScoreRule) -> tuple[dict[str, float], dict[str, float], Counter[str]]:
    """Mean quality by observation and by trace, and how many scores have a label that the mapping lacks."""
    given: dict[bool, dict[str, list[float]]] = {False: {}, True: {}}
    unmapped: Counter[str] = Counter()
    for score in scores:
        quality = rule.quality(score.value)
        if quality is None:
            unmapped[str(score.value)] += 1
        else:
            given[score.of_trace].setdefault(score.target, []).append(quality)
    own, of_traces = ({target: fmean(values) for target, values in given[kind].items()} for kind in (False, True))
    return own, of_traces, unmapped


def _last_generations(paths: Iterable[LogPath], traces: Iterable[str]) -> dict[str, str]:
    """The id of the generation that started last, by trace, of those `traces` that have one."""
    wanted = frozenset(traces)
    last: dict[str, tuple[float, str]] = {}
    for path in paths:
        passed = nested(path).passed
        for trace, started, id in _generations(path):
            if trace in wanted and key_of(id) not in passed and (trace not in last or started >= last[trace][0]):
                last[trace] = (started, id)
    return {trace: id for trace, (_, id) in last.items()}


def _generations(path: LogPath) -> Iterator[tuple[str, float, str]]:
    """Trace, start (epoch seconds, -inf if unknown) and id of the generations in a file."""
    for records in files.partitions(path, both(_CORE_FIELDS)):
        starts = typed.instant(pd.Series(column(records.table, "start_time"), dtype=object)).values
        seconds = np.where(starts.isna(), -np.inf, starts.astype("int64") / 1e6).tolist()
        columns = [column(records.table, name) for name in ("trace_id", "id", "type", "environment")]
        for trace, id, kind, environment, started in zip(*columns, seconds, strict=True):
            if is_generation(kind) and not is_internal(environment) and identifier(trace) and identifier(id):
                yield str(identifier(trace)), started, str(identifier(id))


def require_judging(name: str | None) -> None:
    """Raises OutcomeError for the name of a score that the router wrote itself."""
    if name in OWN:
        raise OutcomeError(
            f"--score-name {name}: that is what the router itself wrote to Langfuse, not how good an answer was; "
            "expected the name of a judgement"
        )


def _own_note(found: _Found) -> tuple[str, ...]:
    said = f"langfuse: {found.own:,} scores that the router itself wrote (router_confidence, ...) are passed over"
    return (said,) if found.own else ()


def _notes(
    rule: ScoreRule, found: _Found, own: int, of_traces: int, unmapped: Counter[str], trace_scores: str
) -> tuple[str, ...]:
    where = "its last generation" if trace_scores == "last" else "all its generations"
    lines = [f"langfuse: quality is the score {rule.name!r}: {own:,} observations and {of_traces:,} traces ({where})"]
    if unused := found.unused[rule.name]:
        lines.append(f"langfuse: {unused:,} scores {rule.name!r} judge a session or experiment, or hold free text")
    if unmapped:
        listed = Tally(labels=unmapped)
        lines.append(f"langfuse: scores with a label that --score-rule lacks are not used: {listed}")
    return tuple(lines)
