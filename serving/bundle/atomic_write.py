"""Files, folders and links that are there whole or not at all, however the process ends."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_DRAFT = re.compile(r"\.(?P<of>.+)\.[0-9a-f]{8}", re.DOTALL)


@contextmanager
def for_its_owner() -> Iterator[None]:
    """What is made in the block is its owner's alone, for it holds prompts. The whole process's umask is changed so long."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def written_whole(final: Path) -> Iterator[Path]:
    """A name beside `final` for a file, folder or link, which is renamed to `final` when the block ends.

    A block that raises leaves `final` as it was. A file is on the disk before it is renamed. Over a folder that is there
    and not empty nothing is renamed: OSError.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    draft = final.with_name(f".{final.name}.{secrets.token_hex(4)}")
    try:
        yield draft
        if draft.is_file():
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        draft.replace(final)
    except BaseException:
        if draft.is_dir() and not draft.is_symlink():
            shutil.rmtree(draft, ignore_errors=True)
        else:
            draft.unlink(missing_ok=True)
        raise


@contextmanager
def written_folder(final: Path, mode: int = 0o777) -> Iterator[Path]:
    """As `written_whole`, with the folder made, in that mode; drafts of it that a killed process left are removed first."""
    remove_drafts(final.parent, final.name)
    with ExitStack() as held, written_whole(final) as draft:
        while True:
            draft.mkdir(mode=mode, exist_ok=True)
            lock = held.enter_context(_opened(draft))
            _lock(lock)
            if draft.exists() and os.path.samestat(os.fstat(lock), draft.stat()):
                break  # else somebody took it for a left-over before it was locked
        yield draft


def remove_drafts(root: Path, of: str | None = None, older: float = 0.0) -> None:
    """Removes drafts of folders in `root`, or of the one of a name, that no process writes any more: a `written_folder` is
    locked (flock) as long as it is written. Only those that nobody touched for `older` seconds; where the file system has no
    locks, none."""
    for path in list(root.iterdir()) if root.is_dir() else ():
        named = _DRAFT.fullmatch(path.name)
        if named is None or of not in (None, named["of"]) or path.is_symlink() or not path.is_dir():
            continue
        try:
            with _opened(path) as lock:
                untouched = time.time() - os.fstat(lock).st_mtime
                if os.fstat(lock).st_uid == os.geteuid() and untouched >= older and _lock(lock):
                    shutil.rmtree(path, ignore_errors=True)
        except FileNotFoundError:  # finished, or removed, meanwhile
            continue


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield opened
    finally:
        os.close(opened)


def _lock(opened: int) -> bool:
    """Whether nobody else holds it and the file system has locks."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def switch_link(root: Path, name: str, version: str) -> None:
    """Points `root/name` at `root/version`, atomically: a symbolic link is made beside it and renamed over it."""
    with written_whole(root / name) as link:
        link.symlink_to(version, target_is_directory=True)
