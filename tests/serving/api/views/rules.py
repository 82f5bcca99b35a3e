"""A service in this process under rules with API keys, and bundles with a frontier."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.bundle.manifest import MANIFEST, Manifest, seal
from serving.settings import Settings
from serving.state.rulebook import digest_of
from tests.serving.attacks.conftest import bearer, key_rules

RULES = "\n".join(
    (
        "[workflows.medical]",
        "budget = { day_usd = 5.0 }",
        key_rules("root", "root", "admin = true"),
        key_rules("app", "app", "budget = { day_usd = 5.0 }"),
        key_rules("other", "other", "budget = { day_usd = 5.0 }"),
        key_rules("clinic", "clinic", 'workflows = ["medical"]'),
    )
)


@contextmanager
def serving(bundle: Path, folder: Path, *, rules: str = RULES, **settings: Any) -> Iterator[TestClient]:
    """A client of a service on a bundle, its store and rule file in `folder`."""
    given: dict[str, Any] = {"bundle": str(bundle), "store": str(folder / "decisions.db"), **settings}
    if rules:
        given["policies"] = folder / "policies.toml"
        given["policies"].write_text(rules, encoding="utf-8")
    with TestClient(create_app(Settings(**given))) as client:
        yield client


def get(client: TestClient, path: str, key: str | None = None, **params: Any) -> Any:
    """What a GET answers, which has to be well."""
    answer = client.get(path, headers=bearer(key), params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def with_frontier(folder: Path, document: object) -> Path:
    """Puts a frontier.json into a bundle, which is sealed anew."""
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    (folder / MANIFEST).unlink()
    (folder / "frontier.json").write_text(json.dumps(document), encoding="utf-8")
    seal(folder, manifest)
    return folder


def remanifested(folder: Path, **changes: object) -> None:
    """Changes what stands in a bundle's manifest."""
    document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    (folder / MANIFEST).write_text(json.dumps({**document, **changes}), encoding="utf-8")


def rewritten(path: Path, secrets: Mapping[str, str]) -> None:
    """Another rule file: these keys, by their secrets, and no other."""
    path.write_text("".join(f'[keys.{name}]\nsha256 = "{digest_of(one)}"\n' for name, one in secrets.items()))
