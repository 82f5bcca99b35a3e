"""Opening log files: suffixes, gzip, and the text formats, with every record that could not be read accounted for."""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from training.coerce import parse_json
from training.outcomes import OutcomeError, Unreadable

LINES = (".jsonl", ".ndjson")
TEXT = (*LINES, ".json", ".csv")
SUFFIXES = (".parquet", *TEXT)
_HEAD_BYTES = 1 << 20
_CHUNK = 1 << 16
# Above any cell that fits in memory; the standard limit of 128 KiB is shorter than a long prompt.
_LONGEST_CELL = 2**31 - 1


class Records(NamedTuple):
    """A parsed file: cells as they arrived, each row's 1-based line (JSON array: item), and what was unreadable."""

    table: pd.DataFrame
    rows: list[int]
    unreadable: list[Unreadable]


def kind(path: Path) -> str:
    """The suffix that says the format, in lower case and without .gz: ".csv" for "log.CSV.gz"; "" if there is none."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] == ".gz":
        return suffixes[-2] if len(suffixes) == 2 and suffixes[-2] in TEXT else ""
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else ""


def stem(path: Path) -> str:
    """The file's name without its format and without .gz."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).stem


def head_text(path: Path) -> str:
    """The first megabyte of a text file, unpacked, without a byte order mark; undecodable bytes become U+FFFD."""
    return _head(path).decode("utf-8-sig", "replace")


def head_records(path: Path) -> list[dict[str, Any]]:
    """The first records in the first megabyte of a text file (CSV: one, with text cells); [] if none is readable."""
    suffix = kind(path)
    text = head_text(path)
    if suffix == ".csv":
        with _long_cells():
            rows = [row for row, _ in zip(_csv_rows(text), range(2), strict=False)]
        if not rows:
            return []
        cells = rows[1] if len(rows) > 1 else []
        return [dict(zip(rows[0], [*cells, *[""] * len(rows[0])], strict=False))]
    if suffix == ".json" and text.lstrip().startswith("["):
        return _first_item(text)
    lines = (line for line in text.splitlines() if line.strip())
    parsed = (_parse_or_none(line) for line, _ in zip(lines, range(20), strict=False))
    return [record for record in parsed if isinstance(record, dict)]


def columns(path: Path) -> frozenset[str]:
    """The names of the columns, from the head of the file; empty when it cannot be told."""
    if kind(path) == ".parquet":
        try:
            return frozenset(pq.read_schema(path).names)
        except pa.ArrowException:
            return frozenset()
    return frozenset(str(name).strip() for record in head_records(path) for name in record)


def shown_columns(path: Path) -> str:
    """The names of the first columns, shortened, for an error message: in a file without a header they are data."""
    return ", ".join(name[:40] for name in sorted(columns(path))[:20]) or "no readable record"


def partitions(path: Path, wanted: frozenset[str] | None = None) -> Iterator[Records]:
    """The records of a file (only the `wanted` fields of them, if given), some at a time; raises OutcomeError."""
    yield read_records(path, wanted)


def read_records(path: Path, wanted: frozenset[str] | None = None) -> Records:
    """Parse a whole file (only the `wanted` fields of it, if given); raises OutcomeError when it cannot be opened."""
    suffix = kind(path)
    if suffix == ".parquet":
        return _read_parquet(path, wanted)
    data, damage = _read_bytes(path)
    if suffix == ".csv":
        records = _read_csv(data, wanted)
    elif suffix == ".json" and data.lstrip().startswith(b"["):
        records = _read_array(path, data, wanted)
    else:
        records = _read_lines(data, wanted)
    if not damage:
        return records
    line = data.count(b"\n") + 1
    lost = Unreadable(line, "truncated gzip", damage, "a gzip file with its end; the records before this were kept")
    return records._replace(unreadable=[*records.unreadable, lost])


def _read_parquet(path: Path, wanted: frozenset[str] | None) -> Records:
    try:
        present = pq.read_schema(path).names
        table = pq.read_table(path, columns=[name for name in present if wanted is None or name in wanted])
        frame = table.to_pandas() if table.num_columns else pd.DataFrame(index=range(table.num_rows))
    except pa.ArrowException as error:
        raise OutcomeError(
            f"{path}: not a readable Parquet file ({error}); write it again, or give JSONL or CSV"
        ) from error
    for name in present:  # an error about missing columns has to name the ones that did arrive
        if name not in frame.columns:
            frame[name] = None
    return Records(frame, list(range(1, len(frame) + 1)), [])


