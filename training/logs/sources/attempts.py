"""Records that hold one attempt, several or none -> rows of the outcome table, every one of them used or skipped.

The converters of nested logs (traces, request and response bodies) share this: a converter is given one raw record and
gives back a row for each attempt it finds in it, and a `Skip` for each thing in it that is no attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from training.logs.cells import parse_json
from training.logs.io import files
from training.logs.io.files import Records
from training.logs.outcomes import COLUMNS, Unreadable

Row = dict[str, Any]
_SHOWN = 40
# What judging and joining read beside the outcome table's own columns.
_BESIDE = ("trace_id", "answer")


class Skip(NamedTuple):
    """Something in a log that is no outcome of a candidate: a short, stable reason, what arrived, what was expected."""

    reason: str
    value: str
    expected: str


def gather(records: Records, attempts: Callable[[Row, int], Iterable[Row | Skip]]) -> Records:
    """Apply `attempts` (raw record, its 1-based row -> rows and skips) to every record; rows keep their number."""
    rows: list[Row] = []
    numbers: list[int] = []
    unreadable = list(records.unreadable)
    for record, number in zip(records.table.to_dict("records"), records.rows, strict=True):
        for attempt in attempts({str(name): cell for name, cell in record.items()}, number):
            if isinstance(attempt, Skip):
                unreadable.append(Unreadable(number, *attempt))
            else:
                rows.append(attempt)
                numbers.append(number)
    return Records(pd.DataFrame(rows, columns=[*COLUMNS, *_BESIDE], dtype=object), numbers, unreadable)


def remembered(is_kind: Callable[[Path], bool]) -> Callable[[Path], bool]:
    """The same test of a file's head, made once per file as long as it does not change."""

    @lru_cache(maxsize=4096)
    def test(path: str, _size: int, _changed: int) -> bool:
        return is_kind(Path(path))

    return lambda path: test(*signature([path])[0])


def beside(path: Path, is_kind: Callable[[Path], bool]) -> list[Path]:
    """The files of a kind in the folder of `path`, itself among them if it is of that kind, sorted by name."""
    found = sorted(file for file in path.parent.iterdir() if file.is_file() and files.kind(file))
    return [file for file in found if not file.name.startswith((".", "_")) and is_kind(file)]


def signature(paths: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """What changes when one of the files does: path, size, time of change."""
    stats = [(path, path.stat()) for path in paths]
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)


def json_object(cell: Any) -> Row | None:
    """A cell that is an object, or the JSON text of one; None for anything else."""
    if isinstance(cell, str) and cell.lstrip().startswith("{"):
        try:
            cell = parse_json(cell.encode("utf-8", "surrogatepass"))
        except ValueError:
            return None
    return cell if isinstance(cell, dict) else None


def first_of(*cells: Any) -> Any:
    """The first cell that is there: neither None, NaN nor blank text."""
    for cell in cells:
        if cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()):
            continue
        return cell
    return None


def shown(cell: Any) -> str:
    """A short label (an operation, a code) for the skip report; longer text is only measured, for it may be a prompt."""
    if isinstance(cell, str):
        return cell if len(cell) <= _SHOWN else f"text, {len(cell)} characters"
    return "" if cell is None else type(cell).__name__
