"""What an account of savings rests on: the reference's expected cost, whom exploring passed over, what judging cost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "5"
down_revision = "4"


def upgrade(op: Operations) -> None:
    """Adds the columns. What was decided before has none of it."""
    op.add_column("decision", sa.Column("reference", sa.String(256)))
    op.add_column("decision", sa.Column("reference_expected_cost_usd", sa.Float))
    op.add_column("decision", sa.Column("reference_input_usd", sa.Float))
    op.add_column("decision", sa.Column("instead_candidate", sa.String(256)))
    op.add_column("decision", sa.Column("instead_expected_cost_usd", sa.Float))
    for table in ("feedback", "also_feedback"):
        op.add_column(table, sa.Column("judge_cost_usd", sa.Float))
