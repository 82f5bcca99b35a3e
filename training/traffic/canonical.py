"""Logs that already are the outcome table: one record per attempt, columns named as in data/README.md."""

from __future__ import annotations

from pathlib import Path

from training.outcomes import ALIASES, COLUMNS, Outcomes, validate
from training.traffic import files

NAME = "canonical"
EXPECTS = (
    "request_id, candidate (or model), prompt or messages; as .parquet, .jsonl, .ndjson, .json, .csv or .gz of these"
)
COMPANIONS: frozenset[str] = frozenset()


def recognises(path: Path) -> bool:
    """Whether the head of the file has the required columns. A broken Parquet file counts: reading it says why."""
    names = files.columns(path)
    if files.kind(path) == ".parquet" and not names:
        return True
    return "request_id" in names and bool(names & {"candidate", "model"}) and bool(names & {"prompt", "messages"})


def read(path: Path) -> Outcomes:
    """Read one file. Undecodable bytes become U+FFFD; raises OutcomeError when nothing in it is usable."""
    records = files.read_records(path, frozenset(COLUMNS) | frozenset(ALIASES))
    return validate(records.table, source=str(path), format=NAME, rows=records.rows, unreadable=records.unreadable)
