"""How much memory there is and what is too much for it; where a log is imported while it is trained on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from training.config import Scale, load_params
from training.logs.stored.memory import GB, MemoryTooSmallError, free_bytes, given_gb, limits
from training.logs.stored.work import DiskTooSmallError, WorkFolder, work_folder
from training.owned import NotOwnError

SCALE = load_params().scale
MEMINFO = "MemTotal: 16000000 kB\nMemAvailable:    8000000 kB\n"


def memory(folder: Path, **files: str) -> float:
    (folder / "meminfo").write_text(MEMINFO)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(text)
    return free_bytes(folder, folder / "meminfo")


def test_free_is_what_the_machine_and_the_container_leave(tmp_path: Path) -> None:
    assert memory(tmp_path) == 8_000_000 * 1024
    assert memory(tmp_path, max="max\n", current="5000\n") == 8_000_000 * 1024
    found = memory(tmp_path, max="3000000000", current="2000000000", stat="anon 1\ninactive_file 500000000\n")
    assert found == 1_500_000_000
    assert memory(tmp_path, max="1000", current="2000", stat="inactive_file 0") == 0


def test_a_log_beyond_half_of_the_core_is_read_from_disk_whatever_memory_there_is() -> None:
    bounds = limits(SCALE, 1_000.0)
    assert bounds.core == 300_000
    assert not bounds.beyond(150_000)
    assert bounds.beyond(150_001)
    assert limits(SCALE, 2.0).beyond(100_000)


def test_a_core_that_does_not_fit_says_which_parameter_to_lower() -> None:
    with pytest.raises(MemoryTooSmallError, match=r"--memory-gb 4 is less.*scale\.core_train=(\d+)") as raised:
        limits(SCALE, 4.0).require(2_000_000)
    words = str(raised.value).replace(",", " ").split()
    told = dict(word.removeprefix("scale.").split("=") for word in words if word.startswith("scale."))
    lower = Scale(int(told["core_train"]), int(told["core_measured"]), SCALE.floor, SCALE.part_rows)
    limits(lower, 4.0).require(1_000_000)
    with pytest.raises(MemoryTooSmallError, match="Give at least"):
        limits(lower, 1.0).require(2_000_000)
    with pytest.raises(MemoryTooSmallError, match="expected a number above 0"):
        limits(SCALE, 0.0)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "8GB", ""])
def test_what_is_no_number_of_gigabytes_says_what_is(text: str) -> None:
    with pytest.raises(MemoryTooSmallError, match=f"^{text}: expected a number above 0, as 8"):
        given_gb(text)


def test_more_than_the_machine_or_its_container_has_is_refused(tmp_path: Path) -> None:
    assert given_gb("0.25", tmp_path) == 0.25
    for text in ("1e9", "inf"):
        with pytest.raises(MemoryTooSmallError, match=rf"{text}: this machine, or the container, has \d+\.\d GB"):
            given_gb(text, tmp_path)
    (tmp_path / "memory.max").write_text("500000000\n")
    with pytest.raises(MemoryTooSmallError, match=r"has 0\.5 GB"):
        given_gb("0.75", tmp_path)


def test_fewer_requests_are_advised_where_they_help_alone() -> None:
    with pytest.raises(MemoryTooSmallError, match=r"Give at least 0\.9 GB: no run takes less\.$"):
        limits(SCALE, 0.5).require(959)
    with pytest.raises(MemoryTooSmallError, match=r"Give at least 3\.8 GB, or fewer requests\.$"):
        limits(SCALE, 1.0).require(2_000_000)


def test_what_runs_took_is_reckoned_with() -> None:
    """Peaks of simulated logs with six candidates: 100,000 requests held, and a core of 299,446 of a million."""
    held = 5_108 * 2**20 / GB
    assert limits(SCALE, 0.99 * held).beyond(100_000)
    assert not limits(SCALE, 1.1 * held).beyond(100_000)
    drawn = 6_874 * 2**20 / GB
    limits(SCALE, 1.1 * drawn).require(1_000_000)
    with pytest.raises(MemoryTooSmallError):
        limits(SCALE, 0.99 * drawn).require(1_000_000)


def test_what_was_drawn_has_to_fit_with_its_workflows() -> None:
    bounds = limits(SCALE, 12.0)
    bounds.require(2_000_000)
    bounds.require_drawn(2_000_000, 300_000, 100)
    with pytest.raises(MemoryTooSmallError, match=r"with 90,000 workflows .* not ids of tickets"):
        bounds.require_drawn(2_000_000, 300_000, 90_000)
    with pytest.raises(MemoryTooSmallError, match="learning from 900,000 of 2,000,000"):
        bounds.require_drawn(2_000_000, 900_000, 10)
    type(bounds)(SCALE, 1.0 * GB, given=False).require_drawn(200_000, 200_000, 10)


def test_without_a_limit_a_log_that_is_its_own_core_is_tried() -> None:
    bounds = limits(SCALE, None)
    low = type(bounds)(SCALE, 1.0 * GB, given=False)
    low.require(200_000)
    with pytest.raises(MemoryTooSmallError, match="3/4 of what is free"):
        low.require(400_000)


def test_the_same_log_and_options_find_their_folder_again(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("{}")
    found = work_folder([log], "auto", tmp_path)
    assert work_folder([log], "auto", tmp_path).path == found.path
    assert work_folder([log], "canonical", tmp_path).path != found.path
    os.utime(log, (1, 1))
    assert work_folder([log], "auto", tmp_path).path != found.path
    url = work_folder(["postgresql://u@h/db"], "auto", tmp_path)
    assert not url.again
    assert url.path != work_folder(["postgresql://u@h/db"], "auto", tmp_path).path


@pytest.mark.parametrize(("again", "fails", "stays"), [(True, True, True), (True, False, False), (False, True, False)])
def test_the_folder_stays_after_a_crash_if_it_can_be_found(
    tmp_path: Path, again: bool, fails: bool, stays: bool
) -> None:
    work = WorkFolder(tmp_path / "imports" / "one", 0.0, again)
    work.path.mkdir(parents=True)

    def used() -> None:
        with work.until_done():
            if fails:
                raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt):
            used()
    else:
        used()
    assert work.path.exists() is stays


def test_too_little_disk_is_told_before(tmp_path: Path) -> None:
    work = WorkFolder(tmp_path / "imports" / "one", 1e18, again=True)
    with pytest.raises(DiskTooSmallError, match=r"takes about 1000000000\.0 GB, .* are free\. Give another place"):
        work.require_room()
    assert "of disk" in WorkFolder(work.folder, 10.0, again=True).require_room()
    assert (tmp_path / "imports").stat().st_mode & 0o777 == 0o700


def test_an_import_that_somebody_else_may_have_put_there_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"a": 1}\n')
    work = work_folder([tmp_path / "log.jsonl"], "auto", tmp_path)
    (tmp_path / "imports").mkdir(mode=0o700)
    (tmp_path / "foreign").mkdir(mode=0o700)
    (tmp_path / "imports" / work.path.relative_to(tmp_path / "imports").parts[0]).symlink_to(tmp_path / "foreign")
    with pytest.raises(NotOwnError, match="a link, where a folder of one's own was expected"):
        work.there()
    (tmp_path / "imports").chmod(0o777)
    with pytest.raises(NotOwnError, match=r"imports: others can write there \(mode 0777\)"):
        work.there()
    with pytest.raises(NotOwnError, match="imports: others can write there"):
        work_folder([tmp_path / "foreign"], "auto", tmp_path).require_room()
