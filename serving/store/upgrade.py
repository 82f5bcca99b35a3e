"""Brings a store's tables to this code's version, in place, by the revisions in `migrations`."""

from __future__ import annotations

import logging
from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, column, inspect, select, table
from sqlalchemy.exc import OperationalError, ProgrammingError

from serving.store.tables import METADATA

logger = logging.getLogger(__name__)

# Alembic's table of the version, under a name that tells a store from other databases.
MARKER = "outcome_router_store"
MIGRATIONS = Path(__file__).with_name("migrations")
CURRENT = "is of this version"
# Version 0.1 kept its version under this name in the table, as a number.
_NUMBER = "version"
_LOCKS = {
    "sqlite": "BEGIN IMMEDIATE",
    "postgresql": f"SELECT pg_advisory_xact_lock(hashtext('{MARKER}'))",
}


class UnusableError(ValueError):
    """The database holds what this code cannot use as a store; the message says what, and what to do."""


def upgrade(engine: Engine) -> None:
    """Makes the tables where there are none, and upgrades those of an earlier version, in one transaction.

    Who comes meanwhile waits and finds it done. Raises UnusableError, and leaves everything as it is, for a store of a
    later version and for tables that are no store's; raises SQLAlchemyError where the database does.
    """
    revisions = ScriptDirectory(MIGRATIONS, version_locations=[MIGRATIONS])
    with engine.connect() as connection:
        if _is_current(connection, revisions):
            return
        connection.rollback()
        connection.exec_driver_sql(_LOCKS[engine.dialect.name])
        _upgrade(connection, revisions)
        connection.commit()


def pending(engine: Engine) -> str:
    """What `upgrade` would do, in words; nothing is changed. Raises UnusableError where it would."""
    revisions = ScriptDirectory(MIGRATIONS, version_locations=[MIGRATIONS])
    with engine.connect() as connection:
        if _is_current(connection, revisions):
            return CURRENT
        connection.rollback()
        _, version = _usable(connection, revisions)
    newest = revisions.get_current_head()
    return "has no tables yet" if version is None else f"will be upgraded from version {version} to {newest}"


def _is_current(connection: Connection, revisions: ScriptDirectory) -> bool:
    """Whether there is nothing to do; in one statement, for without the lock another worker may be at the tables."""
    try:
        version = connection.scalar(select(column("version_num")).select_from(table(MARKER)))
    except (OperationalError, ProgrammingError):  # no such table, or no such column of it
        return False
    return version == revisions.get_current_head()


def _found(connection: Connection) -> tuple[str, str] | None:
    """Where the store keeps its version, and which that is; None where there is no store."""
    inspector = inspect(connection)
    if not inspector.has_table(MARKER):
        return None
    name: str = inspector.get_columns(MARKER)[0]["name"]
    version = connection.scalar(select(column(name)).select_from(table(MARKER)))
    # Version 0.1 may have been stopped between making its tables and writing its version.
    return name, "1" if version is None else str(version)


def _usable(connection: Connection, revisions: ScriptDirectory) -> tuple[str | None, str | None]:
    """As `_found`, (None, None) where there is no store; raises UnusableError for what cannot be upgraded."""
    newest = revisions.get_current_head()
    name, version = _found(connection) or (None, None)
    if version is None:
        taken = [one.name for one in METADATA.sorted_tables if inspect(connection).has_table(one.name)]
        if taken:
            raise UnusableError(
                f"it has a table {' and a table '.join(taken)}, and is no store (no table {MARKER}); give another database"
            )
    elif version not in {one.revision for one in revisions.walk_revisions()}:
        raise UnusableError(
            f"store version is {version}, this code uses {newest}: a later outcome-router wrote it. "
            "Serve with that one, or give another store"
        )
    return name, version


def _upgrade(connection: Connection, revisions: ScriptDirectory) -> None:
    context = MigrationContext.configure(connection, opts={"version_table": MARKER})
    operations = Operations(context)
    newest = revisions.get_current_head()
    name, version = _usable(connection, revisions)
    if version is not None and name == _NUMBER:
        operations.drop_table(MARKER)
        context.stamp(revisions, version)
    for one in reversed(list(revisions.iterate_revisions("head", version or "base"))):
        one.module.upgrade(operations)
    context.stamp(revisions, "head")
    logger.info("the decision store was %s", f"upgraded to version {newest}" if version else "made")
