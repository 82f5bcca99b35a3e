"""A log of any size as a dataset on disk: the outcome table in Parquet files, what was skipped, and the account of it.

The folder is a log itself (`--data folder`): canonical, checked, without repeats, one file for one partition.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from serving.bundle.atomic_write import written_folder
from training.errors import NO_ROOM, NoRoomError
from training.logs.cells import json_text
from training.logs.objects import listing
from training.logs.objects.importing import ObjectDraft, imported_into
from training.logs.objects.path import LogPath, ObjectPath
from training.logs.outcomes import COLUMNS, OutcomeError, Outcomes

# Names that begin with _ are not data to whoever reads a folder of Parquet files, here as elsewhere.
ACCOUNT = listing.ACCOUNT
_SKIPPED = "_skipped"
_PART = "part-"
FORMAT_VERSION = 1
_ENOUGH = 10_000  # rows that are worth a file of their own
SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("prompt", pa.string()),
        ("messages", pa.string()),  # JSON: conversations have no common structure
        ("candidate", pa.string()),
        ("quality", pa.float64()),
        ("quality_source", pa.string()),
        ("cost_usd", pa.float64()),
        ("input_tokens", pa.int64()),
        ("output_tokens", pa.int64()),
        ("latency_ms", pa.float64()),
        ("timestamp", pa.timestamp("us", "UTC")),
        ("session_id", pa.string()),
        ("workflow", pa.string()),
        ("propensity", pa.float64()),
        ("purpose", pa.string()),
        ("status", pa.string()),
        ("split", pa.string()),
    ]
)


@dataclass
class ImportAccount:
    """What an import read and wrote: always `rows_read` = `rows_used` + the sum of `skipped`, which is by reason.

    `cost_usd`, `input_tokens` and `output_tokens` are sums over the rows used. `files` has the rows of each. `redacted`
    says how much of each kind was masked; None where nothing was looked for. `notes`: what importers had to decide.
    """

    sources: list[str]
    formats: list[str] = field(default_factory=list)
    rows_read: int = 0
    rows_used: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    cost_usd: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    redacted: Mapping[str, int] | None = None
    files: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    format_version: int = FORMAT_VERSION

    def add(self, part: Outcomes) -> None:
        """Counts a partition."""
        self.formats += [name for name in part.formats if name not in self.formats]
        self.notes += [note for note in part.notes if note not in self.notes]
        self.rows_read += part.rows_read
        self.rows_used += len(part.frame)
        self.skipped = dict((Counter(self.skipped) + Counter(part.reasons)).most_common())
        self.cost_usd = math.fsum([self.cost_usd, *part.frame["cost_usd"].dropna()])
        self.input_tokens += int(part.frame["input_tokens"].sum())
        self.output_tokens += int(part.frame["output_tokens"].sum())


def store(
    parts: Iterable[Outcomes],
    folder: LogPath,
    account: ImportAccount,
    progress: Callable[[int], None] | None = None,
    rows: int | None = None,
) -> None:
    """Writes the parts, one at a time, into a new folder, and fills the account, which is written beside them.

    Parts go into one file until they have so many `rows`, by default enough to be worth one.

    The folder is written under another name and renamed when all of it is there; one of an object store is an import when its
    account is there, which is written last. `progress` gets the rows read so far. Raises OutcomeError where the folder exists,
    ObjectStoreError where that is on an object store, or cannot be written there, NoRoomError where the disk is full.
    """
    with imported_into(folder) if isinstance(folder, ObjectPath) else _new_folder(folder) as draft:
        waiting: list[pd.DataFrame] = []
        for part in parts:
            account.add(part)
            _append(part.skipped, draft.folder / _named(_SKIPPED, draft, ".csv"))
            waiting.append(part.frame)
            if sum(map(len, waiting)) >= (_ENOUGH if rows is None else rows):
                _write(waiting, draft, account)
                waiting = []
            if progress is not None:
                progress(account.rows_read)
        _write(waiting, draft, account)
        told = json.dumps(asdict(account), indent=1)
        if isinstance(draft, ObjectDraft):
            if (skipped := draft.folder / _named(_SKIPPED, draft, ".csv")).exists():
                draft.send(skipped)
            draft.end(told.encode())
        else:
            (draft.folder / ACCOUNT).write_text(told, encoding="utf-8")


@dataclass(frozen=True)
class _NewFolder:
    """Where the files of an import are written that is renamed when all are there."""

    folder: Path


def skipped_in(account: ImportAccount) -> str:
    """The name of the file with the rows that were skipped, if any were: it ends as the parts of the import do."""
    own = next(iter(account.files), "").removeprefix(f"{_PART}{0:05}").removesuffix(".parquet")
    return f"{_SKIPPED}{own}.csv"


def _named(stem: str, draft: _NewFolder | ObjectDraft, suffix: str) -> str:
    """A file's name, on an object store with what no other import's has."""
    return f"{stem}-{draft.token}{suffix}" if isinstance(draft, ObjectDraft) else f"{stem}{suffix}"


@contextmanager
def _new_folder(folder: Path) -> Iterator[_NewFolder]:
    if folder.exists():
        raise OutcomeError(f"{folder} exists already; an import is never overwritten. Remove it, or give another --out")
    try:
        with written_folder(folder, mode=0o700) as draft:  # it holds prompts
            yield _NewFolder(draft)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise NoRoomError(
            f"{folder}: cannot be written ({os.strerror(error.errno)}); what was written of it is removed. Make room, or give "
            "another place: --out of import, --cache of run"
        ) from error


def _write(frames: list[pd.DataFrame], draft: _NewFolder | ObjectDraft, account: ImportAccount) -> None:
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))
    if frame.empty:
        return
    name = _named(f"{_PART}{len(account.files):05}", draft, ".parquet")
    as_text = frame.assign(messages=frame["messages"].map(json_text, na_action="ignore"))
    table = pa.Table.from_pandas(as_text, SCHEMA, preserve_index=False)
    pq.write_table(table, draft.folder / name, compression="zstd")
    if isinstance(draft, ObjectDraft):
        draft.send(draft.folder / name)
    account.files[name] = len(frame)


def _append(skipped: pd.DataFrame, path: Path) -> None:
    if len(skipped):
        skipped.to_csv(path, mode="a", header=not path.exists(), index=False)
