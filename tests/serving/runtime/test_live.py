"""Bundles that come and go while requests do not stop."""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from httpx import Response
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.bundle.manifest import FORMAT_VERSION, MANIFEST, BundleError, sha256, switch_current
from serving.runtime import live as live_module
from serving.runtime.live import Live
from serving.settings import Settings
from tests import fake_bundle
from tests.conftest import ROOT
from tests.patience import until
from tests.serving.bundle.test_manifest import edit_manifest
from training.config import Tracking
from training.publish.tracking import set_champion, track

OPTIONS = {"threads": 1, "context_margin": 1.1, "cache": 100_000}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Bundles v1 and v2; v1 is current."""
    for version in ("v2", "v1"):
        fake_bundle.build(tmp_path / "models", version)
    return tmp_path / "models"


@pytest.fixture
def live(root: Path) -> Iterator[Live]:
    """What is current, until it is stopped."""
    made = Live(str(root / "current"), **OPTIONS)  # type: ignore[arg-type]
    yield made
    made.stop()


def served(client: TestClient) -> str:
    version: str = client.get("/readyz").json()["bundle"]
    return version


def brief(answer: Response) -> tuple[bool, str]:
    """Whether a reload changed anything, and what is served; the one worker there is says the same."""
    document = answer.json()
    assert [one["bundle"] for one in document["workers"]] == [document["bundle"]]
    return document["changed"], document["bundle"]


@contextmanager
def hammered(client: TestClient, threads: int = 3) -> Iterator[list[tuple[int, str]]]:
    """(status, bundle) of requests that threads send without a pause."""
    answers: list[tuple[int, str]] = []
    over = threading.Event()

    def send(number: int) -> None:
        while not over.is_set():
            answer = client.post("/v1/route", json={"prompt": f"hello {number}"})
            answers.append((answer.status_code, answer.json().get("bundle", "")))

    with ThreadPoolExecutor(threads) as pool:
        sent = [pool.submit(send, number) for number in range(threads)]
        try:
            yield answers
        finally:
            over.set()
        for one in sent:
            one.result()


def test_the_watcher_takes_a_switch_over_without_dropping_a_request(root: Path) -> None:
    with TestClient(create_app(Settings(bundle=str(root / "current"), watch_seconds=0.02))) as client:
        with hammered(client) as answers:
            for version in ("v2", "v1", "v2"):
                switch_current(root, version)
                until(lambda version=version: served(client) == version)
                count = len(answers)
                until(lambda count=count: len(answers) > count + 20)
        assert {status for status, _ in answers} == {200}
        assert {version for _, version in answers} == {"v1", "v2"}


def test_a_reload_takes_a_switch_over_without_dropping_a_request(root: Path) -> None:
    with TestClient(create_app(Settings(bundle=str(root / "current"), watch_seconds=600))) as client:
        with hammered(client) as answers:
            for version in ("v2", "v1") * 3:
                count = len(answers)
                until(lambda count=count: len(answers) > count, "an answer between two reloads")
                switch_current(root, version)
                answer = client.post("/v1/admin/reload")
                assert (answer.status_code, brief(answer)) == (200, (True, version))
        assert {status for status, _ in answers} == {200}
        assert brief(client.post("/v1/admin/reload")) == (False, "v1")
        metrics = client.get("/metrics").text
    assert 'router_bundle_info{version="v1"} 1.0' in metrics
    assert 'version="v2"' not in metrics
    assert "router_bundle_reloads 6.0" in metrics


def truncated(folder: Path) -> None:
    whole = (folder / "head.onnx").read_bytes()
    (folder / "head.onnx").write_bytes(whole[: len(whole) // 2])


def changed(folder: Path) -> None:
    whole = bytearray((folder / "head.onnx").read_bytes())
    whole[-1] ^= 1
    (folder / "head.onnx").write_bytes(bytes(whole))


def rewritten(folder: Path, name: str, content: bytes) -> None:
    """Another content under a manifest that agrees with it."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = sha256(folder / name)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def another_format(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format_version": 99, "news": True}))


