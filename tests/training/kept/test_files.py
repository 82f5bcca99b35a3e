"""What is kept beside a bundle is read where nobody else can have written it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.training.kept.test_parts import CHOICES
from training.kept import files
from training.kept.files import ACCOUNT, FORMAT_VERSION, KeptError, open_kept, require_own_room
from training.owned import NotOwnError


def test_what_others_may_have_written_is_not_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "open_bundle", lambda _: SimpleNamespace(manifest=None))
    kept = tmp_path / "models" / "kept" / "one"
    kept.mkdir(parents=True)
    (kept / ACCOUNT).write_text('{"format_version": 99}')
    for changed in (kept / ACCOUNT, kept, kept.parent):
        before = changed.stat().st_mode
        changed.chmod(0o770)
        with pytest.raises(NotOwnError, match=rf"{changed.name}: others can write there .*train on everything"):
            open_kept(tmp_path / "models" / "one")
        changed.chmod(before)
    with pytest.raises(KeptError, match="has format version 99"):
        open_kept(tmp_path / "models" / "one")
    require_own_room(tmp_path / "models")
    kept.parent.chmod(0o777)
    with pytest.raises(NotOwnError, match=r"kept: others can write there .*\(--out\)"):
        require_own_room(tmp_path / "models")


ACCOUNT_OF_ONE: dict[str, Any] = {
    "format_version": FORMAT_VERSION,
    "bundle": "one",
    "created": "2026-01-01",
    "fingerprint": "ab",
    "params": {},
    "choices": CHOICES.written(),
    "since": [],
    "formats": ["canonical"],
    "rows": 3,
    "requests": 2,
    "learned": 2,
    "surface": [],
    "prices": {"a": [1.0, None]},
    "files": {"ids.npy": "ab"},
    "salt": 3,
}


@pytest.mark.parametrize(
    "damage",
    [
        {"rows": -5},
        {"requests": 2.5},
        {"learned": True},
        {"since": "abc"},
        {"since": [1]},
        {"fingerprint": 5},
        {"prices": {"a": 5}},
        {"prices": {"a": ["x", None]}},
        {"prices": 5},
        {"salt": -1},
        {"params": []},
    ],
)
def test_an_account_with_what_none_has_is_damaged(
    damage: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "open_bundle", lambda _: SimpleNamespace(manifest=SimpleNamespace(version="one")))
    kept = tmp_path / "kept" / "one"
    kept.mkdir(parents=True, mode=0o700)
    kept.parent.chmod(0o700)
    (kept / ACCOUNT).write_text(json.dumps(ACCOUNT_OF_ONE))
    assert open_kept(tmp_path / "one", whole=False).prices == {"a": [1.0, None]}
    (kept / ACCOUNT).write_text(json.dumps(ACCOUNT_OF_ONE | damage))
    with pytest.raises(KeptError, match=r"kept\.json is damaged \(.*Train on everything"):
        open_kept(tmp_path / "one", whole=False)


def test_a_bundle_of_the_simulated_log_has_no_rows_to_train_on_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "open_bundle", lambda _: SimpleNamespace(manifest=SimpleNamespace(simulated=True)))
    with pytest.raises(KeptError, match=r"Train on your own log first: router-train run --data LOG$"):
        open_kept(tmp_path / "one")
