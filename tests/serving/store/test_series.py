"""What the store says of the last minutes and hours, by hand, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from serving.decide.decision import OTHER, Reason
from serving.store import series
from serving.store.engine import open_engine
from serving.store.tables import DECISIONS, FEEDBACK
from tests.fake_bundle import LARGE, SMALL
from tests.serving.store.rows import decision

NOW = 1_800_000_030.0  # half a minute into a minute
MINUTE = 1_800_000_000.0


@pytest.fixture
def connection(url: str) -> Iterator[sa.Connection]:
    engine = open_engine(url)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def decided(connection: sa.Connection, *rows: dict[str, Any]) -> None:
    costs = {"expected_cost_usd": 0.5, "reference_expected_cost_usd": 2.0}
    made = [decision(f"d{number}", **{"at": NOW, **costs, **one}) for number, one in enumerate(rows)]
    connection.execute(DECISIONS.insert(), made)


def told(connection: sa.Connection, identifier: str, cost: float | None) -> None:
    connection.execute(FEEDBACK.insert(), {"decision_id": identifier, "at": NOW, "error": False, "cost_usd": cost})


def test_minutes_are_summed_and_empty_ones_are_there(connection: sa.Connection) -> None:
    decided(connection, {}, {"at": MINUTE}, {"at": MINUTE - 0.001}, {"at": MINUTE - 180}, {"at": MINUTE - 180.001})
    told(connection, "d0", 0.75)
    told(connection, "d1", 0.25)
    told(connection, "d2", None)
    found = series.minutes(connection, NOW, 4)
    assert [one.begins for one in found] == [MINUTE - 180, MINUTE - 120, MINUTE - 60, MINUTE]
    assert [one.decisions for one in found] == [1, 0, 1, 2]
    assert found[3] == series.Minute(MINUTE, 2, 1.0, 1.0, 4.0)
    assert found[2] == series.Minute(MINUTE - 60, 1, 0.5, None, 2.0), "no cost is told"
    assert found[1] == series.Minute(MINUTE - 120, 0, 0.0, None, 0.0)


def test_a_minute_begins_where_it_does_whatever_the_database_rounds(connection: sa.Connection) -> None:
    decided(connection, {"at": MINUTE + 59.9}, {"at": MINUTE + 31}, {"at": MINUTE + 29})
    assert [one.decisions for one in series.minutes(connection, MINUTE + 59.95, 2)] == [0, 3]


def test_costs_tell_expected_from_told(connection: sa.Connection) -> None:
    decided(
        connection,
        {},
        {"expected_cost_usd": None, "reference_expected_cost_usd": 2.0},
        {"reference_expected_cost_usd": None},
        {"at": NOW - 101},
    )
    told(connection, "d1", 0.25)
    told(connection, "d2", 0.75)
    told(connection, "d3", 9.0)
    found = series.costs(connection, NOW - 100)
    assert found == series.Costs(3, 1.0, 2.0, 2, 1.0, 0.5)
    assert series.costs(connection, NOW + 1) == series.Costs(0, 0.0, 0.0, 0, 0.0, 0.0)


def test_candidates_and_reasons_are_counted(connection: sa.Connection) -> None:
    held = {"reason": "held_back", "at": NOW - 5}
    decided(
        connection,
        {"candidate": LARGE},
        {"candidate": LARGE, "reason": "novel"},
        {"candidate": SMALL},
        {"candidate": "made-up-1", **held},
        {"candidate": "made-up-2", **held},
        {"candidate": LARGE, **held},
        {"candidate": "gone/with-an-old-bundle"},
        {"candidate": SMALL, "at": NOW - 61},
    )
    shares, reasons = series.whereto(connection, NOW - 60, [SMALL, LARGE])
    assert shares == {LARGE: 3, OTHER: 2, SMALL: 1, "gone/with-an-old-bundle": 1}
    assert list(shares) == [LARGE, OTHER, SMALL, "gone/with-an-old-bundle"]
    assert reasons == {"best_value": 3, "held_back": 3, "novel": 1}


def test_the_latest_odd_decisions_come_first(connection: sa.Connection) -> None:
    decided(
        connection,
        *({"reason": "novel", "at": NOW - age, "workflow": "w"} for age in (3, 1, 2, 400)),
        {"reason": "fault"},
        {},
    )
    found = series.latest(connection, (Reason.NOVEL,), NOW - 100, 2)
    assert [(one.id, one.at, one.workflow, one.reason, one.model) for one in found] == [
        ("d1", NOW - 1, "w", "novel", "acme/small"),
        ("d2", NOW - 2, "w", "novel", "acme/small"),
    ]
    assert [one.id for one in series.latest(connection, (Reason.FAULT, Reason.TIMEOUT), NOW - 100, 2)] == ["d4"]


def test_a_key_is_told_of_its_own_alone(connection: sa.Connection) -> None:
    novel = {"reason": "novel"}
    decided(
        connection,
        {"key": "mine"},
        {"key": "theirs"},
        {"key": None},
        {"key": "theirs", **novel},
        {"key": "mine", **novel},
    )
    for identifier in ("d0", "d1", "d2"):
        told(connection, identifier, 1.0)
    assert series.minutes(connection, NOW, 1, "mine") == [series.Minute(MINUTE, 2, 1.0, 1.0, 4.0)]
    assert series.costs(connection, 0.0, "mine").actual_usd == 1.0
    assert series.made(connection, 0.0, NOW + 1, "mine") == (2, NOW)
    assert series.total(connection, "mine") == 2
    assert series.whereto(connection, 0.0, [SMALL], "mine") == ({SMALL: 2}, {"best_value": 1, "novel": 1})
    assert [one.id for one in series.latest(connection, (Reason.NOVEL,), 0.0, 10, "mine")] == ["d4"]
    assert series.total(connection) == 5
    assert series.total(connection, "nobody") == 0


def test_how_many_were_made_and_since_when(connection: sa.Connection) -> None:
    assert series.made(connection, 0.0, NOW) == (0, None)
    decided(connection, {"at": NOW - 50}, {"at": NOW - 20}, {"at": NOW})
    assert series.made(connection, NOW - 30, NOW) == (1, NOW - 20)
    assert series.made(connection, 0.0, NOW + 1) == (3, NOW - 50)
