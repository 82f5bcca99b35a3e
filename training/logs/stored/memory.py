"""How much memory a run takes, how much there is, and whether a log is held in it: its requests alone say what is sampled."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from training.config import Scale
from training.errors import TrainingError

GB = 1e9
# What a run takes before it has a log; of each request that is learned from, the first 100,000 and the others; of each whose
# row is held too; and of each that is on disk. Measured with the shipped parameters and six candidates (docs/scale.md).
_BASE, _HELD, _STORED = 0.8 * GB, 2_000, 1_500
_FIRST, _OF_FIRST, _OF_OTHERS = 100_000, 46_000, 12_000
# A column for each workflow, in single precision and twice while they are put together.
_OF_CELL = 8
_SHARE = 0.75
# The share of a core from which on a log is read from disk.
_LARGE = 0.5
_LEAST = 500
_CGROUPS = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


class MemoryTooSmallError(TrainingError):
    """A core that does not fit: says what it takes, and which parameters make it smaller."""


class LargeLogError(TrainingError):
    """A log too large to be held, asked for with an option that holds it."""


@dataclass(frozen=True)
class Limits:
    """What is held: at most `core` requests are learned from, and `memory` bytes used, `given` where somebody said so."""

    scale: Scale
    memory: float
    given: bool

    @property
    def core(self) -> int:
        return self.scale.core_train + 2 * self.scale.core_measured

    def beyond(self, requests: int) -> bool:
        """Whether a log of so many requests is read from disk instead of held: one that is large beside its core, for what its
        texts take is missed then."""
        return requests > _LARGE * self.core or _learned(requests) + _HELD * requests > self.memory

    def require(self, requests: int) -> None:
        """Raises MemoryTooSmallError where the core of a log of so many requests, which is on disk, does not fit.

        Not where nobody gave a limit and all of the log is learned from: that is tried as it always was.
        """
        learned = min(requests, self.core)
        takes = max(_learned(learned), _BASE + _STORED * requests)
        if takes <= self.memory or not (self.given or requests > self.core):
            return
        fit = _fitting(self.memory)
        size = f"{takes / GB:.1f} GB"
        told = f"learning from {learned:,} of {requests:,} requests takes about {size}, and {self._there()} is less."
        if fit < _LEAST or _BASE + _STORED * requests > self.memory:
            least = max(_learned(_LEAST), _BASE + _STORED * requests)
            fewer = ": no run takes less" if fit < _LEAST else ", or fewer requests"
            raise MemoryTooSmallError(f"{told} Give at least {math.ceil(least / GB * 10) / 10:g} GB{fewer}.")
        smaller = f"--set scale.core_train={fit * 6 // 10} --set scale.core_measured={fit * 2 // 10}"
        more = "give more" if self.given else "say that there is more (--memory-gb)"
        raise MemoryTooSmallError(f"{told} Lower what is held in memory, for example {smaller}, or {more}.")

    def require_drawn(self, requests: int, learned: int, workflows: int) -> None:
        """Raises MemoryTooSmallError where what was drawn, `learned` of so many requests, does not fit with a column for each
        of so many workflows. Not where `require` would not."""
        takes = _learned(learned) + _OF_CELL * learned * workflows
        if takes <= self.memory or not (self.given or requests > self.core):
            return
        raise MemoryTooSmallError(
            f"learning from {learned:,} of {requests:,} requests with {workflows:,} workflows in training takes about "
            f"{takes / GB:.1f} GB, and {self._there()} is less. Give kinds of work as workflows, "
            "not ids of tickets or of customers, where there are more than some hundred; else lower scale.core_train and "
            "scale.core_measured, or give more memory."
        )

    def _there(self) -> str:
        given = f"--memory-gb {self.memory / GB:g}"
        return given if self.given else f"{self.memory / GB:.1f} GB, 3/4 of what is free,"


def _learned(requests: int) -> float:
    """Bytes that learning from so many requests takes."""
    first = min(requests, _FIRST)
    return _BASE + _OF_FIRST * first + _OF_OTHERS * (requests - first)


def _fitting(memory: float) -> int:
    """How many requests can be learned from in so many bytes."""
    first = min((memory - _BASE) / _OF_FIRST, _FIRST)
    return int(first + max(memory - _learned(_FIRST), 0.0) / _OF_OTHERS)


def limits(scale: Scale, memory_gb: float | None) -> Limits:
    """The limits of a run; without `memory_gb` three quarters of what is free now."""
    if memory_gb is not None and not memory_gb > 0:
        raise MemoryTooSmallError(f"--memory-gb {memory_gb:g}: expected a number above 0, as 8")
    given = memory_gb is not None
    return Limits(scale, memory_gb * GB if memory_gb is not None else _SHARE * free_bytes(), given)


def given_gb(text: str, cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """What --memory-gb says; raises MemoryTooSmallError for no number above 0, or more than this machine has."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not found > 0:
        raise MemoryTooSmallError(f"{text}: expected a number above 0, as 8")
    contained = [_number(cgroup / limit) for limit, _, _ in _CGROUPS]
    there = min([_all_bytes(), *(one for one in contained if one is not None)])
    if found * GB > there:
        raise MemoryTooSmallError(f"{text}: this machine, or the container, has {there / GB:.1f} GB")
    return found


def _all_bytes() -> float:
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def free_bytes(cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> float:
    """What memory a process can still have: what the machine has, or what its container's limit leaves."""
    free = _of_machine(meminfo)
    for limit, usage, stat in _CGROUPS:
        most, used = _number(cgroup / limit), _number(cgroup / usage)
        if most is not None and used is not None:
            # Files that were read and may be forgotten count as used there.
            free = min(free, most - used + _field(cgroup / stat, "inactive_file"))
    return max(free, 0.0)


def _of_machine(meminfo: Path) -> float:
    kilobytes = _field(meminfo, "MemAvailable:")
    return kilobytes * 1024 if kilobytes else _all_bytes()


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such limit, or "max"
        return None


def _field(path: Path, name: str) -> float:
    try:
        rows = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except OSError:
        return 0.0
    return next((float(row[1]) for row in rows if row[:1] == [name]), 0.0)


def give_back() -> None:
    """Hands freed memory back to the system: glibc keeps what many small texts took, and large arrays cannot use that."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
