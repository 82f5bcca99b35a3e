"""What asking others too would cost, by hand and from a store."""

from __future__ import annotations

from math import isnan
from pathlib import Path

import pandas as pd
import pytest

from serving.store.engine import open_engine
from serving.store.tables import ALSO_FEEDBACK, DECISIONS, FEEDBACK
from tests.serving.store.rows import decision, feedback
from training.dataset.also import also_cost
from training.logs.sources import reading

DAY = 86_400.0


def table(*rows: tuple[str, str, float | None, str, float | None]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["request_id", "candidate", "cost_usd", "status", "at"])
    frame["cost_usd"] = frame["cost_usd"].astype(float)
    return frame.assign(timestamp=pd.to_datetime(frame["at"], unit="s", utc=True))


def test_by_hand() -> None:
    found = also_cost(
        table(
            ("r1", "small", 0.001, "success", 0.0),
            ("r1", "large", 0.010, "success", 0.0),  # asked too
            ("r2", "large", 0.030, "success", DAY),
            ("r3", "small", 0.003, "success", 2 * DAY),
            ("r4", "other", 0.008, "success", 2 * DAY),
            ("r5", "small", None, "success", 2 * DAY),
            ("r6", "small", 9.0, "error", 2 * DAY),
        ),
        "large",
    )
    assert found.by_candidate == pytest.approx({"small": 0.002, "large": 0.02, "other": 0.008})
    beside = {"small": (0.02 + 0.008) / 2, "large": (0.002 + 0.008) / 2, "other": (0.02 + 0.002) / 2}
    assert found.cost_usd == pytest.approx((4 * beside["small"] + beside["large"] + beside["other"]) / 6)
    assert found.decisions_per_day == pytest.approx(2.5)
    assert found.daily_usd(0.1) == pytest.approx(0.25 * found.cost_usd)


def test_what_is_not_known_is_not_a_number() -> None:
    alone = also_cost(table(("r1", "small", 0.001, "success", 0.0)), "large")
    assert isnan(alone.cost_usd)
    assert isnan(alone.decisions_per_day)
    assert isnan(also_cost(table(("r1", "a", None, "success", None), ("r2", "b", None, "success", None)), "a").cost_usd)


def test_the_reference_alone_is_asked_where_nobody_else_is_known() -> None:
    found = also_cost(table(("r1", "a", 0.1, "success", 0.0), ("r2", "b", 0.3, "success", DAY / 2)), "b")
    assert found.cost_usd == pytest.approx((0.3 + 0.1) / 2)
    assert found.decisions_per_day == pytest.approx(2.0)


def test_a_store_has_what_it_takes(tmp_path: Path) -> None:
    path = str(tmp_path / "d.db")
    engine = open_engine(path)
    also = {"also_candidate": "large", "also_propensity": 0.1, "also_expected_cost_usd": 0.02}
    made = [
        decision(f"d{n}", at=1.7e9 + n * DAY / 10, candidate="small", **(also if n % 5 == 0 else {})) for n in range(21)
    ]
    with engine.begin() as connection:
        connection.execute(DECISIONS.insert(), made)
        connection.execute(FEEDBACK.insert(), [feedback(f"d{n}", cost_usd=0.001).row(1.0) for n in range(21)])
        said = [feedback(f"d{n}", cost_usd=0.02, candidate="large").row(1.0) for n in range(0, 21, 5)]
        connection.execute(ALSO_FEEDBACK.insert(), said)
    engine.dispose()
    found = also_cost(reading.read([path]).frame, "large")
    assert (found.decisions_per_day, found.cost_usd) == pytest.approx((10.0, 0.02))
