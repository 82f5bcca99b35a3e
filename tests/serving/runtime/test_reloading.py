"""What a service takes over: what it says of a bundle that does not do what its settings ask for."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from serving.runtime.reloading import Reloading
from serving.settings import Settings
from tests import fake_bundle


@pytest.mark.parametrize(("point", "said"), [("q0.9", True), ("balanced", False)])
def test_exploring_that_no_certificate_has_paid_for_is_said(
    point: str, said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = fake_bundle.manifest
    monkeypatch.setattr(
        fake_bundle, "manifest", lambda version: made(version).model_copy(update={"default_point": point})
    )
    folder = fake_bundle.build(tmp_path)
    with caplog.at_level(logging.WARNING):
        Reloading(Settings(bundle=str(folder)), lambda _: None)
        assert caplog.text == ""
        Reloading(Settings(bundle=str(folder), explore=0.1), lambda _: None)
    assert ("ROUTER_EXPLORE is 0.1" in caplog.text) == said


@pytest.fixture
def watched(tmp_path: Path) -> tuple[Reloading, Path]:
    rules = tmp_path / "policies.toml"
    rules.write_text(f'[keys.a]\nsha256 = "{"0" * 64}"\n')
    folder = fake_bundle.build(tmp_path / "models")
    return Reloading(Settings(bundle=str(folder), policies=rules), lambda _: None), rules


def written(path: Path, text: str) -> None:
    """Writes it, and makes its time another one whatever the file system's clock is like."""
    before = path.stat().st_mtime_ns
    path.write_text(text)
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


def test_a_rule_file_is_taken_over_once_it_is_written(watched: tuple[Reloading, Path]) -> None:
    reloading, rules = watched
    before = reloading.rules
    written(rules, f'[keys.b]\nsha256 = "{"1" * 64}"\n')
    reloading._look_at_rules()
    assert reloading.rules is before, "somebody may be writing it still"
    reloading._look_at_rules()
    assert list(reloading.rules.keys) == ["b"]
    assert reloading.rules_refused is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[default", "not valid TOML"),
        ("", "no API key any more"),
        ("[default]\nalow = []", "did you mean allow"),
        (f'[keys.a]\nsha256 = "{"0" * 64}"\nallow = ["no*"]', "matches no candidate"),
    ],
)
def test_a_rule_file_that_is_wrong_is_refused_as_a_whole_and_once(
    watched: tuple[Reloading, Path], caplog: pytest.LogCaptureFixture, text: str, why: str
) -> None:
    reloading, rules = watched
    before, right = reloading.rules, rules.read_text()
    written(rules, text)
    for _ in range(4):
        reloading._look_at_rules()
    assert reloading.rules is before
    assert why in str(reloading.rules_refused)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    written(rules, right)
    for _ in range(2):
        reloading._look_at_rules()
    assert reloading.rules_refused is None


def test_a_rule_file_that_is_gone_leaves_the_rules(watched: tuple[Reloading, Path]) -> None:
    reloading, rules = watched
    before = reloading.rules
    rules.unlink()
    for _ in range(3):
        reloading._look_at_rules()
    assert reloading.rules is before
    assert "cannot be read" in str(reloading.rules_refused)


def test_a_rule_file_for_the_next_bundle_is_in_force_once_that_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "policies.toml"
    rules.write_text("")
    root = fake_bundle.build(tmp_path / "models", "v1").parent
    reloading = Reloading(Settings(bundle=str(root / "current"), policies=rules), lambda _: None)
    written(rules, '[default]\nallow = ["open/new"]\n')
    for _ in range(3):
        reloading._look_at_rules()
    assert "matches no candidate" in str(reloading.rules_refused)
    new = tuple(
        one.model_copy(update={"name": one.name.replace("open/medium", "open/new")}) for one in fake_bundle.CANDIDATES
    )
    monkeypatch.setattr(fake_bundle, "CANDIDATES", new)
    monkeypatch.setattr(fake_bundle, "OPEN", "open/new")
    monkeypatch.setattr(
        fake_bundle, "USUAL", {name.replace("open/medium", "open/new"): one for name, one in fake_bundle.USUAL.items()}
    )
    fake_bundle.build(tmp_path / "models", "v2")
    assert reloading.live.reload().changed
    for _ in range(2):
        reloading._look_at_rules()
    assert reloading.rules_refused is None
    assert reloading.rules.default.allow == ("open/new",)
