"""Opening log files: suffixes, gzip, and the text formats, with every record that could not be read accounted for."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ijson  # type: ignore[import-untyped]
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from training.logs.cells import parse_json, replace_surrogates, shown
from training.logs.io.unpacked import Unpacked
from training.logs.objects.address import ObjectStoreError
from training.logs.objects.path import LogPath, for_parquet, in_order
from training.logs.outcomes import OutcomeError, Unreadable

LINES = (".jsonl", ".ndjson")
TEXT = (*LINES, ".json", ".csv")
SUFFIXES = (".parquet", *TEXT)
_HEAD_BYTES = 1 << 20
_CHUNK = 1 << 16
_BUFFER = 1 << 20
_WHOLE_ARRAY = 64 << 20
# How much goes into one partition.
_RECORDS, _BYTES = 20_000, 64 << 20
# Above any cell that fits in memory; the standard limit of 128 KiB is shorter than a long prompt.
_LONGEST_CELL = 2**31 - 1

Row = dict[str, Any]


class Records(NamedTuple):
    """A partition of a file: cells as they arrived, each row's 1-based line (JSON array: item), and what was unreadable."""

    table: pd.DataFrame
    rows: list[int]
    unreadable: list[Unreadable]

    def numbered(self) -> Iterator[tuple[int, Row]]:
        """Each row's number, and its cells by the names of their columns."""
        names = [str(name).strip() for name in self.table.columns]
        columns = [self.table.iloc[:, place].astype(object).tolist() for place in range(len(names))]
        cells = zip(*columns, strict=True) if names else ((),) * len(self.rows)
        return ((row, dict(zip(names, line, strict=True))) for row, line in zip(self.rows, cells, strict=True))


def kind(path: LogPath) -> str:
    """The suffix that says the format, in lower case and without .gz: ".csv" for "log.CSV.gz"; "" if there is none."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] == ".gz":
        return suffixes[-2] if len(suffixes) == 2 and suffixes[-2] in TEXT else ""
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else ""


def stem(path: LogPath) -> str:
    """The file's name without its format and without .gz."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).stem


def in_folder(folder: LogPath) -> list[LogPath]:
    """The files in a folder that look like logs and are not hidden or empty, by name; [] where there is no folder."""
    below = in_order(folder.iterdir()) if folder.is_dir() else []
    return [file for file in below if is_data(file) and file.stat().st_size]


def is_data(path: LogPath) -> bool:
    """Whether a path is a file that by its name may be a log."""
    return bool(kind(path)) and not path.name.startswith((".", "_")) and path.is_file()


def head_text(path: LogPath) -> str:
    """The first megabyte of a text file, unpacked, without a byte order mark; undecodable bytes become U+FFFD."""
    return _head(path).decode("utf-8-sig", "replace")


def head_records(path: LogPath) -> list[Row]:
    """The first records in the first megabyte of a text file (CSV: one, with text cells); [] if none is readable."""
    suffix = kind(path)
    text = head_text(path)
    if suffix == ".csv":
        with _long_cells():
            rows = [row for row, _ in zip(csv_rows(text), range(2), strict=False)]
        if not rows:
            return []
        cells = rows[1] if len(rows) > 1 else []
        return [dict(zip(rows[0], [*cells, *[""] * len(rows[0])], strict=False))]
    if suffix == ".json" and text.lstrip().startswith("["):
        return _first_item(text)
    lines = (line for line in text.splitlines() if line.strip())
    parsed = (_parse_or_none(line) for line, _ in zip(lines, range(20), strict=False))
    return [record for record in parsed if isinstance(record, dict)]


def head_objects(path: LogPath) -> list[Row]:
    """The first records of a file of JSON objects; [] for any other file."""
    return head_records(path) if kind(path) in (*LINES, ".json") else []


def columns(path: LogPath) -> frozenset[str]:
    """The names of the columns, from the head of the file; empty when it cannot be told."""
    if kind(path) == ".parquet":
        try:
            return frozenset(pq.read_schema(for_parquet(path)).names)
        except pa.ArrowException:
            return frozenset()
    return frozenset(str(name).strip() for record in head_records(path) for name in record)


def shown_columns(path: LogPath) -> str:
    """The names of the first columns, shortened, for an error message: in a file without a header they are data."""
    return ", ".join(shown(name, phrase=True) for name in sorted(columns(path))[:20]) or "no readable record"


