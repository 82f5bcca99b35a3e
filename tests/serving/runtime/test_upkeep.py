"""What is done periodically goes on whatever fails, and ends when it is told to."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import OperationalError

from serving.runtime.upkeep import Periodic
from tests.patience import until


def test_a_task_that_fails_keeps_no_other_from_its_turn(caplog: pytest.LogCaptureFixture) -> None:
    turns: list[str] = []

    def fail() -> None:
        turns.append("fails")
        raise RuntimeError("the store is away")

    periodic = Periodic("upkeep-under-test", 0.01, fail, lambda: turns.append("works"))
    until(lambda: turns.count("works") > 2)
    periodic.stop()
    assert turns == ["fails", "works"] * (len(turns) // 2)
    said = [record.getMessage() for record in caplog.records if record.name == "serving.runtime.upkeep"]
    assert said == ["upkeep-under-test: a turn failed"] * (len(turns) // 2)


def test_a_store_that_is_away_is_said_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    turns: list[int] = []

    def away() -> None:
        turns.append(1)
        raise OperationalError("SELECT a secret", {}, TimeoutError("secret"))

    periodic = Periodic("upkeep-under-test", 0.01, away)
    until(lambda: len(turns) > 2)
    periodic.stop()
    [first, *_] = (one for one in caplog.records if one.name == "serving.runtime.upkeep")
    assert (first.getMessage(), first.exc_info) == (
        "upkeep-under-test: the store was away in a turn (TimeoutError)",
        None,
    )
    assert "secret" not in caplog.text


def test_after_the_end_nothing_is_done() -> None:
    turns: list[int] = []
    periodic = Periodic("upkeep-under-test", 0.01, lambda: turns.append(1))
    until(lambda: turns)
    periodic.stop()
    done = len(turns)
    assert not periodic._thread.is_alive()
    assert len(turns) == done
