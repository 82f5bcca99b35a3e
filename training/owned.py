"""Files and folders that nobody else can have written: what a run reads back from them is learned from.

Their names can be worked out, so whoever may write beside them could put others there. A name is trusted where its owner is
this user or root, and where others cannot write.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

from training.errors import TrainingError

_OTHERS, _GROUP = stat.S_IWOTH, stat.S_IWGRP
ANOTHER_CACHE = "or give another folder (--cache)"


class NotOwnError(TrainingError):
    """A file or folder that somebody else may have written; the message says whose it is and what to do."""


def own_folder(path: Path, *, private: bool = False, instead: str = ANOTHER_CACHE) -> Path:
    """The folder, made with mode 0700 unless it is there; raises NotOwnError as `require_own` does.

    A `private` one, which was never anything else, has mode 0700 afterwards.
    """
    if not os.path.lexists(path):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    require_own(path, private=private, instead=instead)
    if not path.is_dir():
        raise NotOwnError(f"{path}: a file, where a folder was expected. Remove it, {instead}")
    if private and path.stat().st_uid == os.geteuid():
        path.chmod(0o700)
    return path


def own_file(path: Path) -> Path:
    """The file, which need not be there, in an `own_folder`; raises NotOwnError."""
    own_folder(path.parent)
    if os.path.lexists(path):
        require_own(path)
    return path


def opened_own(path: Path, *, instead: str = ANOTHER_CACHE) -> BinaryIO:
    """A file that is private, in a folder that is, open for reading; raises NotOwnError, and OSError for what is not there.

    Both are looked at when they are open: what takes their names afterwards is not what is read.
    """
    folder = _opened(path.parent, os.O_DIRECTORY, instead)
    try:
        _require(path.parent, os.fstat(folder), _OTHERS | _GROUP, instead)
        file = os.fdopen(_opened(path, 0, instead, folder), "rb")
    finally:
        os.close(folder)
    try:
        _require(path, os.fstat(file.fileno()), _OTHERS | _GROUP, instead)
    except BaseException:
        file.close()
        raise
    return file


def made_own(path: Path) -> BinaryIO:
    """A new file that its owner alone can read, open for writing; raises FileExistsError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def require_own(path: Path, *, private: bool = False, instead: str = ANOTHER_CACHE) -> None:
    """Raises NotOwnError for what is not this user's or root's, or where others can write; OSError for what is not there.

    A link has to be this user's, as has what it points to. What is `private` is no link, and the group cannot write there
    either. `instead` ends the message: what else can be done than to remove it.
    """
    told = path.lstat()
    if stat.S_ISLNK(told.st_mode):
        if private:
            raise _a_link(path, "folder", instead)
        _require_owner(path, told, instead)
        path, told = path.resolve(), path.stat()
    _require(path, told, _OTHERS | _GROUP if private else _OTHERS, instead)


def require_own_way(path: Path, *, instead: str = ANOTHER_CACHE) -> None:
    """Raises NotOwnError where others could put another folder in the place of one that `path` is below: they can write beside
    it, and nothing (the sticky bit) keeps them from renaming what is not theirs."""
    for above in path.resolve().parents:
        mode = above.stat().st_mode
        if mode & _OTHERS and not mode & stat.S_ISVTX and not _shown(above / path.name).st_mode & _OTHERS:
            raise NotOwnError(
                f"{above}: others can write there (mode {stat.S_IMODE(mode):04o}), and so put another folder in the place of "
                f"{path}. Take that from them (chmod o-w, or chmod +t), {instead}"
            )


def _opened(path: Path, flags: int, instead: str, folder: int | None = None) -> int:
    """A descriptor of the file or folder, in the open `folder` where there is one; a link is not followed."""
    name, flags = path if folder is None else path.name, flags | os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=folder)
    except OSError:
        if path.is_symlink():
            raise _a_link(path, "folder" if folder is None else "file", instead) from None
        raise


def _a_link(path: Path, kind: str, instead: str) -> NotOwnError:
    return NotOwnError(
        f"{path}: a link, where a {kind} of one's own was expected: what is read there is learned from. Remove it, {instead}"
    )


def _require(path: Path, told: os.stat_result, shut_out: int, instead: str) -> None:
    """Raises NotOwnError for what the system tells of `path`, where those that are `shut_out` (bits of a mode) can write."""
    _require_owner(path, told, instead)
    if told.st_mode & shut_out and not _shown(path).st_mode & shut_out:
        raise NotOwnError(
            f"{path}: others can write there (mode {stat.S_IMODE(told.st_mode):04o}), and what is in it is learned from. If "
            f"nobody did, take that from them (chmod go-w); else remove it, {instead}"
        )


def _require_owner(path: Path, told: os.stat_result, instead: str) -> None:
    if told.st_uid in (0, os.geteuid()) or told.st_uid == _shown(path).st_uid:
        return
    raise NotOwnError(
        f"{path}: belongs to {_named(told.st_uid)}, and this is {_named(os.geteuid())}; what is in it would be learned from. "
        f"If you know what it is, make it yours (chown); else remove it, {instead}"
    )


def _shown(path: Path) -> os.stat_result:
    """What the file system says of a file that is made there now, for its owner alone: some have one owner and one mode for
    everything. Of this process's user where none can be made."""
    try:
        with TemporaryFile(dir=path.parent) as file:
            return os.fstat(file.fileno())
    except OSError:
        return os.stat_result((stat.S_IFREG | 0o600, 0, 0, 1, os.geteuid(), os.getegid(), 0, 0, 0, 0))


def _named(user: int) -> str:
    from pwd import getpwuid

    try:
        return f"user {getpwuid(user).pw_name} ({user})"
    except KeyError:
        return f"user {user}"
