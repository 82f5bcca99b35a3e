"""The partitions of PostgreSQL's table of decisions: one for each month, made before the month begins.

What comes for a month that has none goes into the partition `decision_other`, and from there into the month's own once that is
made: storing a decision never fails for want of a partition. Before version 6 all decisions were in one table, which became
the partition `decision_before`.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from serving.store.months.calendar import Month, months_from

logger = logging.getLogger(__name__)

OTHER = "decision_other"
AHEAD = 3  # months that are there: the running one, and the next two
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('outcome_router_months'))"
# Who asks for the whole table waits no longer than this for those who use it, for all others wait behind.
WAIT_MS = 2_000
_SECONDS = 600.0
_MOST_COUNTED = 100_000
_RANGE = re.compile(r"FROM \((?P<begins>[^)]*)\) TO \((?P<ends>[^)]*)\)")
_PARTITIONS = """
SELECT child.relname, pg_get_expr(child.relpartbound, child.oid)
FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid
WHERE inhparent = to_regclass('decision')
"""


class Partition(NamedTuple):
    """One partition: the decisions made from `begins` to before `ends` (epoch seconds)."""

    name: str
    begins: float
    ends: float

    def holds(self, month: Month) -> bool:
        return self.begins <= month.begins and month.ends <= self.ends


def partitions(connection: Connection) -> list[Partition]:
    """The partitions that have a time, by it; none where the table has none, as in SQLite."""
    if connection.dialect.name != "postgresql":
        return []
    found = []
    for name, bound in connection.execute(text(_PARTITIONS)):
        if (told := _RANGE.search(bound)) is not None:
            found.append(Partition(name, _edge(told["begins"]), _edge(told["ends"])))
    return sorted(found, key=lambda one: one.begins)


def _edge(told: str) -> float:
    return {"MINVALUE": float("-inf"), "MAXVALUE": float("inf")}.get(told) or float(told.strip("'"))


def make(engine: Engine, months: Iterable[Month]) -> list[str]:
    """Makes the partitions that are lacking, each in a transaction, and gives their names. Raises what SQLAlchemy does.

    Whoever comes first makes them, and others wait for that. Rows that came before their partition are moved into it.
    """
    if engine.dialect.name != "postgresql":
        return []
    with engine.connect() as connection:
        there = partitions(connection)
    lacking = [month for month in months if not any(one.holds(month) for one in there)]
    return [name for month in lacking if (name := _make(engine, month)) is not None]


def _make(engine: Engine, month: Month) -> str | None:
    name = f"decision_{month.name.replace('-', '_')}"
    with engine.begin() as connection:
        connection.exec_driver_sql(_LOCK)
        if any(one.holds(month) for one in partitions(connection)):
            return None
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {WAIT_MS}")
        connection.exec_driver_sql(f"LOCK TABLE {OTHER} IN ACCESS EXCLUSIVE MODE")
        connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE decision INCLUDING DEFAULTS)")
        moved = connection.exec_driver_sql(
            f"WITH moved AS (DELETE FROM {OTHER} WHERE at >= {month.begins} AND at < {month.ends} RETURNING *) "
            f"INSERT INTO {name} SELECT * FROM moved"
        ).rowcount
        # It gets the indices of the whole, of which it takes no lock that a decision would wait for.
        connection.exec_driver_sql(
            f"ALTER TABLE decision ATTACH PARTITION {name} FOR VALUES FROM ({month.begins}) TO ({month.ends})"
        )
    if moved:
        logger.warning(
            "%d decisions of %s came before there was a partition for them; they are in it now", moved, month.name
        )
    return name


def make_ahead(engine: Engine, now: float) -> None:
    """Makes those of the running month and of the next ones; what fails is logged and done the next time."""
    try:
        for name in make(engine, months_from(now, AHEAD)):
            logger.info("the store has a partition %s", name)
    except SQLAlchemyError as error:
        kind = type(getattr(error, "orig", None) or error).__name__
        logger.warning("the next months' partitions of the store could not be made (%s), it is tried again", kind)


def timed_out(error: DBAPIError) -> bool:
    """Whether a statement waited too long for a lock."""
    return getattr(error.orig, "sqlstate", None) == "55P03"


def misplaced(engine: Engine) -> int:
    """How many decisions are in the partition of those that no month has one for; not counted beyond 100,000."""
    if engine.dialect.name != "postgresql":
        return 0
    with engine.connect() as connection:
        some = f"SELECT count(*) FROM (SELECT FROM {OTHER} LIMIT {_MOST_COUNTED}) AS few"
        return int(connection.scalar(text(some)) or 0)


class Ahead:
    """Makes the partitions of coming months every ten minutes, in a thread of its own, until `stop`; in PostgreSQL alone.

    `misplaced` is how many decisions no month had a partition for, when that was looked at last.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self.misplaced = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        if engine.dialect.name == "postgresql":
            self._thread = threading.Thread(target=self._run, args=(engine, clock), name="months", daemon=True)
            self._thread.start()

    def _run(self, engine: Engine, clock: Callable[[], float]) -> None:
        self._count(engine)  # whoever opened the store has made them
        while not self._ended.wait(_SECONDS):
            make_ahead(engine, clock())
            self._count(engine)

    def _count(self, engine: Engine) -> None:
        try:
            self.misplaced = misplaced(engine)
        except SQLAlchemyError as error:
            logger.warning("decisions outside of months could not be counted (%s)", type(error).__name__)

    def stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(WAIT_MS / 1e3)
