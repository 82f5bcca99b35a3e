"""`router-train` on logs of an object store: the same as on those of a disk, and no secret anywhere."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.bundle.request import RouteRequest
from serving.decide.router import Router
from tests.conftest import QUICK, router_train_here, setting
from tests.object_stores import KEY, SECRET, S3Server, empty, forget, s3_server
from training.cli import inspecting, logs
from training.cli.options import require_local
from training.learn.prepare import fingerprint
from training.logs.objects.address import ObjectStoreError
from training.logs.sources import reading

FAST = ["--no-track", *setting(*QUICK, "policy.quality_target=0.6")]
CORE = setting("scale.core_train=150", "scale.core_measured=100", "scale.floor=20")


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    done = router_train_here("simulate", path, *setting("simulate.requests=500"))
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def s3_store(server: S3Server, log: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """One that has the log below `in/`, in two parts."""
    empty(server, monkeypatch)
    for module in (logs, inspecting):
        monkeypatch.setattr(module, "advice", lambda *_, **__: "Buy more.")
    lines = log.read_bytes().splitlines(keepends=True)
    for place, half in enumerate((lines[: len(lines) // 2], lines[len(lines) // 2 :])):
        server.put(f"in/part-{place}.jsonl", b"".join(half))
    yield server
    forget()


def typed(*words: str | Path) -> subprocess.CompletedProcess[str]:
    done = router_train_here(*words)
    assert done.returncode == 0, done.stderr
    for secret in (KEY, SECRET):
        assert secret not in done.stdout + done.stderr
    return done


def learned(folder: Path) -> tuple[dict[str, Any], Any]:
    """The manifest of a bundle, and what it expects of some requests."""
    bundle = (folder / "models" / "current").resolve()
    for file in bundle.rglob("*"):
        assert not file.is_file() or not any(secret.encode() in file.read_bytes() for secret in (KEY, SECRET))
    requests = [RouteRequest(prompt=f"Summarise the invoice {n}, please.") for n in range(5)]
    return json.loads((bundle / "manifest.json").read_text()), Router.load(bundle).estimate(requests)


def test_what_is_learned_is_the_same_wherever_the_log_is(
    s3_store: S3Server, log: Path, tmp_path: Path, cache: Path
) -> None:
    """A part of it, in two passes over an import that was made from files on a disk and from objects."""
    assert fingerprint(reading.read(["s3://logs/in"]).frame) == fingerprint(reading.read([log]).frame)
    found = {}
    for name, data, out in (
        ("disk", str(log), str(tmp_path / "imported")),
        ("objects", "s3://logs/in", "s3://logs/imported/one"),
    ):
        typed("import", "--data", data, "--out", out, "--cache", cache)
        done = typed("run", "--data", out, *FAST, *CORE, "--out", tmp_path / name / "models", "--cache", cache)
        assert "requests are in the core" in done.stdout
        found[name] = learned(tmp_path / name)
    (on_disk, estimates), (manifest, others) = found["disk"], found["objects"]
    assert manifest["data_fingerprint"] == on_disk["data_fingerprint"]
    assert manifest["metrics"] == pytest.approx(on_disk["metrics"], nan_ok=True)
    np.testing.assert_allclose(others.acceptable, estimates.acceptable, rtol=1e-6)
    np.testing.assert_allclose(others.cost_usd, estimates.cost_usd, rtol=1e-6)
    assert not (cache / "imports").exists() or not list((cache / "imports").iterdir())


def test_every_command_that_reads_a_log_reads_one_of_a_store(
    s3_store: S3Server, log: Path, tmp_path: Path, cache: Path
) -> None:
    said = typed("inspect", "--data", "s3://logs/in", "--cache", cache).stdout
    here = typed("inspect", "--data", log, "--cache", cache).stdout
    assert said.partition("What now")[0] == here.partition("What now")[0]
    listed = tmp_path / "logs.toml"
    typed("inspect", "--data", "s3://logs/in", "--write", listed, "--cache", cache)
    assert 'data = "s3://logs/in"' in listed.read_text()
    again = typed("import", "--logs", listed, "--out", tmp_path / "listed", "--cache", cache).stdout
    assert "0 skipped" in again
    typed("import", "--data", "s3://logs/in/part-0.jsonl", "--out", "s3://logs/half", "--cache", cache)
    twice = router_train_here("import", "--data", log, "--out", "s3://logs/half/", "--cache", cache)
    assert twice.returncode == 2
    assert "s3://logs/half/ exists already" in " ".join(twice.stderr.split())


@pytest.mark.parametrize(
    "words",
    [
        ["run", "--data", "log", "--out", "s3://K:SECRET@logs/models"],
        ["run", "--data", "log", "--out=S3://logs/models"],
        ["run", "--data", "log", "--out", "s3:/logs/models"],
        ["inspect", "--logs", "s3://logs/logs.toml"],
        ["inspect", "--data", "log", "--scores", "gs://logs/scores.csv"],
        ["evaluate", "--bundle", "s3://logs/models/current", "--data", "log"],
        ["simulate", "s3://logs/simulated"],
        ["--home", "s3://logs/home", "bundles"],
    ],
)
def test_what_has_to_be_on_a_disk_is_refused(words: list[str], tmp_path: Path) -> None:
    done = router_train_here(*words, folder=tmp_path)
    assert done.returncode == 2
    assert "is to be on a disk" in done.stderr
    assert "SECRET" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_may_be_on_a_store_is_let_through() -> None:
    require_local(["import", "--data", "s3://a/b", "--out", "s3://a/c", "--set", "tracking.artifacts=s3://a/d"])
    require_local(["run", "--data=gs://a/b", "--test", "s3://a/c", "--out", "models"])
    with pytest.raises(ObjectStoreError, match=r"^--out s3://a/c: is to be on a disk"):
        require_local(["run", "--data=gs://a/b", "--out", "s3://a/c"])
