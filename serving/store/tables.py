"""The tables of decisions and of feedback on them, as the last of the migrations leaves them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Engine, Float, Index, Integer, MetaData, String, Table, Text
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
    Index("decision_at", "at"),
)
FEEDBACK = Table(
    "feedback",
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
    Index("feedback_at", "at"),
)


def insert_new(engine: Engine, table: Table, key: str) -> Any:
    """An insert that leaves a row of the same key as it is."""
    dialect = postgresql if engine.dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing(index_elements=[key])
