"""Opening a store: its URL, and errors without a password."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa

from serving.store.engine import StoreError, looked_at, open_engine
from tests.postgres_server import PASSWORD


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://user:{PASSWORD.replace('/', '%2F').replace('@', '%40')}@127.0.0.1:1/db",
        f"postgres://user@127.0.0.1:1/db?password={PASSWORD.replace('/', '%2F')}&connect_timeout=2",
        f"postgresql://user:{PASSWORD}@host:port/db",
        f"mysql://user:{PASSWORD.replace('/', '%2F').replace('@', '%40')}@host/db",
        f"nonsense://user:{PASSWORD.replace('/', '%2F').replace('@', '%40')}@host/db",
    ],
)
def test_no_error_says_a_password(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        open_engine(url)
    for said in (PASSWORD, PASSWORD.replace("/", "%2F"), PASSWORD.replace("/", "%2F").replace("@", "%40")):
        assert said not in str(caught.value)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.db").write_text("not a database at all, and long enough to be looked at" * 20)
    with pytest.raises(StoreError, match=r"d\.db: cannot be used as a store: file is not a database"):
        open_engine(str(tmp_path / "d.db"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be used as a store"):
        open_engine(str(tmp_path / "file" / "d.db"))


@pytest.mark.parametrize(
    "url",
    ["{}/decisions.db", "sqlite:///{}/x.db", "sqlite:///file:{}/u.db?uri=true", "{}/file:f.db", "{}/:memory:x.db"],
)
def test_a_new_store_is_its_owner_s_alone(tmp_path: Path, url: str) -> None:
    engine = open_engine(url.format(tmp_path))
    with engine.connect() as connection:
        connection.execute(sa.text("select 1"))
        modes = {file.name: file.stat().st_mode & 0o077 for file in tmp_path.iterdir()}
    engine.dispose()
    assert modes
    assert set(modes.values()) == {0}


def test_an_option_that_sqlite_does_not_take_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be used as a store"):
        open_engine(f"sqlite:///{tmp_path}/x.db?timeout=x")


def test_looking_at_a_store_changes_nothing(tmp_path: Path) -> None:
    assert "is not there yet" in looked_at(str(tmp_path / "a" / "new.db"))
    assert list(tmp_path.iterdir()) == []
    engine = open_engine(str(tmp_path / "x#1.db"))
    assert looked_at(str(tmp_path / "x#1.db")).endswith("is of this version")
    with engine.begin() as connection:
        connection.execute(sa.text("update outcome_router_store set version_num = 'later'"))
    engine.dispose()
    with pytest.raises(StoreError, match="a later outcome-router wrote it"):
        looked_at(str(tmp_path / "x#1.db"))
    (tmp_path / "other.db").write_bytes(b"no database " * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        looked_at(str(tmp_path / "other.db"))
    assert (tmp_path / "other.db").read_bytes() == b"no database " * 100
    with pytest.raises(StoreError, match="cannot be used as a store"):
        looked_at(str(tmp_path))
