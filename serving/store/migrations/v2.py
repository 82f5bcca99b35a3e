"""Budgets and what they are charged, and sessions, are kept in the store. A budget is filled when it is first used."""

from __future__ import annotations

import sqlalchemy as sa
from alembic.operations import Operations

revision = "2"
down_revision = "1"


def upgrade(op: Operations) -> None:
    """Makes the tables."""
    op.create_table(
        "budget",
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("period", sa.String(8), primary_key=True),
        sa.Column("begins", sa.BigInteger, primary_key=True),
        sa.Column("used", sa.BigInteger, nullable=False),
        sa.Column("settled", sa.BigInteger, nullable=False),
        sa.Column("decisions", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "charge",
        sa.Column("decision_id", sa.String(64), primary_key=True),
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("period", sa.String(8), primary_key=True),
        sa.Column("begins", sa.BigInteger, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("settled", sa.Boolean, nullable=False),
    )
    op.create_table(
        "session",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("candidate", sa.String(256), nullable=False),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("marks", sa.LargeBinary, nullable=False),
    )
    op.create_index("session_at", "session", ["at"])
