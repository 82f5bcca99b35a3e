"""The folder that a log is imported into while it is trained on: it is removed at the end, and found again after a crash."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from training.errors import TrainingError
from training.logs.objects.path import LogPath, log_path
from training.logs.stored.rows import StoredLog, open_stored
from training.owned import own_folder, require_own

# Bytes that an import takes for each byte of a log.
_PACKED, _TEXT, _PARQUET = 4.0, 1.0, 1.5


class DiskTooSmallError(TrainingError):
    """A log that is imported to be trained on, and no room for it: says where, and how much it takes."""


@dataclass(frozen=True)
class WorkFolder:
    """Where a log is imported to; with `again` the same log and options find it again."""

    path: Path
    takes: float
    again: bool

    def there(self) -> StoredLog | None:
        """The import, if an earlier run that did not come to its end left it; raises NotOwnError where somebody else may have
        put it there, since its name can be worked out by whoever sees the log."""
        if not self.again or not os.path.lexists(self.path):
            return None
        own_folder(self.path.parent, private=True)
        own_folder(self.path, private=True)
        for file in self.path.iterdir():
            require_own(file, private=True)
        return open_stored(self.path)

    def require_room(self) -> str:
        """How much disk it takes, in a sentence; raises DiskTooSmallError where that is not there, NotOwnError as `there`."""
        own_folder(self.path.parent, private=True)
        free = shutil.disk_usage(self.path.parent).free
        if self.takes > free:
            raise DiskTooSmallError(
                f"{self.path.parent}: the log is imported there to be trained on and takes about {self.takes / 1e9:.1f} GB, "
                f"{free / 1e9:.1f} GB are free. Give another place (--cache), or import the log where there is room: "
                "router-train import --out FOLDER, and run --data FOLDER"
            )
        takes = f"about {self.takes / 1e9:.1f} GB" if self.takes else "as much as it is long"
        return f"imported into {self.path} while it is trained on ({takes} of disk; {free / 1e9:.1f} GB are free)"

    @contextmanager
    def until_done(self) -> Iterator[None]:
        """Removes it at the end of the block; where that raises it stays, if it will be found again."""
        done = False
        try:
            yield
            done = True
        finally:
            if done or not self.again:
                shutil.rmtree(self.path, ignore_errors=True)


def work_folder(sources: Sequence[str | Path], options: str, cache: Path) -> WorkFolder:
    """The folder for these sources, by their names, sizes and times and by how they are read. What a URL gives, other than one
    of an object store, has no such mark: it is imported anew each time."""
    files, again = list[LogPath](), True
    for source in sources:
        path = log_path(source)
        if path.is_dir():
            files += sorted(file for file in path.rglob("*") if file.is_file())
        elif path.is_file():
            files.append(path)
        else:
            again = False
    marks = [f"{file.resolve()}\0{file.stat().st_size}\0{file.stat().st_mtime_ns}" for file in files]
    key = hashlib.sha256("\n".join([options, *marks]).encode("utf-8", "surrogateescape")).hexdigest()[:24]
    name = key if again else secrets.token_hex(12)
    return WorkFolder(cache / "imports" / name, sum(_grows(file) * file.stat().st_size for file in files), again)


def _grows(file: LogPath) -> float:
    suffix = file.suffix.lower()
    return _PACKED if suffix == ".gz" else _PARQUET if suffix == ".parquet" else _TEXT
