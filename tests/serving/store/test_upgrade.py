"""A store of version 0.1 is upgraded in place and keeps every row; what is no store, or a later one, is left alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from serving.store import upgrade as module
from serving.store.engine import StoreError, open_engine
from serving.store.tables import DECISIONS, FEEDBACK, METADATA
from serving.store.upgrade import MARKER
from tests.patience import PATIENCE, until
from tests.postgres_server import engine_of
from tests.serving.store.rows import decision, feedback, stored

# As version 0.1 made them, on either database.
OLD = """
CREATE TABLE decision (
    id VARCHAR(64) NOT NULL, at FLOAT NOT NULL, "key" VARCHAR(256), workflow TEXT, session_id TEXT, prompt TEXT,
    messages TEXT, candidate VARCHAR(256) NOT NULL, reason VARCHAR(32) NOT NULL, propensity FLOAT NOT NULL, knob FLOAT,
    operating_point VARCHAR(256), quality_target FLOAT, confidence FLOAT, expected_quality FLOAT, expected_cost_usd FLOAT,
    expected_latency_ms FLOAT, novelty FLOAT, cluster INTEGER, tools BOOLEAN, json_schema BOOLEAN,
    max_output_tokens BIGINT, bundle VARCHAR(256), shadow_bundle VARCHAR(256), shadow_candidate VARCHAR(256),
    shadow_confidence FLOAT, shadow_expected_cost_usd FLOAT, PRIMARY KEY (id)
);
CREATE INDEX decision_at ON decision (at);
CREATE TABLE feedback (
    decision_id VARCHAR(64) NOT NULL, at FLOAT NOT NULL, candidate VARCHAR(256), quality FLOAT, cost_usd FLOAT,
    input_tokens BIGINT, output_tokens BIGINT, latency_ms FLOAT, error BOOLEAN NOT NULL, PRIMARY KEY (decision_id)
);
CREATE INDEX feedback_at ON feedback (at);
CREATE TABLE outcome_router_store (version INTEGER NOT NULL, PRIMARY KEY (version))
"""
MADE = [decision(f"d{n}", at=float(n), tools=bool(n % 2), max_output_tokens=10**12, knob=2.5) for n in range(50)]
SAID = [feedback(f"d{n}", cost_usd=0.25, input_tokens=10**12).row(float(n)) for n in range(30)]
NEWEST = "6"
# What a decision says of the reference and of whom exploring passed over, before it could.
NO_REFERENCE = (None,) * 5
NOBODY_ELSE = (None,) * 3 + NO_REFERENCE  # and of who was asked too, where nobody was
UNPAID = (None,)  # what judging cost, before it was told
JUDGED = (None, *UNPAID)  # and where a quality is from
AFTER = ("v1.py", "v2.py", "v3.py", "v4.py", "v5.py", "v6.py")
NEXT = """
import sqlalchemy as sa
revision = "7"
down_revision = "6"
def upgrade(op):
    op.add_column("decision", sa.Column("later", sa.Integer, nullable=False, server_default="7"))
    op.rename_table("feedback", "said")
"""


def plain(url: str) -> sa.Engine:
    """An engine that makes no tables."""
    if "://" in url:
        return engine_of(url)
    Path(url).parent.mkdir(parents=True, exist_ok=True)
    return sa.create_engine(f"sqlite:///{url}", poolclass=sa.NullPool)


def run(url: str, *statements: str) -> None:
    with plain(url).begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def old(url: str, version: int | None = 1) -> str:
    """A store of version 0.1 with rows."""
    run(url, *OLD.split(";"))
    fill(url)
    if version is not None:
        run(url, f"INSERT INTO {MARKER} VALUES ({version})")
    return url


def fill(url: str) -> None:
    """Decisions and feedback, in those columns that the tables have."""
    with plain(url).begin() as connection:
        for name, rows in (("decision", MADE), ("feedback", SAID)):
            table = sa.Table(name, sa.MetaData(), autoload_with=connection)
            connection.execute(table.insert(), [{k: v for k, v in row.items() if k in table.c} for row in rows])


def version(url: str) -> list[Any]:
    with plain(url).connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {MARKER}")]


def is_partition(name: str | None) -> bool:
    """Whether a table is none of the code's: a month, or what is kept of days."""
    return (name or "").startswith(("decision_", "savings_"))


