"""The tables of version 0.1."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "1"
down_revision = None


def upgrade(op: Operations) -> None:
    """Makes the tables."""
    op.create_table(
        "decision",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("key", sa.String(256)),
        sa.Column("workflow", sa.Text),
        sa.Column("session_id", sa.Text),
        sa.Column("prompt", sa.Text),
        sa.Column("messages", sa.Text),
        sa.Column("candidate", sa.String(256), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("propensity", sa.Float, nullable=False),
        sa.Column("knob", sa.Float),
        sa.Column("operating_point", sa.String(256)),
        sa.Column("quality_target", sa.Float),
        sa.Column("confidence", sa.Float),
        sa.Column("expected_quality", sa.Float),
        sa.Column("expected_cost_usd", sa.Float),
        sa.Column("expected_latency_ms", sa.Float),
        sa.Column("novelty", sa.Float),
        sa.Column("cluster", sa.Integer),
        sa.Column("tools", sa.Boolean),
        sa.Column("json_schema", sa.Boolean),
        sa.Column("max_output_tokens", sa.BigInteger),
        sa.Column("bundle", sa.String(256)),
        sa.Column("shadow_bundle", sa.String(256)),
        sa.Column("shadow_candidate", sa.String(256)),
        sa.Column("shadow_confidence", sa.Float),
        sa.Column("shadow_expected_cost_usd", sa.Float),
    )
    op.create_index("decision_at", "decision", ["at"])
    op.create_table(
        "feedback",
        sa.Column("decision_id", sa.String(64), primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("candidate", sa.String(256)),
        sa.Column("quality", sa.Float),
        sa.Column("cost_usd", sa.Float),
        sa.Column("input_tokens", sa.BigInteger),
        sa.Column("output_tokens", sa.BigInteger),
        sa.Column("latency_ms", sa.Float),
        sa.Column("error", sa.Boolean, nullable=False),
    )
    op.create_index("feedback_at", "feedback", ["at"])
