"""What a server process shows from outside: how long its event loop is held up (see `ticker`), and its memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_PATIENCE = 120.0


@dataclass
class Stall:
    """How long the event loop was held up at most, in seconds, over `ticks` answers; known once the block has ended."""

    worst: float = float("nan")
    ticks: int = 0


@contextmanager
def ticking(port: int, process: int) -> Iterator[Stall]:
    """Asks the server that is this process, on a connection of its own, while the block runs."""
    stall = Stall()
    command = [sys.executable, "-I", str(Path(__file__).with_name("ticker.py")), str(port), str(process)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as ticker:
        assert ticker.stdout is not None
        assert ticker.stdout.readline() == "ticking\n"
        try:
            yield stall
        finally:
            last, _ = ticker.communicate(timeout=_PATIENCE)
            worst, ticks = last.split()
            stall.worst, stall.ticks = float(worst), int(ticks)


def processor_seconds(pid: int) -> float:
    """The processor time that a process has taken so far, all its threads together, from Linux's /proc."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    user, system = (int(ticks) for ticks in after_name[11:13])
    return (user + system) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """A process's resident memory, from Linux's /proc."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
