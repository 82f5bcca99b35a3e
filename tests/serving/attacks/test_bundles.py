"""One reload reaches every worker: bundle, shadow bundle and rules. What is refused is refused by all, as a whole."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from serving.bundle.manifest import switch_current
from tests import fake_bundle
from tests.fake_bundle import LARGE
from tests.patience import PATIENCE
from tests.serving.attacks.conftest import Attack, Attacked, bearer, key_rules


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Bundles v1 and v2; v1 is current."""
    for version in ("v2", "v1"):
        fake_bundle.build(tmp_path / "models", version)
    return tmp_path / "models"


def seen(service: Attacked, key: str | None = None) -> set[tuple[int, str, str]]:
    """Status, bundle and candidate of decisions over many connections, so that each worker has some."""
    found = set()
    for _ in range(40):
        answer = httpx.post(f"{service.url}/v1/route", json={"prompt": "hello"}, headers=bearer(key), timeout=PATIENCE)
        document = answer.json()
        found.add((answer.status_code, document.get("bundle", ""), document.get("model", "")))
    return found


def test_one_reload_reaches_every_worker(attacked: Attack, root: Path) -> None:
    admin, bot = key_rules("operator", "o" * 40, "admin = true"), key_rules("bot", "b" * 40)
    service = attacked(bundle=root / "current", shadow=root / "v1", rules=admin + bot, workers=2, watch_seconds=3600)
    rules = next(service.log.parent.glob("policies-*.toml"))
    assert {bundle for _, bundle, _ in seen(service, "b" * 40)} == {"v1"}

    switch_current(root, "v2")
    answer = service.post("/v1/admin/reload", b"", "o" * 40)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert (document["changed"], document["bundle"]) == (True, "v2")
    assert [(one["bundle"], one["shadow"]) for one in document["workers"]] == [("v2", "v1")] * 2
    assert len({one["worker"] for one in document["workers"]}) == 2
    assert {bundle for _, bundle, _ in seen(service, "b" * 40)} == {"v2"}

    for wrong in ("[default", "[default]\ndeny_all = true\n", '[default]\nno_candidate = "nobody"\n'):
        rules.write_text(wrong)
        answer = service.post("/v1/admin/reload", b"", "o" * 40)
        assert answer.status_code == 409, wrong
        assert "the rules before it stay" in answer.json()["detail"]
    assert {status for status, _, _ in seen(service, "b" * 40)} == {200}, "the keys before still hold, in all workers"

    rules.write_text(admin + key_rules("new", "n" * 40) + f'[default]\ndeny = ["{LARGE}"]\n')
    assert service.post("/v1/admin/reload", b"", "o" * 40).json()["changed"]
    assert {status for status, _, _ in seen(service, "b" * 40)} == {401}, "the key was revoked, in all workers"
    answers = seen(service, "n" * 40)
    assert {status for status, _, _ in answers} == {200}
    assert LARGE not in {model for _, _, model in answers}

    (root / "v2" / "head.onnx").write_bytes(b"half")
    answer = service.post("/v1/admin/reload", b"", "o" * 40)
    assert answer.status_code == 409
    assert "The bundle is refused and v2 stays" in answer.json()["detail"]
    assert {(status, bundle) for status, bundle, _ in seen(service, "n" * 40)} == {(200, "v2")}
