"""Waiting for what happens instead of for a time, ports that stay a test's own, and what all workers make once."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

PATIENCE = 120.0  # seconds: long, for a slow machine; nothing that goes well waits for it


def until(holds: Callable[[], object], what: str = "what the test waits for", seconds: float = PATIENCE) -> None:
    """Waits until `holds()` is true; raises TimeoutError, which says `what` did not happen."""
    ends = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > ends:
            raise TimeoutError(f"{what}: not after {seconds:g} s")
        time.sleep(0.02)


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of this machine that only who is told of it gets, until the block ends.

    A socket stays bound to it and never listens: a server with SO_REUSEADDR, as all of ours, can listen beside it (as
    often as it is started), a connection while none listens is refused, and the system gives the port to nobody else.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        yield port


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make(folder)` in whichever process comes first; the others wait, and only read it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        done = folder.parent / f"{folder.name}.done"
        if not done.exists():
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
