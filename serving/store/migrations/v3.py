"""A decision may name who was asked too, and has feedback on that one's answer beside that on its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "3"
down_revision = "2"


def upgrade(op: Operations) -> None:
    """Adds the columns and makes the table."""
    op.add_column("decision", sa.Column("also_candidate", sa.String(256)))
    op.add_column("decision", sa.Column("also_propensity", sa.Float))
    op.add_column("decision", sa.Column("also_expected_cost_usd", sa.Float))
    op.create_table(
        "also_feedback",
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
    op.create_index("also_feedback_at", "also_feedback", ["at"])
