"""What one run shares, in a folder of its own below the cluster folder: locked as long as it works, removed at its end.

`run-<token>.lock` is locked (flock) beside `run-<token>`. It is not in it, for NFS keeps what is removed while it is open, and
with it the folder.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from shutil import rmtree

from training.engine.files import ANOTHER_FOLDER
from training.owned import own_folder, require_own, require_own_way

_LOCK = ".lock"
_LOCK_NAME = re.compile(r"run-[0-9a-f]{16}\.lock")
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def run_folder(cluster_folder: Path) -> Iterator[Path]:
    """A new folder (mode 0700) for the block, below `cluster_folder`, where what killed runs left is removed first.

    Raises NotOwnError where others can write in `cluster_folder` or rename a folder above it, or where it is a link. Who may
    read it is its owner's choice.
    """
    root = own_folder(cluster_folder.absolute(), instead=ANOTHER_FOLDER)
    # What workers unpickle is there, and what they send back by its files: nobody else may put another in its place.
    require_own(root, private=True, instead=ANOTHER_FOLDER)
    require_own_way(root, instead=ANOTHER_FOLDER)
    _remove_left_over(root)
    folder, lock = _begun(root)
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        _remove(folder)
        os.close(lock)


def _begun(root: Path) -> tuple[Path, int]:
    """A folder's name that nobody has, and its lock, held; where the file system has no locks nobody takes it for left over."""
    while True:
        folder = root / f"run-{token_hex(8)}"
        lock = os.open(_lock_of(folder), _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
        if _locked(lock) is not False and _is_there(_lock_of(folder), lock):
            return folder, lock
        os.close(lock)  # somebody took it for left over before it was locked


def _remove_left_over(root: Path) -> None:
    """Removes this user's run folders that no process holds any more; where the file system has no locks, none."""
    for path in sorted(root.glob("run-*.lock")):
        try:
            told = path.lstat()
            if not _LOCK_NAME.fullmatch(path.name) or not stat.S_ISREG(told.st_mode) or told.st_uid != os.geteuid():
                continue
            lock = os.open(path, _FLAGS)
        except FileNotFoundError:  # its own run has removed it
            continue
        try:
            if _locked(lock) and _is_there(path, lock):
                _remove(path.with_suffix(""))
        finally:
            os.close(lock)


def _remove(folder: Path) -> None:
    """Takes away the folder, and then its lock: what cannot be removed now is left over for the next run."""
    rmtree(folder, ignore_errors=True)
    if not os.path.lexists(folder):
        _lock_of(folder).unlink(missing_ok=True)


def _lock_of(folder: Path) -> Path:
    return folder.with_suffix(_LOCK)


def _locked(opened: int) -> bool | None:
    """Whether it is held from now on: not where another process holds it; None where the file system has no locks."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_there(path: Path, opened: int) -> bool:
    """Whether the open file still has its name."""
    try:
        return os.path.samestat(os.fstat(opened), path.lstat())
    except FileNotFoundError:
        return False
