"""Logs that already are the outcome table: one record per attempt, columns named as in data/README.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.outcomes import ALIASES, COLUMNS, Outcomes
from training.traffic import files
from training.traffic.options import DEFAULT, ImportOptions
from training.traffic.partitions import outcomes_of

NAME = "canonical"
EXPECTS = (
    "request_id, candidate (or model), prompt or messages; as .parquet, .jsonl, .ndjson, .json, .csv or .gz of these"
)
COMPANIONS: frozenset[str] = frozenset()

_FIELDS = frozenset(COLUMNS) | frozenset(ALIASES)


def recognises(path: Path) -> bool:
    """Whether the head of the file has the required columns. A broken Parquet file counts: reading it says why."""
    names = files.columns(path)
    if files.kind(path) == ".parquet" and not names:
        return True
    return "request_id" in names and bool(names & {"candidate", "model"}) and bool(names & {"prompt", "messages"})


def read(path: Path, _options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """Read one file. Undecodable bytes become U+FFFD."""
    return outcomes_of(path, format=NAME, convert=lambda records: records, wanted=_FIELDS)
