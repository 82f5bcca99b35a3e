"""Feedback says where its quality is from. What was told before was judged: it has none."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "4"
down_revision = "3"


def upgrade(op: Operations) -> None:
    """Adds the columns."""
    for table in ("feedback", "also_feedback"):
        op.add_column(table, sa.Column("quality_source", sa.String(16)))
