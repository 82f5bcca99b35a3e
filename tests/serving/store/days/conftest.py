"""A store with some days that are over."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from serving.account.window import DAY
from serving.store.engine import open_engine
from serving.store.months.calendar import month_of
from serving.store.months.ids import new_id
from serving.store.months.partitions import make
from serving.store.tables import DECISIONS, FEEDBACK
from tests.postgres_server import own_database
from tests.serving.account.test_gathered import rows
from tests.serving.store.days.over import BASE


@pytest.fixture
def engine(postgres: str) -> Iterator[sa.Engine]:
    """A store with some days of decisions and feedback, of which none is summed."""
    engine = open_engine(own_database(postgres, "days"))
    make(engine, [month_of(BASE), month_of(BASE + 5 * DAY)])
    made, said = rows(1)
    moved = {row["id"]: new_id(row["at"] + BASE) if len(row["id"]) == 32 else row["id"] for row in made}
    for row in made:
        row |= {
            "id": moved[row["id"]],
            "at": row["at"] + BASE,
            "session_id": moved.get(row["session_id"], row["session_id"]),
        }
    said = [row | {"decision_id": moved[row["decision_id"]], "at": row["at"] + BASE} for row in said]
    with engine.begin() as connection:
        connection.execute(DECISIONS.insert(), made)
        connection.execute(FEEDBACK.insert(), said)
    yield engine
    engine.dispose()