def _read_lines(data: bytes, wanted: frozenset[str] | None) -> Records:
    found: list[dict[str, Any]] = []
    rows: list[int] = []
    unreadable: list[Unreadable] = []
    for number, line in enumerate(io.BytesIO(data), start=1):
        line = line.strip()
        if not line:
            continue
        record = _parse_or_none(line)
        if isinstance(record, dict):
            found.append(record if wanted is None else _only(record, wanted))
            rows.append(number)
        else:
            unreadable.append(
                Unreadable(number, "unreadable line", f"a line of {len(line)} bytes", "one JSON object per line")
            )
    return Records(_table(found), rows, unreadable)


def _read_array(path: Path, data: bytes, wanted: frozenset[str] | None) -> Records:
    try:
        items = parse_json(data)
    except ValueError as error:
        raise OutcomeError(
            f"{path}: expected a JSON array of objects, but it is not valid JSON ({error}); "
            "one object per line (.jsonl) survives a damaged record"
        ) from error
    found = [(n, item) for n, item in enumerate(items, start=1) if isinstance(item, dict)]
    unreadable = [
        Unreadable(n, "unreadable line", f"an item of type {type(item).__name__}", "a JSON object")
        for n, item in enumerate(items, start=1)
        if not isinstance(item, dict)
    ]
    kept = [item if wanted is None else _only(item, wanted) for _, item in found]
    return Records(_table(kept), [n for n, _ in found], unreadable)


def _read_csv(data: bytes, wanted: frozenset[str] | None) -> Records:
    cells: list[list[str]] = []
    rows: list[int] = []
    unreadable: list[Unreadable] = []
    with _long_cells():
        reader = csv.reader(io.StringIO(data.decode("utf-8", "replace"), newline=""))
        header = [name.strip() for name in next((row for row in reader if row), [])]
        keep = [place for place, name in enumerate(header) if wanted is None or name in wanted]
        last = reader.line_num
        for row in reader:
            start, last = last + 1, reader.line_num
            if len(row) == len(header):
                cells.append([row[place] for place in keep])
                rows.append(start)
            elif row:
                arrived = f"{len(row)} cells in {last - start + 1} lines"
                unreadable.append(Unreadable(start, "unreadable line", arrived, f"{len(header)} cells"))
    by_column = zip(*cells, strict=True) if cells else [[] for _ in keep]
    kept = {header[place]: list(column) for place, column in zip(keep, by_column, strict=True)}
    # The columns that were not wanted stay by name: an error about missing columns has to say what arrived.
    table = pd.DataFrame(kept, index=range(len(rows)), columns=list(dict.fromkeys(header)), dtype=object)
    return Records(table, rows, unreadable)


def _only(record: dict[str, Any], wanted: frozenset[str]) -> dict[str, Any]:
    """The wanted fields, and the others' names: an error about missing columns has to say what arrived."""
    return {name: value if name.strip() in wanted else None for name, value in record.items()}


def _table(records: list[dict[str, Any]]) -> pd.DataFrame:
    names = list(dict.fromkeys(name for record in records for name in record))
    # dtype=object: inference would turn large identifiers into floats wherever one is missing.
    columns = {name: pd.Series([record.get(name) for record in records], dtype=object) for name in names}
    return pd.DataFrame(columns, index=range(len(records)))


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


def _csv_rows(text: str) -> Iterator[list[str]]:
    return (row for row in csv.reader(io.StringIO(text, newline="")) if row)


@contextmanager
def _long_cells() -> Iterator[None]:
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_HEAD_BYTES)
    return _gunzip(data)[0][:_HEAD_BYTES] if path.suffix.lower() == ".gz" else data


def _read_bytes(path: Path) -> tuple[bytes, str]:
    """The bytes after a byte order mark, up to the last whole line of damaged gzip, and what the damage is."""
    data, damage = path.read_bytes(), ""
    if path.suffix.lower() == ".gz":
        packed = len(data)
        data, whole = _gunzip(data)
        if not whole:
            if not data:
                raise OutcomeError(
                    f"{path}: expected gzip, got {packed} bytes that are not; rename it or pack it again"
                )
            damage = f"{packed} packed bytes without an end"
            data = data[: data.rfind(b"\n") + 1]
    return data.removeprefix(b"\xef\xbb\xbf"), damage


def _gunzip(packed: bytes) -> tuple[bytes, bool]:
    """Everything that can be unpacked (members in a row are one file), and whether the end was reached."""
    parts: list[bytes] = []
    unpacker = zlib.decompressobj(wbits=31)
    position = 0
    while position < len(packed):
        if unpacker.eof:
            unpacker = zlib.decompressobj(wbits=31)
        chunk = packed[position : position + _CHUNK]
        try:
            parts.append(unpacker.decompress(chunk))
        except zlib.error:
            return b"".join(parts), False
        position += len(chunk) - len(unpacker.unused_data)
    return b"".join(parts), unpacker.eof
