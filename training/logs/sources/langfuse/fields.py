"""Cells of Langfuse's observations and scores, whichever way they were exported: snake_case or camelCase, JSON as such,
as text (CSV) or as a Parquet map."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from training.logs.cells import blank, parsed, replace_surrogates
from training.logs.io import files
from training.logs.objects.path import LogPath

Cells = list[Any]

# The words for a generation, and the environments of the calls that Langfuse's own evaluators make.
GENERATION, INTERNAL = "GENERATION", "langfuse"

_HUMP = re.compile(r"(?<=[a-z0-9])([A-Z])")
# Exports as CSV put even plain text into JSON.
JSON = '{["'


def snake(name: str) -> str:
    """`traceId` as `trace_id`; snake_case stays as it is."""
    return _HUMP.sub(r"_\1", name.strip()).lower()


def camel(name: str) -> str:
    """`trace_id` as `traceId`."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def both(names: Iterable[str]) -> frozenset[str]:
    """The snake_case names and the same in camelCase."""
    return frozenset(spelt for name in names for spelt in (name, camel(name)))


def is_observations(path: LogPath) -> bool:
    """Whether the head of a file has the fields that every export of observations has."""
    names = {snake(name) for name in files.columns(path)}
    return names >= {"id", "trace_id", "type", "start_time"} and bool(names & {"parent_observation_id", "level"})


def is_scores(path: LogPath) -> bool:
    """Whether the head of a file has the fields that every export of scores has."""
    names = {snake(name) for name in files.columns(path)}
    return names >= {"id", "name", "value", "data_type"} and bool(names & {"trace_id", "subject"})


def column(table: pd.DataFrame, *names: str) -> Cells:
    """For every row, the first of the named fields (snake_case) that holds something, or None; shape (n,)."""
    found: Cells = [None] * len(table)
    spelt = {name: place for place, name in reversed(list(enumerate(snake(str(name)) for name in table.columns)))}
    for name in names:
        if name in spelt:
            cells = table.iloc[:, spelt[name]].astype(object).tolist()
            found = [new if old is None and not blank(new) else old for old, new in zip(found, cells, strict=True)]
    return found


def has(table: pd.DataFrame, name: str) -> bool:
    """Whether the table has the field (snake_case), in either spelling."""
    return any(snake(str(column)) == name for column in table.columns)


def identifier(cell: Any) -> str | None:
    """Text, or a whole number as text; None for anything else."""
    if isinstance(cell, str):
        return replace_surrogates(cell.strip()) or None
    whole = isinstance(cell, int | np.integer) and not isinstance(cell, bool)
    return str(cell) if whole and abs(int(cell)) < 2**63 else None


def mapping(cell: Any) -> Mapping[str, Any]:
    """An object, from JSON, JSON text or the (key, value) pairs of a Parquet map; {} for anything else."""
    value = parsed(cell, JSON)
    if isinstance(value, Mapping):
        return value
    pairs = isinstance(value, Sequence) and all(isinstance(item, tuple) and len(item) == 2 for item in value)
    return {str(key): item for key, item in value} if pairs and not isinstance(value, str) else {}


def number(cell: Any) -> float | None:
    """A finite number, also from text; None for anything else."""
    if isinstance(cell, bool | np.bool_) or blank(cell):
        return None
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if np.isfinite(value) else None


def is_generation(kind: Any) -> bool:
    """Whether an observation of this type is an LLM's answer."""
    return isinstance(kind, str) and kind.strip().upper() == GENERATION


def is_internal(environment: Any) -> bool:
    """Whether Langfuse itself made the call (its evaluators do); no one else's environment may start like this."""
    return isinstance(environment, str) and environment.strip().lower().startswith(INTERNAL)
