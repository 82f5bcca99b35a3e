"""The outcome table: one row per logged try of one candidate on one request.

A row that cannot be used is skipped with a short, stable reason and counted, so that used + skipped = read always
holds; a source in which nothing is usable is an `OutcomeError`. The skip report never carries prompt text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from training.errors import TrainingError
from training.logs import dates
from training.logs.cells import replace_surrogates

COLUMNS: tuple[str, ...] = (
    "request_id", "prompt", "messages", "candidate", "quality", "quality_source", "cost_usd", "input_tokens", "output_tokens",
    "latency_ms", "timestamp", "session_id", "workflow", "propensity", "purpose", "status", "split",
)  # fmt: skip
ALIASES: dict[str, str] = {"model": "candidate"}
# What may travel beside the outcomes until they are judged: texts that nothing stores.
BESIDE: tuple[str, ...] = ("try_id", "trace_id", "answer", "expected", "parameters")
REQUIRED = ("request_id", "candidate")
_SKIPPED_COLUMNS = ("source", "row", "reason", "field", "value", "expected")
_LONGEST_NAME, _MOST_NAMES = 40, 20


class OutcomeError(TrainingError):
    """A source from which nothing can be used: says which, what was expected, what arrived and what to do."""


class Unreadable(NamedTuple):
    """A row that could not even be parsed: 1-based row or line number, reason, what arrived, what was expected."""

    row: int
    reason: str
    value: str
    expected: str


class AliasUse(NamedTuple):
    """How many rows were logged under an alias of a candidate.

    `without_propensity` is how many rows of the candidate, under any name, lost their logged propensity.
    """

    alias: str
    candidate: str
    rows: int
    without_propensity: int = 0


@dataclass(frozen=True)
class Outcomes:
    """Usable outcomes and the account of those that were not.

    `frame`: exactly `COLUMNS`, RangeIndex; text columns and status are `str` with NaN as null, messages is object
    (list of dict, or None; where it is set prompt is null), tokens are Int64, timestamp is datetime64[us, UTC] and
    the other numbers are float64. `quality_source` is null or one of `JUDGEMENTS` or `WEAK` (`training.config`). `split` is a
    hint from sources that come with a held-out part. `purpose` says what an answer was bought for (`tries`), null where it was
    logged.
    `skipped`: source, row (1-based row or line number), reason, field, value (shortened), expected.
    `rows_read`: always `len(frame) + len(skipped)`. `formats`: what was recognised. `origin`: the source and row
    of every row of `frame`, in its order. `aliases`: the names that were read as another (`aliases.resolve`).
    `beside`: those of `BESIDE` that the source has, `str`, rows as in `frame`; judging and planning read it (`parameters`: the
    JSON of tools, tool_choice and response_format), and nothing writes it. `notes`: what the importer had to
    decide, one sentence each.
    """

    frame: pd.DataFrame
    skipped: pd.DataFrame
    rows_read: int
    formats: tuple[str, ...]
    origin: pd.DataFrame
    aliases: tuple[AliasUse, ...] = ()
    beside: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: tuple[str, ...] = ()

    @property
    def reasons(self) -> dict[str, int]:
        """How many rows were skipped for each reason, most frequent first."""
        return {str(reason): int(count) for reason, count in self.skipped["reason"].value_counts().items()}


def require_usable(parts: Sequence[Outcomes], *, source: str, format: str, arrived: Sequence[str]) -> None:
    """Raises OutcomeError when no partition of a source has a usable row; `arrived` are the columns it has."""
    if not any(len(part.frame) for part in parts):
        skipped = pd.concat([part.skipped for part in parts]) if parts else unreadable_rows(source, ())
        raise OutcomeError(_nothing_usable(source, format, list(arrived), skipped))


def unreadable_rows(source: str, rows: Iterable[Unreadable]) -> pd.DataFrame:
    """Rows that could not be parsed, as a skip report."""
    found = list(rows)
    return skip_report(
        source, np.array([row.row for row in found], dtype="int64"), [row.reason for row in found],
        [""] * len(found), [row.value for row in found], [row.expected for row in found],
    )  # fmt: skip


def origin(source: str, rows: np.ndarray[Any, Any]) -> pd.DataFrame:
    """The source and the row of each of n outcomes."""
    sources = pd.Series([replace_surrogates(source)] * len(rows), dtype="str")
    return pd.DataFrame({"source": sources, "row": pd.Series(rows, dtype="int64")})


def skip_report(source: str, rows: np.ndarray[Any, Any], *texts: list[str]) -> pd.DataFrame:
    """Skipped rows as `Outcomes.skipped` has them; `texts` are the columns reason, field, value and expected."""
    columns = dict(zip(_SKIPPED_COLUMNS[2:], texts, strict=True))
    return origin(source, rows).assign(**{name: pd.Series(column, dtype="str") for name, column in columns.items()})


def _nothing_usable(source: str, format: str, arrived: list[str], skipped: pd.DataFrame) -> str:
    names = ", ".join(name[:_LONGEST_NAME] for name in arrived[:_MOST_NAMES]) + (
        ", …" if len(arrived) > _MOST_NAMES else ""
    )
    expected = f"expected the columns {', '.join(REQUIRED)} and prompt or messages"
    lead, came = f"{source}: no usable outcome (format {format})", f"arrived: {names or 'no column'}"
    if skipped.empty:
        return f"{lead}; {expected}; {came}; the table has no rows. Give a log with at least one try."
    counts = "; ".join(f"{reason}: {count}" for reason, count in skipped["reason"].value_counts().items())
    present = {ALIASES.get(name, name) for name in arrived}
    missing = [name for name in REQUIRED if name not in present]
    missing += [] if present & {"prompt", "messages"} else ["prompt or messages"]
    first = skipped.iloc[0]
    absent = str(first["reason"]).startswith("no ")
    described = "data/README.md describes the table."
    if absent:
        fix = f"Add or rename: {', '.join(missing)}" if missing else "Correct these columns"
        return f"{lead}; {expected}; {came}; {len(skipped)} rows skipped ({counts}). {fix}; {described}"
    # What is wrong comes first: the columns are there.
    example = (
        f"as {first['field']}: {first['value']}, expected {first['expected']}"
        if first["field"]
        else (f"as {first['value']}, expected {first['expected']}")
    )
    fix = (
        _fix_of_dates(str(first["value"])) if first["reason"] == "timestamp is not a date" else "Correct these columns"
    )
    return f"{lead}: {len(skipped)} rows skipped ({counts}; {example}). {fix}; {described} {came[0].upper()}{came[1:]}."


def _fix_of_dates(value: str) -> str:
    """How to say of which form dates are; FIELD is the column's name in the log."""
    form = dates.looks_like(value)
    looks = f"which looks like {form}" if form else f"such as {dates.EXAMPLE}"
    return (
        f"Say the form of the dates, {looks}: --map 'timestamp=FIELD:{form or dates.EXAMPLE}', FIELD being their column"
    )
