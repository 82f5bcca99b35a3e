"""Asks a server for /healthz again and again on one connection, until its standard input ends, and says the worst answer.

It is a program of its own that imports next to nothing: nothing that a test does can hold it up. Its arguments are a port
and the server's process id; its last line is the worst, in seconds, and how often it asked.

How long an answer took is the lesser of two: the time that passed, and the processor time that the server's threads used
meanwhile. What others do on the machine makes only the first longer, and a thread of the server that leaves the event loop
its turn makes only the second longer.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from pathlib import Path

_ASK = b"GET /healthz HTTP/1.1\r\nHost: ticker\r\n\r\n"


def used(process: int) -> float | None:
    """Processor seconds of the threads of a process; None where the system does not tell."""
    total, told = 0, False
    for task in Path(f"/proc/{process}/task").glob("*/schedstat"):
        try:
            total += int(task.read_text(encoding="ascii").split()[0])
        except (OSError, ValueError, IndexError):  # the thread has ended
            continue
        told = True
    return total / 1e9 if told else None


def taken(passed: float, before: float | None, after: float | None) -> float:
    """The lesser of the time that passed and what the server worked in it, where that is known."""
    if before is None or after is None or after < before:  # a thread that ended took what it used with it
        return passed
    return min(passed, after - before)


def main(port: int, process: int) -> None:
    worst, ticks = 0.0, 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while True:
            before, started = used(process), time.monotonic()
            connection.sendall(_ASK)
            if not connection.recv(65_536):
                break
            passed = time.monotonic() - started
            worst, ticks = max(worst, taken(passed, before, used(process))), ticks + 1
            if ticks == 1:
                _say("ticking")
            if select.select([sys.stdin], [], [], 0.002)[0]:
                break
    _say(f"{worst} {ticks}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
