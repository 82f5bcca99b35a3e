"""What is gathered once gives the figures that are asked for each by itself."""

from __future__ import annotations

import random
from typing import Any

import pytest
import sqlalchemy as sa

from serving.account.asked import Tables, asked
from serving.account.shown import document
from serving.account.window import By, Window
from serving.store.engine import open_engine
from serving.store.months.ids import new_id
from serving.store.tables import ALSO_FEEDBACK, DECISIONS, FEEDBACK
from tests.postgres_server import needs_postgres, own_database
from tests.serving.store.rows import decision, feedback

TABLES = Tables(DECISIONS, FEEDBACK, ALSO_FEEDBACK)
KEYS = ("a%b'c", "other", None)


def rows(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Decisions alone and in conversations, also of several workflows, and of the first decision's id; feedback on most."""
    drawn = random.Random(seed)
    made: list[dict[str, Any]] = []
    for number in range(400):
        at = drawn.uniform(0, 5 * 86_400)
        earlier = made[drawn.randrange(len(made))] if made else None
        session = drawn.choice([None, None, f"s{drawn.randrange(30)}", earlier["id"] if earlier else None])
        identifier = f"short{number}" if drawn.random() < 0.1 else new_id(at)
        to_reference, usd = drawn.random() < 0.3, drawn.lognormvariate(-6, 1)
        made.append(
            decision(
                identifier,
                at=at,
                key=drawn.choice(KEYS),
                workflow=drawn.choice(("w", "x", None)),
                session_id=session,
                candidate="large" if to_reference else drawn.choice(("small", "middle")),
                reason=drawn.choice(("best_value", "best_value", "explore", "held_back")),
                expected_cost_usd=usd if to_reference else usd / 3,
                instead_expected_cost_usd=usd / 4,
                reference=drawn.choice(("large", "large", "huge", None)),
                reference_expected_cost_usd=usd,
                reference_input_usd=usd / 10,
            )
        )
    said = [
        feedback(
            row["id"],
            cost_usd=row["expected_cost_usd"] * drawn.lognormvariate(0, 0.5) if drawn.random() < 0.8 else None,
            quality=drawn.choice((None, 0.0, 0.5, 1.0)),
            error=drawn.random() < 0.1,
            candidate=drawn.choice((None, None, None, "large", "small")),
            judge_cost_usd=drawn.choice((None, 0.001)),
        ).row(row["at"])
        for row in made
        if drawn.random() < 0.7
    ]
    return made, said


def same(one: Any, other: Any) -> bool:
    """Whether two documents have the same figures, but for the order in which a float was summed."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == (pytest.approx(other, rel=1e-9, abs=1e-15) if isinstance(other, float) else other))


@needs_postgres
@pytest.mark.parametrize("seed", range(3))
def test_what_is_gathered_is_summed_as_what_is_not(postgres: str, seed: int) -> None:
    engine = open_engine(own_database(postgres, "gathered"))
    made, said = rows(seed)
    with engine.begin() as connection:
        connection.execute(DECISIONS.insert(), made)
        connection.execute(FEEDBACK.insert(), said)
    for by in By:
        for key in (None, KEYS[0]):
            window = Window(by, 86_400.0, 4.5 * 86_400, key)
            with engine.connect() as connection:
                plain = document(asked(connection, TABLES, window))
            with engine.connect() as connection:
                gathered = document(asked(connection, TABLES, window, gather=True))
                alone = connection.scalar(sa.text("SELECT sum(decisions) FROM savings_alone"))
                kept = connection.scalar(sa.text("SELECT count(*) FROM savings_told"))
            assert alone > 10, "some are summed at once"
            assert kept > 10, "some are kept a row each"
            assert alone + kept == plain["total"]["decisions"]
            assert same(gathered, plain), (by, key)
    with engine.connect() as connection:
        assert not sa.inspect(connection).get_temp_table_names(), "nothing of it stays"
    engine.dispose()
