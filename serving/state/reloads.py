"""One reload for all workers of a service: a number in a folder that they share, and what each has come to with it."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson

from serving.bundle.atomic_write import written_whole

logger = logging.getLogger(__name__)

_COUNTER, _LOCK, _ACKNOWLEDGED = "reload", "reload.lock", ".reloaded"
_LOOK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a worker serves after a reload, and what it refused to take over and why, by parts: bundle, shadow, rules; or that
    the worker did not answer.

    `worker` is its process's number, `number` that of the last reload that it has seen.
    """

    changed: bool
    bundle: str
    shadow: str | None
    refused: dict[str, str]
    worker: int = 0
    number: int = 0

    @property
    def refusals(self) -> list[str]:
        """A sentence for each part that was refused."""
        begins = {
            "bundle": f"The bundle is refused and {self.bundle} stays",
            "shadow": f"The shadow bundle is refused and {self.shadow} stays",
            "rules": "The rule file is refused and the rules before it stay",
            "worker": f"Worker {self.worker} serves {self.bundle}, as far as is known",
        }
        return [f"{begins[part]}: {why}" for part, why in self.refused.items()]


class Reloads:
    """Reloads this worker, and through `folder` those that share it; without one there is this worker alone.

    `here` reloads this worker; what it raises is a part that was refused. Safe to share between threads.
    """

    def __init__(self, folder: Path | None, here: Callable[[], Reloaded]) -> None:
        self._folder, self._here = folder, here
        self._lock = threading.Lock()
        self._seen = self._number()

    def begin(self, now: Reloaded) -> None:
        """Shows the others that this worker is there, and what it serves."""
        self._acknowledge(now)

    def look(self) -> None:
        """Reloads this worker if somebody asked all of them to since it last did."""
        with self._lock:
            number = self._number()
            if number == self._seen:
                return
            self._seen = number
            self._acknowledge(self._reloaded())

    def everywhere(self, seconds: float) -> list[Reloaded]:
        """Reloads every worker; what each has, this one first. One that has not answered within so many seconds says so."""
        if self._folder is None:
            with self._lock:
                return [self._reloaded()]
        number = self._next()
        self.look()
        ends = time.monotonic() + seconds
        while True:
            found = self._found()
            late = [one for one in found if one.number < number]
            if not late or time.monotonic() > ends:
                break
            time.sleep(_LOOK_SECONDS)
        unheard = {"worker": f"it has not answered within {seconds:g} s"}
        answers = [one if one.number >= number else replace(one, refused=unheard) for one in found]
        return sorted(answers, key=lambda one: (one.worker != os.getpid(), one.worker))

    def close(self) -> None:
        """Nobody waits for this worker any more."""
        if self._folder is not None:
            self._path(os.getpid()).unlink(missing_ok=True)

    def _reloaded(self) -> Reloaded:
        came = self._here()
        return replace(came, worker=os.getpid(), number=self._seen)

    def _acknowledge(self, now: Reloaded) -> None:
        if self._folder is not None:
            with written_whole(self._path(os.getpid())) as beside:
                beside.write_bytes(orjson.dumps(asdict(replace(now, worker=os.getpid(), number=self._seen))))

    def _found(self) -> list[Reloaded]:
        """What the workers that are alive have."""
        assert self._folder is not None
        found = []
        for path in self._folder.glob(f"*{_ACKNOWLEDGED}"):
            if not path.stem.isdecimal():
                continue
            if not _alive(int(path.stem)):
                path.unlink(missing_ok=True)
                continue
            try:
                found.append(Reloaded(**orjson.loads(path.read_bytes())))
            except FileNotFoundError:  # it has just ended
                continue
        return found

    def _path(self, worker: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{worker}{_ACKNOWLEDGED}"

    def _number(self) -> int:
        """How many reloads of all workers were asked for so far."""
        if self._folder is None:
            return 0
        try:
            return int((self._folder / _COUNTER).read_text(encoding="ascii"))
        except FileNotFoundError:
            return 0

    def _next(self) -> int:
        """Asks for another one; gives its number."""
        assert self._folder is not None
        with (self._folder / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            number = self._number() + 1
            with written_whole(self._folder / _COUNTER) as beside:
                beside.write_text(str(number), encoding="ascii")
            return number


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
