"""The rows of an imported log, a file at a time: all of them without their texts, or those of some requests with them.

Texts are read in two passes and never all at once: the first leaves a stand-in of each (`split.stand_in`), by which requests
are tied together as by the text itself; the second reads those of the requests that are wanted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from serving.bundle.request import text_of
from training.dataset.matrix import Objects, requests_of
from training.dataset.split import stand_in
from training.engine.engine import Engine, Progress, silent
from training.engine.local import ALONE
from training.logs.cells import null, parse_json
from training.logs.dataset import ACCOUNT, FORMAT_VERSION, SCHEMA, ImportAccount, skipped_in
from training.logs.objects.address import ObjectStoreError
from training.logs.objects.path import LogPath, ObjectPath, for_parquet
from training.logs.outcomes import COLUMNS, OutcomeError, Outcomes, origin, unreadable_rows
from training.logs.repeated.known import Known, hashes_of

_AGAIN = "the file was damaged or changed. Import the log again."
_TOKENS = ("input_tokens", "output_tokens")
_OF_A_REQUEST = ("request_id", "prompt", "messages", "workflow", "session_id")
_SKIPPED_NAMES = ("source", "reason", "field", "value", "expected")


class StoredLog:
    """A folder that `dataset.store` wrote. Every pass raises OutcomeError where a file changed since this was made."""

    def __init__(self, folder: LogPath, account: ImportAccount) -> None:
        self.folder, self.account = folder, account
        self._marks = {path: _mark(path) for path in self._paths()}

    def __len__(self) -> int:
        """The rows."""
        return self.account.rows_used

    def requests(self) -> int:
        """How many requests the rows are of."""
        found = [pd.util.hash_array(_column(path, "request_id"), categorize=False) for path in self._files()]
        return len(np.unique(np.concatenate(found))) if found else 0

    def skeleton(self, progress: Progress = silent, engine: Engine = ALONE) -> Outcomes:
        """Every row, with a stand-in for the text of each request's first row and no other text; what was skipped, and the
        account, are the whole import's. Files are read by the `engine`."""
        paths = list(self._files())
        frames = list(engine.map(_bare, None, paths, "read without texts", progress, ahead=2 * engine.workers))
        whole = pd.concat(frames, ignore_index=True)
        # The first of a file need not be the first of the log: how it was cut into files is not to be seen.
        again = whole["request_id"].duplicated()
        return self._outcomes(whole.assign(prompt=whole["prompt"].mask(again)))

    def requests_of(self, ids: Objects, progress: Progress | None = None) -> Objects:
        """(n,) the requests with these ids, in their order."""
        wanted = pd.Index(ids)
        found = np.full(len(wanted), None, dtype=object)
        missing, done = np.ones(len(wanted), dtype=np.bool_), 0
        for path in self._files():
            place = wanted.get_indexer(pd.Index(_column(path, "request_id")))
            rows = np.flatnonzero((place >= 0) & missing[place] & ~pd.Series(place).duplicated().to_numpy())
            if len(rows):
                found[place[rows]] = requests_of(_frame(path, _OF_A_REQUEST).iloc[rows])
                missing[place[rows]] = False
            done += len(place)
            if progress is not None:
                progress("read texts of the core", done, len(self))
        if missing.any():
            raise OutcomeError(
                f"{self.folder}: {int(missing.sum()):,} requests are gone since it was read. Import it again."
            )
        return found

    def rows_of(self, ids: Collection[str]) -> Outcomes:
        """The rows of the requests with these ids, with their texts."""
        wanted = pd.Index(list(ids))
        frames = [frame[frame["request_id"].isin(wanted)] for frame in map(_frame, self._files())]
        return self._outcomes(pd.concat(frames, ignore_index=True))

    def _paths(self) -> Iterator[LogPath]:
        return (self.folder / name for name in self.account.files)

    def _files(self) -> Iterator[LogPath]:
        for path in self._paths():
            if _mark(path) != self._marks[path]:
                raise OutcomeError(
                    f"{path}: changed since the run began to read it, so what was read of it before is not true any more. "
                    "Import the log again, and leave it as it is while it is trained on."
                )
            yield path

    def _outcomes(self, frame: pd.DataFrame) -> Outcomes:
        skipped = unreadable_rows(str(self.folder), ())
        if (path := self.folder / skipped_in(self.account)).exists():
            skipped = pd.read_csv(for_parquet(path), dtype=dict.fromkeys(_SKIPPED_NAMES, "str"), keep_default_na=False)
        return Outcomes(
            frame=frame,
            skipped=skipped,
            rows_read=len(frame) + len(skipped),
            formats=tuple(self.account.formats),
            origin=origin(str(self.folder), np.arange(1, len(frame) + 1)),
            notes=tuple(self.account.notes),
        )


