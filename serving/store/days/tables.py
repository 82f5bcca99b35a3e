"""The tables of sums of days, and what notes that a day's rows have changed; PostgreSQL's alone, and no part of the store.

Whoever opens the store makes them, and whoever drops them loses nothing but time. Triggers note every change of what is about
a day that is over (`savings_changed`), whoever makes it: an earlier version's service, or somebody in SQL. A note has its
transaction, so a day's sums can tell whether they know of it. Of a day that is not over a note is made where it has sums all
the same: the database's clock was ahead when they were made, and is put back.
"""

from __future__ import annotations

import logging
from typing import Any

from sqlalchemy import Column, Engine, Float, Integer, LargeBinary, MetaData, String, Table, Text, delete, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.types import UserDefinedType

from serving.account.days import OF_PARTS, OF_SUMS, OF_TOLD, DayTables
from serving.account.grouped import OF_ANSWERS, OF_CELL, OF_PART, SQUARES, SUMMED

logger = logging.getLogger(__name__)

METADATA = MetaData()
# A day's sums, of what was there when they were made: `snapshot` says which transactions these know of, `held` of which tables.
DAYS = Table(
    "savings_day",
    METADATA,
    Column("day", Integer, primary_key=True, autoincrement=False),  # since 1970, in UTC
    Column("snapshot", Text, nullable=False),
    Column("held", Text, nullable=False),
)


def _of_days(name: str, apart: tuple[str, ...], sums: tuple[str, ...]) -> Table:
    day, by = Column("day", Integer, nullable=False, index=True), Column("apart", String(16), nullable=False)
    return Table(name, METADATA, day, by, *(Column(one, Text) for one in apart), *(Column(one, Float) for one in sums))


SUMS = DayTables(
    _of_days("savings_sums", OF_SUMS, (*SUMMED, *SQUARES)),
    _of_days("savings_parts", OF_PARTS, OF_PART),
    _of_days("savings_answers", OF_TOLD, OF_ANSWERS),
    Table(
        "savings_cells",
        METADATA,
        Column("day", Integer, nullable=False, index=True),
        Column("conversation", LargeBinary, nullable=False, index=True),
        *(Column(one, Text) for one in ("key", "workflow", "candidate", "reference")),
        *(Column(one, Float, nullable=False) for one in OF_CELL),
    ),
)


class _Transaction(UserDefinedType[str]):
    """PostgreSQL's number of a transaction."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"


# A note that what is about a day was changed, after it was over, and by which transaction.
CHANGED = Table(
    "savings_changed",
    METADATA,
    Column("day", Integer, nullable=False, index=True),
    Column("changed", _Transaction(), nullable=False),
)
# Prune drops sums by itself, and takes what is about decisions with them: of that no note is made.
UNNOTED = "SET LOCAL outcome_router.unnoted = 'on'"
_NOTED = "current_setting('outcome_router.unnoted', true) IS DISTINCT FROM 'on'"
_EVER = "185e12"  # seconds: a later day is no integer of PostgreSQL's
_TODAY = "floor(extract(epoch FROM clock_timestamp()) / 86400) * 86400"
# Whoever may write feedback need not have rights to these tables. What runs as the owner finds the store's tables first, and
# last what somebody made for a session; what the triggers' functions call runs so too, and nobody else may call it.
_AS_OWNER = "SECURITY DEFINER SET search_path = pg_catalog, {schema}, pg_temp"
_SCHEMA = "SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass('decision')"
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('outcome_router_days'))"
# Without the functions somebody does without sums; those of before notes were made of days that are not over are made anew.
_MADE = """
SELECT to_regclass('savings_changed') IS NOT NULL AND to_regclass('savings_day') IS NOT NULL AND NOT EXISTS (
    SELECT FROM pg_proc WHERE oid = to_regprocedure('savings_note(double precision)')
    AND (prosrc NOT LIKE '%savings_day%' OR has_function_privilege('public', oid, 'EXECUTE')))
