"""`frontier.json`: its figures are the manifest's, or follow from it by the stated formula."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serving.bundle.manifest import Estimated, Manifest, OperatingPoint, open_bundle
from tests import fake_bundle, fake_frontier
from training.dataset.volume import Volume
from training.evaluate.evaluation import Evaluation
from training.publish.document import frontier_document, month_of, read_document
from training.publish.promote import set_point

# What every reader since the first schema may rely on.
FIRST = {
    "version", "simulated", "test_requests", "complete_requests", "why_not", "operating_point", "reference", "curves",
    "routers", "workflows", "splits", "calibration",
}  # fmt: skip
SECOND = {
    "schema", "basis", "basis_requests", "basis_note", "effective_requests", "sweep", "guarded", "points", "singles",
    "profiles",
    "reliability", "risk_coverage", "abstention", "log", "month", "measured_at", "objective",
}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("document"), frontier=True)


@pytest.fixture(scope="module")
def document(bundle: Path) -> dict[str, Any]:
    found = read_document(bundle)
    assert found is not None
    return found


def test_it_has_the_keys_of_both_schemas(document: dict[str, Any]) -> None:
    assert document.keys() == FIRST | SECOND
    assert document["schema"] == 2


def test_old_keys_keep_their_meaning(document: dict[str, Any]) -> None:
    router = next(line for line in document["routers"] if line["name"] == "outcome-router")
    curve = document["curves"]["outcome-router"]
    assert len(curve["cost_usd"]) == len(curve["quality"]) > 2
    assert curve["cost_usd"] == sorted(curve["cost_usd"])
    default = next(point for point in document["points"] if point["default"])
    assert default["name"] == document["operating_point"]
    for name in ("quality", "cost_usd", "saving"):
        assert default["test"][name] == pytest.approx(router[name])
    assert {"workflow", "requests", "share"} <= document["workflows"][0].keys()
    # The hull is of the sweep's own points.
    swept = {(round(mark["cost_usd"], 12), round(mark["quality"], 12)) for mark in document["sweep"]}
    for place in zip(curve["cost_usd"], curve["quality"], strict=True):
        assert (round(place[0], 12), round(place[1], 12)) in swept


def test_points_are_the_manifests(bundle: Path, document: dict[str, Any]) -> None:
    manifest = open_bundle(bundle).manifest
    for told, point in zip(document["points"], manifest.operating_points, strict=True):
        assert told["name"] == point.name
        assert told["calibration"]["saving"] == point.saving
        assert told["calibration"]["quality"] == point.quality
        proof = point.certificate
        assert told["certified"] is (proof is not None)
        if proof is not None:
            assert (told["alpha"], told["delta"], told["bound"]) == (proof.alpha, proof.delta, proof.bound)
            assert (told["method"], told["requests"]) == (proof.method, proof.requests)
    assert next(told for told in document["points"] if told["name"] == "cheapest")["knob"] is None, "infinite"


def test_the_month_follows_from_the_manifest_by_its_formula(bundle: Path, document: dict[str, Any]) -> None:
    manifest, month = open_bundle(bundle).manifest, document["month"]
    metrics, point = manifest.metrics, manifest.default
    a_month = metrics["log_dated_requests"] / metrics["log_days"] * 30.4375
    assert point.cost_usd is not None
    assert point.saving is not None
    assert point.certificate is not None
    base = point.cost_usd / (1 - point.saving)
    assert month["requests"] == metrics["requests_a_month"] == pytest.approx(a_month)
    assert month["reference_usd"] == pytest.approx(a_month * base)
    assert month["saved_usd"] == metrics["month_saved_usd"] == pytest.approx(a_month * base * point.saving)
    assert month["routed_usd"] == pytest.approx(a_month * point.cost_usd)
    assert (month["saved_low"], month["saved_high"]) == (None, None), "the share's interval is none of USD"
    assert not {"month_saved_low", "month_saved_high"} & metrics.keys()
    assert month["logged_usd"] is None, "every request was put to every candidate: that is no traffic"
    assert metrics["log_first"] == "2026-03-01T00:00:00Z"


def test_what_the_log_cost_is_the_other_comparison(bundle: Path) -> None:
    found = fake_frontier.document(bundle, fake_frontier.log_with_dates(1, 600, everybody=False))
    month, log = found["month"], found["log"]
    assert found["basis"] == "doubly robust"
    assert "compared exactly" in found["why_not"]
    assert month["logged_usd"] == pytest.approx(month["requests"] * log["cost_usd_per_request"])
    assert month["saved_against_logged_usd"] == pytest.approx(month["logged_usd"] - month["routed_usd"])


def manifest_at(point: OperatingPoint) -> Manifest:
    made = fake_bundle.manifest()
    return made.model_copy(update={"operating_points": (point,), "default_point": point.name})


def test_what_goes_to_the_reference_saves_nothing_and_says_what_it_might() -> None:
    guess = Estimated(knob=1.0, violation_rate=0.04, saving=0.5, saving_low=0.3, saving_high=0.6)
    point = OperatingPoint(
        name="q",
        quality_target=0.95,
        knob=0.0,
        always=fake_bundle.LARGE,
        calibration_requests=40,
        saving=0.0,
        estimated=guess,
    )
    log = Volume(requests=100, requests_a_month=1000.0, requests_a_month_from="setting", cost_usd_per_request=0.002)
    month = month_of(manifest_at(point), log, 0.01)
    assert month is not None
    assert (month["saved_usd"], month["saved_low"], month["saved_high"]) == (0.0, 0.0, 0.0)
    assert month["reference_from"] == "test"
    assert month["reference_usd"] == pytest.approx(10.0)
    assert month["estimated_saved_usd"] == pytest.approx(5.0)
    assert (month["estimated_saved_low"], month["estimated_saved_high"]) == (None, None)
    assert month["saved_against_logged_usd"] == pytest.approx(2.0 - 10.0), "the log's own mix is cheaper: that is told"
    usual = month_of(manifest_at(point), log)
    assert usual is not None
    assert usual["reference_from"] == "usual"
    assert usual["reference_usd"] == pytest.approx(1000 * fake_bundle.USUAL[fake_bundle.LARGE].cost_usd)
    assert month_of(manifest_at(point), Volume(requests=100)) is None


def test_without_figures_it_is_still_a_document() -> None:
    manifest = fake_bundle.manifest()
    found = frontier_document(manifest, Evaluation(0, 0, why_not="nothing was tested."))
    assert found.keys() == FIRST | SECOND
    assert (found["basis"], found["why_not"]) == (None, "nothing was tested.")
    assert (found["sweep"], found["singles"], found["log"], found["month"]) == ([], [], None, None)
    assert [point["test"] for point in found["points"]] == [None] * 4
    json.dumps(found, allow_nan=False)


def test_setting_another_point_moves_the_document_with_it(tmp_path: Path) -> None:
    before = fake_bundle.build(tmp_path, frontier=True)
    old = read_document(before)
    moved = set_point(tmp_path, "q0.9")
    new = read_document(moved.folder)
    assert old is not None
    assert new is not None
    assert new["version"] == moved.manifest.version == "fake-1-at-q0.9"
    assert new["operating_point"] == "q0.9"
    assert new["measured_at"] == "quality-0.9", "what was measured by workflow is of the former point"
    assert [point["name"] for point in new["points"] if point["default"]] == ["q0.9"]
    test = next(point["test"] for point in new["points"] if point["default"])
    router = next(line for line in new["routers"] if line["name"] == "outcome-router")
    assert (router["quality"], router["cost_usd"]) == (test["quality"], test["cost_usd"])
    assert new["month"] != old["month"]
    assert new["sweep"] == old["sweep"]
    metrics = open_bundle(moved.folder).manifest.metrics
    assert new["month"]["saved_usd"] is None, "the point's saving is not known"
    assert "month_saved_usd" not in metrics
    assert metrics["requests_a_month"] == old["month"]["requests"]


def test_an_old_document_gets_what_it_has_keys_for(tmp_path: Path) -> None:
    made = fake_bundle.build(tmp_path)
    manifest = open_bundle(made).manifest
    old = {"version": manifest.version, "operating_point": manifest.default_point, "curves": {}}
    from serving.bundle.manifest import MANIFEST, seal

    (made / MANIFEST).unlink()
    (made / "frontier.json").write_text(json.dumps(old))
    seal(made, manifest)
    moved = set_point(tmp_path, "cheapest")
    assert read_document(moved.folder) == {**old, "version": moved.manifest.version, "operating_point": "cheapest"}
