"""One reload reaches all workers, who is gone is not waited for, and who does not answer is named."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serving.state.reloads import Reloaded, Reloads
from tests.patience import PATIENCE, until


class Worker:
    """What a worker would do: counts its reloads."""

    def __init__(self, folder: Path | None) -> None:
        self.times = 0
        self.reloads = Reloads(folder, self.here)
        self.reloads.begin(self.serves())

    def here(self) -> Reloaded:
        self.times += 1
        return self.serves()

    def serves(self) -> Reloaded:
        refused = {"rules": "it is not valid TOML"} if self.times > 1 else {}
        return Reloaded(True, f"v{self.times}", None, refused)


def test_alone_it_is_this_worker() -> None:
    worker = Worker(None)
    [came] = worker.reloads.everywhere(PATIENCE)
    assert (came.bundle, came.worker, came.refusals) == ("v1", os.getpid(), [])
    [came] = worker.reloads.everywhere(PATIENCE)
    assert came.refusals == ["The rule file is refused and the rules before it stay: it is not valid TOML"]


OTHER = """
import sys
from pathlib import Path
from serving.state.reloads import Reloaded, Reloads

reloads = Reloads(Path(sys.argv[1]), lambda: Reloaded(True, "other", None, {}))
reloads.begin(Reloaded(False, "before", None, {}))
print("begun", flush=True)
for line in sys.stdin:
    reloads.look()
    print("looked", flush=True)
"""


def test_others_are_waited_for_while_they_are_alive(tmp_path: Path) -> None:
    worker = Worker(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        came = worker.reloads.everywhere(0.0)
        assert [one.bundle for one in came] == ["v1", "before"]
        assert "has not answered within 0 s" in came[1].refusals[0]
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(worker.reloads.everywhere, PATIENCE)
            until(lambda: worker.times == 2)
            other.stdin.write("look\n")
            other.stdin.flush()
            assert [one.bundle for one in waiting.result(PATIENCE)] == ["v2", "other"]
        other.kill()
    worker.reloads.look()
    assert worker.times == 2, "once for each that was asked for"
    assert [one.bundle for one in worker.reloads.everywhere(PATIENCE)] == ["v3"], "the dead are not waited for"
    worker.reloads.close()
    assert not list(tmp_path.glob("*.reloaded"))
