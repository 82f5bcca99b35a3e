"""The bundles beside the one that is served."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving.api.views import bundles
from serving.api.views.bundles import BundlesResponse
from serving.bundle.atomic_write import switch_link
from serving.bundle.manifest import MANIFEST
from tests import fake_bundle
from tests.serving.api.views.rules import get, remanifested, serving


def asked(client: TestClient, key: str | None = None) -> dict[str, Any]:
    document = get(client, "/v1/bundles", key)
    BundlesResponse.model_validate(document)
    return {**document, "bundles": {one["version"]: one for one in document["bundles"]}}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """fake-1, which is served, fake-0, fake-2, and what is no bundle."""
    root = tmp_path / "models"
    for number, created in ((0, "2025-01-01T00:00:00Z"), (2, "2027-01-01T00:00:00Z"), (1, "2026-01-01T00:00:00Z")):
        remanifested(fake_bundle.build(root, f"fake-{number}"), created=created)
    (root / "notes.txt").write_text("nothing")
    (root / "empty").mkdir()
    return root


def test_all_are_told_the_newest_first(models: Path, tmp_path: Path) -> None:
    switch_link(models, "previous", "fake-0")
    with serving(models / "current", tmp_path, shadow=str(models / "fake-2")) as client:
        document = asked(client, "root")
    assert (document["live"], document["shadow"]) == ("fake-1", "fake-2")
    assert document["source"] == str(models / "current")
    shown = document["bundles"]
    assert list(shown) == ["fake-2", "fake-1", "fake-0"]
    assert [name for name, one in shown.items() if one["current"]] == ["fake-1"]
    assert [name for name, one in shown.items() if one["previous"]] == ["fake-0"]
    assert [name for name, one in shown.items() if one["shadow"]] == ["fake-2"]
    assert all(one["comparable"] and one["broken"] is None for one in shown.values())


def test_a_point_says_what_its_certificate_does(models: Path, tmp_path: Path) -> None:
    certified = fake_bundle.POINTS[0].model_copy(update={"certificate": fake_bundle.certificate(), "cost_usd": 0.5})
    rest = [one.model_dump(mode="json") for one in fake_bundle.POINTS[1:]]
    remanifested(models / "fake-0", operating_points=[certified.model_dump(mode="json"), *rest])
    with serving(models / "fake-1", tmp_path, rules="") as client:
        points = asked(client)["bundles"]["fake-0"]["points"]
    assert points[0] == {
        "name": "balanced",
        "quality_target": None,
        "knob": 20.0,
        "always": None,
        "default": True,
        "certified": True,
        "alpha": 0.1,
        "delta": 0.1,
        "bound": 0.02,
        "method": "clopper-pearson",
        "requests": 100,
        "quality": 0.9,
        "cost_usd": 0.5,
        "saving": 0.6,
        "saving_low": 0.1,
        "saving_high": 0.2,
        "violation_rate": 0.0,
    }
    assert [(one["certified"], one["bound"], one["default"]) for one in points[1:]] == [(False, None, False)] * 3
    assert points[-1]["knob"] is None  # the cheapest


def test_another_log_is_not_comparable(models: Path, tmp_path: Path) -> None:
    remanifested(models / "fake-2", data_fingerprint="f" * 16)
    with serving(models / "fake-1", tmp_path, rules="") as client:
        shown = asked(client)["bundles"]
    assert {name: one["comparable"] for name, one in shown.items()} == {"fake-2": False, "fake-1": True, "fake-0": True}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"format_version": 5, "unknown": 1}', "format_version is 5, this code reads 8"),
        ("{", "Invalid JSON"),
        ("[1]", "the document: Input should be an object"),
        ('{"format_version": 8}', "version: Field required"),
        ("", "Invalid JSON"),
    ],
)
def test_a_broken_one_is_said_and_the_others_are_shown(models: Path, tmp_path: Path, content: str, said: str) -> None:
    (models / "fake-0" / MANIFEST).write_text(content)
    with serving(models / "fake-1", tmp_path, rules="") as client:
        shown = asked(client)["bundles"]
    assert said in shown["fake-0"]["broken"]
    assert len(shown["fake-0"]["broken"]) <= 300
    assert (shown["fake-1"]["broken"], shown["fake-2"]["broken"]) == (None, None)


def test_a_manifest_without_bounds_is_not_read(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "_LARGEST", 100)
    with serving(models / "fake-1", tmp_path, rules="") as client:
        shown = asked(client)["bundles"]
    assert "at most 100 are read" in shown["fake-0"]["broken"]
    assert shown["fake-1"]["broken"] is None  # it is in memory


def test_the_newest_fifty_are_shown_and_the_served_one_among_them(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles, "MOST", 3)
    os.utime(models / "fake-1" / MANIFEST, (1, 1))
    for number in range(3, 9):
        shutil.copytree(models / "fake-2", models / f"fake-{number}")
        remanifested(models / f"fake-{number}", version=f"fake-{number}", created=f"2028-01-0{number}T00:00:00Z")
        os.utime(models / f"fake-{number}" / MANIFEST, (number, number + 1_800_000_000))
    with serving(models / "fake-1", tmp_path, rules="") as client:
        assert list(asked(client)["bundles"]) == ["fake-8", "fake-7", "fake-1"]


def test_the_served_one_is_shown_when_its_folder_is_gone(models: Path, tmp_path: Path) -> None:
    with serving(models / "fake-1", tmp_path, rules="") as client:
        shutil.rmtree(models)
        document = asked(client)
    assert list(document["bundles"]) == ["fake-1"]
    assert document["bundles"]["fake-1"]["current"]


def test_a_key_that_may_not_administer_sees_the_served_one_alone(models: Path, tmp_path: Path) -> None:
    with serving(models / "fake-1", tmp_path, shadow=str(models / "fake-2")) as client:
        document = asked(client, "app")
        assert client.get("/v1/bundles").status_code == 401
    assert (document["live"], document["shadow"], document["source"]) == ("fake-1", None, None)
    assert list(document["bundles"]) == ["fake-1"]


def test_the_logs_volume_and_cost_are_for_who_may_administer(models: Path, tmp_path: Path) -> None:
    told = {"aiq": 0.5, "log_requests": 100, "month_saved_usd": 3.0, "requests_a_month": 9.0}
    remanifested(models / "fake-1", metrics=told)
    with serving(models / "current", tmp_path) as client:
        assert asked(client, "root")["bundles"]["fake-1"]["metrics"] == told
        assert asked(client, "app")["bundles"]["fake-1"]["metrics"] == {"aiq": 0.5}
        assert get(client, "/v1/bundle", None)["metrics"] == {"aiq": 0.5}
    with serving(models / "current", tmp_path, rules="") as client:
        assert get(client, "/v1/bundle", None)["metrics"] == told


def test_workflows_are_named_to_nobody_without_a_key_that_may_administer(models: Path, tmp_path: Path) -> None:
    certified = fake_bundle.POINTS[0].model_copy(update={"certificate": fake_bundle.certificate()})
    points = [one.model_dump(mode="json") for one in (certified, *fake_bundle.POINTS[1:])]
    remanifested(models / "fake-1", operating_points=points)
    with serving(models / "current", tmp_path) as client:
        for key in (None, "app", "clinic", "nobody's"):
            document = get(client, "/v1/bundle", key)
            assert (document["head"]["workflows"], document["head"]["kinds"]) == ([], []), key
            assert document["operating_points"][0]["certificate"]["workflows"] == {}, key
            assert document["operating_points"][0]["certificate"]["bound"] == 0.02, key
            assert "easy" not in str(document), key
        told = get(client, "/v1/bundle", "root")
    with serving(models / "current", tmp_path, rules="") as client:
        assert get(client, "/v1/bundle") == told
    assert told["head"]["workflows"] == ["easy", "hard"]
    assert list(told["operating_points"][0]["certificate"]["workflows"]) == ["(none)", "easy"]
