"""The spool: what is told is on disk whatever happens to the process, within bounds; no fault of the file reaches a call."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from serving.integrations.litellm.told import spool_rows
from serving.integrations.litellm.told.spool import MOST_BODY, Spool, SpoolError
from serving.integrations.litellm.told.spool_file import SpoolFile
from serving.integrations.litellm.told.spool_rows import Kept, Leased, Thumb, thumb_row
from tests.conftest import ROOT

# Keeps rows one after the other, and says each number once its row is on disk.
_WRITER = """
import sys
from pathlib import Path
from serving.integrations.litellm.told.spool import Spool
from serving.integrations.litellm.told.spool_rows import Kept
spool, name = Spool(Path(sys.argv[1]), combine=lambda there, coming: coming), sys.argv[2]
for number in range(int(sys.argv[3])):
    assert spool.put([Kept("router", f"{name} {number}", b"x" * 300, 0.0)]).result(30)
    print(number, flush=True)
"""


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _spool(path: Path, clock: Clock | None = None, **options: int) -> Spool:
    clock = clock or Clock()
    return Spool(path, combine=lambda there, coming: there + b"+" + coming, clock=clock, **options)


def _row(name: str, body: bytes = b"one", due: float = 0.0, destination: str = "router") -> Kept:
    return Kept(destination, name, body, due)


def _taken(spool: Spool, most: int = 100, seconds: float = 30.0, destination: str = "router") -> list[Leased]:
    return spool.take(destination, most, seconds).result(10)


def _writer(path: Path, name: str, rows: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", _WRITER, str(path), name, str(rows)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_what_is_kept_is_taken_once_and_forgotten_once_delivered(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "spool.db")
    assert spool.put([_row("a"), _row("b", b"two")]).result(10)
    rows = _taken(spool)
    assert [(row.name, row.body, row.tries) for row in rows] == [("a", b"one", 0), ("b", b"two", 0)]
    assert _taken(spool) == []
    spool.delivered(rows).result(10)
    assert spool.waiting("router").result(10) == 0
    spool.close()


def test_a_row_of_a_destination_is_no_other_destinations(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "spool.db")
    spool.put([_row("a"), _row("a", destination="sink")]).result(10)
    spool.delivered(_taken(spool)).result(10)
    assert [row.name for row in _taken(spool, destination="sink")] == ["a"]
    spool.close()


def test_what_is_told_again_of_a_row_is_combined_with_it_and_due_when_the_earlier_was(tmp_path: Path) -> None:
    clock = Clock()
    spool = _spool(tmp_path / "spool.db", clock)
    spool.put([_row("a", due=clock.now + 30)]).result(10)
    assert _taken(spool) == []
    spool.put([_row("a", b"two", due=clock.now)]).result(10)
    assert [row.body for row in _taken(spool)] == [b"one+two"]
    spool.close()


def test_what_is_told_of_a_row_while_it_is_delivered_is_delivered_after_it(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "spool.db")
    spool.put([_row("a")]).result(10)
    rows = _taken(spool)
    spool.put([_row("a", b"two")]).result(10)
    spool.delivered(rows).result(10)
    assert [row.body for row in _taken(spool)] == [b"one+two"]
    spool.close()


def test_a_row_that_came_to_nothing_is_due_later_and_one_whose_process_died_when_its_lease_ends(tmp_path: Path) -> None:
    clock = Clock()
    spool = _spool(tmp_path / "spool.db", clock)
    spool.put([_row("a")]).result(10)
    spool.later(_taken(spool), 5.0).result(10)
    assert _taken(spool) == []
    clock.now += 5.0
    assert [row.tries for row in _taken(spool)] == [1]
    clock.now += 30.0
    other = _spool(tmp_path / "spool.db", clock)
    assert [row.name for row in _taken(other)] == ["a"]
    spool.close()
    other.close()


def test_a_lease_that_ended_does_not_forget_what_another_delivers_now(tmp_path: Path) -> None:
    clock = Clock()
    first, second = _spool(tmp_path / "spool.db", clock), _spool(tmp_path / "spool.db", clock)
    first.put([_row("a")]).result(10)
    slow = _taken(first)
    clock.now += 31.0
    assert len(_taken(second)) == 1
    first.delivered(slow).result(10)
    first.later(slow, 0.0).result(10)
    assert _taken(first) == []
    assert first.waiting("router").result(10) == 1
    first.close()
    second.close()


def test_whose_decision_it_is_is_remembered(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "spool.db")
    spool.put([_row("a")], [("a", "key 1")]).result(10)
    spool.put([_row("a")], [("a", "key 2")]).result(10)
    assert spool.owners(["a", "b"]).result(10) == {"a": "key 1"}
    spool.close()


def test_above_its_bound_the_oldest_rows_go_and_are_counted(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "spool.db", most_rows=10)
    for number in range(15):
        spool.put([_row(str(number))]).result(10)
    assert [row.name for row in _taken(spool)] == [str(number) for number in range(5, 15)]
    assert spool.counts["dropped"] == 5
    spool.close()


def test_above_its_bytes_the_oldest_rows_go(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "spool.db", most_rows=40, most_bytes=5_000)
    spool.put([_row(str(number), b"x" * 1_000) for number in range(8)]).result(10)
    assert [row.name for row in _taken(spool)] == ["3", "4", "5", "6", "7"]
    assert spool.counts["dropped"] == 3
    spool.close()


def _own(decisions: Iterable[int], key: str = "key 1") -> list[tuple[str, str]]:
    return [(f"{decision:032x}", key) for decision in decisions]


def _thumb(decision: int, key: str = "key 1") -> Kept:
    return thumb_row(Thumb(f"{decision:032x}", key), b"thumb", 0.0)


def test_thumbs_have_a_bound_of_their_own_and_each_key_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_rows, "MOST_THUMBS", 8)
    monkeypatch.setattr(spool_rows, "MOST_OF_A_KEY", 5)
    spool = _spool(tmp_path / "spool.db", most_rows=10)
    assert spool.put([_row(str(number)) for number in range(10)]).result(10)
    spool.delivered(_taken(spool, most=4)).result(10)
    assert spool.put([_thumb(number) for number in range(9)], _own(range(9))).result(10)
    assert (spool.waiting("thumbs").result(10), spool.counts["thumbs_dropped"]) == (4, 5)
    assert spool.put([_thumb(number, "key 2") for number in range(10, 12)], _own(range(10, 12), "key 2")).result(10)
    spool.put([_row(str(number)) for number in range(10, 14)]).result(10)
    assert [row.name for row in _taken(spool)] == [str(number) for number in range(4, 14)]
    assert (spool.waiting("thumbs").result(10), spool.counts["dropped"]) == (0, 0)
    spool.close()


def test_more_keys_than_fit_have_together_so_many_thumbs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_rows, "MOST_THUMBS", 8)
    spool = _spool(tmp_path / "spool.db")
    for number in range(20):
        key = f"key {number % 3}"
        spool.put([_thumb(number, key)], _own([number], key)).result(10)
    assert (spool.waiting("thumbs").result(10), spool.counts["thumbs_dropped"]) == (8, 12)
    spool.delivered(_taken(spool, most=6, destination="thumbs")).result(10)
    spool.put([_thumb(number, "key 0") for number in range(100, 110)], _own(range(100, 110), "key 0")).result(10)
    assert (spool.waiting("thumbs").result(10), spool.counts["thumbs_dropped"]) == (8, 16)
    spool.close()


def test_thumbs_on_decisions_that_are_not_known_take_no_place_of_those_on_a_keys_own(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "spool.db")
    for key in range(40):
        spool.put([_thumb(1_000 * key + number, f"key {key}") for number in range(60)]).result(10)
    assert (spool.waiting("thumbs").result(10), spool.counts["thumbs_dropped"]) == (1_000, 40 * 60 - 1_000)
    spool.put([_thumb(10**6 + number, "key 1") for number in range(500)], _own(range(10**6, 10**6 + 500))).result(10)
    assert spool.waiting("thumbs").result(10) == 1_500
    spool.delivered(_taken(spool, most=100, destination="thumbs")).result(10)
    spool.put([_thumb(10**7 + number, "key 99") for number in range(60)]).result(10)
    assert spool.waiting("thumbs").result(10) == 1_450
    spool.close()


def test_whether_a_thumb_has_room_is_told_by_counts_that_are_kept(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "spool.db")
    spool.put([_row("a")]).result(10)
    with sqlite3.connect(spool.path) as file:
        how = file.execute("explain query plan " + spool_rows.ROOM, ("key", True, True)).fetchall()
    assert [row[3] for row in how if "told" in row[3] or (row[3].startswith("SCAN") and "CONSTANT" not in row[3])] == []
    spool.close()


def test_a_body_that_is_too_long_is_not_kept_and_takes_no_other_with_it(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "spool.db")
    assert spool.put([_row("a", b"x" * (MOST_BODY + 1)), _row("b", b"x" * MOST_BODY)]).result(10)
    assert [row.name for row in _taken(spool)] == ["b"]
    assert spool.counts["too_large"] == 1
    spool.close()


def test_of_long_bodies_the_file_holds_never_much_more_than_its_bound(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "spool.db", most_bytes=2**20)
    spool.put([_row("first")]).result(10)
    for number in range(100):
        spool.put([_row(str(number), b"x" * 60_000)]).result(10)
        with sqlite3.connect(spool.path) as file:
            assert file.execute("select bytes from total").fetchone()[0] <= 2**20 + 60_000
    spool.close()


def test_while_the_file_is_locked_memory_holds_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.integrations.litellm.told.waiting.MOST_BYTES", 100_000)
    spool = _spool(tmp_path / "spool.db")
    spool._file = full = _Full(spool.path)
    assert spool.put([_row(f"full {number}", b"x" * 9_000) for number in range(20)]).result(10) is False
    assert spool.counts["lost"] == 9
    full.full = False
    spool.put([_row("last")]).result(10)
    other = sqlite3.connect(spool.path, isolation_level=None)
    other.execute("begin immediate")
    spool.wait_no_more()
    for number in range(20):
        spool.put([_row(f"locked {number}", b"x" * 9_000)])
    other.execute("rollback")
    other.close()
    assert 11 + 11 <= len(_taken(spool)) <= 1 + 11 + 13
    spool.close()


def test_a_thumb_on_another_keys_decision_is_not_put_and_takes_no_other_thumbs_place(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "spool.db")
    spool.put([_row("a")], [(f"{1:032x}", "key 1")]).result(10)
    spool.put([_thumb(1, "key 2"), _thumb(1), _thumb(2), _thumb(2, "key 2")]).result(10)
    names = [row.name for row in _taken(spool, destination="thumbs")]
    assert names == [f"key 1 {1:032x}", f"key 1 {2:032x}", f"key 2 {2:032x}"]
    assert spool.counts["nobodys"] == 1
    spool.close()


def test_a_row_that_cannot_be_combined_is_taken_by_what_comes(tmp_path: Path) -> None:
    def combine(there: bytes, coming: bytes) -> bytes:
        raise OverflowError

    spool = Spool(tmp_path / "spool.db", combine=combine)
    assert [spool.put([_row("a", body)]).result(10) for body in (b"one", b"two")] == [True, True]
    assert [row.body for row in _taken(spool)] == [b"two"]
    spool.close()


def test_the_file_and_what_sqlite_puts_beside_it_are_their_owners_alone(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "new" / "spool.db")
    spool.put([_row("a")]).result(10)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    assert modes == dict.fromkeys(("spool.db", "spool.db-wal", "spool.db-shm"), 0o600)
    spool.close()


def test_killed_ten_times_it_has_every_row_that_was_said_to_be_kept(tmp_path: Path) -> None:
    path, said = tmp_path / "spool.db", set()
    for turn in range(10):
        with _writer(path, f"turn {turn}", 100_000) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                said.add(f"turn {turn} {int(line)}")
                if int(line) == 20 + 13 * turn:
                    writer.send_signal(signal.SIGKILL)
                    break
            said |= {f"turn {turn} {int(line)}" for line in writer.stdout if line.endswith("\n")}
        assert writer.returncode == -signal.SIGKILL
    spool = _spool(path)
    kept = [row.name for row in _taken(spool, most=100_000)]
    assert len(kept) == len(set(kept))
    assert said <= set(kept)
    assert len(said) > 500
    spool.close()


def test_two_processes_on_one_file_lose_nothing_and_take_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    writers = [_writer(path, name, 300) for name in ("a", "b")]
    first, second = (_spool(path) for _ in range(2))
    taken: list[str] = []
    until = time.monotonic() + 60
    while len(taken) < 600 and time.monotonic() < until:
        for spool in (first, second):
            rows = _taken(spool, most=50)
            taken += [row.name for row in rows]
            spool.delivered(rows).result(10)
    for writer in writers:
        writer.communicate(timeout=30)
        assert writer.returncode == 0
    assert sorted(taken) == sorted(f"{name} {number}" for name in ("a", "b") for number in range(300))
    first.close()
    second.close()


def test_a_file_that_is_none_of_sqlites_is_moved_aside_and_a_new_one_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "spool.db"
    path.write_bytes(b"this was a spool once" * 300)
    spool = _spool(path)
    assert spool.put([_row("a")]).result(10) is False
    spool.put([_row("b")]).result(10)
    assert {row.name for row in _taken(spool)} == {"a", "b"}
    [aside] = tmp_path.glob("spool.db.unreadable-*")
    assert aside.read_bytes().startswith(b"this was a spool once")
    assert spool.counts["aside"] == 1
    assert "cannot be read, and was moved to" in caplog.text
    spool.close()


def test_a_file_of_another_version_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    with sqlite3.connect(path) as file:
        file.execute("pragma user_version = 7")
    spool = _spool(path)
    spool.put([_row("a")]).result(10)
    spool.put([_row("b")]).result(10)
    assert {row.name for row in _taken(spool)} == {"a", "b"}
    assert len(list(tmp_path.glob("spool.db.unreadable-*"))) == 1
    spool.close()


def test_a_file_that_is_taken_away_under_it_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = _spool(path)
    spool.put([_row("a")]).result(10)
    for one in tmp_path.iterdir():
        one.unlink()
    assert spool.put([_row("b")]).result(10)
    assert [row.name for row in _taken(spool)] == ["b"]
    spool.close()


class _Full(SpoolFile):
    full = True

    def opened(self) -> sqlite3.Connection:
        connection = super().opened()
        connection.execute(f"pragma max_page_count = {1 if self.full else 100_000}")
        return connection


def test_while_the_disk_is_full_rows_wait_in_memory_and_the_log_says_so_once_a_minute(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = _spool(tmp_path / "spool.db")
    spool._file = _Full(spool.path)
    assert [spool.put([_row(str(number), b"x" * 9_000)]).result(10) for number in range(30)] == [False] * 30
    assert caplog.text.count("cannot be written to (SQLITE_FULL)") == 1
    spool._file.full = False
    spool.put([_row("last")]).result(10)
    assert {row.name for row in _taken(spool)} == {*map(str, range(30)), "last"}
    assert spool.counts["lost"] == 0
    spool.close()


def test_while_the_disk_is_full_memory_holds_so_many_rows_and_the_rest_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.integrations.litellm.told.waiting.MOST_ROWS", 5)
    spool = _spool(tmp_path / "spool.db")
    spool._file = _Full(spool.path)
    assert spool.put([_row(str(number), b"x" * 9_000) for number in range(8)]).result(10) is False
    assert (spool.counts["lost"], spool.counts["spool_faults"]) == (3, 1)
    spool.close()


def test_while_the_disk_is_full_thumbs_push_no_outcome_out_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.integrations.litellm.told.waiting.MOST_ROWS", 5)
    monkeypatch.setattr("serving.integrations.litellm.told.waiting.MOST_THUMBS", 3)
    spool = _spool(tmp_path / "spool.db")
    spool._file = full = _Full(spool.path)
    assert spool.put([_row(str(number), b"x" * 9_000) for number in range(4)]).result(10) is False
    assert spool.put([_thumb(number) for number in range(9)]).result(10) is False
    with pytest.raises(SpoolError):
        spool.waiting("thumbs").result(10)
    assert (spool.counts["lost"], spool.counts["thumbs_dropped"]) == (0, 6)
    full.full = False
    spool.put([_row("last")]).result(10)
    assert (len(_taken(spool)), spool.waiting("thumbs").result(10)) == (5, 3)
    spool.close()


def test_where_there_can_be_no_file_rows_are_kept_in_memory_and_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    spool = _spool(tmp_path / "file" / "spool.db")
    assert spool.put([_row("a"), _row("b")]).result(10)
    assert [row.name for row in _taken(spool)] == ["a", "b"]
    assert caplog.text.count("a kill loses what is not delivered yet") == 1
    spool.close()


def test_while_the_file_is_locked_one_put_waits_and_none_after_it_until_one_succeeds(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "spool.db")
    spool.put([_row("first")]).result(10)
    other = sqlite3.connect(spool.path, isolation_level=None)
    other.execute("begin immediate")
    assert not spool.put([_row("slow")]).done()
    spool.wait_no_more()
    assert [spool.put([_row(str(number))]).result(0) for number in range(100)] == [False] * 100
    assert spool.counts["unwaited"] == 100
    other.execute("rollback")
    other.close()
    assert len(_taken(spool, most=200)) == 102
    assert spool.put([_row("last")]).result(0) is True
    assert (spool.counts["waited"], spool.counts["unwaited"], spool.counts["lost"]) == (1, 100, 0)
    spool.close()


def test_while_the_file_is_locked_memory_holds_so_many_rows_and_thumbs_take_none_of_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.integrations.litellm.told.waiting.MOST_ROWS", 5)
    monkeypatch.setattr("serving.integrations.litellm.told.waiting.MOST_THUMBS", 3)
    spool = _spool(tmp_path / "spool.db")
    spool.put([_row("first")]).result(10)
    other = sqlite3.connect(spool.path, isolation_level=None)
    other.execute("begin immediate")
    spool.wait_no_more()
    for number in range(10):
        spool.put([_thumb(number)])
    for number in range(10):
        spool.put([_row(str(number))])
    other.execute("rollback")
    other.close()
    assert (len(_taken(spool)), spool.waiting("thumbs").result(10)) == (6, 3)
    assert (spool.counts["lost"], spool.counts["thumbs_dropped"]) == (5, 7)
    spool.close()


def test_a_name_that_no_file_takes_holds_up_no_other(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "spool.db")
    with pytest.raises(UnicodeEncodeError):
        spool.put([_row("a\ud800")])
    with pytest.raises(UnicodeEncodeError):
        spool.put([_row("a")], [("a", "key \ud800")])
    assert spool.put([_row("b")]).result(10)
    assert [row.name for row in _taken(spool)] == ["b"]
    spool.close()


def test_after_a_fork_the_child_has_a_thread_and_a_connection_of_its_own(tmp_path: Path) -> None:
    spool = _spool(tmp_path / "spool.db")
    spool.put([_row("parent")]).result(10)
    child = os.fork()
    if child == 0:
        os._exit(0 if spool.put([_row("child")]).result(10) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert {row.name for row in _taken(spool)} == {"parent", "child"}
    spool.close()
