"""What is written is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.bundle.atomic_write import written_whole


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
