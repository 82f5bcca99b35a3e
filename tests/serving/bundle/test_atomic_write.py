"""What is written is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.bundle.atomic_write import remove_drafts, written_folder, written_whole


def test_a_file_a_folder_and_a_link_appear_when_they_are_whole(tmp_path: Path) -> None:
    with written_whole(tmp_path / "new" / "file") as draft:
        draft.write_text("all of it")
        assert not (tmp_path / "new" / "file").exists()
    with written_whole(tmp_path / "folder") as draft:
        draft.mkdir()
        (draft / "inside").write_text("too")
        assert not (tmp_path / "folder").exists()
    for target in ("new", "folder"):
        with written_whole(tmp_path / "link") as draft:
            draft.symlink_to(target)
    assert (tmp_path / "new" / "file").read_text() == "all of it"
    assert (tmp_path / "folder" / "inside").read_text() == "too"
    assert (tmp_path / "link").resolve() == tmp_path / "folder"
    assert {path.name for path in tmp_path.iterdir()} == {"new", "folder", "link"}


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_breaks_off_leaves_what_was_there(tmp_path: Path, kind: str) -> None:
    final = tmp_path / "final"
    final.write_text("before")

    def write(draft: Path) -> None:
        if kind == "file":
            draft.write_text("half")
        elif kind == "folder":
            draft.mkdir()
            (draft / "half").write_text("half")
        else:
            draft.symlink_to(tmp_path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), written_whole(final) as draft:
        write(draft)
    assert final.read_text() == "before"
    assert list(tmp_path.iterdir()) == [final]


def test_drafts_of_folders_that_nobody_writes_are_removed_and_no_others(tmp_path: Path) -> None:
    left, other, file = (tmp_path / name for name in (".new.0123abcd", ".else.0123abcd", ".new.01234567"))
    left.mkdir()
    other.mkdir()
    file.write_text("a draft of a file")
    (tmp_path / ".new.not-hex").mkdir()
    with written_folder(tmp_path / "new") as mine:
        (mine / "inside").write_text("half")
        remove_drafts(tmp_path, "new")
        assert (mine / "inside").exists()
        assert not left.exists()
    assert (tmp_path / "new" / "inside").read_text() == "half"
    remove_drafts(tmp_path, older=3_600.0)
    assert other.exists()
    os.utime(other, (0, 0))
    remove_drafts(tmp_path, older=3_600.0)
    assert {path.name for path in tmp_path.iterdir()} == {"new", file.name, ".new.not-hex"}


def test_a_folder_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def broken_off() -> None:
        with written_folder(tmp_path / "new", mode=0o700) as draft:
            assert draft.stat().st_mode & 0o777 == 0o700
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken_off()
    assert list(tmp_path.iterdir()) == []
