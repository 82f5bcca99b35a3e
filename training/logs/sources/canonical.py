"""Logs that already are the outcome table: one record per try, columns named as in data/README.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from training.logs.io import files
from training.logs.io.partitions import outcomes_of
from training.logs.outcomes import ALIASES, BESIDE, COLUMNS, Outcomes
from training.logs.sources.options import DEFAULT, ImportOptions

NAME = "canonical"
EXPECTS = (
    "request_id, candidate (or model), prompt or messages; as .parquet, .jsonl, .ndjson, .json, .csv or .gz of these"
)
COMPANIONS: frozenset[str] = frozenset()

_FIELDS = frozenset(COLUMNS) | frozenset(ALIASES) | {"try_id", "trace_id"}
# LiteLLM_SpendLogs has a request_id, a model and messages as well, but they mean something else.
_SPEND_LOGS = frozenset({"call_type", "spend", "startTime"})


def recognises(path: Path) -> bool:
    """Whether the head of the file has the required columns. A broken Parquet file counts: reading it says why."""
    names = files.columns(path)
    if files.kind(path) == ".parquet" and not names:
        return True
    if names >= _SPEND_LOGS:
        return False
    return "request_id" in names and bool(names & {"candidate", "model"}) and bool(names & {"prompt", "messages"})


def read(path: Path, options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """Read one file. Undecodable bytes become U+FFFD."""
    wanted = _FIELDS | frozenset(BESIDE) if options.answers else _FIELDS
    return outcomes_of(path, format=NAME, convert=lambda records: records, wanted=wanted)
