"""What is evaluated is what is served: an evaluation's figures are those of a replay through a running service."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.bundle.manifest import (
    REQUIRED_FILES,
    Novelty,
    OperatingPoint,
    new_bundle,
    open_bundle,
    seal,
)
from serving.settings import Settings
from tests import fake_bundle
from tests.conftest import Trained
from tests.fake_bundle import LARGE
from tests.small_logs import log_of
from training.dataset.fingerprints import fingerprints, write_fingerprints
from training.evaluate.evaluation import Evaluation, PointLine
from training.evaluate.served import evaluate_bundle
from training.learn.prepare import PrepareError
from training.logs.validate import validate
from training.prices.catalogue import SHIPPED, load_catalogue
from training.publish import report
from training.simulation.simulate import simulate


@pytest.fixture(
    params=[(point, novelty) for point in ("balanced", "q0.9", "cheapest") for novelty in (2.0, 0.45, -1.0)]
)
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """The bundle that nobody trained at another operating point, with another idea of what is novel."""
    point, threshold = request.param
    made = fake_bundle.manifest
    novelty = Novelty(threshold=threshold, shares=(1.0 / fake_bundle.DIM,) * fake_bundle.DIM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            fake_bundle,
            "manifest",
            lambda version: made(version).model_copy(update={"default_point": point, "novelty": novelty}),
        )
        yield fake_bundle.build(tmp_path / "models")


def replayed_by(bundle: Path, frame: pd.DataFrame) -> dict[str, str]:
    """Who a running service says is to answer each request of an outcome table, by its id, each for itself."""
    chosen = {}
    settings = Settings(bundle=str(bundle), store=None, derived_sessions=False)
    with TestClient(create_app(settings)) as client:
        for request in frame.drop_duplicates("request_id").itertuples():
            body = {"messages": request.messages} if isinstance(request.messages, list) else {"prompt": request.prompt}
            tag = {"workflow": request.workflow} if isinstance(request.workflow, str) else {}
            answer = client.post("/v1/route", json=body | tag)
            chosen[str(request.request_id)] = answer.json()["model"] if answer.status_code == 200 else LARGE
    return chosen


def test_an_evaluation_is_a_replay_to_the_last_request(bundle: Path, request: pytest.FixtureRequest) -> None:
    """Nine bundles, each on a log of its own."""
    table = log_of(7 + sum(map(ord, request.node.name)) % 100)
    found = evaluate_bundle(open_bundle(bundle), table, {}, assumed_output_tokens=100.0, resamples=10, seed=0)
    frame = table.frame
    outcomes = frame.set_index(["request_id", "candidate"])[["quality", "cost_usd"]]
    chosen = replayed_by(bundle, frame)
    replayed = outcomes.loc[list(chosen.items())]
    line = found.line()
    assert line.quality == pytest.approx(replayed["quality"].mean(), abs=1e-12)
    assert line.cost_usd == pytest.approx(replayed["cost_usd"].mean(), abs=1e-12)
    manifest = open_bundle(bundle).manifest
    if manifest.default_point != "q0.9" and manifest.novelty.threshold > 0:
        assert len(set(chosen.values())) > 1
    shares = {row.workflow: row.share for row in found.workflows}
    hard = [model for name, model in chosen.items() if int(name[1:]) % 3 == 1]
    assert shares["hard"][LARGE] == pytest.approx(hard.count(LARGE) / len(hard))


def test_so_it_is_of_a_router_that_was_trained(trained: Trained) -> None:
    """The tenth, on 150 requests of another simulated log, with conversations, tags withheld and tools: who gets how much."""
    catalogue = load_catalogue(SHIPPED)
    manifest = open_bundle(trained.bundle).manifest
    log = simulate([catalogue[one.name] for one in manifest.candidates], requests=150, seed=12)
    table = validate(log.outcomes, source="simulated", format="simulated")
    found = evaluate_bundle(
        open_bundle(trained.bundle), table, catalogue, assumed_output_tokens=250.0, resamples=10, seed=0
    )
    chosen = list(replayed_by(trained.bundle, table.frame).values())
    assert len(set(chosen)) > 2
    for name, share in found.shares.items():
        assert share == pytest.approx(chosen.count(name) / len(chosen), abs=1e-12), name


def test_where_everything_is_novel_nothing_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fake_bundle.manifest
    novelty = Novelty(threshold=-1.0, shares=(1.0 / fake_bundle.DIM,) * fake_bundle.DIM)
    monkeypatch.setattr(fake_bundle, "manifest", lambda version: made(version).model_copy(update={"novelty": novelty}))
    opened = open_bundle(fake_bundle.build(tmp_path))
    found = evaluate_bundle(opened, log_of(8), {}, assumed_output_tokens=100.0, resamples=10, seed=0)
    assert found.line().saving == 0.0


def test_a_test_part_that_contradicts_the_certificate_is_told() -> None:
    proof = fake_bundle.certificate(alpha=0.05, bound=0.03, requests=400)
    point = OperatingPoint(name="q0.95", knob=1.0, calibration_requests=400, certificate=proof)
    within = Evaluation(300, 300, points=(PointLine("q0.95", 300, 0.2, 250, 0.07, 0.049),))
    beyond = Evaluation(300, 300, points=(PointLine("q0.95", 300, 0.2, 250, 0.09, 0.07),))
    assert within.contradiction(point) is None
    told = beyond.contradiction(point)
    assert told is not None
    assert told.startswith(
        "THE TEST PART CONTRADICTS THE CERTIFICATE of q0.95: its violation rate on 250 test requests"
    )
    assert Evaluation(300, 300).contradiction(point) is None


def test_a_log_that_the_bundle_was_made_from_is_no_test_of_it(tmp_path: Path) -> None:
    """Half of the log's requests; another bundle does not say, and nothing is said of it."""
    table = log_of(9)
    texts = list(table.frame["prompt"].drop_duplicates())
    root = fake_bundle.build(tmp_path / "models").parent
    with new_bundle(root, "made") as folder:
        for file in REQUIRED_FILES:
            shutil.copy(root / "fake-1" / file, folder / file)
        write_fingerprints(folder, fingerprints(texts[::2]))
        seal(folder, fake_bundle.manifest("made"))
    seen = {}
    for name in ("made", "fake-1"):
        opened = open_bundle(root / name)
        found = evaluate_bundle(opened, table, {}, assumed_output_tokens=100.0, resamples=10, seed=0)
        seen[name] = found.seen
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(report.terminal(opened.manifest, found))
        said = console.export_text()
        assert ("30 OF 60 REQUESTS ARE AMONG THOSE THAT THE BUNDLE WAS MADE FROM" in said) is (name == "made")
        assert ("test requests that every candidate" in said) is (name != "made")
    assert seen == {"made": 30, "fake-1": 0}


def test_names_that_may_be_the_bundle_s_are_told(tmp_path: Path) -> None:
    table = log_of(10)
    table.frame["candidate"] = "gateway/" + table.frame["candidate"].str.rpartition("/")[2]
    with pytest.raises(
        PrepareError, match=r"no outcome of the bundle's candidates .*; gateway/\w+ may be \S+ by another name"
    ):
        evaluate_bundle(
            open_bundle(fake_bundle.build(tmp_path)), table, {}, assumed_output_tokens=1.0, resamples=10, seed=0
        )
