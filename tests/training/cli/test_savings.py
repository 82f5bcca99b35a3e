"""`router-train savings`: the endpoint's own figures, of a store of any version, in words."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import sqlalchemy as sa
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.settings import Settings
from serving.store.engine import open_engine
from serving.store.tables import ALSO_FEEDBACK, DECISIONS, FEEDBACK
from serving.store.upgrade import MARKER
from tests import fake_bundle
from tests.conftest import router_train_here
from tests.postgres_server import needs_postgres, own_database
from tests.serving.account.simulated import simulate
from tests.serving.store.rows import decision, feedback

WINDOW = "from=0&to=1000"
NEW = (
    "reference",
    "reference_expected_cost_usd",
    "reference_input_usd",
    "instead_candidate",
    "instead_expected_cost_usd",
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "d.db") if request.param == "sqlite" else own_database(request.getfixturevalue("postgres"))


def filled(url: str) -> str:
    drawn = simulate(1, conversations=60)
    engine = open_engine(url)
    with engine.begin() as connection:
        connection.execute(DECISIONS.insert(), [*drawn.decisions, decision("old", workflow="[bold]x\x1b[2J")])
        connection.execute(FEEDBACK.insert(), drawn.told)
        asked_too = feedback(drawn.decisions[0]["id"], candidate="x", cost_usd=0.25, judge_cost_usd=0.5)
        connection.execute(ALSO_FEEDBACK.insert(), [asked_too.row(200.0)])
    engine.dispose()
    return url


def figures(text: str) -> list[list[str]]:
    """A CSV's cells, numbers to nine digits: in which order PostgreSQL sums them is its own affair."""
    return [
        [f"{round(float(cell), 12):.9g}" if "." in cell else cell for cell in row]
        for row in csv.reader(io.StringIO(text))
    ]


@pytest.mark.parametrize("by", ["workflow", "key", "candidate", "day"])
def test_the_command_and_the_endpoint_give_the_same_figures(url: str, tmp_path: Path, by: str) -> None:
    filled(url)
    settings = Settings(bundle=fake_bundle.build(tmp_path / "models"), store=url)
    with TestClient(create_app(settings)) as client:
        told = client.get(f"/v1/savings?by={by}&{WINDOW}&format=csv").text
        total = client.get(f"/v1/savings?by={by}&{WINDOW}").json()["total"]
    out = tmp_path / "savings.csv"
    done = router_train_here("savings", "--data", url, "--by", by, "--from", "0", "--to", "1000", "--csv", out)
    assert done.returncode == 0, done.stderr
    assert figures(out.read_text()) == figures(told)
    assert len(told.splitlines()) > 1
    assert "acme/large would have cost what was expected of it, times" in done.stdout
    assert f"${total['routing_costs']['also_usd']:,.2f} for who was asked too" in done.stdout
    assert "1 stored before the reference's cost was" in done.stdout


def test_what_judging_cost_elsewhere_is_taken_from_the_total(tmp_path: Path) -> None:
    path, out = filled(str(tmp_path / "d.db")), tmp_path / "savings.csv"
    arguments = ("savings", "--data", path, "--by", "workflow", "--from", "0", "--to", "1000", "--csv", out)
    plain = router_train_here(*arguments)
    before = out.read_text()
    done = router_train_here(*arguments, "--judge-usd", "7000")
    assert out.read_text() == before
    assert "$0.50 for judging." in plain.stdout
    assert "$7,000.50 for judging, $7,000.00 of it as --judge-usd says" in done.stdout
    assert "-$7,0" in done.stdout, "a loss is shown as one"
    assert "[bold]x\ufffd[2J" in done.stdout, "a tag is no markup, and does nothing to the terminal"


def test_what_was_held_back_and_what_is_not_compared_is_told_apart(url: str, tmp_path: Path) -> None:
    known = {"reference": "acme/large", "reference_expected_cost_usd": 2.0, "reference_input_usd": 0.5}
    asked_too = {"also_candidate": "x", "also_propensity": 0.5, "also_expected_cost_usd": 0.75}
    engine = open_engine(url)
    with engine.begin() as connection:
        held = decision("held", candidate="acme/large", reason="held_back", **known)
        connection.execute(DECISIONS.insert(), [decision("d", **known), held, decision("untold", **known, **asked_too)])
        said = [feedback("d", cost_usd=0.25, quality=0.0), feedback("held", cost_usd=2.0, judge_cost_usd=0.125)]
        connection.execute(FEEDBACK.insert(), [one.row(200.0) for one in said])
    engine.dispose()
    out = tmp_path / "savings.csv"
    done = router_train_here("savings", "--data", url, "--from", "0", "--to", "1000", "--csv", out)
    assert done.returncode == 0, done.stderr
    said_of_it = " ".join(done.stdout.split())
    assert "of which 1 judged answers come to 100.0%" in said_of_it
    assert "routing itself cost $0.75 for who was asked too, $0.12 for judging: in nothing above" in said_of_it
    (row,) = csv.DictReader(io.StringIO(out.read_text()))
    assert (float(row["saved_usd"]), float(row["quality"]), float(row["held_back_quality"])) == (1.75, 0.0, 1.0)
    told = [float(row[f"routing_costs_uncompared_{name}"]) for name in ("exploration_usd", "also_usd", "judge_usd")]
    assert told == [0.0, 0.75, 0.125]


@pytest.mark.parametrize("version", ["2", "4"])
def test_a_store_of_an_earlier_version_is_read_as_it_is(tmp_path: Path, version: str) -> None:
    path = filled(str(tmp_path / "d.db"))
    gone = [*NEW, *(("also_candidate", "also_propensity", "also_expected_cost_usd") if version == "2" else ())]
    with sa.create_engine(f"sqlite:///{path}", poolclass=sa.NullPool).begin() as connection:
        for name in gone:
            connection.exec_driver_sql(f"ALTER TABLE decision DROP COLUMN {name}")
        connection.exec_driver_sql("ALTER TABLE feedback DROP COLUMN judge_cost_usd")
        if version == "2":
            connection.exec_driver_sql("ALTER TABLE feedback DROP COLUMN quality_source")
            connection.exec_driver_sql("DROP TABLE also_feedback")
        else:
            connection.exec_driver_sql("ALTER TABLE also_feedback DROP COLUMN judge_cost_usd")
        connection.exec_driver_sql(f"UPDATE {MARKER} SET version_num = '{version}'")
    before = Path(path).read_bytes()
    done = router_train_here("savings", "--data", path, "--from", "0", "--to", "1000")
    assert done.returncode == 0, done.stderr
    assert "stored before the reference's cost was" in done.stdout
    assert "othing is known of what was saved" in done.stdout
    assert Path(path).read_bytes() == before, "it is not upgraded by being looked at"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "nowhere.db"], "no such file"),
        (["--data", "d.db", "--from", "yesterday"], "--from: expected seconds since 1970, or ISO 8601"),
        (["--data", "d.db", "--from", "9", "--to", "8"], "--from: has to be before `to`"),
    ],
)
def test_what_cannot_be_asked_is_said(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = router_train_here("savings", *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr


def test_where_nothing_was_compared_the_table_says_so(tmp_path: Path) -> None:
    engine = open_engine(str(tmp_path / "d.db"))
    with engine.begin() as connection:
        connection.execute(DECISIONS.insert(), [decision(f"d{number}") for number in range(6)])
    engine.dispose()
    done = router_train_here("savings", "--data", str(tmp_path / "d.db"), "--from", "0", "--to", "1000")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "none of 6 compared, so nothing is known" in said
    assert "$0.00 ($0.00" not in said
