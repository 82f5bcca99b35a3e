"""`router-train replay` in processes of their own, forked from one that has imported it: importing takes longer than a run."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from training.quality.llm_prices import quiet_litellm

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([__name__, "training.cli.reading", "training.replay.buy"])
if __name__ in sys.modules and multiprocessing.current_process().name != "MainProcess":
    quiet_litellm()


def start(arguments: Sequence[str], log: Path) -> BaseProcess:
    """Starts it; what it prints goes to `log`."""
    process = _CONTEXT.Process(target=_run, args=(list(arguments), log), daemon=False)
    process.start()
    return process


def _run(arguments: list[str], log: Path) -> None:
    opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    from training.cli.main import app

    app(["replay", *arguments])