"""
_CHANGED = """
DROP FUNCTION IF EXISTS savings_note, savings_decision_changed, savings_told, savings_feedback_changed CASCADE;
CREATE FUNCTION savings_note(at double precision) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT (at >= 0 AND at < {ever}) OR to_regclass('savings_changed') IS NULL OR to_regclass('savings_day') IS NULL THEN
        RETURN;
    END IF;
    IF at < {today} OR EXISTS (SELECT FROM savings_day WHERE day = floor(at / 86400)::integer) THEN
        INSERT INTO savings_changed SELECT floor(at / 86400)::integer, pg_current_xact_id() WHERE NOT EXISTS (
            SELECT FROM savings_changed WHERE day = floor(at / 86400)::integer AND changed = pg_current_xact_id());
    END IF;
END $$;
CREATE FUNCTION savings_decision_changed() RETURNS trigger LANGUAGE plpgsql {as_owner} AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN PERFORM savings_note(OLD.at); END IF;
    IF TG_OP <> 'DELETE' THEN PERFORM savings_note(NEW.at); END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION savings_told(about text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE made double precision; found_at double precision;
BEGIN
    IF about ~ '^[0-9a-f]{{12}}7[0-9a-f]{{3}}[89ab][0-9a-f]{{15}}$' THEN
        made := ('x' || substr(about, 1, 12))::bit(48)::bigint / 1e3;
        SELECT at INTO found_at FROM decision WHERE id = about AND at >= made - 86400 AND at < made + 86400;
    END IF;
    IF found_at IS NULL THEN SELECT at INTO found_at FROM decision WHERE id = about; END IF;
    PERFORM savings_note(found_at);
END $$;
CREATE FUNCTION savings_feedback_changed() RETURNS trigger LANGUAGE plpgsql {as_owner} AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN PERFORM savings_told(OLD.decision_id); END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.decision_id IS DISTINCT FROM OLD.decision_id) THEN
        PERFORM savings_told(NEW.decision_id);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER savings_decision AFTER INSERT OR UPDATE OR DELETE ON decision FOR EACH ROW
    EXECUTE FUNCTION savings_decision_changed();
REVOKE ALL ON FUNCTION savings_note, savings_decision_changed, savings_told, savings_feedback_changed FROM PUBLIC;
"""
_CHANGED_FEEDBACK = """
CREATE TRIGGER savings_{table} AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION savings_feedback_changed();
CREATE TRIGGER savings_{table}_gone AFTER DELETE ON {table} FOR EACH ROW
    WHEN ({noted}) EXECUTE FUNCTION savings_feedback_changed();
"""
TRIGGERS = 5  # that these are
# Shorter than PostgreSQL's deadlock_timeout (1 s): who waits in a circle with this is not the one that fails.
_WAIT_MS = 900


def make(engine: Engine) -> None:
    """Makes the tables and the triggers where there are none, in PostgreSQL; what fails is logged and done the next time."""
    if engine.dialect.name != "postgresql":
        return
    try:
        with engine.begin() as connection:
            if connection.scalar(text(_MADE)):
                return
            # Whoever waits for the tables has others wait behind, and a service its start, while another sums.
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_WAIT_MS}")
            connection.exec_driver_sql(_LOCK)
            if connection.scalar(text(_MADE)):
                return
            # From the table to its months, as everybody locks them: dropping functions with their triggers goes the other way.
            connection.exec_driver_sql("LOCK TABLE decision, feedback, also_feedback IN ACCESS EXCLUSIVE MODE")
            schema = connection.scalar(text(_SCHEMA))
            connection.exec_driver_sql(f"SET LOCAL search_path = {schema}")
            METADATA.create_all(connection)
            as_owner = _AS_OWNER.format(schema=schema)
            made = _CHANGED.format(today=_TODAY, ever=_EVER, as_owner=as_owner)
            made += "".join(_CHANGED_FEEDBACK.format(table=one, noted=_NOTED) for one in ("feedback", "also_feedback"))
            connection.exec_driver_sql(made.replace("%", "%%"))
            connection.execute(delete(DAYS))  # what was changed before is not noted
    except SQLAlchemyError as error:
        kind = type(getattr(error, "orig", None) or error).__name__
        logger.warning("the store's tables for sums of days could not be made (%s), it is tried again", kind)