def partitions(path: LogPath, wanted: frozenset[str] | None = None) -> Iterator[Records]:
    """The records of a file in order, some at a time: at most about 20,000 records or 64 MB of text in each.

    Only the `wanted` fields are kept, if given. There is at least one partition, if without a record. A JSON array is
    parsed whole up to 64 MB; a larger one is streamed, by a parser that takes neither NaN nor half a surrogate pair.
    Raises OutcomeError when the file cannot be opened or, in the middle of it, when the format survives no damage.
    """
    yield from _read_parquet(path, wanted) if kind(path) == ".parquet" else _read_text(path, wanted)


@dataclass
class _Partition:
    """What has been read of a partition so far; `bytes` is the size of its text, roughly."""

    found: list[Any] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    bytes: int = 0

    @property
    def full(self) -> bool:
        return len(self.found) + len(self.unreadable) >= _RECORDS or self.bytes >= _BYTES

    def keep(self, row: int, record: Any) -> None:
        self.found.append(record)
        self.rows.append(row)

    def refuse(self, row: int, arrived: str, expected: str) -> None:
        self.unreadable.append(Unreadable(row, "unreadable line", arrived, expected))

    def lose_rest(self, row: int, damage: str) -> None:
        """The end of the file is damaged, from this row on."""
        if damage:
            expected = "a gzip file with its end; the records before this were kept"
            self.unreadable.append(Unreadable(row, "truncated gzip", damage, expected))


def _read_text(path: LogPath, wanted: frozenset[str] | None) -> Iterator[Records]:
    with closing(Unpacked(path)) as raw:
        source = io.BufferedReader(raw, _BUFFER)
        if kind(path) == ".csv":
            yield from _read_csv(source, raw, wanted)
        elif kind(path) == ".json" and source.peek(_CHUNK).lstrip().startswith(b"["):
            yield from _read_array(path, source, raw, wanted)
        else:
            yield from _read_lines(source, raw, wanted)


def _read_parquet(path: LogPath, wanted: frozenset[str] | None) -> Iterator[Records]:
    try:
        with pq.ParquetFile(for_parquet(path), buffer_size=_BUFFER) as file:
            names = [name for name in file.schema_arrow.names if wanted is None or name.strip() in wanted]
            groups = [file.metadata.row_group(place) for place in range(file.metadata.num_row_groups)]
            width = sum(group.total_byte_size for group in groups) / max(file.metadata.num_rows, 1)
            count = max(1, min(_RECORDS, int(_BYTES / max(width, 1.0))))
            start, waiting, rows = 0, [], 0
            for batch in file.iter_batches(count, columns=names):
                waiting.append(batch)
                rows += batch.num_rows
                if rows >= count or sum(part.nbytes for part in waiting) >= _BYTES:
                    yield _numbered(_frame(pa.Table.from_batches(waiting)), start)
                    start, waiting, rows = start + rows, [], 0
            if waiting or not start:
                schema = pa.schema([column for column in file.schema_arrow if column.name in names])
                yield _numbered(_frame(pa.Table.from_batches(waiting, None if waiting else schema)), start)
    except pa.ArrowException as error:
        raise OutcomeError(
            f"{path}: not a readable Parquet file ({error}); write it again, or give JSONL or CSV"
        ) from error


