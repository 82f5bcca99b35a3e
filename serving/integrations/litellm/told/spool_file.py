"""The file of a spool: made where there is none, opened again where another is there now, moved aside if it is unreadable."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from serving.bundle.atomic_write import for_its_owner

logger = logging.getLogger(__name__)

_VERSION = 2
_TABLES = """
create table told (
  id integer primary key autoincrement, destination text not null, name text not null, body blob not null,
  at real not null, due real not null, tries integer not null default 0, revision integer not null default 0,
  leased_until real not null default 0, lease text, key text, known integer not null default 0, unique (destination, name));
create index told_due on told (destination, due);
create table owner (decision_id text primary key, key text not null, at real not null) without rowid;
create index owner_at on owner (at);
create table total (rows integer not null, bytes integer not null, owners integer not null);
insert into total values (0, 0, 0);
create trigger told_in after insert on told begin update total set rows = rows + 1, bytes = bytes + length(new.body); end;
create trigger told_out after delete on told begin update total set rows = rows - 1, bytes = bytes - length(old.body); end;
create trigger told_other after update of body on told begin
  update total set bytes = bytes + length(new.body) - length(old.body); end;
create table thumbs_of (
  key text not null, known integer not null, rows integer not null, primary key (key, known)) without rowid;
create trigger thumb_in after insert on told when new.key is not null begin
  insert into thumbs_of values (new.key, new.known, 1), ('', new.known, 1) on conflict do update set rows = rows + 1; end;
create trigger thumb_out after delete on told when old.key is not null begin
  update thumbs_of set rows = rows - 1 where key in (old.key, '') and known = old.known;
  delete from thumbs_of where key = old.key and known = old.known and rows <= 0; end;
create trigger owner_in after insert on owner begin update total set owners = owners + 1; end;
create trigger owner_out after delete on owner begin update total set owners = owners - 1; end;
"""
# What says that the file is not one of ours, or no longer; anything else may pass.
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class UnknownVersionError(sqlite3.DatabaseError):
    """A file of another version: what it holds cannot be told."""


class SpoolFile:
    """One process's connection to the file at `path`, or to its own memory where there can be no file; the log says so.

    One that is `near` is for whoever is in a hurry: it makes no checkpoints, and has no memory of its own.
    """

    def __init__(self, path: Path, *, lock_seconds: float = 5.0, near: bool = False) -> None:
        self.path = path
        self._lock_seconds, self._near = lock_seconds, near
        self.in_memory = False
        self._connection: sqlite3.Connection | None = None
        self._inode = -1

    def there(self) -> sqlite3.Connection | None:
        """The connection to the file, None where there is none yet; for any thread, one at a time."""
        if self._connection is None and not self.path.exists():
            return None
        return self.opened()

    def opened(self) -> sqlite3.Connection:
        """The connection to the file that is at the path now. Raises sqlite3.Error or OSError."""
        if self._connection is not None:
            if self.in_memory:
                return self._connection
            with suppress(FileNotFoundError):
                if self.path.stat().st_ino == self._inode:
                    return self._connection
            self.close()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with for_its_owner():  # what SQLite puts beside it has the file's mode
                self.path.touch(mode=0o600)
            self._inode = self.path.stat().st_ino
            self._connection = self._connected()
        except (OSError, sqlite3.OperationalError) as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CANTOPEN) & 0xFF
            if self._near or code not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise
            why = getattr(error, "sqlite_errorname", None) or type(error).__name__
            logger.error("the spool %s cannot be made (%s): a kill loses what is not delivered yet", self.path, why)
            self._connection, self.in_memory = self._connected(memory=True), True
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def failed(self, error: Exception) -> bool:
        """Closes the connection after an error; whether the file cannot be read and was moved aside."""
        if self.in_memory:
            return False
        self.close()
        code = getattr(error, "sqlite_errorcode", 0)
        if not isinstance(error, UnknownVersionError) and code & 0xFF not in _CORRUPT:
            return False
        aside = self.path.with_name(f"{self.path.name}.unreadable-{int(time.time())}-{os.getpid()}")
        with suppress(OSError):
            if self.path.stat().st_ino != self._inode:  # another process has put a new one there
                return False
            for ending in ("-wal", "-shm", ""):
                with suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + ending).rename(aside.with_name(aside.name + ending))
            logger.error("the spool %s cannot be read, and was moved to %s", self.path, aside)
            return True
        return False

    def _connected(self, *, memory: bool = False) -> sqlite3.Connection:
        place = ":memory:" if memory else self.path
        file = sqlite3.connect(place, timeout=self._lock_seconds, isolation_level=None, check_same_thread=False)
        try:
            # In WAL mode, NORMAL survives a killed process; what it risks is a power cut.
            for pragma in ("journal_mode = wal", "synchronous = normal", f"journal_size_limit = {8 * 2**20}"):
                file.execute(f"pragma {pragma}").fetchall()
            if self._near:
                file.execute("pragma wal_autocheckpoint = 0").fetchall()
            file.execute("begin immediate")
            version = int(file.execute("pragma user_version").fetchone()[0])
            if version not in (0, _VERSION):
                raise UnknownVersionError(f"user_version: expected {_VERSION}; arrived: {version}")
            if version == 0:
                for statement in _statements(_TABLES):
                    file.execute(statement)
                file.execute(f"pragma user_version = {_VERSION}")
            file.execute("commit")
        except BaseException:
            file.close()
            raise
        return file


def _statements(script: str) -> list[str]:
    """A script's statements, one by one: `executescript` would commit."""
    found, part = [], ""
    for piece in script.split(";"):
        part += piece + ";"
        if sqlite3.complete_statement(part):
            found.append(part)
            part = ""
    return found
