"""What all parts of a stage share, in a folder that every worker sees: large arrays as .npy files that are mapped, not read.

A task carries the path alone. An array that was written is found again for as long as it is in use, so that several stages
share one file; the file goes when the array does.
"""

from __future__ import annotations

import io
import pickle
import weakref
from functools import lru_cache
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np

from serving.bundle.atomic_write import written_whole
from training.owned import made_own, opened_own, require_own

# Smaller arrays travel in the file of what they are part of.
_LARGE = 65_536
# What a worker keeps open of earlier stages.
_OPEN = 2
ANOTHER_FOLDER = "or give another folder (--cluster-folder)"


class SharedFiles:
    """Writes into `folder`, which is there already and is its owner's alone, as are the files. What `keeps` is left for
    another process."""

    def __init__(self, folder: Path, *, keeps: bool = False) -> None:
        self.folder, self._keeps = folder, keeps
        self._known: dict[int, tuple[weakref.ref[Any], Path]] = {}

    def put(self, value: object) -> Path:
        """The file of a value, whose arrays somebody holds as long as it is read; it stays until `remove`."""
        path = self.folder / f"{token_hex(8)}.given"
        with written_whole(path) as draft, made_own(draft) as file:
            _Writing(file, self).dump(value)
        return path

    def remove(self, path: Path) -> None:
        """Takes away what `put` wrote, but not the arrays, which others may share."""
        path.unlink(missing_ok=True)

    def packed(self, value: object) -> bytes:
        """A value as what is sent of it: its large arrays are left as files."""
        buffer = io.BytesIO()
        _Writing(buffer, self).dump(value)
        return buffer.getvalue()

    def unpacked(self, sent: bytes) -> Any:
        """What was `packed`, once: its files go with its arrays."""
        return _Reading(io.BytesIO(sent), self.folder, once=True).load()

    def array(self, array: np.ndarray[Any, Any]) -> Path:
        """The file of an array."""
        reference, path = self._known.get(id(array), (None, Path()))
        if reference is not None and reference() is array:
            return path
        path = self.folder / f"{token_hex(8)}.npy"
        draft = path.with_suffix(".draft")
        with made_own(draft) as file:
            np.save(file, array, allow_pickle=False)
        draft.replace(path)
        self._known[id(array)] = (weakref.ref(array), path)
        if not self._keeps:
            weakref.finalize(array, path.unlink, missing_ok=True).atexit = False
        return path


@lru_cache(_OPEN)
def opened(path: Path) -> Any:
    """What `put` wrote; its large arrays are mapped, and a change to one stays with who makes it.

    Unpickling runs what the file says: raises NotOwnError where somebody else may have written it, or put it there.
    """
    with opened_own(path, instead=ANOTHER_FOLDER) as file:
        return _Reading(file, path.parent).load()


class _Writing(pickle.Pickler):
    def __init__(self, file: Any, files: SharedFiles) -> None:
        super().__init__(file, protocol=5)
        self._files = files

    def persistent_id(self, obj: Any) -> str | None:
        if type(obj) is np.ndarray and obj.nbytes >= _LARGE and not obj.dtype.hasobject:
            return self._files.array(obj).name
        return None


class _Reading(pickle.Unpickler):
    """Pickles that this run wrote, for workers that run what it sends them in any case."""

    def __init__(self, file: Any, folder: Path, *, once: bool = False) -> None:
        super().__init__(file)
        self._folder, self._once = folder, once

    def persistent_load(self, pid: Any) -> Any:
        path = self._folder / pid
        if not self._once:
            require_own(path, private=True, instead=ANOTHER_FOLDER)
            return np.load(path, mmap_mode="c", allow_pickle=False).view(np.ndarray)
        with opened_own(path, instead=ANOTHER_FOLDER) as file:
            found = np.load(file, allow_pickle=False)
        path.unlink()
        return found
