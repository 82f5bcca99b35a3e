"""Whether a log is too large to hold all of it, told before it is read."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from training.logs.io import files
from training.logs.objects.path import LogPath, for_parquet, log_path

# In memory an outcome takes one to four kilobytes.
ROWS, BYTES = 500_000, 512 << 20
_UNPACKED = 4  # times the size of what is packed


def large(data: Iterable[str], rows: int = ROWS, size: int = BYTES) -> bool:
    """Whether the files and folders have more rows, by what their Parquet files say, or more bytes. URLs do not tell."""
    for path in (file for named in data for file in _files(log_path(named))):
        if files.kind(path) == ".parquet":
            try:
                metadata = pq.read_metadata(for_parquet(path))
            except (pa.ArrowException, OSError):  # reading it says what is wrong
                continue
            rows -= metadata.num_rows
            size -= sum(metadata.row_group(place).total_byte_size for place in range(metadata.num_row_groups))
        else:
            size -= path.stat().st_size * (_UNPACKED if path.suffix == ".gz" else 1)
    return rows < 0 or size < 0


def _files(path: LogPath) -> list[LogPath]:
    if path.is_dir():
        return [file for file in path.rglob("*") if files.is_data(file)]
    return [path] if path.is_file() else []
