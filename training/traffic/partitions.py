"""Reading a log a partition at a time: raw records -> outcome columns -> checked outcomes.

Each partition goes through on its own, so that memory holds one of them and a distributed engine could run them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from training.outcomes import Outcomes, validate
from training.traffic import files
from training.traffic.files import Records

# Raw records of one partition -> the same rows under the outcome table's column names, cells still as they arrived.
Convert = Callable[[Records], Records]


def outcomes_of(
    path: Path, *, format: str, convert: Convert, wanted: frozenset[str] | None = None
) -> Iterator[Outcomes]:
    """The outcomes of one file, a partition at a time; only the `wanted` top-level fields of a record are kept.

    Raises OutcomeError when the file cannot be opened.
    """
    for records in files.partitions(path, wanted):
        made = convert(records)
        if files.kind(path) == ".csv":
            made = made._replace(table=_without_blank_texts(made.table))
        yield validate(
            made.table, source=str(path), format=format, rows=made.rows, unreadable=made.unreadable, partition=True
        )


def _without_blank_texts(table: pd.DataFrame) -> pd.DataFrame:
    """An empty cell of a CSV is an answer that was not logged; elsewhere an empty text is an empty answer."""
    columns = {name: table[name] for name in ("answer", "expected") if name in table}
    return table.assign(**{name: column.where(column != "", None) for name, column in columns.items()})
