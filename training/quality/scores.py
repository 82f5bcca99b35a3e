"""Judgements that lie elsewhere (CSV, JSONL, Parquet) joined onto imported outcomes, each used or counted with a reason.

A judgement names what it judges by the most specific of request_id, trace_id and session_id that it has, and a candidate
where a request has several. Its value is rescaled by a named rule (`training.logs.rescale`). Several judgements of one
try are averaged; a judgement wins over a quality that was logged; a try that failed stays at 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from training.dataset.label import judged_quality, with_judgements
from training.logs import rescale, typed
from training.logs.cells import blank, shown
from training.logs.io import files
from training.logs.outcomes import OutcomeError, Outcomes, Unreadable, unreadable_rows

_KEYS = ("request_id", "trace_id", "session_id")
_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "request_id": ("request_id", "requestId", "observation_id", "observationId"),
    "trace_id": ("trace_id", "traceId"),
    "session_id": ("session_id", "sessionId"),
    "candidate": ("candidate", "model"),
    "name": ("name",),
    "value": ("quality", "value", "score", "rating", "stars", "thumb", "thumbs", "feedback", "string_value", "label"),
}
_WANTED = frozenset(spelling for spellings in _SPELLINGS.values() for spelling in spellings)
EXPECTS = "request_id, trace_id or session_id, and one of value, score, rating, thumb, label"


@dataclass(frozen=True)
class ScoreAccount:
    """What became of one file of judgements: always `read == used + len(left_out)`.

    `left_out` has the columns of `Outcomes.skipped`. `judged` is the number of tries that took their quality from
    the file, `replaced` how many of these had another quality in the log before, `averaged` how many had several.
    """

    source: str
    rule: str
    read: int
    used: int
    judged: int
    replaced: int
    averaged: int
    left_out: pd.DataFrame

    @property
    def reasons(self) -> dict[str, int]:
        """How many judgements were left out for each reason, most frequent first."""
        return {str(reason): int(count) for reason, count in self.left_out["reason"].value_counts().items()}


def join_scores(
    table: Outcomes,
    path: Path,
    rule: rescale.Rule,
    *,
    name: str | None = None,
    trace_scores: Literal["last", "all"] = "last",
) -> tuple[Outcomes, ScoreAccount]:
    """The outcomes with the quality that the judgements in `path` say; if `name` is given, none of another name.

    `trace_scores`: whether a judgement of a trace or a session applies to its last try or to every one of them.
    Raises OutcomeError when the file cannot be read, has judgements of several names of which none was chosen, or has
    none that fits.
    """
    if path.is_dir() or not path.exists() or not files.kind(path):
        raise OutcomeError(
            f"{path}: expected a file of judgements ending in {', '.join(files.SUFFIXES)} (text also .gz)"
        )
    index = _Index(table, trace_scores)
    given: defaultdict[int, list[float]] = defaultdict(list)
    left_out: list[Unreadable] = []
    read, names = 0, set[str]()
    for records in files.partitions(path, _WANTED):
        read += len(records.rows) + len(records.unreadable)
        left_out += records.unreadable
        for row, judgement in _judgements(path, records):
            names.add(judgement.name)
            why = _apply(judgement, row, rule, name, index, given)
            left_out += [why] if why else []
    account = _account(table, path, rule, read, given, left_out)
    if name is None and len(names) > 1:
        listed = ", ".join(sorted(shown(each, phrase=True) or "(unnamed)" for each in names)[:20])
        raise OutcomeError(f"{path}: has judgements of several names: {listed}; choose one with --score-name")
    if read and not account.used:
        counts = "; ".join(f"{reason}: {count}" for reason, count in account.reasons.items())
        raise OutcomeError(
            f"{path}: no judgement could be used ({counts}); expected {EXPECTS}, of requests in the log, by the rule "
            f"{rule.name} ({rule.expects}); other rules: {rescale.NAMES}"
        )
    misfits = [one for one in left_out if one.reason.startswith("value does not fit ")]
    if rescale.too_many(len(misfits), sum(map(len, given.values()))):
        raise OutcomeError(
            f"{path}: {len(misfits):,} judgements do not fit the rule {rule.name} ({rule.expects}), as {misfits[0].value}: "
            f"those that do would mean something else. Give the --score-rule of their scale, one of: {rescale.NAMES}"
        )
    quality = judged_quality(table.frame).to_numpy(dtype="float64", copy=True)
    for row, values in given.items():
        quality[row] = sum(values) / len(values)
    return replace(table, frame=with_judgements(table.frame, quality)), account


@dataclass(frozen=True)
class _Judgement:
    key: str
    identifier: str
    candidate: str
    name: str
    value: Any


class _Index:
    """The rows of an outcome table by request, trace and session, and which of them a judgement is about."""

    def __init__(self, table: Outcomes, trace_scores: Literal["last", "all"]) -> None:
        frame = table.frame
        requests = frame["request_id"]
        # A log without traces of its own often calls the trace's identifier the request's.
        traces = table.beside["trace_id"].fillna(requests) if "trace_id" in table.beside else requests
        tries = _rows_by(table.beside["try_id"]) if "try_id" in table.beside else {}
        # What its source calls a request may be one try here: the identifier of one is the more specific.
        self._rows = {
            "request_id": {**_rows_by(requests), **tries},
            "trace_id": _rows_by(traces),
            "session_id": _rows_by(frame["session_id"]),
        }
        self._candidate = frame["candidate"].to_numpy(dtype=object)
        self._failed = (frame["status"] == "error").to_numpy()
        self._when = frame["timestamp"].dt.tz_localize(None).to_numpy().astype("datetime64[us]")
        self._last_only = trace_scores == "last"

    def rows(self, judgement: _Judgement) -> list[int] | str:
        """The rows that a judgement is about, or the reason why there is none."""
        found = self._rows[judgement.key].get(judgement.identifier, [])
        if not found:
            return f"no such {judgement.key} in the log"
        if judgement.candidate:
            found = [row for row in found if self._candidate[row] == judgement.candidate]
            if not found:
                return "the request has no outcome of this candidate"
        answered = [row for row in found if not self._failed[row]]
        if not answered:
            return "the try failed: its quality is 0"
        if judgement.key != "request_id" and self._last_only:
            return [max(answered, key=self._age)]
        if judgement.key == "request_id" and len({self._candidate[row] for row in answered}) > 1:
            return "the request has several candidates, and the judgement names none"
        return answered

    def _age(self, row: int) -> tuple[int, int]:
        stamp = self._when[row]
        return (-1 if np.isnat(stamp) else int(stamp.astype("int64")), row)


def _rows_by(column: pd.Series[Any]) -> dict[str, list[int]]:
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, identifier in enumerate(column.tolist()):
        if isinstance(identifier, str):
            rows[identifier].append(row)
    return rows


def _judgements(path: Path, records: files.Records) -> Iterator[tuple[int, _Judgement]]:
    table = records.table.rename(columns=lambda name: str(name).strip())
    table = table.loc[:, ~table.columns.duplicated()]
    present = {field: [name for name in names if name in table.columns] for field, names in _SPELLINGS.items()}
    if len(table) and not (any(present[key] for key in _KEYS) and present["value"]):
        raise OutcomeError(
            f"{path}: not a file of judgements; expected {EXPECTS}; arrived: {files.shown_columns(path)}"
        )
    texts = {field: _first_text(table, present[field]) for field in (*_KEYS, "candidate", "name")}
    values = _first_present(table, present["value"])
    for position, row in enumerate(records.rows):
        key = next((key for key in _KEYS if texts[key][position]), "")
        identifier = texts[key][position] if key else ""
        yield row, _Judgement(key, identifier, texts["candidate"][position], texts["name"][position], values[position])


def _first_text(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """Each row's first text among some columns, "" where there is none."""
    found = [""] * len(table)
    for name in names:
        cells = typed.text(table[name]).values.tolist()
        found = [old or (cell if isinstance(cell, str) else "") for old, cell in zip(found, cells, strict=True)]
    return found