def everything(url: str) -> dict[str, list[Any]]:
    """Every table's rows, in their order."""
    with plain(url).connect() as connection:
        names = [one for one in sorted(sa.inspect(connection).get_table_names()) if not is_partition(one)]
        return {name: sorted(map(tuple, connection.exec_driver_sql(f"SELECT * FROM {name}"))) for name in names}


def differences(url: str) -> list[Any]:
    """How the database's tables differ from those that the code uses."""
    options = {"version_table": MARKER, "include_name": lambda name, kind, _: kind != "table" or not is_partition(name)}
    with plain(url).connect() as connection:
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, METADATA))


@pytest.fixture
def following(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The migrations with one more, that a later version might bring."""
    folder = tmp_path / "migrations"
    shutil.copytree(module.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "v7.py").write_text(NEXT)
    monkeypatch.setattr(module, "MIGRATIONS", folder)
    return folder / "v7.py"


@pytest.mark.parametrize("made_by", ["this", "0.1"])
def test_the_migrations_make_the_tables_that_the_code_uses(url: str, made_by: str) -> None:
    open_engine(old(url) if made_by == "0.1" else url).dispose()
    assert differences(url) == []
    run(url, "DROP INDEX feedback_at")
    assert len(differences(url)) == 1, "a difference is seen"


@pytest.mark.parametrize("written", [1, None])
def test_a_store_of_version_0_1_is_upgraded_and_keeps_every_row(url: str, written: int | None) -> None:
    before = everything(old(url, written))
    open_engine(url).dispose()
    assert everything(url) == before | {
        MARKER: [(NEWEST,)],
        "decision": [(*row, *NOBODY_ELSE) for row in before["decision"]],
        "feedback": [(*row, *JUDGED) for row in before["feedback"]],
        **{name: [] for name in ("also_feedback", "budget", "charge", "replay", "session")},
    }
    assert [dict(row) for row in stored(url, DECISIONS)] == sorted(MADE, key=lambda row: row["id"])
    assert [dict(row) for row in stored(url, FEEDBACK)] == sorted(SAID, key=lambda row: row["decision_id"])


def test_a_store_of_version_2_is_upgraded_and_keeps_every_row(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(module.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__", *AFTER[2:]))
    with monkeypatch.context() as patch:
        patch.setattr(module, "MIGRATIONS", folder)
        open_engine(url).dispose()
    fill(url)
    run(url, "INSERT INTO budget VALUES ('default', 'day', 0, 7, 3, 2)")
    run(
        url,
        "INSERT INTO charge (decision_id, scope, period, begins, amount, settled) VALUES ('d1', 'default', 'day', 0, 4, true)",
    )
    before = everything(url)
    assert before[MARKER] == [("2",)]
    open_engine(url).dispose()
    assert everything(url) == before | {
        MARKER: [(NEWEST,)],
        "decision": [(*row, *NOBODY_ELSE) for row in before["decision"]],
        "feedback": [(*row, *JUDGED) for row in before["feedback"]],
        "also_feedback": [],
        "replay": [],
    }
    assert differences(url) == []


def test_a_store_of_version_3_is_upgraded_and_what_was_told_counts_as_judged(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(module.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__", *AFTER[3:]))
    with monkeypatch.context() as patch:
        patch.setattr(module, "MIGRATIONS", folder)
        open_engine(url).dispose()
    fill(url)
    run(url, "INSERT INTO also_feedback (decision_id, at, candidate, quality, error) VALUES ('d1', 1, 'x', 0.5, false)")
    before = everything(url)
    assert before[MARKER] == [("3",)]
    open_engine(url).dispose()
    told = {name: [(*row, *JUDGED) for row in before[name]] for name in ("feedback", "also_feedback")}
    decided = [(*row, *NO_REFERENCE) for row in before["decision"]]
    assert everything(url) == before | told | {MARKER: [(NEWEST,)], "decision": decided, "replay": []}
    assert differences(url) == []


def test_a_store_of_version_4_is_upgraded_and_what_was_decided_has_no_reference(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(module.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__", *AFTER[4:]))
    with monkeypatch.context() as patch:
        patch.setattr(module, "MIGRATIONS", folder)
        open_engine(url).dispose()
    fill(url)
    run(url, "INSERT INTO also_feedback (decision_id, at, candidate, quality, error) VALUES ('d1', 1, 'x', 0.5, false)")
    before = everything(url)
    assert before[MARKER] == [("4",)]
    open_engine(url).dispose()
    told = {name: [(*row, *UNPAID) for row in before[name]] for name in ("feedback", "also_feedback")}
    decided = [(*row, *NO_REFERENCE) for row in before["decision"]]
    assert everything(url) == before | told | {MARKER: [(NEWEST,)], "decision": decided, "replay": []}
    assert differences(url) == []


def test_several_workers_may_make_the_tables_at_once(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        for engine in pool.map(lambda _: open_engine(url), range(4)):
            engine.dispose()
    assert version(url) == [(NEWEST,)]


def test_several_workers_may_upgrade_at_once(url: str, following: Path) -> None:
    before = everything(old(url))
    together = threading.Barrier(4)

    def start() -> None:
        together.wait(PATIENCE)
        open_engine(url).dispose()

    with ThreadPoolExecutor(4) as pool:
        for one in [pool.submit(start) for _ in range(4)]:
            one.result()
    after = everything(url)
    assert version(url) == [("7",)]
    assert after["decision"] == [(*row, *NOBODY_ELSE, 7) for row in before["decision"]]
    assert after["said"] == [(*row, *JUDGED) for row in before["feedback"]]


def test_an_upgrade_that_fails_leaves_the_store_as_it_was(url: str, following: Path) -> None:
    following.write_text(NEXT + '    op.execute("SELECT 1 FROM nowhere")\n')
    before = everything(old(url))
    with pytest.raises(StoreError, match="nowhere"):
        open_engine(url)
    assert everything(url) == before
    following.write_text(NEXT)
    open_engine(url).dispose()
    assert everything(url)["said"] == [(*row, *JUDGED) for row in before["feedback"]]


@pytest.mark.parametrize("at", ["made by this code", "made by 0.1"])
def test_a_store_of_another_version_is_refused_and_left_alone(url: str, at: str) -> None:
    if at == "made by 0.1":
        old(url, version=99)
    else:
        open_engine(url).dispose()
        run(url, f"UPDATE {MARKER} SET version_num = '99'", "DROP TABLE decision")
    before = everything(url)
    with pytest.raises(
        StoreError, match=rf"store version is 99, this code uses {NEWEST}: a later outcome-router wrote it. Serve"
    ):
        open_engine(url)
    assert everything(url) == before


def test_tables_of_somebody_else_are_left_alone(url: str) -> None:
    run(url, "CREATE TABLE decision (id INTEGER)", "INSERT INTO decision VALUES (1)")
    with pytest.raises(StoreError, match=r"it has a table decision, and is no store .*; give another database"):
        open_engine(url)
    assert everything(url) == {"decision": [(1,)]}


def test_other_tables_beside_the_store_do_not_matter(url: str) -> None:
    run(url, "CREATE TABLE alembic_version (version_num VARCHAR(32))", "INSERT INTO alembic_version VALUES ('abc')")
    open_engine(url).dispose()
    made: dict[str, list[Any]] = {name: [] for name in METADATA.tables}
    assert everything(url) == {"alembic_version": [("abc",)], MARKER: [(NEWEST,)], **made}


def test_a_store_is_opened_while_another_writes(tmp_path: Path) -> None:
    path = str(tmp_path / "d.db")
    open_engine(path).dispose()
    with plain(path).connect() as connection:
        connection.exec_driver_sql("begin immediate")
        open_engine(path).dispose()
        connection.rollback()


SLEEPING = """
import pathlib, time
revision = "7"
down_revision = "6"
def upgrade(op):
    pathlib.Path({there!r}).touch()
    time.sleep(600)
"""
OPENING = """
import pathlib, sys
from serving.store import upgrade
upgrade.MIGRATIONS = pathlib.Path(sys.argv[1])
from serving.store.engine import open_engine
open_engine(sys.argv[2])
"""


def test_an_upgrade_that_is_killed_leaves_the_store_as_it_was(url: str, following: Path, tmp_path: Path) -> None:
    before, there = everything(old(url)), tmp_path / "there"
    following.write_text(SLEEPING.format(there=str(there)))
    process = subprocess.Popen([sys.executable, "-c", OPENING, str(following.parent), url])
    try:
        until(there.exists, "version 6 is made, and not committed")
    finally:
        process.kill()
        process.wait(PATIENCE)
    following.unlink()
    assert everything(url) == before
    open_engine(url).dispose()
    assert len(everything(url)["decision"]) == len(MADE)
    assert version(url) == [(NEWEST,)]
