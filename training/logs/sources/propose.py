"""A mapping for a table that nobody knows: what its fields are called and what they hold says which column each may be."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from training.logs import dates, rescale
from training.logs.cells import blank, parsed
from training.logs.io import files
from training.logs.objects.path import LogPath, for_parquet
from training.logs.sources.mapped import CONSTANT, UNITS, unit_of, words_of
from training.logs.validate import status_words

# Of the first records so many are looked at, and of each so deep: a rating that few of them have is to be among them.
_LOOKED_AT, _DEPTH = 2_000, 5
# So many fields are told apart, with names of at most so many characters.
_MOST_FIELDS, _LONGEST_NAME = 500, 200
# What stands below these is of the answer: no prompt, though it may be called text.
_ANSWER = frozenset({"answer", "completion", "choices", "response", "output", "prediction", "reply", "expected"})
# Where an item of an array begins.
_SIGN = re.compile(r"[^\s,]")
Cells = Sequence[Any]


def _words(cells: Cells) -> bool:
    return all(isinstance(cell, str) for cell in cells)


def _prompts(cells: Cells) -> bool:
    """Texts of which hardly any two are the same."""
    return _words(cells) and len(set(cells)) > len(cells) / 10


def _numbers(cells: Cells) -> bool:
    if any(isinstance(cell, Mapping | list | datetime) for cell in cells):
        return False
    if any(isinstance(cell, int) and cell.bit_length() > 1_000 for cell in cells):  # beyond any float
        return False
    return not any(isinstance(cell, bool) for cell in cells) and bool(
        pd.to_numeric(pd.Series(cells), errors="coerce").notna().all()
    )


def _names(cells: Cells) -> bool:
    """Names of LLMs: short, few of them, and not only that somebody else is to choose one."""
    if not _words(cells) or max(map(len, cells)) > 200 or set(cells) == {"auto"}:
        return False
    return len(set(cells)) <= 200 or len(set(cells)) < len(cells) / 3


def _conversation(cells: Cells) -> bool:
    return all(isinstance(cell, list) and cell and isinstance(cell[0], Mapping) and "role" in cell[0] for cell in cells)


def _times(cells: Cells) -> bool:
    """Moments, text in ISO 8601 or in a usual form of dates, or seconds since 1970."""
    if all(isinstance(cell, datetime) for cell in cells):
        return True
    if _numbers(cells):
        return bool(pd.to_numeric(pd.Series(cells)).between(1e8, 1e11).all())
    return _words(cells) and (_iso(cells) or _form(cells) != "")


def _iso(cells: Cells) -> bool:
    return bool(pd.to_datetime(pd.Series(cells), errors="coerce", utc=True, format="ISO8601").notna().all())


def _form(cells: Cells) -> str:
    """The form of dates that are text but not ISO 8601, "" where there is none."""
    return dates.looks_like(*cells) if _words(cells) and not _iso(cells) else ""


def _statuses(cells: Cells) -> bool:
    return bool(status_words(pd.Series([str(cell) for cell in cells], dtype=str)).isin(("success", "error")).all())


def _grades(cells: Cells) -> bool:
    return _numbers(cells) or rescale.graded_by(cells) != ""


def _any(cells: Cells) -> bool:
    return not isinstance(cells[0], Mapping | list)


# For each column what fields are usually called that hold it, the most usual first, and what is in them. The last words of a
# nested field's name count: `usage.in` is `res.usage.in`.
_USUAL: dict[str, tuple[Callable[[Cells], bool], str]] = {
    "messages": (_conversation, "messages input prompt conversation chat"),
    "prompt": (_prompts, "prompt question input query instruction text user_prompt"),
    "candidate": (_names, "candidate llm model model_name model_id engine deployment"),
    "quality": (
        _grades,
        "quality grade score rating correct accuracy passed thumb thumbs stars vote verdict reaction",
    ),
    "cost_usd": (_numbers, "cost_usd usd cost total_cost price spend cents"),
    "workflow": (_words, "workflow task category dataset use_case feature subject suite"),
    "session_id": (_any, "session_id session conversation_id conversation thread_id chat_id"),
    "timestamp": (_times, "timestamp ts time created_at created start_time date asked_at sent_at requested_at at when"),
    "input_tokens": (
        _numbers,
        "input_tokens prompt_tokens prompt_toks input_toks tokens_in usage.in usage.input usage.prompt "
        "tokens.in tokens.input",
    ),
    "output_tokens": (
        _numbers,
        "output_tokens completion_tokens completion_toks output_toks tokens_out usage.out usage.output "
        "usage.completion tokens.out tokens.output",
    ),
    "latency_ms": (
        _numbers,
        "latency_ms duration_ms elapsed_ms total_ms ms latency_s latency_seconds duration_s duration_seconds "
        "took_ms took_s took_seconds elapsed_s",
    ),
    "status": (_statuses, "status status_code http_status"),
}
# How names of LLMs begin, behind a provider's.
_LLM = re.compile(
    r"(?:[\w.-]+/)*(gpt|chatgpt|o\d|claude|gemini|gemma|llama|mi[sx]tral|ministral|codestral|qwen|deepseek|command|grok|phi|nova|"
    r"kimi|glm|yi|jamba|falcon|granite|nemotron)(?![a-z])",
    re.IGNORECASE,
)
# What ids of requests are called, where each row has one of its own.
_ID = frozenset({"id", "no", "nr", "number", "ref", "uuid", "key"})
# What a log cannot do without stands in capitals where no field is found.
_NEEDED = {"prompt": "QUESTION", "candidate": "LLM", "quality": "GRADE"}


def proposed_mapping(path: LogPath) -> dict[str, str]:
    """COLUMN: FIELD for a file that is not recognised, nested fields by dots; in capitals what nothing in it looks like.

    Quality has its scale's rule behind it where its cells are not numbers up to 1. A field that stands under a column's own
    name is read without a mapping, and is left out unless somebody has to see that it is there.
    """
    cells = cells_of(path)
    pairs: dict[str, str] = {}
    if own := _own_id(cells):
        pairs["request_id"] = own
    for column in _USUAL:
        if column == "prompt" and "messages" in pairs:
            continue
        field = _field_of(column, cells)
        if field is None:
            continue
        full = _in_full(column, field, cells[field])
        if full != column or column in _NEEDED or column == "messages":
            pairs[column] = full
    needed = {column: name for column, name in _NEEDED.items() if not (column == "prompt" and "messages" in pairs)}
    return {
        column: pairs.get(column, needed.get(column, ""))
        for column in ("request_id", *_USUAL)
        if column in pairs or column in needed
    }


def _own_id(cells: Mapping[str, Cells]) -> str | None:
    """A field that tells requests apart: another in each row of a log whose prompts are hardly ever the same twice.

    Where most prompts are there several times it is a table of answers, in which equal prompts are one request.
    """
    if "request_id" in cells:
        return None
    prompt = _field_of("prompt", cells)
    if prompt is None or len(set(cells[prompt])) <= 0.6 * len(cells[prompt]):
        return None
    rows = max(map(len, cells.values()))
    fitting = (name for name in cells if words_of(name)[-1:] and words_of(name)[-1] in _ID and "." not in name)
    return next((name for name in fitting if len({*map(str, cells[name])}) == len(cells[name]) == rows > 1), None)


def _by_cells(cells: Mapping[str, Cells]) -> str | None:
    """The field with the most cells among those of few values, most of which are called as LLMs are."""
    fitting = [
        name
        for name, values in cells.items()
        if _names(values)
        and len(set(values)) <= max(20, len(values) / 50)
        and sum(_LLM.match(one) is not None for one in set(values)) * 2 > len(set(values))
    ]
    return max(fitting, key=lambda name: len(cells[name]), default=None)


def looks_like(name: str, cells: Cells) -> dict[str, str]:
    """COLUMN: COLUMN=FIELD, as `--map` takes it, for each column that a field may hold by its name and its cells."""
    words = words_of(name)
    return {
        column: f"{column}={_in_full(column, name, cells)}"
        for column, (holds, usual) in _USUAL.items()
        if any(words[-len(words_of(one)) :] == words_of(one) for one in usual.split()) and holds(cells)
    }


def _in_full(column: str, field: str, cells: Cells) -> str:
    """A field with what stands behind it: the unit that its name ends in, or the rule that its grades are read by."""
    if column == "quality":
        scale = rescale.graded_by(cells)
        return f"{field}:{scale}" if scale else field
    if column == "timestamp":
        form = _form(cells)
        return f"{field}:{form}" if form else field
    unit = unit_of(column, field)
    return f"{field}:{unit}" if unit and UNITS[column][unit][0] != 1.0 else field


def is_open(field: str, path: LogPath) -> bool:
    """Whether what a mapping has for a column stands for a field that somebody has to name."""
    return field in _NEEDED.values() and field not in files.columns(path)


def _called(usual: str, cells: Mapping[str, Cells]) -> list[str]:
    """The fields whose names end in these words; those that are called exactly so first, then the least nested."""
    ending = words_of(usual)
    found = [name for name in cells if words_of(name)[-len(ending) :] == ending]
    return sorted(found, key=lambda name: (words_of(name.rpartition(".")[2]) != ending, name.count("."), len(name)))


def _field_of(column: str, cells: Mapping[str, Cells]) -> str | None:
    """The field that looks most like the column; of candidates the one that most records have, for failures lack an answer."""
    holds, usual = _USUAL[column]
    of_answer = column in ("prompt", "messages")
    fitting = [
        name
        for one in usual.split()
        for name in _called(one, cells)
        if not (of_answer and _ANSWER & {*words_of(name)}) and holds(cells[name])
    ]
    if column == "candidate" and fitting:
        return max(dict.fromkeys(fitting), key=lambda name: len(cells[name]))
    if column == "candidate":
        return _by_cells(cells)
    return fitting[0] if fitting else None


def cells_of(path: LogPath) -> dict[str, Cells]:
    """The cells of each field, nested ones by dots, that are not blank in the first records."""
    found: dict[str, list[Any]] = defaultdict(list)
    for record in islice(_records(path), _LOOKED_AT):
        for column, cell in record.items():
            for name, value in _fields(str(column).strip(), cell, 0):
                if name in found or (len(found) < _MOST_FIELDS and _can_be_mapped(name)):
                    found[name].append(value)
    return dict(found)


def _records(path: LogPath) -> Iterator[Mapping[str, Any]]:
    """The first records of a file: those in its first megabyte, or a Parquet file's first batch; damaged ones are left out."""
    if files.kind(path) == ".parquet":
        try:
            names = pq.read_schema(for_parquet(path)).names[:_MOST_FIELDS]
            for batch in pq.ParquetFile(for_parquet(path)).iter_batches(_LOOKED_AT, columns=names):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError):
            pass
        return
    text = files.head_text(path)
    if files.kind(path) == ".csv":
        try:
            header, *rows = islice(files.csv_rows(text), _LOOKED_AT + 1)
        except (csv.Error, ValueError):  # a cell without an end, or no row at all
            return
        yield from (dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header))
        return
    if not text.lstrip().startswith("["):
        for line in text.splitlines():
            record = parsed(line, "{")
            if isinstance(record, dict):
                yield record
        return
    reader, place = json.JSONDecoder(), text.index("[") + 1
    try:
        while (begun := _SIGN.search(text, place)) is not None:
            record, place = reader.raw_decode(text, begun.start())
            if isinstance(record, dict):
                yield record
    except (ValueError, RecursionError):  # its end, or the last item, cut short
        return


def _can_be_mapped(name: str) -> bool:
    """Whether `--map` can say the name: it has no sign that means something there, and is no text."""
    if any(part != part.strip() for part in name.split(".")):
        return False
    return len(name) <= _LONGEST_NAME and name.isprintable() and ":" not in name and not name.startswith(CONSTANT)


def _fields(name: str, cell: Any, depth: int) -> Iterator[tuple[str, Any]]:
    cell = parsed(cell)
    if isinstance(cell, Mapping) and depth < _DEPTH:
        for key, value in cell.items():
            yield from _fields(f"{name}.{key}", value, depth + 1)
    elif not blank(cell) if not isinstance(cell, Mapping | list) else bool(cell):
        yield name, cell