def _first_present(table: pd.DataFrame, names: Sequence[str]) -> list[Any]:
    found: list[Any] = [None] * len(table)
    for name in names:
        cells = table[name].astype(object).tolist()
        found = [cell if blank(old) else old for old, cell in zip(found, cells, strict=True)]
    return found


def _apply(
    judgement: _Judgement,
    row: int,
    rule: rescale.Rule,
    name: str | None,
    index: _Index,
    given: defaultdict[int, list[float]],
) -> Unreadable | None:
    """Notes the judgement under the rows it is about in `given`; or says why it is left out."""
    if name is not None and judgement.name not in ("", name):
        return Unreadable(row, "of another name", shown(judgement.name), f"the name {name}")
    if not judgement.key:
        return Unreadable(row, "says not what it judges", "", "request_id, trace_id or session_id")
    quality = rule.quality(judgement.value)
    if quality is None:
        return Unreadable(row, "has no value", "", rule.expects)
    if quality is rescale.BAD:
        return Unreadable(row, f"value does not fit {rule.name}", shown(judgement.value), rule.expects)
    rows = index.rows(judgement)
    if isinstance(rows, str):
        return Unreadable(row, rows, f"{judgement.key} {shown(judgement.identifier)}", "a try in the log")
    for place in rows:
        given[place].append(quality)
    return None


def _account(
    table: Outcomes,
    path: Path,
    rule: rescale.Rule,
    read: int,
    given: Mapping[int, Sequence[float]],
    left_out: Sequence[Unreadable],
) -> ScoreAccount:
    logged = judged_quality(table.frame).to_numpy(dtype="float64")
    means = {row: sum(values) / len(values) for row, values in given.items()}
    return ScoreAccount(
        source=str(path),
        rule=rule.name,
        read=read,
        used=read - len(left_out),
        judged=len(given),
        replaced=sum(bool(np.isfinite(logged[row])) and logged[row] != mean for row, mean in means.items()),
        averaged=sum(len(values) > 1 for values in given.values()),
        left_out=unreadable_rows(str(path), left_out),
    )
