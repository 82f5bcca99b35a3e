"""Logs that already are the outcome table: one record per try, columns named as in data/README.md.

Without the column request_id, answers of different candidates to the same prompt are one request (`training.logs.pairing`).
"""

from __future__ import annotations

from collections.abc import Iterator

from training.logs.io import files
from training.logs.io.files import Records
from training.logs.io.partitions import outcomes_of
from training.logs.objects.path import LogPath
from training.logs.outcomes import ALIASES, COLUMNS, Outcomes
from training.logs.pairing import prompt_ids
from training.logs.sources.chat_bodies import PARAMETER_FIELDS, with_parameters
from training.logs.sources.importer import DEFAULT, ImportOptions

NAME = "canonical"
EXPECTS = (
    "candidate (or model), prompt or messages, and request_id unless rows pair by their prompt; as .parquet, .jsonl, "
    ".ndjson, .json, .csv or .gz of these"
)
COMPANIONS: frozenset[str] = frozenset()

_FIELDS = frozenset(COLUMNS) | frozenset(ALIASES) | {"try_id", "trace_id"}
_ANSWERS = frozenset({"answer", "expected"})
# LiteLLM_SpendLogs has a request_id, a model and messages as well, but they mean something else.
_SPEND_LOGS = frozenset({"call_type", "spend", "startTime"})


def recognises(path: LogPath) -> bool:
    """Whether the head of the file has the required columns. A broken Parquet file counts: reading it says why."""
    names = files.columns(path)
    if files.kind(path) == ".parquet" and not names:
        return True
    if names >= _SPEND_LOGS:
        return False
    # A model and messages without an id are what every client logs; `candidate` is this table's own word.
    named = "candidate" in names or ("model" in names and bool(names & {"request_id", "quality"}))
    return named and bool(names & {"prompt", "messages"})


def read(path: LogPath, options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """Read one file. Undecodable bytes become U+FFFD."""
    wanted = _FIELDS | (_ANSWERS if options.answers else frozenset())
    if not options.parameters:
        return outcomes_of(path, format=NAME, convert=_with_ids, wanted=wanted)

    def convert(records: Records) -> Records:
        return with_parameters(_with_ids(records))

    return outcomes_of(path, format=NAME, convert=convert, wanted=wanted | PARAMETER_FIELDS)


def _with_ids(records: Records) -> Records:
    names = [str(name).strip() for name in records.table.columns]
    if "request_id" in names:
        return records
    table = records.table.set_axis(names, axis=1)
    return records._replace(table=table.assign(request_id=prompt_ids(table)))
