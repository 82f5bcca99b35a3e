"""Who was asked too is a second row of its request, an observation of both: no chain, and no error of the served one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from serving.store.engine import open_engine
from serving.store.feedback import Feedback
from serving.store.tables import ALSO_FEEDBACK, DECISIONS, FEEDBACK
from serving.store.upgrade import MARKER
from tests.postgres_server import needs_postgres, own_database
from tests.serving.store.rows import decision, feedback
from training.dataset.matrix import build_matrix
from training.dataset.tries import one_outcome_each
from training.logs.outcomes import OutcomeError
from training.logs.sources import decisions, reading
from training.measure.propensity import observation_propensity

SHOWN = ["candidate", "propensity", "status", "quality", "cost_usd"]


def asked(identifier: str, also: str | None = "b", **changes: Any) -> dict[str, Any]:
    made = {"candidate": "a", "propensity": 0.9, "at": 1.7e9, "also_candidate": also}
    made |= {
        "also_propensity": None if also is None else 0.05,
        "also_expected_cost_usd": None if also is None else 0.01,
    }
    return decision(identifier, **{**made, **changes})


def fill(url: str, made: list[dict[str, Any]], said: list[Feedback], also: list[Feedback]) -> str:
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(DECISIONS.insert(), made)
        for table, rows in ((FEEDBACK, said), (ALSO_FEEDBACK, also)):
            if rows:
                connection.execute(table.insert(), [row.row(at=200.0) for row in rows])
    engine.dispose()
    return url


def shown(frame: pd.DataFrame) -> list[list[Any]]:
    return frame[SHOWN].astype(object).where(frame[SHOWN].notna(), None).values.tolist()  # type: ignore[no-any-return]


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "decisions.db")
    return own_database(request.getfixturevalue("postgres"))


def test_both_rows_by_hand(url: str) -> None:
    made = [asked("d1", workflow="sql", session_id="s"), asked("d2", also=None, at=1.7e9 + 1)]
    said = [feedback("d1", quality=0.25, cost_usd=0.001), feedback("d2", quality=1.0)]
    also = [feedback("d1", quality=1.0, cost_usd=0.02, candidate="b", input_tokens=7, output_tokens=9, latency_ms=12.5)]
    result = reading.read([fill(url, made, said, also)])
    assert result.reasons == {}
    assert result.rows_read == len(result.frame) == 3
    assert shown(result.frame) == [
        ["a", 0.9, "success", 0.25, 0.001],
        ["b", 0.05, "success", 1.0, 0.02],
        ["a", 0.9, "success", 1.0, None],
    ]
    first, second, _ = result.frame.to_dict("records")
    for name in ("request_id", "prompt", "workflow", "session_id", "timestamp"):
        assert first[name] == second[name]
    assert (second["input_tokens"], second["output_tokens"], second["latency_ms"]) == (7, 9, 12.5)
    if "purpose" in result.frame:
        assert (first["purpose"] is None or pd.isna(first["purpose"]), second["purpose"]) == (True, "learn")


@pytest.mark.parametrize(
    ("said", "also", "expected"),
    [
        ([], [], [["a", 0.9, "success", None, None], ["b", 0.05, "success", None, None]]),
        ([], [{"quality": 1.0}], [["a", 0.9, "success", None, None], ["b", 0.05, "success", 1.0, None]]),
        ([{"quality": 0.5}], [], [["a", 0.9, "success", 0.5, None], ["b", 0.05, "success", None, None]]),
        (
            [{"quality": 0.5}],
            [{"quality": 0.0, "error": True}],
            [["a", 0.9, "success", 0.5, None], ["b", 0.05, "error", 0.0, None]],
        ),
        (
            [{"quality": 0.0, "error": True}],
            [{"quality": 1.0}],
            [["a", 0.9, "error", 0.0, None], ["b", 0.05, "success", 1.0, None]],
        ),
        # a fallback answered: the served one failed, and what that told is left out beside who was asked too
        (
            [{"quality": 1.0, "candidate": "c"}],
            [{"quality": 0.25}],
            [["a", 0.9, "error", 0.0, None], ["b", 0.05, "success", 0.25, None]],
        ),
        # told of who was asked too, under the name that its provider gives it
        (
            [{"quality": 1.0, "candidate": "openai/b-2026-03-01"}],
            [],
            [["a", 0.9, "success", None, None], ["b", 0.05, "success", 1.0, None]],
        ),
    ],
    ids=["nothing", "the other", "the served", "the other failed", "the served failed", "a fallback", "another name"],
)
def test_whatever_was_told(
    tmp_path: Path, said: list[dict[str, Any]], also: list[dict[str, Any]], expected: list[list[Any]]
) -> None:
    made = [asked("d1"), decision("d9", candidate="c", at=1.8e9)]
    given = [feedback("d1", **{"quality": None, **one}) for one in said]
    of_also = [feedback("d1", **{"quality": None, "candidate": "b", **one}) for one in also]
    frame = reading.read([fill(str(tmp_path / "d.db"), made, given, of_also)]).frame
    assert shown(frame[frame["request_id"] == "d1"]) == expected


def test_training_reads_an_observation_of_both_and_no_chain(tmp_path: Path) -> None:
    """Of the served ones that failed, who was asked too is judged as everywhere else: the failure did not select it."""
    n = 400
    made = [asked(f"d{k}", at=1.7e9 + k, also="b" if k % 4 == 0 else None) for k in range(n)]
    made += [asked(f"e{k}", at=1.8e9 + k, also=None, candidate="c") for k in range(n)]
    said = [feedback(f"d{k}", quality=0.0 if k % 8 == 0 else 1.0, error=k % 8 == 0, cost_usd=0.001) for k in range(n)]
    said += [feedback(f"e{k}", quality=1.0, cost_usd=0.001) for k in range(n)]
    also = [feedback(f"d{k}", quality=float(k % 3 > 0), cost_usd=0.02, candidate="b") for k in range(0, n, 4)]
    frame = reading.read([fill(str(tmp_path / "d.db"), made, said, also)]).frame
    outcomes = one_outcome_each(frame)
    assert not outcomes["chained"].any()
    of = dict(list(outcomes.groupby("candidate")))
    assert (len(of["a"]), len(of["b"]), len(of["c"])) == (n, n // 4, n)
    assert int(of["a"]["error"].sum()) == n // 8
    matrix = build_matrix(frame)
    a, b = (matrix.candidates.index(name) for name in ("a", "b"))
    assert np.isfinite(matrix.quality[:, b]).sum() == n // 4
    labels = np.where(np.isfinite(matrix.quality), (matrix.quality >= 0.5).astype(float), np.nan)
    propensity, note = observation_propensity(
        matrix.attempted,
        matrix.error,
        matrix.propensity,
        labels,
        np.zeros((len(labels), 1)),
        lambda: np.arange(len(labels)) % 2,
    )
    assert note == f"logged for {2 * n} of {2 * n} requests with some candidates only"
    both = matrix.attempted[:, a] & matrix.attempted[:, b]
    assert both.sum() == n // 4
    assert set(propensity[both][:, [a, b]].ravel().tolist()) == {0.9, 0.05}


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_store_from_before_is_read_as_it_is(tmp_path: Path, version: str) -> None:
    path = fill(str(tmp_path / "d.db"), [asked("d1", also=None)], [feedback("d1")], [])
    with sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool).begin() as connection:
        for name in ("also_candidate", "also_propensity", "also_expected_cost_usd"):
            connection.exec_driver_sql(f"ALTER TABLE decision DROP COLUMN {name}")
        connection.exec_driver_sql("DROP TABLE also_feedback")
        connection.exec_driver_sql(f"UPDATE {MARKER} SET version_num = '{version}'")
    assert shown(reading.read([path]).frame) == [["a", 0.9, "success", 1.0, None]]


def test_a_table_that_is_gone_is_said(tmp_path: Path) -> None:
    path = fill(str(tmp_path / "d.db"), [asked("d1")], [], [])
    with sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool).begin() as connection:
        connection.exec_driver_sql("DROP TABLE also_feedback")
    with pytest.raises(OutcomeError, match="decision, feedback and also_feedback, but also_feedback is not there"):
        reading.read([path])


@pytest.mark.parametrize("wrong", [7, 2.5, b"bytes", "", "x" * 300])
def test_whatever_a_store_says_of_it_every_row_is_accounted_for(tmp_path: Path, wrong: object) -> None:
    """SQLite keeps any type in any column."""
    path = fill(str(tmp_path / "d.db"), [asked("d1"), asked("d2", also=None)], [feedback("d1", candidate="c")], [])
    with sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool).begin() as connection:
        update = "UPDATE decision SET also_candidate = ?, also_propensity = ? WHERE id = 'd1'"
        connection.exec_driver_sql(update, (wrong, wrong))
    result = reading.read([path])
    assert len(result.frame) + len(result.skipped) == result.rows_read
    assert result.frame["candidate"].tolist().count("a") == 2


def test_the_versions_that_are_read_are_said(tmp_path: Path) -> None:
    path = fill(str(tmp_path / "d.db"), [asked("d1")], [], [])
    with sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool).begin() as connection:
        connection.exec_driver_sql(f"UPDATE {MARKER} SET version_num = '99'")
    with pytest.raises(OutcomeError, match="version is 99, this code reads 1, 2, 3, 4, 5 and 6; read it with"):
        list(decisions.read(Path(path)))


def test_where_a_quality_is_from_is_read_of_either_answer(url: str) -> None:
    said = [feedback("d1", quality=0.0, source="retried"), feedback("d2", quality=1.0, source="thumb")]
    also = [feedback("d1", quality=0.25, source="cut", candidate="b"), feedback("d2", quality=1.0, candidate="b")]
    frame = reading.read([fill(url, [asked("d1"), asked("d2", at=1.7e9 + 1)], said, also)]).frame
    assert frame["quality_source"].fillna("").tolist() == ["retried", "cut", "thumb", ""]
    matrix = build_matrix(frame)
    assert np.isnan(matrix.quality[0]).all()
    assert matrix.quality[1].tolist() == [1.0, 1.0]
    assert matrix.weak_quality[0].tolist() == [0.0, 0.25]


def test_in_a_store_of_version_3_every_quality_was_judged(tmp_path: Path) -> None:
    path = fill(str(tmp_path / "d.db"), [asked("d1")], [feedback("d1", quality=0.0)], [feedback("d1", candidate="b")])
    with sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool).begin() as connection:
        connection.exec_driver_sql(f"UPDATE {MARKER} SET version_num = '3'")
        for table in ("feedback", "also_feedback"):
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN quality_source")
    frame = reading.read([path]).frame
    assert frame["quality"].notna().all()
    assert frame["quality_source"].isna().all()
