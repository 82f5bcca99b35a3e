"""Records that hold one try, several or none -> rows of the outcome table, every one of them used or skipped.

The converters of nested logs (traces, request and response bodies) share this: a converter is given one raw record and
gives back a row for each try it finds in it, and a `Skip` for each thing in it that is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

import pandas as pd

from training.logs.io import files
from training.logs.io.files import Records, Row
from training.logs.objects.path import LogPath
from training.logs.outcomes import COLUMNS, Unreadable

# What judging, joining and planning read beside the outcome table's own columns.
_BESIDE = ("try_id", "trace_id", "answer", "parameters")


Signature = tuple[tuple[LogPath, int, int], ...]


class Skip(NamedTuple):
    """Something in a log that is no outcome of a candidate: a short, stable reason, what arrived, what was expected."""

    reason: str
    value: str
    expected: str


def gather(records: Records, tries: Callable[[Row, int], Iterable[Row | Skip]]) -> Records:
    """Apply `tries` (raw record, its 1-based row -> rows and skips) to every record; rows keep their number."""
    rows: list[Row] = []
    numbers: list[int] = []
    unreadable = list(records.unreadable)
    for number, record in records.numbered():
        for found in tries(record, number):
            if isinstance(found, Skip):
                unreadable.append(Unreadable(number, *found))
            else:
                rows.append(found)
                numbers.append(number)
    return Records(pd.DataFrame(rows, columns=[*COLUMNS, *_BESIDE], dtype=object), numbers, unreadable)


def remembered(is_kind: Callable[[LogPath], bool]) -> Callable[[LogPath], bool]:
    """The same test of a file's head, made once per file as long as it does not change."""

    @lru_cache(maxsize=4096)
    def test(path: LogPath, _size: int, _changed: int) -> bool:
        return is_kind(path)

    return lambda path: test(*signature([path])[0])


def beside(path: LogPath, is_kind: Callable[[LogPath], bool]) -> list[LogPath]:
    """The files of a kind in the folder of `path`, itself among them if it is of that kind, sorted by name."""
    return [file for file in files.in_folder(path.parent) if is_kind(file)]


def signature(paths: Iterable[LogPath]) -> Signature:
    """What changes when one of the files does: path, size, time of change."""
    stats = [(path, path.stat()) for path in paths]
    return tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)
