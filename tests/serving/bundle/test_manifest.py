"""The bundle: what is wrong with one is said by name, and half of one is never written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.bundle.features import SURFACE
from serving.bundle.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    REQUIRED_FILES,
    BundleError,
    new_bundle,
    open_bundle,
    sha256,
    switch_current,
)
from serving.decide.router import Router
from tests import fake_bundle


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture
def folder(intact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(intact, tmp_path / "copy"))


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / MANIFEST
    document = json.loads(path.read_text(encoding="utf-8"))
    edit(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def test_what_was_hashed_is_what_is_loaded(tmp_path: Path) -> None:
    bundle = open_bundle(fake_bundle.build(tmp_path))
    for name in REQUIRED_FILES:
        bundle.path(name).write_bytes(b"another bundle's")
    router = Router(bundle)
    assert router.route("hello").bundle == fake_bundle.VERSION
    assert not router.bundle.content, "what the graphs hold is not held twice"


@pytest.mark.parametrize("name", ["../head.onnx", "/etc/hostname", "a\\b", "..", ""])
def test_a_file_outside_of_the_folder_is_not_opened(folder: Path, name: str) -> None:
    edit_manifest(folder, lambda m: m["files"].update({name: "0" * 64}))
    with pytest.raises(BundleError, match="not names of files in the bundle's own folder"):
        open_bundle(folder)


def test_an_intact_bundle_opens_with_its_infinite_knob(intact: Path) -> None:
    manifest = open_bundle(intact).manifest
    assert manifest.version == fake_bundle.VERSION
    assert manifest.knobs == fake_bundle.KNOBS
    assert manifest.knobs[-1] == float("inf")
    json.loads((intact / MANIFEST).read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_building_it_twice_gives_the_same_files(intact: Path, tmp_path: Path) -> None:
    again = fake_bundle.build(tmp_path)
    assert open_bundle(again).manifest.files == open_bundle(intact).manifest.files


@pytest.mark.parametrize("name", ["encoder.onnx", "head.onnx", "tokenizer.json"])
def test_a_changed_a_cut_and_a_missing_file_are_named(folder: Path, name: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match=rf"{name} has sha256"):
        open_bundle(folder)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=rf"{name} has sha256"):
        open_bundle(folder)
    path.unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing"):
        open_bundle(folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="make train"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match="make train"):
        open_bundle(tmp_path / "missing")


@pytest.mark.parametrize("edit", [lambda m: None, lambda m: m.clear()], ids=["version only", "all else gone too"])
def test_another_format_version_is_told_from_a_broken_manifest(folder: Path, edit: Callable[[Any], object]) -> None:
    edit_manifest(folder, lambda m: (edit(m), m.update(format_version=FORMAT_VERSION + 1)))
    with pytest.raises(BundleError, match=rf"manifest.json: format_version is {FORMAT_VERSION + 1}"):
        open_bundle(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b"null", b'{"format_version": "x"}'])
def test_a_broken_manifest_is_named(folder: Path, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json: "):
        open_bundle(folder)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda m: m.pop("reference"), "reference: Field required"),
        (lambda m: m.update(reference="nobody"), "nobody"),
        (lambda m: m.update(default_point="nowhere"), "nowhere"),
        (lambda m: m["cost_from"].pop(fake_bundle.OPEN), "cost_from"),
        (lambda m: m["operating_points"][0].update(always="nobody"), "nobody"),
        (lambda m: m["files"].pop("head.onnx"), r"head\.onnx"),
        (lambda m: m["candidates"].append(m["candidates"][0]), "same name"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(folder: Path, edit: Callable[[Any], object], says: str) -> None:
    edit_manifest(folder, edit)
    with pytest.raises(BundleError, match=rf"manifest\.json: .*{says}"):
        open_bundle(folder)


def test_a_graph_that_onnxruntime_cannot_load_is_a_bundle_error(folder: Path) -> None:
    (folder / "head.onnx").write_bytes(b"not a graph")
    edit_manifest(folder, lambda m: m["files"].update({"head.onnx": sha256(folder / "head.onnx")}))
    with pytest.raises(BundleError, match="onnxruntime cannot load"):
        Router.load(folder)


def test_a_head_of_another_width_is_a_bundle_error(folder: Path) -> None:
    edit_manifest(folder, lambda m: m["head"].update(workflows=["easy"]))
    with pytest.raises(BundleError, match=r"head\.onnx has"):
        Router.load(folder)


def test_other_surface_features_are_a_bundle_error(folder: Path) -> None:
    edit_manifest(folder, lambda m: m["head"].update(surface=["log_bytes"]))
    with pytest.raises(BundleError, match="surface features log_bytes;"):
        Router.load(folder)


def test_a_bundle_of_format_4_with_its_surface_features_is_refused_by_its_version(folder: Path) -> None:
    old = [*SURFACE, "has_tools", "wants_json", "log_max_output_tokens"]
    edit_manifest(folder, lambda m: (m["head"].update(surface=old), m.update(format_version=4)))
    with pytest.raises(
        BundleError, match=rf"format_version is 4, this code reads {FORMAT_VERSION}\. Train again with this version, or"
    ):
        Router.load(folder)


def test_the_default_point_is_found_by_its_name(folder: Path) -> None:
    manifest = open_bundle(folder).manifest
    assert manifest.default.name == manifest.default_point == "balanced"


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with new_bundle(tmp_path, "v1") as folder:
            (folder / "head.onnx").write_bytes(b"half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_never_overwritten(tmp_path: Path) -> None:
    folder = fake_bundle.build(tmp_path)
    before = sha256(folder / MANIFEST)
    with pytest.raises(BundleError, match="exists already"):
        fake_bundle.build(tmp_path)
    assert sha256(folder / MANIFEST) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", fake_bundle.VERSION]


def test_current_follows_the_last_switch(tmp_path: Path) -> None:
    fake_bundle.build(tmp_path, "v1")
    fake_bundle.build(tmp_path, "v2")
    assert open_bundle(tmp_path / "current").manifest.version == "v2"
    switch_current(tmp_path, "v1")
    assert open_bundle(tmp_path / "current").manifest.version == "v1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "v1", "v2"]
