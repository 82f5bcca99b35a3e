"""The tables of decisions, of feedback on them, of budgets and of sessions, as the last of the migrations leaves them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Engine,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects import postgresql, sqlite

METADATA = MetaData()
DECISIONS = Table(
    "decision",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("at", Float, nullable=False),  # seconds since the epoch, UTC
    Column("key", String(256)),
    Column("workflow", Text),
    Column("session_id", Text),
    Column("prompt", Text),  # null where prompts are not kept
    Column("messages", Text),  # JSON
    Column("candidate", String(256), nullable=False),
    Column("reason", String(32), nullable=False),
    Column("propensity", Float, nullable=False),
    Column("knob", Float),  # null: infinite
    Column("operating_point", String(256)),
    Column("quality_target", Float),
    Column("confidence", Float),
    Column("expected_quality", Float),
    Column("expected_cost_usd", Float),
    Column("expected_latency_ms", Float),
    Column("novelty", Float),
    Column("cluster", Integer),
    Column("tools", Boolean),
    Column("json_schema", Boolean),
    Column("max_output_tokens", BigInteger),
    Column("bundle", String(256)),
    Column("shadow_bundle", String(256)),
    Column("shadow_candidate", String(256)),
    Column("shadow_confidence", Float),
    Column("shadow_expected_cost_usd", Float),
    Column("also_candidate", String(256)),  # who was asked too
    Column("also_propensity", Float),
    Column("also_expected_cost_usd", Float),
    Column("reference", String(256)),  # the bundle's
    Column("reference_expected_cost_usd", Float),
    Column("reference_input_usd", Float),  # what the prompt alone costs there at the least
    Column("instead_candidate", String(256)),  # who would have been chosen, where another was explored
    Column("instead_expected_cost_usd", Float),
    Index("decision_at", "at"),
    Index("decision_key_at", "key", "at"),
)
# In PostgreSQL a decision's month is a partition, and the key of a partitioned table holds what it is partitioned by.
_PARTITIONED = ("id", "at")


def _told(name: str) -> Table:
    """A table of what came of decisions' calls, a row each."""
    return Table(
        name,
        METADATA,
        Column("decision_id", String(64), primary_key=True),
        Column("at", Float, nullable=False),
        Column("candidate", String(256)),  # who answered, if not the one that was chosen
        Column("quality", Float),
        Column("cost_usd", Float),
        Column("input_tokens", BigInteger),
        Column("output_tokens", BigInteger),
        Column("latency_ms", Float),
        Column("error", Boolean, nullable=False),
        Column("quality_source", String(16)),  # where the quality is from; null: somebody judged it
        Column("judge_cost_usd", Float),  # what judging the answer cost
        Index(f"{name}_at", "at"),
    )


FEEDBACK = _told("feedback")
# The same of who was asked too, whose name is always there.
ALSO_FEEDBACK = _told("also_feedback")
# A budget in one of its periods, in billionths of a dollar: whole numbers, so that no sum is off by a rounding.
BUDGETS = Table(
    "budget",
    METADATA,
    Column("scope", Text, primary_key=True),
    Column("period", String(8), primary_key=True),
    Column("begins", BigInteger, primary_key=True),  # seconds since the epoch, UTC
    Column(
        "used", BigInteger, nullable=False
    ),  # every decision's cost: what feedback says, until then what was expected
    Column("settled", BigInteger, nullable=False),  # the part of it that feedback has said
    Column("decisions", BigInteger, nullable=False),
)
# What a decision costs each budget that it is under.
CHARGES = Table(
    "charge",
    METADATA,
    Column("decision_id", String(64), primary_key=True),
    Column("scope", Text, primary_key=True),
    Column("period", String(8), primary_key=True),
    Column("begins", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("settled", Boolean, nullable=False),
)
# Which candidate a conversation is on; `id` and `marks` are hashes and hold no text.
SESSIONS = Table(
    "session",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("candidate", String(256), nullable=False),
    Column("at", Float, nullable=False),
    Column("marks", LargeBinary, nullable=False),
    Index("session_at", "at"),
)
# What was answered to requests that name themselves (Idempotency-Key), for who sends one again; without an answer yet it is
# under way. `id` is a hash of the key and that name.
REPLAYS = Table(
    "replay",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("at", Float, nullable=False),
    Column("body_hash", String(64), nullable=False),
    Column("answer", LargeBinary),
    Column("status", Integer),
    Index("replay_at", "at"),
)


def insert(engine: Engine, table: Table) -> Any:
    """An insert of this database's dialect, which can say what to do where a row of the same key is there."""
    dialect = postgresql if engine.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def insert_new(engine: Engine, table: Table) -> Any:
    """An insert that leaves a row of the same primary key as it is."""
    by_month = table is DECISIONS and engine.dialect.name == "postgresql"
    key = [table.c[name] for name in _PARTITIONED] if by_month else list(table.primary_key.columns)
    return insert(engine, table).on_conflict_do_nothing(index_elements=key)


def upsert(engine: Engine, table: Table) -> Any:
    """An insert that takes the place of a row of the same primary key."""
    statement = insert(engine, table)
    others = {column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=others)
