"""`router-serve` in processes of their own, forked from one that has imported it: importing takes longer than most tests.

A test about how the program starts, or about what it loads, starts it as a user does instead.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["serving.cli", "serving.store.upgrade", "uvicorn.protocols.http.httptools_impl", "uvloop"]
)


def serve(options: Sequence[str], log: Path, environment: Mapping[str, str], folder: Path) -> BaseProcess:
    """Starts it with these options in a session of its own; what it writes to standard error goes to `log`."""
    process = _CONTEXT.Process(target=_serve, args=(list(options), log, dict(environment), folder), daemon=False)
    process.start()
    return process


def _serve(options: list[str], log: Path, environment: dict[str, str], folder: Path) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # found anew, by this environment
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (2, log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
        opened = os.open(path, flags)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0, closefd=False)  # workers are handed this one

    from serving.cli import main

    main(options)
