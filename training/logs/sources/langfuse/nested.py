"""Which generations in an export of observations are one call, recorded by a framework and by the client within it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from training.logs import typed
from training.logs.cells import blank
from training.logs.io import files
from training.logs.objects.path import LogPath
from training.logs.outcomes import OutcomeError
from training.logs.sources.langfuse.decided import SHAPE, Decisions
from training.logs.sources.langfuse.fields import (
    Cells,
    both,
    column,
    identifier,
    is_generation,
    is_internal,
    is_observations,
    mapping,
)
from training.logs.sources.langfuse.prompt import asked
from training.logs.sources.otel.nesting import Nested, Spans, digest, key_of
from training.logs.sources.tries import Signature, signature

_PARENT = "parent_observation_id"
_USAGE = ("usage_details", "usage", "input_usage", "output_usage", "total_usage")
_SHAPE = ("id", _PARENT, "type", "environment", "start_time", "end_time", "provided_model_name", "model", *_USAGE)


def nested(path: LogPath) -> Nested:
    """Of all files of observations in the folder of `path`, which are read once more for it."""
    return surveyed(path)[0]


def surveyed(path: LogPath) -> tuple[Nested, Decisions]:
    """The same, and which of the router's decisions they are about."""
    return _nested(signature(file for file in files.in_folder(path.parent) if file == path or is_observations(file)))


@lru_cache(maxsize=2)  # every file of a folder asks for the same
def _nested(observations: Signature) -> tuple[Nested, Decisions]:
    paths = [name for name, _, _ in observations]
    spans, decisions = Spans(), Decisions()
    for table in _tables(paths, (*_SHAPE, *SHAPE)):
        _add(spans, table)
        decisions.add(table)
    pairs = spans.pairs()
    if not pairs:
        return Nested(), decisions
    wanted = {key for pair in pairs for key in pair}
    return spans.nested(pairs, dict(_digests(paths, wanted))), decisions


def _add(spans: Spans, table: pd.DataFrame) -> None:
    names = ("id", _PARENT, "type", "environment")
    told = _told(table)
    times = (_seconds(column(table, name)) for name in ("start_time", "end_time"))
    for id, parent, kind, environment, much, start, end in zip(
        *(column(table, name) for name in names), told, *times, strict=True
    ):
        known, around = identifier(id), identifier(parent)
        if known is not None:
            calls = is_generation(kind) and not is_internal(environment)
            spans.add(key_of(known), key_of(around) if around else None, much if calls else None, start, end)


def _told(table: pd.DataFrame) -> list[int]:
    """2 where a model is named and 1 where tokens were counted, added up."""
    models = column(table, "provided_model_name", "model")
    usages = [column(table, name) for name in _USAGE]
    counted = [any(_counts(cell) for cell in cells) for cells in zip(*usages, strict=True)]
    return [2 * (not blank(model)) + used for model, used in zip(models, counted, strict=True)]


def _counts(cell: Any) -> bool:
    """Whether there is a number above 0 in a count or in an object of counts."""
    values = list(mapping(cell).values()) or [cell]
    return any(isinstance(value, int | float | np.number) and value > 0 for value in values) or (
        isinstance(cell, str) and cell.strip().isdigit() and int(cell) > 0
    )


def _seconds(cells: Cells) -> list[float]:
    """Epoch seconds, NaN where there is no time."""
    times = typed.instant(pd.Series(cells, dtype=object)).values
    return [float(one) for one in np.where(times.isna(), np.nan, times.astype("int64") / 1e6)]


def _digests(paths: Sequence[LogPath], wanted: set[int]) -> Iterator[tuple[int, bytes | None]]:
    for table in _tables(paths, ("id", "input")):
        for id, said in zip(column(table, "id"), column(table, "input"), strict=True):
            known = identifier(id)
            if known is not None and (key := key_of(known)) in wanted:
                yield key, digest(*asked(said))


def _tables(paths: Sequence[LogPath], names: Sequence[str]) -> Iterator[pd.DataFrame]:
    for path in paths:
        with suppress(OutcomeError):  # a damaged file says so when it is itself read
            for records in files.partitions(path, both(names)):
                yield records.table
