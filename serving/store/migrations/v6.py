"""PostgreSQL keeps decisions by months; an index for a key's own; answers that are given again to who asks again.

What there is becomes the partition of everything before the next month, in place: no row is copied. Its primary key is made
anew, for that of a partitioned table holds what it is partitioned by.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
from alembic.operations import Operations

revision = "6"
down_revision = "5"


def upgrade(op: Operations) -> None:
    """Makes the table, the partitions and the index."""
    op.create_table(
        "replay",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("body_hash", sa.String(64), nullable=False),
        sa.Column("answer", sa.LargeBinary),
        sa.Column("status", sa.Integer),
    )
    op.create_index("replay_at", "replay", ["at"])
    if op.get_bind().dialect.name == "postgresql":
        _by_month(op.get_bind())
    op.create_index("decision_key_at", "decision", ["key", "at"])


def _by_month(connection: sa.Connection) -> None:
    """Makes decisions a table of partitions, of which those that are there are the first."""
    run = connection.exec_driver_sql
    primary = sa.inspect(connection).get_pk_constraint("decision")["name"]
    run("ALTER TABLE decision RENAME TO decision_before")
    run(f'ALTER TABLE decision_before DROP CONSTRAINT "{primary}"')
    run("ALTER INDEX decision_at RENAME TO decision_before_at_idx")
    run("CREATE TABLE decision (LIKE decision_before INCLUDING DEFAULTS) PARTITION BY RANGE (at)")
    run("ALTER TABLE decision ADD CONSTRAINT decision_pkey PRIMARY KEY (id, at)")
    run("CREATE INDEX decision_at ON decision (at)")
    run("CREATE TABLE decision_other PARTITION OF decision DEFAULT")
    if not connection.scalar(sa.text("SELECT EXISTS (SELECT FROM decision_before)")):
        run("DROP TABLE decision_before")
        return
    now = datetime.fromtimestamp(time.time(), UTC)
    following = (now.replace(day=1, hour=0, minute=0, second=0, microsecond=0) + timedelta(days=32)).replace(day=1)
    ends = int(following.timestamp())
    # Of a clock that was ahead; PostgreSQL holds what is no number for later than anything.
    run(
        f"WITH moved AS (DELETE FROM decision_before WHERE at >= {ends} RETURNING *) "
        "INSERT INTO decision_other SELECT * FROM moved"
    )
    run("ALTER TABLE decision_before ADD CONSTRAINT decision_before_pkey PRIMARY KEY (id, at)")
    run(f"ALTER TABLE decision ATTACH PARTITION decision_before FOR VALUES FROM (MINVALUE) TO ({ends})")
