"""What a service takes over: what it says of a bundle that does not do what its settings ask for."""

from __future__ import annotations

import logging
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
