"""What routing saved, by what the store holds."""

from __future__ import annotations

from sqlalchemy import Engine

from serving.account.asked import Tables, asked
from serving.account.savings import Account
from serving.account.window import Window
from serving.store.tables import ALSO_FEEDBACK, DECISIONS, FEEDBACK
from serving.store.transaction import STATEMENT_SECONDS


def savings(engine: Engine, window: Window) -> Account:
    """The account of a window, all of it of one moment. In PostgreSQL no statement of it takes longer than 30 s."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN")
        else:
            connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {int(STATEMENT_SECONDS * 1e3)}")
        return asked(connection, Tables(DECISIONS, FEEDBACK, ALSO_FEEDBACK), window)
