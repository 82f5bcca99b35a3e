"""The service's store as a log to train on: which candidate answered, with which propensity, and what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.store.engine import open_engine
from serving.store.feedback import Feedback
from serving.store.tables import ALSO_FEEDBACK, DECISIONS, FEEDBACK
from serving.store.upgrade import MARKER
from tests.postgres_server import needs_postgres, own_database
from tests.serving.store.rows import decision, feedback
from training.dataset.matrix import build_matrix
from training.logs.io import database
from training.logs.outcomes import OutcomeError
from training.logs.sources import decisions, reading

NO_PROMPT = "no prompt was stored (serve with ROUTER_STORE_PROMPTS=true)"
ORPHAN = "feedback without its decision"


def plain(path: str) -> sa.Engine:
    """An engine that makes no tables and keeps no connection."""
    return sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool)


def fill(url: str, decided: list[dict[str, Any]], said: list[Feedback]) -> str:
    engine = open_engine(url)
    with engine.begin() as connection:
        if decided:
            connection.execute(DECISIONS.insert(), decided)
        if said:
            connection.execute(FEEDBACK.insert(), [row.row(at=200.0) for row in said])
    engine.dispose()
    return url


def sample(n: int) -> tuple[list[dict[str, Any]], list[Feedback]]:
    decided = [
        decision(f"d{k}", at=1.7e9 + k, candidate="a" if k % 2 else "b", propensity=0.9, session_id=f"s{k // 2}")
        for k in range(n)
    ]
    said = [feedback(f"d{k}", cost_usd=0.01 * k, input_tokens=k, output_tokens=2 * k, latency_ms=5.0) for k in range(n)]
    return decided, said


def test_a_row_by_hand(tmp_path: Path) -> None:
    messages = '[{"role":"user","content":"h\\u0000i"}]'
    made = decision("d1", at=1.7e9, workflow="sql", session_id="s", candidate="a", propensity=0.95, messages=messages)
    said = feedback("d1", quality=0.75, cost_usd=0.25, input_tokens=7, output_tokens=9, latency_ms=12.5)
    path = fill(str(tmp_path / "decisions.db"), [made | {"prompt": None}], [said])
    result = reading.read([path])
    assert result.formats == ("decisions",)
    row = result.frame.iloc[0]
    assert row["messages"] == [{"role": "user", "content": "h\0i"}]
    expected = {"request_id": "d1", "candidate": "a", "quality": 0.75, "cost_usd": 0.25, "input_tokens": 7}
    expected |= {"output_tokens": 9, "latency_ms": 12.5, "session_id": "s", "workflow": "sql", "propensity": 0.95}
    expected |= {"status": "success", "timestamp": pd.Timestamp(1.7e9, unit="s", tz="UTC")}
    assert {name: row[name] for name in expected} == expected


def test_a_fallbacks_answer_is_its_own_and_has_no_propensity(tmp_path: Path) -> None:
    made = [decision(f"d{n}", candidate="a", propensity=0.9, at=1.7e9 + n) for n in range(3)]
    said = [feedback("d0", candidate="b"), feedback("d1", candidate="a"), feedback("d2", error=True, quality=0.0)]
    frame = reading.read([fill(str(tmp_path / "decisions.db"), made, said)]).frame
    # The one that was chosen first has failed: it would have answered otherwise.
    assert frame["candidate"].tolist() == ["a", "b", "a", "a"]
    assert frame["propensity"].fillna(-1).tolist() == [0.9, -1, 0.9, 0.9]
    assert frame["status"].tolist() == ["error", "success", "success", "error"]
    assert frame["quality"].tolist() == [0.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("answered", ["gpt-6", "openai/gpt-6", "gpt-6-2026-03-01", "openai/gpt-6-2026-03-01"])
def test_an_answer_under_another_name_of_the_chosen_one_is_no_fallback(tmp_path: Path, answered: str) -> None:
    made, said = (
        [decision("d0", candidate="gpt-6", propensity=0.9, at=1.7e9)],
        [feedback("d0", candidate=answered, quality=1.0)],
    )
    frame = reading.read([fill(str(tmp_path / "decisions.db"), made, said)]).frame
    assert frame[["candidate", "quality", "propensity"]].values.tolist() == [["gpt-6", 1.0, 0.9]]


def test_one_llm_at_two_providers_is_two_candidates(tmp_path: Path) -> None:
    """Where the router chooses by both names, an answer under the other one says that the first failed."""
    made = [decision(f"d{n}", candidate=name, at=1.7e9 + n) for n, name in enumerate(("azure/gpt-6", "openai/gpt-6"))]
    said = [feedback("d0", candidate="openai/gpt-6", quality=1.0)]
    frame = reading.read([fill(str(tmp_path / "decisions.db"), made, said)]).frame
    assert frame["candidate"].tolist() == ["azure/gpt-6", "openai/gpt-6", "openai/gpt-6"]
    assert frame["status"].tolist() == ["error", "success", "success"]


def test_failures_that_another_answered_are_not_hidden(tmp_path: Path) -> None:
    """Eight of ten answers of a are good, the other two are b's: a is worth .8, and b's answers say nothing of b."""
    made = [decision(f"d{n}", candidate="a", propensity=0.5, at=1.7e9 + n) for n in range(50)]
    made += [decision(f"e{n}", candidate="b", propensity=0.5, at=1.8e9 + n) for n in range(50)]
    said = [feedback(f"d{n}", candidate="b" if n % 5 == 0 else "a", quality=1.0, cost_usd=0.1) for n in range(50)]
    said += [feedback(f"e{n}", candidate="b", quality=float(n % 2), cost_usd=0.1) for n in range(50)]
    matrix = build_matrix(reading.read([fill(str(tmp_path / "decisions.db"), made, said)]).frame)
    assert matrix.candidates == ("a", "b")
    assert np.nanmean(matrix.quality, axis=0).tolist() == [0.8, 0.5]
    assert matrix.attempted.sum(axis=0).tolist() == [50, 50]
    assert np.isfinite(matrix.cost_usd).sum(axis=0).tolist() == [50, 60], "costs are the fallback's own all the same"


def test_it_does_not_matter_how_many_decisions_are_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, said = sample(9)
    said = [*said[:3], feedback("d4", candidate="b", cost_usd=0.5), feedback("gone"), feedback("lost")]
    path = fill(str(tmp_path / "decisions.db"), made, said)
    at_once = reading.read([path])
    monkeypatch.setattr(decisions, "_AT_ONCE", 2)
    monkeypatch.setattr(decisions, "_MOST_PARAMETERS", 1)
    parted = reading.read([path])
    pd.testing.assert_frame_equal(parted.frame, at_once.frame)
    assert parted.reasons == at_once.reasons == {ORPHAN: 2}
    assert parted.rows_read == at_once.rows_read == 11


@needs_postgres
def test_nothing_is_sorted_before_the_first_row(postgres: str) -> None:
    """Decisions come by the index of their time, month by month, and what was told of them by its key."""
    url = fill(own_database(postgres, "sorted"), *sample(2_000))
    asked: list[str] = []

    def seen(_connection: sa.Connection, _cursor: Any, statement: str, *_: object) -> None:
        asked.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", seen)
    frames = [one.frame for one in decisions.read_url(url)]
    sa.event.remove(sa.Engine, "before_cursor_execute", seen)
    assert sum(map(len, frames)) == 2_000
    [query] = [one for one in asked if "ORDER BY decision.at" in one]
    assert "JOIN" not in query
    with sa.create_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool
    ).connect() as connection:
        connection.exec_driver_sql("SET enable_seqscan = off")
        plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {query}"))
    assert "Incremental Sort" in plan
    assert "_at_idx" in plan


def test_what_cannot_be_used_is_counted_with_its_reason(tmp_path: Path) -> None:
    made = [decision("kept", at=1.7e9), decision("unsaid", at=1.7e9 + 1), decision("bare", at=1.7e9 + 2, prompt=None)]
    said = [feedback("kept"), feedback("bare"), feedback("gone"), feedback("lost")]
    result = reading.read([fill(str(tmp_path / "decisions.db"), made, said)])
    assert result.reasons == {ORPHAN: 2, NO_PROMPT: 1}
    assert result.rows_read == 5
    assert result.frame["request_id"].tolist() == ["kept", "unsaid"]
    assert result.frame["quality"].fillna(-1).tolist() == [1.0, -1.0]
    assert result.frame["cost_usd"].isna().tolist() == [True, True]
    assert result.frame["propensity"].tolist() == [1.0, 1.0], "what nobody judged was tried all the same"


def test_without_prompts_the_setting_is_named(tmp_path: Path) -> None:
    path = fill(str(tmp_path / "decisions.db"), [decision(prompt=None)], [feedback()])
    with pytest.raises(OutcomeError, match="ROUTER_STORE_PROMPTS"):
        reading.read([path])


@pytest.mark.parametrize("kind", ["path", "url", "named", pytest.param("postgresql", marks=needs_postgres)])
def test_totals_are_the_stores(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_PARTITION", 40)
    path = str(tmp_path / "decisions.db")
    url = path
    if kind == "postgresql":
        path = url = own_database(request.getfixturevalue("postgres"))
    elif kind == "url":
        url = f"sqlite:///{path}"
    decided, said = sample(101)
    fill(path, decided, [*said, feedback("gone")])
    result = reading.read([url], "decisions" if kind == "named" else "auto")
    assert (len(result.frame), result.rows_read, result.reasons) == (101, 102, {ORPHAN: 1})
    assert result.frame["cost_usd"].sum() == pytest.approx(50.5)
    assert (result.frame["input_tokens"].sum(), result.frame["output_tokens"].sum()) == (5050, 10100)
    if kind == "postgresql":
        assert "***" in result.origin["source"][0]


@needs_postgres
def test_a_store_in_a_schema_of_its_own(postgres: str) -> None:
    url = own_database(postgres)
    fill(url, *sample(5))
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE SCHEMA router"))
        for table in (MARKER, DECISIONS.name, FEEDBACK.name, ALSO_FEEDBACK.name):
            connection.execute(sa.text(f"ALTER TABLE {table} SET SCHEMA router"))
    engine.dispose()
    assert len(reading.read([f"{url}?schema=router"]).frame) == 5


def test_the_file_is_recognised_by_its_own_importer_only(tmp_path: Path) -> None:
    path = Path(fill(str(tmp_path / "decisions.db"), *sample(1)))
    assert [one for one in reading.IMPORTERS if one.recognises(path)] == [decisions]
    other = tmp_path / "other.db"
    with plain(str(other)).begin() as connection:
        connection.execute(sa.text("CREATE TABLE decision (id text)"))
    assert not decisions.recognises(other)
    with pytest.raises(OutcomeError, match="not recognised"):
        reading.read([str(other)])
    with pytest.raises(OutcomeError, match="expected the tables outcome_router_store, decision and feedback"):
        reading.read([str(other)], "decisions")


@pytest.mark.parametrize("name", ["a b.db", "decisions", "50%.db", "what?.db", "no#1.sqlite3", "é.db"])
def test_the_file_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = fill(str(tmp_path / name), *sample(2))
    assert Path(path).is_file()
    assert len(reading.read([path]).frame) == 2


def test_a_store_of_another_version_is_said(tmp_path: Path) -> None:
    path = fill(str(tmp_path / "decisions.db"), *sample(1))
    with plain(path).begin() as connection:
        connection.execute(sa.text(f"UPDATE {MARKER} SET version_num = '7'"))
    with pytest.raises(OutcomeError, match="version is 7, this code reads 1"):
        reading.read([path])


def test_a_store_that_version_0_1_wrote_is_read_as_it_is(tmp_path: Path) -> None:
    path = fill(str(tmp_path / "decisions.db"), *sample(3))
    with plain(path).begin() as connection:
        connection.execute(sa.text(f"DROP TABLE {MARKER}"))
        connection.execute(sa.text(f"CREATE TABLE {MARKER} (version INTEGER NOT NULL, PRIMARY KEY (version))"))
        connection.execute(sa.text(f"INSERT INTO {MARKER} VALUES (1)"))
    assert len(reading.read([path]).frame) == 3


def test_an_empty_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(OutcomeError, match="no usable outcome"):
        reading.read([fill(str(tmp_path / "decisions.db"), [], [])])


def test_a_store_is_read_while_it_is_written_to(tmp_path: Path) -> None:
    path = fill(str(tmp_path / "decisions.db"), *sample(3))
    engine = open_engine(path)
    with engine.begin() as connection:
        connection.execute(DECISIONS.insert(), [decision("open", at=1.7e9 + 9)])
        assert len(reading.read([path]).frame) == 3
    assert len(reading.read([path]).frame) == 4
    engine.dispose()


maybe = st.none() | st.sampled_from(["text", -1.0, 2.0, 0.5, 7])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    cells=st.lists(
        st.fixed_dictionaries(
            {
                "decision": st.fixed_dictionaries(
                    {"propensity": maybe.filter(lambda cell: cell is not None), "messages": maybe, "prompt": maybe}
                ),
                "feedback": st.none()
                | st.fixed_dictionaries({"quality": maybe, "cost_usd": maybe, "input_tokens": maybe}),
                "orphan": st.booleans(),
            }
        ),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_the_store_holds_every_row_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, cells: list[dict[str, Any]]
) -> None:
    """SQLite keeps any type in any column."""
    path = str(tmp_path_factory.mktemp("dirty") / "decisions.db")
    open_engine(path).dispose()
    with plain(path).begin() as connection:
        for number, cell in enumerate([*cells, {"decision": {}, "feedback": {}, "orphan": False}]):
            made = decision(f"d{number}", at=1.7e9 + number) | cell["decision"]
            insert(connection, DECISIONS, made)
            if cell["feedback"] is not None:
                identifier = f"{'x' if cell['orphan'] else 'd'}{number}"
                insert(connection, FEEDBACK, feedback(identifier).row(at=1.0) | cell["feedback"])
    result = reading.read([path])
    orphans = sum(cell["orphan"] and cell["feedback"] is not None for cell in cells)
    assert result.reasons.get(ORPHAN, 0) == orphans
    assert len(result.frame) + len(result.skipped) == result.rows_read == len(cells) + 1 + orphans


def insert(connection: sa.Connection, table: sa.Table, row: dict[str, Any]) -> None:
    names = ", ".join(row)
    marks = ", ".join("?" * len(row))
    connection.exec_driver_sql(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", tuple(row.values()))
