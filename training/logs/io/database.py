"""Tables of a database by URL, read a partition at a time, and URLs shown without their passwords."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from training.logs.io.files import Records
from training.logs.objects import address
from training.logs.objects.path import LogPath, ObjectPath
from training.logs.outcomes import OutcomeError

SCHEMES = frozenset({"postgresql", "postgres", "sqlite"})

_PARTITION = 5_000
# What Prisma, with which LiteLLM writes its tables, takes in a URL and PostgreSQL's own client refuses.
_PRISMA = ("schema", "connection_limit", "pool_timeout", "pgbouncer", "socket_timeout", "statement_cache_size")
_HIDDEN = "***"
_MAGIC = b"SQLite format 3\0"


def shown(url: str) -> str:
    """The URL without passwords, also those among its parameters; only the scheme where it cannot be understood."""
    if "://" not in url and not address.is_object_url(url):
        return url
    if url.partition(":")[0].partition("+")[0].lower() not in SCHEMES:
        return address.shown(url)
    try:
        parts = make_url(url)
    except ArgumentError:
        return f"{url.partition(':')[0]}://{_HIDDEN}"
    secret = [name for name in parts.query if "password" in name.lower() or "token" in name.lower()]
    return parts.update_query_dict(dict.fromkeys(secret, _HIDDEN)).render_as_string(hide_password=True)


def is_sqlite(path: LogPath) -> bool:
    """Whether the file is an SQLite database, by its first bytes; raises OSError."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def url_of(path: LogPath) -> str:
    """The URL of an SQLite file; raises OutcomeError for one on an object store."""
    if isinstance(path, ObjectPath):
        raise OutcomeError(
            f"{path}: is an SQLite database, which is read from a disk: copy it to one, and give that as --data"
        )
    return URL.create("sqlite", database=str(path)).render_as_string()


def has_table(url: str, table: str) -> bool:
    """Whether the database has the table; raises OutcomeError when it cannot be reached."""
    with connected(url) as (connection, schema):
        return sa.inspect(connection).has_table(table, schema=schema)


def rows(
    url: str,
    table: str,
    *,
    plain: Sequence[str],
    nested: Sequence[str],
    required: frozenset[str],
    order: Sequence[str],
) -> Iterator[Records]:
    """The rows of a table in this order, 1-based, those columns of them that it has; `nested` ones as JSON text.

    Raises OutcomeError when the database cannot be reached, or the table or a required column is missing.
    """
    with connected(url) as (connection, schema):
        present = _columns(connection, url, table, schema, required)
        wanted: list[sa.ColumnElement[Any]] = [sa.column(name) for name in plain if name in present]
        # As text, because a database that checks no JSON (SQLite) may hold a broken cell: one row, not the whole table.
        wanted += [sa.cast(sa.column(name), sa.Text).label(name) for name in nested if name in present]
        query = sa.select(*wanted).select_from(sa.table(table, schema=schema)).order_by(*map(sa.column, order))
        yield from batches(connection, query)


def batches(connection: sa.Connection, query: sa.Select[Any]) -> Iterator[Records]:
    """The rows of a query through a cursor on the server, 1-based, cells as they are."""
    result = connection.execution_options(yield_per=_PARTITION).execute(query)
    names, first = list(result.keys()), 1
    for batch in result.partitions():
        columns = zip(*batch, strict=True)
        cells = {name: pd.Series(column, dtype=object) for name, column in zip(names, columns, strict=True)}
        yield Records(pd.DataFrame(cells), list(range(first, first + len(batch))), [])
        first += len(batch)


def _columns(connection: sa.Connection, url: str, table: str, schema: str | None, required: frozenset[str]) -> set[str]:
    inspector = sa.inspect(connection)
    if not inspector.has_table(table, schema=schema):
        tables = ", ".join(sorted(inspector.get_table_names(schema=schema))[:20]) or "none"
        raise OutcomeError(
            f"{shown(url)}: expected the table {table}, but it is not there; tables: {tables}. "
            "Check the database's name, or add ?schema=NAME to the URL"
        )
    present = {column["name"] for column in inspector.get_columns(table, schema=schema)}
    if missing := sorted(required - present):
        raise OutcomeError(
            f"{shown(url)}: {table} lacks {', '.join(missing)}; it has {', '.join(sorted(present))}. "
            "Give the table that the proxy writes"
        )
    return present


@contextmanager
def connected(url: str, *, steady: bool = False) -> Iterator[tuple[sa.Connection, str | None]]:
    """A connection that only reads, and the schema that the URL names; database errors become OutcomeError.

    A `steady` one sees everything as it was at its first look, whoever writes meanwhile.
    """
    address, schema = _address(url)
    engine = sa.create_engine(address, poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            if address.get_backend_name() == "postgresql":
                connection.execution_options(postgresql_readonly=True)
                if steady:
                    connection.execution_options(isolation_level="REPEATABLE READ")
            elif steady:
                connection.exec_driver_sql("BEGIN")
            yield connection, schema
    except SQLAlchemyError as error:
        raise OutcomeError(
            f"{shown(url)}: cannot be read as a database ({_said(error, address)}); check the URL and the access"
        ) from None  # the cause's text may hold what the URL holds
    finally:
        engine.dispose()


def _address(url: str) -> tuple[URL, str | None]:
    try:
        parts = make_url(url)
    except ArgumentError:
        raise OutcomeError(
            f"{shown(url)}: not a database URL; expected postgresql://user:password@host:port/database, with special "
            "characters of the password percent-encoded, or sqlite:///file"
        ) from None
    if parts.get_backend_name() not in SCHEMES:
        raise OutcomeError(
            f"{shown(url)}: is no database; expected postgresql://user:password@host:port/database, or sqlite:///file"
        )
    if parts.get_backend_name() == "sqlite":
        if not parts.database or not Path(parts.database).is_file():
            raise OutcomeError(f"{shown(url)}: no such file; expected sqlite:///file, or sqlite:////folder/file")
        return parts, None
    schema = parts.query.get("schema")
    parts = parts.difference_update_query(_PRISMA).set(drivername="postgresql+psycopg")
    return parts, schema if isinstance(schema, str) else None


def _said(error: SQLAlchemyError, address: URL) -> str:
    """The first line of what the driver said, without the statement and without any secret of the URL."""
    text = str(getattr(error, "orig", None) or type(error).__name__).strip().partition("\n")[0]
    values: list[Any] = [address.password, *(address.query[name] for name in address.query if "password" in name)]
    for secret in values:
        text = text.replace(str(secret), _HIDDEN) if secret else text
    return text