def _frame(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas(ignore_metadata=True) if table.num_columns else pd.DataFrame(index=range(table.num_rows))


def _numbered(frame: pd.DataFrame, start: int) -> Records:
    return Records(frame, list(range(start + 1, start + len(frame) + 1)), [])


def _read_lines(source: io.BufferedReader[Unpacked], raw: Unpacked, wanted: frozenset[str] | None) -> Iterator[Records]:
    part, number = _Partition(), 0
    for line in source:
        if raw.damage and not line.endswith(b"\n"):
            break
        number += 1
        part.bytes += len(line)
        line = line.strip()
        if not line:
            continue
        record = _parse_or_none(line)
        if isinstance(record, dict):
            part.keep(number, record)
        else:
            part.refuse(number, f"a line of {len(line)} bytes", "one JSON object per line")
        if part.full:
            yield _records(part, wanted)
            part = _Partition()
    part.lose_rest(number + 1, raw.damage)
    if part.bytes or part.unreadable or not number:
        yield _records(part, wanted)


def _read_array(
    path: LogPath, source: io.BufferedReader[Unpacked], raw: Unpacked, wanted: frozenset[str] | None
) -> Iterator[Records]:
    part, number, before = _Partition(), 0, 0
    try:
        for item in _items(source, raw):
            number += 1
            if isinstance(item, dict):
                part.keep(number, item)
            else:
                part.refuse(number, f"an item of type {type(item).__name__}", "a JSON object")
            part.bytes = raw.given - before
            if part.full:
                yield _records(part, wanted)
                part, before = _Partition(), raw.given
    except ObjectStoreError:
        raise
    except (ValueError, ijson.JSONError) as error:
        raise OutcomeError(
            f"{path}: expected a JSON array of objects, but it is not valid JSON ({error}); "
            "one object per line (.jsonl) survives a damaged record"
        ) from error
    part.lose_rest(number + 1, raw.damage)
    if part.found or part.unreadable or not number:
        yield _records(part, wanted)


def _items(source: io.BufferedReader[Unpacked], raw: Unpacked) -> Iterator[Any]:
    """The items of a JSON array; raises ValueError or ijson.JSONError."""
    data = source.read(_WHOLE_ARRAY + 1)
    if len(data) <= _WHOLE_ARRAY:
        yield from parse_json(data[: data.rfind(b"\n") + 1] if raw.damage else data)
        return
    raw.rewind()
    yield from ijson.items(io.BufferedReader(raw, _BUFFER), "item", use_float=True)


def _read_csv(source: io.BufferedReader[Unpacked], raw: Unpacked, wanted: frozenset[str] | None) -> Iterator[Records]:
    apart = _delimiter(source.peek(_BUFFER).decode("utf-8", "replace"))
    text = io.TextIOWrapper(source, "utf-8", "replace", newline="")
    reader = csv.reader((line for line in text if not raw.damage or line.endswith("\n")), delimiter=apart)
    with _long_cells():
        header = [name.strip() for name in next((row for row in reader if row), [])]
    keep = [place for place, name in enumerate(header) if wanted is None or name in wanted]
    kept = list(dict.fromkeys(header[place] for place in keep))
    more, first = True, True
    while more:
        with _long_cells():
            more, part = _next_cells(reader, len(header), keep)
        if not more:
            part.lose_rest(reader.line_num + 1, raw.damage)
        if part.found or part.unreadable or first:
            by_column = zip(*part.found, strict=True) if part.found else [[] for _ in keep]
            cells = {header[place]: list(column) for place, column in zip(keep, by_column, strict=True)}
            table = pd.DataFrame(cells, index=range(len(part.found)), columns=kept, dtype=object)
            yield Records(table, part.rows, part.unreadable)
        first = False


def _next_cells(reader: Any, width: int, keep: list[int]) -> tuple[bool, _Partition]:
    """The next rows of a CSV file, the cells to `keep` of each, and whether there may be more."""
    part, last = _Partition(), reader.line_num
    for row in reader:
        start, last = last + 1, reader.line_num
        if len(row) == width:
            part.keep(start, [row[place] for place in keep])
            part.bytes += sum(map(len, row))
        elif row:
            part.refuse(start, f"{len(row)} cells in {last - start + 1} lines", f"{width} cells")
        if part.full:
            return True, part
    return False, part


def _records(part: _Partition, wanted: frozenset[str] | None) -> Records:
    """Parsed objects as a table, with the wanted fields of them."""
    names = dict.fromkeys(name for record in part.found for name in record)
    kept = [name for name in names if wanted is None or name.strip() in wanted]
    # dtype=object: inference would turn large identifiers into floats wherever one is missing.
    columns = {
        replace_surrogates(name): pd.Series([record.get(name) for record in part.found], dtype=object) for name in kept
    }
    return Records(pd.DataFrame(columns, index=range(len(part.found))), part.rows, part.unreadable)


def _parse_or_none(line: bytes | str) -> Any:
    try:
        return parse_json(line)
    except ValueError:
        return None


def _first_item(text: str) -> list[dict[str, Any]]:
    start = text.find("{")
    if start < 0:
        return []
    try:
        item, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return []
    return [item]


def csv_rows(text: str) -> Iterator[list[str]]:
    return (row for row in csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text)) if row)


def _delimiter(text: str) -> str:
    """What separates the cells: a comma, or where the header has none the semicolon or tabulator that it has."""
    header = next((line for line in text.lstrip("\ufeff").splitlines() if line.strip()), "")
    return "," if "," in header else next((one for one in (";", "\t") if one in header), ",")


@contextmanager
def _long_cells() -> Iterator[None]:
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _head(path: LogPath) -> bytes:
    try:
        with closing(Unpacked(path)) as raw:
            return io.BufferedReader(raw).read(_HEAD_BYTES)
    except OutcomeError:  # not gzip in spite of its name: reading it says so
        return b""
