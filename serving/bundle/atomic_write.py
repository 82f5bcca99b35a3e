"""Files, folders and links that are there whole or not at all, however the process ends."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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


def switch_link(root: Path, name: str, version: str) -> None:
    """Points `root/name` at `root/version`, atomically: a symbolic link is made beside it and renamed over it."""
    with written_whole(root / name) as link:
        link.symlink_to(version, target_is_directory=True)