WRONG: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncated, "the file was changed or cut short"),
    "changed": (changed, "the file was changed or cut short"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "it has no manifest.json"),
    "half a manifest": (lambda folder: (folder / MANIFEST).write_text('{"version": "v2"'), "Train again, or restore"),
    "another format": (another_format, f"format_version is 99, this code reads {FORMAT_VERSION}"),
    "no head": (lambda folder: (folder / "head.onnx").unlink(), "head.onnx is missing from the bundle"),
    "a head that is none": (lambda folder: rewritten(folder, "head.onnx", b"head"), "cannot load a graph"),
    "a tokenizer that is none": (lambda folder: rewritten(folder, "tokenizer.json", b"{}"), "it cannot be used"),
    "nothing": (lambda folder: [path.unlink() for path in folder.iterdir()] and folder.rmdir(), "is not a bundle"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_broken_bundle_is_refused_with_the_reason_and_then_a_good_one_is_taken(root: Path, wrong: str) -> None:
    spoil, reason = WRONG[wrong]
    spoil(root / "v2")
    with TestClient(create_app(Settings(bundle=str(root / "current"), watch_seconds=600))) as client:
        switch_current(root, "v2")
        answer = client.post("/v1/admin/reload")
        assert answer.status_code == 409
        assert answer.headers["content-type"] == "application/problem+json"
        assert reason in answer.json()["detail"]
        assert "v1 stays" in answer.json()["detail"]
        assert client.post("/v1/route", json={"prompt": "hello"}).json()["bundle"] == "v1"
        metrics = client.get("/metrics").text
        assert "router_bundle_refusals 1.0" in metrics
        assert 'router_problems_total{status="409"} 1.0' in metrics
        fake_bundle.build(root, "v3")
        assert brief(client.post("/v1/admin/reload")) == (True, "v3")


def test_what_is_no_probability_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_bundle, "BASE", (float("nan"), 1.0, 2.0))
    folder = fake_bundle.build(root, "nan")
    with pytest.raises(BundleError, match="gives no probability for each of 3 candidates"):
        Live(str(folder), **OPTIONS)  # type: ignore[arg-type]


