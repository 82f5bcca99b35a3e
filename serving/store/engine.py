"""A store's database, opened by its URL: SQLite (WAL) by default, PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError

from serving.bundle.atomic_write import for_its_owner
from serving.store.days import tables as days
from serving.store.months.partitions import make_ahead
from serving.store.upgrade import CURRENT, UnusableError, pending, upgrade

_CONNECT_SECONDS = 10
_LOCKED_SECONDS = 60.0
# After some 30 s without a sign of life the server is gone: libpq would otherwise wait for a quarter of an hour or for ever.
_GONE = {"keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}
_HIDDEN = "***"
_KINDS = "an SQLite file, sqlite:///file.db or postgresql://user@host/database"


class StoreError(ValueError):
    """A store that cannot be opened; the message says which and why, without a password."""


def open_engine(url: str) -> Engine:
    """An engine for a store's URL, its tables made or brought to this version; raises StoreError.

    A bare path is an SQLite file. Workers share it: SQLite in WAL mode waits for another's write, PostgreSQL needs not.
    """
    parsed = _parsed(url)
    try:
        if (file := _file(parsed)) is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(parsed, error) from None
    engine = _engine(parsed)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _pragmas)
    try:
        with for_its_owner():  # what SQLite puts beside a new file later has the file's mode
            _upgraded(engine)
        make_ahead(engine, time.time())
        days.make(engine)
    except (SQLAlchemyError, UnusableError, ValueError) as error:
        engine.dispose()
        raise _unusable(parsed, error) from None
    return engine


def looked_at(url: str) -> str:
    """What opening a store would find, in words; nothing is made or changed. Raises StoreError where it could not be opened."""
    parsed = _parsed(url)
    file = _file(parsed)
    if file is not None:
        folder = next(one for one in file.absolute().parents if one.exists())
        if not file.exists():
            if not folder.is_dir() or not os.access(folder, os.W_OK):
                raise _unusable(parsed, PermissionError(f"nothing can be written in {folder}"))
            return f"{_shown(parsed)} is not there yet, and will be made"
        parsed = parsed.set(database=f"file:{quote(str(file.absolute()))}").update_query_dict(
            {"mode": "ro", "uri": "true"}
        )
    engine = _engine(parsed)
    try:
        return f"{shown(url)} {pending(engine)}"
    except (SQLAlchemyError, UnusableError, ValueError) as error:
        raise _unusable(_parsed(url), error) from None
    finally:
        engine.dispose()


def open_current(url: str) -> Engine:
    """As `open_engine`, for a store that is there and of this version; raises StoreError, and makes and upgrades nothing."""
    found = looked_at(url)
    if not found.endswith(CURRENT):
        raise StoreError(f"{found}, once router-serve is started with it; nothing is done before that")
    return open_engine(url)


def _file(url: URL) -> Path | None:
    """The file of an SQLite store; None for a database that is none, or is named by an URI of SQLite's own."""
    named = url.get_backend_name() == "sqlite" and url.database and "uri" not in url.query
    return Path(str(url.database)) if named and url.database != ":memory:" else None


def _engine(url: URL) -> Engine:
    options: dict[str, Any] = {"pool_pre_ping": True, "hide_parameters": True}
    if url.get_backend_name() == "postgresql":
        options["connect_args"] = {"connect_timeout": _CONNECT_SECONDS, **_GONE}
    try:
        return create_engine(url, **options)
    except (ImportError, ValueError) as error:
        raise _unusable(url, error) from None


def _unusable(url: URL, error: Exception) -> StoreError:
    file = _file(url)
    if file is not None and file.is_dir():
        error = IsADirectoryError(f"{file} is a folder; expected a file, as {file / 'decisions.db'}")
    return StoreError(f"{_shown(url)}: cannot be used as a store: {_said(error, url)}")


def shown(url: str) -> str:
    """A store's URL as it may be said, without a password; raises StoreError."""
    return _shown(_parsed(url))


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url) if "://" in url else URL.create("sqlite", database=url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        # What arrived may hold a password where nobody looks for one.
        raise StoreError(f"{url.partition(':')[0]}://{_HIDDEN}: not a store's URL; expected {_KINDS}") from None
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    if backend not in ("sqlite", "postgresql"):
        raise StoreError(f"{_shown(parsed)}: {backend} is no store; expected {_KINDS}")
    return parsed


def _secrets(url: URL) -> dict[str, Any]:
    return {name: value for name, value in url.query.items() if "password" in name.lower()}


def _shown(url: URL) -> str:
    return url.update_query_dict(dict.fromkeys(_secrets(url), _HIDDEN)).render_as_string(hide_password=True)


def _said(error: Exception, url: URL) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    for secret in (url.password, *_secrets(url).values()):
        text = text.replace(str(secret), _HIDDEN) if secret else text
    return text


def _upgraded(engine: Engine) -> None:
    """Brings the tables to this version; waits while other workers have an SQLite file locked."""
    ends = time.monotonic() + _LOCKED_SECONDS
    while True:
        try:
            upgrade(engine)
        except OperationalError as error:
            code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # its low byte is what it is about
            if code != sqlite3.SQLITE_BUSY or time.monotonic() > ends:
                raise
            time.sleep(0.1)
        else:
            return


def _pragmas(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    # In WAL mode, NORMAL survives a killed process; what it risks is a power cut.
    if (
        cursor.execute("pragma page_count").fetchone()[0] == 0
    ):  # a new file, which can give back the room of what is pruned
        cursor.execute("pragma auto_vacuum = incremental")
    for pragma in ("busy_timeout = 5000", "journal_mode = wal", "synchronous = normal"):
        cursor.execute(f"pragma {pragma}")
    cursor.close()


def kept(store: str | None, *, prompts: bool) -> str:
    """Whether and where prompts are stored, for the one who starts it."""
    if not store:
        return "prompts are not stored, and neither are decisions (ROUTER_STORE is empty)"
    if not prompts:
        return f"prompts are not stored (ROUTER_STORE_PROMPTS is false); decisions are, in {shown(store)}"
    return f"prompts are stored in {shown(store)}, except where a policy has zero_retention or no_training"
