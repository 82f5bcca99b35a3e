"""What is kept beside a bundle is read where nobody else can have written it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from training.kept import files
from training.kept.files import ACCOUNT, KeptError, open_kept, require_own_room
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