class Counted:
    """How many requests the parts of a log are of, so far."""

    def __init__(self) -> None:
        self._known, self.count = Known(), 0

    def add(self, part: Outcomes) -> int:
        """Counts those of one more part; how many there are now."""
        ids = np.unique(hashes_of(part.frame["request_id"]))
        new = ids[~self._known.find(ids)[0]]
        self._known.add(new, new)
        self.count += len(new)
        return self.count

    def within(self, beyond: Callable[[int], bool]) -> Callable[[Outcomes], bool]:
        """What counts a part and says whether so many are still to be held."""
        return lambda part: not beyond(self.add(part))


def open_stored(folder: LogPath) -> StoredLog | None:
    """The import in a folder; None where it is not one that is whole and was left as it was written."""
    try:
        if isinstance(folder, ObjectPath):
            folder = folder.as_listed()
            if not (folder / ACCOUNT).is_file():
                return None
        there = {str(path).removeprefix(str(folder / "")).lstrip("/") for path in folder.rglob("*.parquet")}
        told: dict[str, Any] = json.loads((folder / ACCOUNT).read_bytes())
        account = ImportAccount(**{one.name: told[one.name] for one in fields(ImportAccount)})
        rows = sum(pq.read_metadata(for_parquet(folder / name)).num_rows for name in there)
    except ObjectStoreError:
        raise
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None
    same = there == set(account.files) and rows == account.rows_used and rows > 0
    return StoredLog(folder, account) if same and account.format_version == FORMAT_VERSION else None


def _mark(path: LogPath) -> tuple[int, int, int] | None:
    """What changes when a file is written; None of what is gone, and of an object store, which tells by itself."""
    if isinstance(path, ObjectPath):
        return None
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_ino, told.st_size, told.st_mtime_ns


def _bare(_: None, path: LogPath) -> pd.DataFrame:
    """A file's rows with stand-ins for texts."""
    frame = _frame(path)
    first = np.flatnonzero(~frame["request_id"].duplicated())
    texts = np.full(len(frame), None, dtype=object)
    texts[first] = [stand_in(text_of(request)) for request in requests_of(frame.iloc[first])]
    nothing = pd.Series(np.full(len(frame), None), dtype=object)
    return frame.assign(prompt=pd.Series(texts, dtype="str"), messages=nothing)


def _column(path: LogPath, name: str) -> Objects:
    return np.asarray(_table(path, [name])[name].to_pandas().to_numpy(dtype=object))


def _frame(path: LogPath, columns: Sequence[str] = COLUMNS) -> pd.DataFrame:
    """A file's rows as the outcome table has them."""
    frame: pd.DataFrame = _table(path, list(columns)).to_pandas()
    for name in columns:
        if name == "messages":
            parsed = [_messages(path, row, text) for row, text in enumerate(frame[name])]
            frame[name] = pd.Series(parsed, dtype=object)
        elif name in _TOKENS:
            frame[name] = frame[name].astype("Int64")
        elif frame[name].dtype == object:
            frame[name] = frame[name].astype("str")
    return frame


def _messages(path: LogPath, row: int, text: Any) -> list[Any] | None:
    """A cell as the messages that it holds; `row` counts from 0."""
    if null(text):
        return None
    try:
        found = parse_json(text)
    except (ValueError, TypeError) as error:
        raise OutcomeError(f"{path}: row {row + 1}: messages are no JSON ({error}); {_AGAIN}") from error
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise OutcomeError(
            f"{path}: row {row + 1}: messages are {str(text)[:40]!r}, where a list of messages was expected; {_AGAIN}"
        )
    return found


def _as_written(table: pa.Table, path: LogPath) -> pa.Table:
    """The table, if its columns have the kinds that an import writes; raises OutcomeError."""
    for name in table.column_names:
        arrived, written = table.schema.field(name).type, SCHEMA.field(name).type
        if pa.types.is_null(arrived) or any(kind(arrived) and kind(written) for kind in _KINDS):
            continue
        raise OutcomeError(f"{path}: column {name} is {arrived}, where {written} was expected; {_AGAIN}")
    return table


def _text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


_KINDS = (_text, pa.types.is_floating, pa.types.is_integer, pa.types.is_timestamp)


def _table(path: LogPath, columns: list[str]) -> pa.Table:
    try:
        return _as_written(pq.read_table(for_parquet(path), columns=columns, partitioning=None), path)
    except (OSError, pa.ArrowException) as error:
        raise OutcomeError(f"{path}: cannot be read ({error}); {_AGAIN}") from error
