"""`router-train replay` in processes forked from one that has imported it: importing takes longer than a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

_WARM = """
import json, os, sys
import training.cli.reading, training.replay.buy
from training.cli.main import app
from training.quality.llm_prices import quiet_litellm
quiet_litellm()
for line in sys.stdin:
    arguments, log = json.loads(line)
    child = os.fork()
    if not child:
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(written, 1)
        os.dup2(written, 2)
        app(["replay", *arguments])
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Warm:
    """A process that runs the command in children, one at a time."""

    process: subprocess.Popen[str]
    child: int = 0

    def _said(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def start(self, arguments: Sequence[str], log: Path) -> None:
        """Starts the command; what it prints goes to `log`."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([list(arguments), str(log)]) + "\n")
        self.process.stdin.flush()
        self.child = self._said()

    def alive(self) -> bool:
        try:
            os.kill(self.child, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> int:
        """kill -9; the exit code."""
        with suppress(ProcessLookupError):
            os.kill(self.child, signal.SIGKILL)
        return self._said()

    def ended(self) -> int:
        """Waits for its end; the exit code."""
        return self._said()


@contextmanager
def warm() -> Iterator[Warm]:
    process = subprocess.Popen(
        [sys.executable, "-c", _WARM], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Warm(process)
    finally:
        process.kill()
        process.communicate()
