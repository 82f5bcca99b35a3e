"""The folder that a run shares is its own, and goes: at the run's end, or with the next run where it was killed."""

from __future__ import annotations

import fcntl
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from training.engine import run_folder as module
from training.engine.files import SharedFiles, opened
from training.engine.run_folder import run_folder
from training.owned import NotOwnError

KILLED = """
import os, sys
from pathlib import Path
from training.engine.files import SharedFiles
from training.engine.run_folder import run_folder
with run_folder(Path(sys.argv[1])) as folder:
    SharedFiles(folder).put({"prompts": ["a customer's"]})
    print(folder, flush=True)
    os._exit(9)
"""


def killed(root: Path) -> Path:
    """What a run left that was killed in the middle."""
    done = subprocess.run([sys.executable, "-c", KILLED, root], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "cluster").mkdir(mode=0o700)
    return tmp_path / "cluster"


def test_a_run_has_a_folder_of_its_own_and_leaves_nothing(tmp_path: Path) -> None:
    with run_folder(tmp_path / "new" / "cluster") as one, run_folder(tmp_path / "new" / "cluster") as other:
        assert one.parent.stat().st_mode & 0o777 == 0o700
        assert one != other
        assert one.stat().st_mode & 0o777 == 0o700
    assert list((tmp_path / "new" / "cluster").iterdir()) == []


def test_a_folder_that_others_can_put_another_in_the_place_of_is_refused(tmp_path: Path) -> None:
    above = tmp_path / "open"
    (above / "shared").mkdir(parents=True)
    above.chmod(0o777)
    with (
        pytest.raises(NotOwnError, match=r"open: others can write there \(mode 0777\), and so put another folder"),
        run_folder(above / "shared" / "cluster"),
    ):
        pass
    above.chmod(0o1777)  # as /tmp is: nobody renames what is not theirs
    with run_folder(above / "shared" / "cluster") as folder:
        assert folder.is_dir()


def test_what_a_killed_run_shared_goes_with_the_next_and_nothing_else_does(root: Path) -> None:
    with run_folder(root) as held:
        left = killed(root)
        assert len(list(left.glob("*.given"))) == 1
        for name in ("run-20260101", "run-0123456789abcdef", "run-notes.lock"):
            (root / name).mkdir()
        (root / "run-fedcba9876543210.lock").symlink_to("run-notes.lock")
        before = {path for path in root.iterdir() if not path.name.startswith(left.name)}
        with run_folder(root) as next_one:
            assert set(root.iterdir()) == {*before, next_one, next_one.with_suffix(".lock")}
        assert held.is_dir()
    assert len(list(root.iterdir())) == 4


def test_what_cannot_be_removed_is_left_for_the_next_run(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = killed(root)
    with monkeypatch.context() as busy:
        busy.setattr(module, "rmtree", lambda *_, **__: None)
        with run_folder(root) as other:
            pass
    assert set(root.iterdir()) == {left, left.with_suffix(".lock"), other, other.with_suffix(".lock")}
    with run_folder(root):
        pass
    assert list(root.iterdir()) == []


def test_where_there_are_no_locks_nothing_is_taken_for_left_over(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = killed(root)

    def none(*_: object) -> None:
        raise OSError("No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with run_folder(root) as folder:
        assert folder.is_dir()
    assert set(root.iterdir()) == {left, left.with_suffix(".lock")}


def test_a_lock_that_was_taken_for_left_over_is_given_up(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run looks between the making of a lock and its being held."""
    flock, taken = fcntl.flock, list[Path]()

    def late(opened: int, how: int) -> None:
        if not taken:
            taken.extend(root.glob("run-*.lock"))
            taken[0].unlink()
        flock(opened, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with run_folder(root) as folder:
        assert folder.with_suffix(".lock") != taken[0]
        assert folder.with_suffix(".lock").exists()
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o777, 0o1777])
def test_a_folder_that_others_can_write_in_is_refused_and_stays_as_it_is(root: Path, mode: int) -> None:
    root.chmod(mode)
    with (
        pytest.raises(NotOwnError, match=rf"others can write there \(mode {mode:04o}\).*chmod go-w.*--cluster-folder"),
        run_folder(root),
    ):
        pass
    assert root.stat().st_mode & 0o7777 == mode
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("mode", [0o750, 0o755, 0o700])
def test_who_may_read_the_folder_is_its_owners_choice(root: Path, mode: int) -> None:
    root.chmod(mode)
    with run_folder(root) as folder:
        assert root.stat().st_mode & 0o777 == mode
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_link_is_refused(root: Path) -> None:
    root.with_name("link").symlink_to("cluster")
    with (
        pytest.raises(NotOwnError, match=r"link: a link, where a folder of one's own was expected.*--cluster-folder"),
        run_folder(root.with_name("link")),
    ):
        pass


def test_what_is_shared_is_its_owners_alone(root: Path) -> None:
    array = np.arange(20_000.0)
    files = SharedFiles(root)
    files.put({"array": array})
    files.packed(array)
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in root.iterdir()}
    assert modes == {".given": 0o600, ".npy": 0o600}


class Ran:
    """What runs when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("of_the_folder", [True, False], ids=["folder", "file"])
def test_what_others_may_have_written_is_not_unpickled(root: Path, of_the_folder: bool) -> None:
    path, mark = root / "a.given", root.with_name("ran")
    path.write_bytes(pickle.dumps(Ran(mark)))
    path.chmod(0o600 if of_the_folder else 0o660)
    root.chmod(0o770 if of_the_folder else 0o700)
    with pytest.raises(NotOwnError, match=r"others can write there .*--cluster-folder"):
        opened(path)
    assert not mark.exists()
    path.chmod(0o600)
    root.chmod(0o700)
    opened(path)
    assert mark.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away takes root")
@pytest.mark.parametrize("name", ["", "a.given"], ids=["folder", "file"])
def test_what_belongs_to_somebody_else_is_not_unpickled(root: Path, name: str) -> None:
    path, mark = root / "a.given", root.with_name("ran")
    path.write_bytes(pickle.dumps(Ran(mark)))
    path.chmod(0o600)
    os.chown(root / name, 65_534, 65_534)
    with pytest.raises(NotOwnError, match="belongs to user"):
        opened(path)
    assert not mark.exists()


@pytest.mark.parametrize("once", [True, False], ids=["result", "given"])
def test_an_array_that_others_may_have_written_is_not_read(root: Path, once: bool) -> None:
    array = np.arange(20_000.0)
    files = SharedFiles(root, keeps=True)
    sent, path = files.packed(array), files.put(array)
    next(root.glob("*.npy")).chmod(0o620)
    with pytest.raises(NotOwnError, match=r"npy: others can write there \(mode 0620\)"):
        files.unpacked(sent) if once else opened(path)