def test_the_watcher_refuses_once_and_takes_what_is_repaired_in_place(
    root: Path, live: Live, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (root / "v2" / "head.onnx").read_bytes()
    truncated(root / "v2")
    looks, look = [], live._look
    monkeypatch.setattr(live, "_look", lambda: (look(), looks.append(1)))
    live.watch(0.01)
    switch_current(root, "v2")
    until(lambda: live.refusals == 1)
    before = len(looks)
    until(lambda: len(looks) > before + 5)
    assert (live.refusals, live.version) == (1, "v1")
    (root / "head.onnx").write_bytes(whole)
    (root / "head.onnx").replace(root / "v2" / "head.onnx")  # in one step, so that no look finds half of it
    until(lambda: live.version == "v2")
    live.stop()
    assert [record.levelname for record in caplog.records if "refused" in record.getMessage()] == ["ERROR"]


def test_a_bundle_that_is_switched_while_another_loads_is_not_missed(
    root: Path, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is served has to be what its identity says, or the switch would never be seen."""
    fake_bundle.build(root, "v3")
    warm = live_module._warm

    def switch_meanwhile(router: live_module.Router) -> None:
        warm(router)
        if router.manifest.version == "v3":
            switch_current(root, "v2")

    monkeypatch.setattr(live_module, "_warm", switch_meanwhile)
    assert live.reload().version == "v3"
    assert live.reload().version == "v2"


def test_the_watcher_survives_what_nobody_foresaw(root: Path, live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, identity_of = [], live_module.identity_of

    def fail(source: str) -> live_module.Identity:
        looks.append(source)
        if len(looks) < 4:
            raise RuntimeError("the registry is away")
        return identity_of(source)

    monkeypatch.setattr(live_module, "identity_of", fail)
    live.watch(0.01)
    switch_current(root, "v2")
    until(lambda: live.version == "v2")
    assert len(looks) >= 4


def test_embeddings_are_kept_where_the_encoder_is_the_same(root: Path, live: Live) -> None:
    live.current.embed("hello")
    switch_current(root, "v2")
    assert live.reload().changed
    assert live.current.embeddings.get("hello") is not None
    fake_bundle.build(root, "v3")
    tokenizer = (root / "v3" / "tokenizer.json").read_bytes()
    rewritten(root / "v3", "tokenizer.json", tokenizer.replace(b'"sum"', b'"summe"'))
    assert live.reload().version == "v3"
    assert live.current.embeddings.get("hello") is None


def test_a_text_cut_otherwise_is_embedded_anew(root: Path, live: Live) -> None:
    live.current.embed("hello")
    edit_manifest(root / "v2", lambda manifest: manifest["encoder"].update(max_tokens=2))
    switch_current(root, "v2")
    assert live.reload().changed
    assert live.current.embeddings.get("hello") is None


RELOADS = """
import gc, sys
from pathlib import Path
from serving.bundle.manifest import switch_current
from serving.runtime.live import Live

root = Path(sys.argv[1])
live = Live(str(root / "current"), threads=1, context_margin=1.1, cache=100_000)


def resident_kib(reloads):
    for number in range(reloads):
        switch_current(root, ("v2", "v1")[number % 2])
        assert live.reload().changed
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")))


print(resident_kib(10), resident_kib(50))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
def test_memory_does_not_grow_over_50_reloads(root: Path) -> None:
    """In a process of its own, where nothing else takes memory."""
    done = subprocess.run(
        [sys.executable, "-c", RELOADS, str(root)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split())
    assert after < 1.05 * before


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    """A real registry in which v1 is the champion and v2 the challenger; to copy, for to make one takes seconds."""
    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    tracking = Tracking(uri, str(folder / "artifacts"), "outcome-router", "router", 0.01, 30)
    for version, promoted in (("v1", True), ("v2", False)):
        track(tracking, fake_bundle.build(folder / "models", version), {}, {}, {}, promoted=promoted)
    return tracking


@pytest.fixture
def registry(registered: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    """That registry, to change."""
    uri = f"sqlite:///{shutil.copy(registered.uri.removeprefix('sqlite:///'), tmp_path / 'mlflow.db')}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return replace(registered, uri=uri)


def test_the_registrys_champion_is_served_and_followed(registry: Tracking) -> None:
    settings = Settings(bundle="models:/router@champion", watch_seconds=0.05)
    with TestClient(create_app(settings)) as client:
        assert client.post("/v1/route", json={"prompt": "hello"}).json()["bundle"] == "v1"
        set_champion(registry, "v2")
        until(lambda: served(client) == "v2")
        set_champion(registry, "v1")
        until(lambda: served(client) == "v1")


def test_a_registered_bundle_that_is_broken_is_refused(registry: Tracking, root: Path, tmp_path: Path) -> None:
    fake_bundle.build(root, "v3")
    truncated(root / "v3")
    settings = Settings(bundle="models:/router@champion", watch_seconds=600)
    with TestClient(create_app(settings)) as client:
        track(registry, root / "v3", {}, {}, {}, promoted=True)
        answer = client.post("/v1/admin/reload")
        assert (answer.status_code, "cut short" in answer.json()["detail"]) == (409, True)
        track(registry, fake_bundle.build(root, "v4"), {}, {}, {}, promoted=True)
        assert brief(client.post("/v1/admin/reload")) == (True, "v4")


def test_a_version_is_served_as_it_is_and_leaves_no_files(
    registry: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    live = Live("models:/router/2", **OPTIONS)  # type: ignore[arg-type]
    assert (live.version, live.reload().changed) == ("v2", False)
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("models:/router@nobody", "MLflow has no such model version"),
        ("models:/router/99", "MLflow has no such model version"),
        ("models:/router", "expected models:/<name>@<alias> or models:/<name>/<version>"),
    ],
)
def test_what_the_registry_has_not_is_named(registry: Tracking, source: str, says: str) -> None:
    with pytest.raises(BundleError, match=says):
        Live(source, **OPTIONS)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="no glibc: nothing has arenas here")
@pytest.mark.parametrize("shared", [True, False])
def test_threads_share_two_arenas_of_memory(shared: bool, tmp_path: Path) -> None:
    """Each would come to have its own otherwise, and keep what it once needed."""
    script = f"""
import ctypes, threading
from serving.runtime.live import share_arenas
if {shared}:
    share_arenas()
gate = threading.Barrier(8)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def work():
    for size in range(1, 2000):
        libc.malloc(size)
    gate.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
[one.start() for one in threads]
[one.join() for one in threads]
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(b"{tmp_path / "info"}", b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300, cwd=Path(__file__).parents[3])
    arenas = (tmp_path / "info").read_text().count("<heap nr=")
    assert (arenas <= 2) is shared
