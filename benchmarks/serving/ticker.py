"""Asks a server for /healthz again and again on one connection, until its standard input ends, and says the worst answer.

It is a program of its own that imports next to nothing: nothing that a test does can hold it up. Its arguments are a port
and the server's process id; its last line is the worst, in seconds, and how often it asked.

How long an answer took is the lesser of two: the time that passed less what the server's threads and this program waited for
a processor in it, and the processor time that the server's threads used meanwhile. So what others do on the machine makes it
no longer, nor does a thread of the server that leaves the event loop its turn.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from pathlib import Path

_ASK = b"GET /healthz HTTP/1.1\r\nHost: ticker\r\n\r\n"


class Clock:
    """Seconds that passed, that the threads of a process worked, and that they and this program waited for a processor.

    The last two are None where the system does not tell.
    """

    def __init__(self, process: int) -> None:
        self.passed = time.monotonic()
        worked, waited = _scheduled(f"/proc/{process}/task")
        self.worked = worked
        _, own = _scheduled("/proc/self/task")
        self.waited = None if waited is None or own is None else waited + own


def taken(before: Clock, after: Clock) -> float:
    """How long the server itself took between two times."""
    passed = after.passed - before.passed
    if before.worked is None or before.waited is None or after.worked is None or after.waited is None:
        return passed
    worked, waited = after.worked - before.worked, after.waited - before.waited
    if worked < 0 or waited < 0:  # a thread that ended took its figures with it
        return passed
    return max(min(passed - waited, worked), 0.0)


def main(port: int, process: int) -> None:
    worst, ticks = 0.0, 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while True:
            before = Clock(process)
            connection.sendall(_ASK)
            if not connection.recv(65_536):
                break
            worst, ticks = max(worst, taken(before, Clock(process))), ticks + 1
            if ticks == 1:
                _say("ticking")
            if select.select([sys.stdin], [], [], 0.002)[0]:
                break
    _say(f"{worst} {ticks}")


def _scheduled(tasks: str) -> tuple[float | None, float | None]:
    """Seconds that the threads in a folder of /proc have run, and that they have waited to run."""
    ran, waited, told = 0, 0, False
    for task in Path(tasks).glob("*/schedstat"):
        try:
            one = task.read_text(encoding="ascii").split()
            ran, waited, told = ran + int(one[0]), waited + int(one[1]), True
        except (OSError, ValueError, IndexError):  # the thread has ended
            continue
    return (ran / 1e9, waited / 1e9) if told else (None, None)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
