"""Reading a log a partition at a time: raw records -> outcome columns -> checked outcomes.

Each partition goes through on its own, so that memory holds one of them and a distributed engine could run them apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from training.logs.io import files
from training.logs.io.files import Records
from training.logs.objects.path import LogPath
from training.logs.outcomes import Outcomes
from training.logs.validate import validate

# Raw records of one partition -> the same rows under the outcome table's column names, cells still as they arrived.
Convert = Callable[[Records], Records]


def outcomes_of(
    path: LogPath, *, format: str, convert: Convert, wanted: frozenset[str] | None = None
) -> Iterator[Outcomes]:
    """The outcomes of one file, a partition at a time; only the `wanted` top-level fields of a record are kept.

    Raises OutcomeError when the file cannot be opened.
    """
    make = _without_blank_texts(convert) if files.kind(path) == ".csv" else convert
    return checked(files.partitions(path, wanted), source=str(path), format=format, convert=make)


def checked(partitions: Iterable[Records], *, source: str, format: str, convert: Convert) -> Iterator[Outcomes]:
    """The outcomes of partitions that come from elsewhere than a file; `source` is how reports name it."""
    for records in partitions:
        made = convert(records)
        yield validate(
            made.table, source=source, format=format, rows=made.rows, unreadable=made.unreadable, partition=True
        )


def _without_blank_texts(convert: Convert) -> Convert:
    """The same for a CSV, where an empty cell is an answer that was not logged; elsewhere it is an empty answer."""

    def converted(records: Records) -> Records:
        made = convert(records)
        texts = {name: made.table[name] for name in ("answer", "expected") if name in made.table}
        logged = {name: column.where(column != "", None) for name, column in texts.items()}
        return made._replace(table=made.table.assign(**logged)) if logged else made

    return converted
