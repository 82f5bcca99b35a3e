"""What the workers of tests run: they find it by its name."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

import numpy as np

from serving.bundle.arrays import Floats
from training.logs.outcomes import OutcomeError


def total(given: Mapping[str, Floats], row: int) -> float:
    return float(given["large"][row].sum())


def mapped(given: Mapping[str, Floats], _: int) -> bool:
    """Whether the array is a file's own memory, and not a copy."""
    base = given["large"]
    while isinstance(base, np.ndarray) and base.base is not None:
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return type(base).__name__ == "mmap"


def large(_: None, value: int) -> Floats:
    return np.full((200, 200), float(value))


def unusable(_: None, part: int) -> int:
    if part == 2:
        raise OutcomeError("row 7: quality is 3, expected 0 to 1")
    return part


def at_fault(_: None, part: int) -> float:
    return 1.0 / (part - 1)


def dying_once(folder: str, part: int) -> int:
    """The first worker that gets to part 3 is killed in the middle of it."""
    if part == 3:
        try:
            descriptor = os.open(f"{folder}/died", os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return part
        os.close(descriptor)
        os.kill(os.getpid(), signal.SIGKILL)
    return part


def deadly(_: None, part: int) -> int:
    if part == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return part
