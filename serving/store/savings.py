"""What routing saved, by what the store holds."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, text

from serving.account.asked import Tables, asked
from serving.account.savings import Account
from serving.account.window import Window
from serving.store.days.kept import hold, summed
from serving.store.tables import ALSO_FEEDBACK, DECISIONS, FEEDBACK
from serving.store.transaction import STATEMENT_SECONDS

logger = logging.getLogger(__name__)

_CANCEL_SECONDS = 2.0
# SQLite looks whether it is to end whenever it has done so many steps: about every millisecond.
_STEPS = 20_000


class Asking:
    """One account of a window that is asked for in a thread, and that any other thread may end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopped = False
        self._driver: Any = None  # psycopg's connection, while it is asked

    def stop(self) -> None:
        """Ends it, soon: it raises OperationalError, or TimeoutError where it has not begun."""
        with self._lock:
            self._stopped = True
            if self._driver is None:
                return
        threading.Thread(target=self._cancel, name="cancel", daemon=True).start()  # PostgreSQL is told, and may be far

    def savings(self, engine: Engine, window: Window) -> Account:
        """The account, all of it of one moment. OperationalError: it took longer than `STATEMENT_SECONDS`, or was ended.

        In PostgreSQL that is the time of a single statement, in SQLite of all of them.
        """
        with engine.connect() as connection:
            if engine.dialect.name == "sqlite":
                with self._watched(connection):
                    connection.exec_driver_sql("BEGIN")
                    return asked(connection, Tables(DECISIONS, FEEDBACK, ALSO_FEEDBACK), window)
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(STATEMENT_SECONDS * 1e3)}")
            with self._cancelled(connection):
                hold(connection)
                # Tables of its own, which are gone when this is rolled back; without the right to them it takes longer.
                gather = bool(connection.scalar(text("SELECT has_database_privilege(current_database(), 'TEMPORARY')")))
                of_days = summed(connection, window) if gather else None
                return asked(
                    connection, Tables(DECISIONS, FEEDBACK, ALSO_FEEDBACK), window, gather=gather, summed=of_days
                )

    @contextmanager
    def _watched(self, connection: Connection) -> Iterator[None]:
        """SQLite has no timeout of its own: it asks again and again whether it is to end."""
        ends = time.monotonic() + STATEMENT_SECONDS
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(lambda: self._stopped or time.monotonic() > ends, _STEPS)
        try:
            yield
        finally:
            driver.set_progress_handler(None, 0)

    @contextmanager
    def _cancelled(self, connection: Connection) -> Iterator[None]:
        with self._lock:
            if self._stopped:
                raise TimeoutError("Nobody waits for it any more.")
            self._driver = connection.connection.driver_connection
        try:
            yield
        finally:
            with self._lock:
                self._driver = None

    def _cancel(self) -> None:
        with self._lock:  # a connection that is given back serves somebody else
            if self._driver is not None:
                try:
                    self._driver.cancel_safe(timeout=_CANCEL_SECONDS)
                except Exception:  # psycopg's, which need not be installed; the statement's own timeout ends it
                    logger.warning("PostgreSQL could not be told to end an account of savings", exc_info=True)


def savings(engine: Engine, window: Window) -> Account:
    """The account of a window, as `Asking` has it."""
    return Asking().savings(engine, window)
