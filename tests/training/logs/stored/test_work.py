"""The folder that a log is imported into while it is trained on: whose it is, what is left of it, and a disk that is full."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from training.errors import NoRoomError
from training.logs.dataset import ImportAccount, store
from training.logs.outcomes import Outcomes
from training.logs.sources import reading
from training.logs.stored.rows import StoredLog
from training.logs.stored.work import WorkFolder, remove_left_over, work_folder

ROW = '{{"request_id": "r{0}", "prompt": "SECRET {0}", "candidate": "a", "quality": 1.0}}\n'


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(ROW.format(n) for n in range(40)))
    return path


def work_of(log: Path) -> WorkFolder:
    return work_folder([log], "auto", log.parent / "cache")


def parts(log: Path) -> Iterator[Outcomes]:
    yield reading.read([log])


def imported(work: WorkFolder, log: Path) -> StoredLog:
    return work.imported(parts(log), ImportAccount(["log"]), lambda _: None, 10)


def texts_in(folder: Path) -> list[Path]:
    """Every file below that may hold a prompt."""
    return [path for path in folder.rglob("*") if path.is_file() and path.name != "lock"]


def test_another_run_of_the_same_log_has_an_import_of_its_own(log: Path) -> None:
    first, second = work_of(log), work_of(log)
    assert first.there() is None
    assert "another run" not in first.require_room()
    imported(first, log)
    assert second.there() is None
    assert "another run works with" in second.require_room()
    stored = imported(second, log)
    with first.until_done():
        pass
    assert not first.folder.exists()
    assert len(stored.skeleton().frame) == 40
    with pytest.raises(KeyboardInterrupt), second.until_done():
        raise KeyboardInterrupt
    assert not second.folder.exists()  # nobody would find it


def test_an_import_of_a_run_that_failed_is_found_and_is_held_again(log: Path) -> None:
    first = work_of(log)
    first.require_room()
    imported(first, log)
    with pytest.raises(KeyboardInterrupt), first.until_done():
        raise KeyboardInterrupt
    again, third = work_of(log), work_of(log)
    assert again.there() is not None
    assert third.there() is None
    again.release()
    assert work_of(log).there() is not None


def test_what_is_damaged_is_imported_anew(log: Path) -> None:
    first = work_of(log)
    first.require_room()
    imported(first, log)
    first.release()
    next(first.path.glob("*.parquet")).write_bytes(b"xx")
    again = work_of(log)
    assert again.there() is None
    assert "is damaged and was removed" in again.require_room()
    assert len(imported(again, log).skeleton().frame) == 40


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.training.logs.stored import test_work
from training.logs import dataset
write = dataset._write
def killed(*arguments):
    write(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
dataset._write = killed
log = Path(sys.argv[1])
if sys.argv[2] == "run":
    work = test_work.work_of(log)
    work.require_room()
    test_work.imported(work, log)
else:
    dataset.store(test_work.parts(log), log.parent / "out", dataset.ImportAccount(["log"]))
"""


def kill_in_the_import(log: Path, what: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED, log, what], env=environment, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_a_killed_import_left_is_removed_by_the_next_run(log: Path, tmp_path: Path) -> None:
    kill_in_the_import(log, "run")
    cache = tmp_path / "cache"
    assert texts_in(cache)
    log.write_text(ROW.format(1))  # the next day: another name
    assert work_of(log).there() is None
    assert list((cache / "imports").iterdir()) == []


def test_what_a_killed_import_left_beside_its_folder_is_removed_by_the_next_one_there(
    log: Path, tmp_path: Path
) -> None:
    kill_in_the_import(log, "import")
    (left,) = tmp_path.glob(".out.*")
    assert texts_in(left)
    own = tmp_path / ".config.0123abcd"
    own.mkdir()
    store(parts(log), tmp_path / "out", ImportAccount(["log"]))
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"out", own.name}


def test_only_what_nobody_works_with_is_removed(log: Path, tmp_path: Path) -> None:
    imports = tmp_path / "cache" / "imports"
    held, whole, old, once = (WorkFolder(imports / name, 0.0, True) for name in ("held", "whole", "old", "once-1"))
    for work in (whole, old, once):
        work.require_room()
        imported(work, log)
        work.release()
    held.require_room()
    (imports / ".draft.0123abcd").mkdir()  # as an earlier release left them
    os.utime(old.path, (0, time.time() - 8 * 86_400))
    remove_left_over(imports)
    assert {path.name for path in imports.iterdir()} == {"held", "whole"}


def test_a_disk_that_is_full_is_said_and_nothing_is_left(log: Path, tmp_path: Path) -> None:
    work = work_of(log)
    work.require_room()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(NoRoomError, match=r"cannot be written \(File too large\).*--cache of run"):
            imported(work, log)
        with pytest.raises(NoRoomError, match="--out of import"):
            store(parts(log), tmp_path / "out", ImportAccount(["log"]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert texts_in(tmp_path) == [log]
    assert not work.folder.exists()
