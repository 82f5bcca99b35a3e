"""Rows that failed a check -> the skip report, one line for each row with its first failure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from training.logs.cells import shown
from training.logs.outcomes import skip_report
from training.logs.typed import Mask

_EXPECTED: dict[str, str] = {
    "request_id": "text that groups the tries of one request",
    "prompt": "text, or a list of messages in the column messages",
    "messages": "a list of messages, each with a role and a content (in CSV: as JSON)",
    "candidate": "the name of the LLM",
    "quality": "a number in [0, 1], or nothing if nobody judged the answer",
    "quality_source": "judged, thumb, schema, empty, cut, retried or switched, or nothing (judged)",
    "cost_usd": "a number of US dollars >= 0, or nothing",
    "input_tokens": "a whole number >= 0, or nothing",
    "output_tokens": "a whole number >= 0, or nothing",
    "latency_ms": "a number of milliseconds >= 0, or nothing",
    "timestamp": "ISO 8601 or an epoch in s or ms, from 1973 to 2286, or nothing",
    "session_id": "text, or nothing",
    "workflow": "text, or nothing",
    "propensity": "a number in (0, 1], or nothing",
    "purpose": "certify or learn, of an answer that was bought, or nothing",
    "status": "success, error, an HTTP status, or nothing (success)",
    "split": "train, test or nothing",
}
# Numbers apart by what stands in dates: nothing that anybody wrote to an LLM.
_DATE = re.compile(r"(?a:[\d\s.:,/+TZ-]{4,32}(?:[AaPp][Mm])?)")
_SPECIAL = {
    "duplicate row": "each try once",
    "outcome that another log tells too": "each outcome of a decision in one log",
    "request has two different prompts": "one prompt per request_id",
    "a bought answer without its propensity": "the probability with which the plan chose it, in (0, 1]",
}


class Failure(NamedTuple):
    """What is wrong with one column: the reason, and the (n,) rows that have it."""

    field: str
    reason: str
    mask: Mask


def failed(failures: Sequence[Failure], n: int) -> Mask:
    """(n,) the rows that have a failure."""
    found = np.zeros(n, dtype=bool)
    for failure in failures:
        found |= failure.mask
    return found


def report(table: pd.DataFrame, failures: Sequence[Failure], source: str, rows: np.ndarray[Any, Any]) -> pd.DataFrame:
    """One line per failed row, with its first failure; `rows` (n,) are the rows' numbers in the source."""
    first = np.full(len(table), -1)
    for place, failure in enumerate(failures):
        first[failure.mask & (first < 0)] = place
    chosen = np.flatnonzero(first >= 0)
    found = [failures[first[position]] for position in chosen]
    cells = {name: table[name].astype(object).to_numpy() for name in {failure.field for failure in found}}
    return skip_report(
        source,
        rows[chosen],
        [failure.reason for failure in found],
        [failure.field for failure in found],
        [_shown(f.field, cells[f.field][position]) for f, position in zip(found, chosen, strict=True)],
        [_SPECIAL.get(failure.reason, _EXPECTED[failure.field]) for failure in found],
    )


def _shown(field: str, cell: Any) -> str:
    if isinstance(cell, str) and not cell.strip():
        return "empty"
    prompt = field in ("prompt", "messages") and isinstance(cell, str)
    if field == "timestamp" and isinstance(cell, str) and _DATE.fullmatch(cell):
        return shown(cell, phrase=True)
    return f"text, {len(cell)} characters" if prompt else shown(cell)
