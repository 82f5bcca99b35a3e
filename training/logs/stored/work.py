"""The folder that a log is imported into while it is trained on: it is removed at the end, and found again after a crash.

`imports/<key>/` has the import (`log`) and a file that is locked (flock) as long as a run works with it: another run of the
same log imports into a folder of its own, and what is left and locked by nobody is removed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from training.errors import TrainingError
from training.logs.dataset import ImportAccount, store
from training.logs.objects.path import LogPath, log_path
from training.logs.outcomes import Outcomes
from training.logs.stored.rows import StoredLog, open_stored
from training.owned import own_folder, require_own

# Bytes that an import takes for each byte of a log.
_PACKED, _TEXT, _PARQUET = 4.0, 1.0, 1.5
_LOG, _LOCK, _ONCE = "log", "lock", "once-"
# An import that was left whole is gone on from for so long: a log that grows is never asked for again as it was.
_KEPT_SECONDS = 7 * 86_400.0


class DiskTooSmallError(TrainingError):
    """A log that is imported to be trained on, and no room for it: says where, and how much it takes."""


class WorkFolder:
    """Where a log is imported to (`path`); with `again` the same log and options find it again.

    It is this run's alone from `there`, where that finds something, or `require_room` on, until `until_done` ends or `release`.
    """

    def __init__(self, folder: Path, takes: float, again: bool) -> None:
        self.folder, self.takes, self.again = folder, takes, again
        self._lock: int | None = None
        self._told = ""

    @property
    def path(self) -> Path:
        return self.folder / _LOG

    def there(self) -> StoredLog | None:
        """The import, if an earlier run that did not come to its end left it whole and no other run works with it. What runs
        that were killed left of others is removed.

        Raises NotOwnError where somebody else may have put it there: its name can be worked out by whoever sees the log.
        """
        if not os.path.lexists(self.folder.parent):
            return None
        remove_left_over(own_folder(self.folder.parent, private=True))
        if not self.again or not os.path.lexists(self.folder):
            return None
        if not self._held():
            self._beside()
            return None
        for file in self.path.iterdir():
            require_own(file, private=True)
        found = open_stored(self.path)
        if found is None:
            self._told = "what an earlier run left of it is damaged and was removed; "
            self._remove()
        return found

    def require_room(self) -> str:
        """How much disk it takes, in a sentence; raises DiskTooSmallError where that is not there, NotOwnError as `there`."""
        imports = own_folder(self.folder.parent, private=True)
        free = shutil.disk_usage(imports).free
        if self.takes > free:
            raise DiskTooSmallError(
                f"{imports}: the log is imported there to be trained on and takes about {self.takes / 1e9:.1f} GB, "
                f"{free / 1e9:.1f} GB are free. Give another place (--cache), or import the log where there is room: "
                "router-train import --out FOLDER, and run --data FOLDER"
            )
        if not self._held() or self.path.exists():  # another run's, or made by one since it was asked for
            self.release()
            self._beside()
            self._held()
        takes = f"about {self.takes / 1e9:.1f} GB" if self.takes else "as much as it is long"
        return f"{self._told}imported into {self.folder} while it is trained on ({takes} of disk; {free / 1e9:.1f} GB are free)"

    def imported(
        self, parts: Iterable[Outcomes], account: ImportAccount, progress: Callable[[int], None], rows: int
    ) -> StoredLog:
        """The parts, imported as `store` does; what raises leaves nothing there."""
        try:
            store(parts, self.path, account, progress, rows)
        except BaseException:
            self._remove()
            raise
        return StoredLog(self.path, account)

    @contextmanager
    def until_done(self) -> Iterator[None]:
        """Removes it at the end of the block; where that raises it stays, if it will be found again."""
        done = False
        try:
            yield
            done = True
        finally:
            if done or not self.again:
                self._remove()
            self.release()

    @contextmanager
    def released_if_raised(self) -> Iterator[None]:
        """What raises in the block leaves it for another run."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    def release(self) -> None:
        """From here on another run may work with it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _held(self) -> bool:
        """Whether it is this run's alone now; it is made where it is not there."""
        while self._lock is None:
            own_folder(self.folder, private=True)
            try:
                self._lock = _locked(self.folder)
            except FileNotFoundError:  # removed as a left-over meanwhile
                continue
            if self._lock is None:
                return False
        return True

    def _beside(self) -> None:
        self._told = (
            f"another run works with {self.folder}, or it cannot be locked: this one has an import of its own; "
        )
        self.folder, self.again = self.folder.with_name(f"{_ONCE}{secrets.token_hex(12)}"), False

    def _remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()


def remove_left_over(imports: Path) -> None:
    """Removes what no run works with any more: what was not finished, what nobody can find again, and what is old."""
    for folder in sorted(imports.iterdir()):
        told = folder.lstat()
        if not stat.S_ISDIR(told.st_mode) or told.st_uid != os.geteuid():
            continue
        try:
            lock = _locked(folder)
        except FileNotFoundError:  # its own run has removed it
            continue
        if lock is None:
            continue
        log = folder / _LOG
        if folder.name.startswith(_ONCE) or not log.is_dir() or time.time() - log.stat().st_mtime > _KEPT_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked(folder: Path) -> int | None:
    """The open file by whose lock the folder is held; None where another process holds it, or where nobody can hold one.

    Raises FileNotFoundError where it was removed meanwhile.
    """
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(lock), (folder / _LOCK).stat()):
            return lock
    except BlockingIOError:
        os.close(lock)
        return None
    except OSError as error:
        os.close(lock)
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return None  # a file system without locks: nobody knows, so nothing is shared or removed
    os.close(lock)
    raise FileNotFoundError(folder / _LOCK)


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
    name = key if again else f"{_ONCE}{secrets.token_hex(12)}"
    return WorkFolder(cache / "imports" / name, sum(_grows(file) * file.stat().st_size for file in files), again)


def _grows(file: LogPath) -> float:
    suffix = file.suffix.lower()
    return _PACKED if suffix == ".gz" else _PARQUET if suffix == ".parquet" else _TEXT
