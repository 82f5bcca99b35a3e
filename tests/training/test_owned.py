"""What is read back and learned from has to be this user's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from training import owned
from training.owned import NotOwnError, made_own, opened_own, own_file, own_folder, require_own

NOBODY = 65_534
GiveAway = Callable[[Path], None]


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> GiveAway:
    """Makes a file somebody else's; who may not do that is somebody else from then on."""

    def given(path: Path) -> None:
        if os.geteuid() == 0:
            os.lchown(path, NOBODY, NOBODY)
            return
        monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
        made = os.stat_result((0o100600, 0, 0, 1, NOBODY, NOBODY, 0, 0, 0, 0))
        monkeypatch.setattr(owned, "_shown", lambda _: made)

    return given


def test_what_is_made_is_ones_own_alone(tmp_path: Path) -> None:
    made = own_folder(tmp_path / "cache" / "new")
    assert made.stat().st_mode & 0o777 == 0o700
    assert own_folder(made, private=True) == made
    made.chmod(0o755)
    assert own_folder(made).stat().st_mode & 0o777 == 0o755  # a cache may be read
    assert own_folder(made, private=True).stat().st_mode & 0o777 == 0o700
    assert own_file(made / "file") == made / "file"
    assert not (made / "file").exists()


@pytest.mark.parametrize("private", [True, False])
def test_what_belongs_to_somebody_else_is_refused(tmp_path: Path, give_away: GiveAway, private: bool) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    give_away(folder)
    with pytest.raises(
        NotOwnError, match=r"folder: belongs to user .*what is in it would be learned from.*\(--cache\)"
    ):
        own_folder(folder, private=private)


def test_a_file_of_somebody_else_is_refused(tmp_path: Path, give_away: GiveAway) -> None:
    (tmp_path / "vectors").write_text("mine?")
    give_away(tmp_path / "vectors")
    with pytest.raises(NotOwnError, match="vectors: belongs to user"):
        require_own(tmp_path / "vectors")


@pytest.mark.parametrize(
    ("mode", "private", "refused"),
    [(0o777, False, True), (0o777, True, True), (0o770, True, True), (0o770, False, False), (0o755, True, False)],
)
def test_where_others_can_write_is_refused(tmp_path: Path, mode: int, private: bool, refused: bool) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(mode)
    if refused:
        with pytest.raises(NotOwnError, match=rf"folder: others can write there \(mode {mode:04o}\)"):
            own_folder(tmp_path / "folder", private=private)
    else:
        own_folder(tmp_path / "folder", private=private)


def test_where_a_file_system_has_one_mode_for_everything_it_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(0o777)
    all_the_same = os.stat_result((0o100777, 0, 0, 1, NOBODY, NOBODY, 0, 0, 0, 0))
    monkeypatch.setattr(owned, "_shown", lambda _: all_the_same)
    own_folder(tmp_path / "folder")


def test_a_link_of_ones_own_is_followed_unless_what_it_names_is_private(tmp_path: Path, give_away: GiveAway) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    own_folder(tmp_path / "link")
    with pytest.raises(NotOwnError, match=r"link: a link, where a folder of one's own was expected"):
        own_folder(tmp_path / "link", private=True)
    give_away(tmp_path / "real")
    with pytest.raises(NotOwnError, match="real: belongs to user"):
        own_folder(tmp_path / "link")


def test_a_file_instead_of_a_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotOwnError, match="file: a file, where a folder was expected"):
        own_folder(tmp_path / "file")


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A file that its owner alone can read, in such a folder."""
    (tmp_path / "run").mkdir(mode=0o700)
    with made_own(tmp_path / "run" / "file") as file:
        file.write(b"mine")
    return tmp_path / "run" / "file"


def test_a_private_file_is_read_as_it_was_made(private: Path) -> None:
    assert private.stat().st_mode & 0o777 == 0o600
    with opened_own(private) as file:
        assert file.read() == b"mine"
    with pytest.raises(FileExistsError):
        made_own(private)
    with pytest.raises(FileNotFoundError):
        opened_own(private.with_name("none"))


@pytest.mark.parametrize("mode", [0o660, 0o602])
def test_a_private_file_that_others_can_write_is_refused(private: Path, mode: int) -> None:
    private.chmod(mode)
    with pytest.raises(NotOwnError, match=rf"run/file: others can write there \(mode {mode:04o}\)"):
        opened_own(private)


@pytest.mark.parametrize("mode", [0o770, 0o1777])
def test_a_private_file_in_a_folder_that_others_can_write_in_is_refused(private: Path, mode: int) -> None:
    private.parent.chmod(mode)
    with pytest.raises(NotOwnError, match=rf"run: others can write there \(mode {mode:04o}\)"):
        opened_own(private)


@pytest.mark.parametrize("what", ["run", "run/file"])
def test_a_private_file_or_folder_of_somebody_else_is_refused(
    tmp_path: Path, private: Path, give_away: GiveAway, what: str
) -> None:
    give_away(tmp_path / what)
    with pytest.raises(NotOwnError, match=r"run.*: belongs to user"):
        opened_own(private)


def test_no_link_is_followed_to_a_private_file(tmp_path: Path, private: Path) -> None:
    private.with_name("other").symlink_to("file")
    (tmp_path / "link").symlink_to("run")
    with pytest.raises(NotOwnError, match=r"run/other: a link, where a file of one's own was expected"):
        opened_own(private.with_name("other"))
    with pytest.raises(NotOwnError, match=r"link: a link, where a folder of one's own was expected"):
        opened_own(tmp_path / "link" / "file")
