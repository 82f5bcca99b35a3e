"""Google Cloud Storage, as far as an emulator goes: it knows no preconditions, of which what is asked for is looked at."""

from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from gcp_storage_emulator.server import create_server
from google.api_core import exceptions
from google.auth.exceptions import DefaultCredentialsError
from google.cloud import storage

from tests.object_stores import forget
from tests.training.logs.objects.test_importing import parts
from training.logs.dataset import ACCOUNT, ImportAccount, skipped_in, store
from training.logs.objects.address import ObjectStoreError
from training.logs.objects.kinds import store_of
from training.logs.objects.path import log_path
from training.logs.objects.store import ThereAlreadyError
from training.logs.sources import reading
from training.logs.stored.rows import open_stored


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket `logs`."""
    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server._api._httpd.server_address[1]}")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    forget()
    try:
        yield storage.Client(project="test").create_bucket("logs")
    finally:
        server.stop()
        forget()


def test_a_log_is_read_and_imported(bucket: Any, tmp_path: Path) -> None:
    row = '{"request_id": "r1", "prompt": "hello", "candidate": "a", "quality": 1}\n'
    for name in ("in/a b#%20ü.jsonl", "in/deep/log.jsonl"):
        bucket.blob(name).upload_from_string(row.replace("r1", name))
    assert set(reading.read(["gs://logs/in"]).frame["request_id"]) == {"in/a b#%20ü.jsonl", "in/deep/log.jsonl"}
    assert len(reading.read(["gs://logs/in/deep/log.jsonl"]).frame) == 1
    account = ImportAccount(["log"])
    store(parts(), log_path("gs://logs/out"), account, rows=2)
    store(parts(), tmp_path / "local", ImportAccount(["log"]), rows=2)
    pd.testing.assert_frame_equal(reading.read(["gs://logs/out"]).frame, reading.read([tmp_path / "local"]).frame)
    stored = open_stored(log_path("gs://logs/out"))
    assert stored is not None
    assert stored.requests() == 6
    written = {blob.name.removeprefix("out/") for blob in bucket.list_blobs(prefix="out/")}
    assert written == {ACCOUNT, skipped_in(account), *account.files}
    with pytest.raises(ObjectStoreError, match="gs://logs/out exists already"):
        store(parts(), log_path("gs://logs/out"), ImportAccount(["log"]))


def test_what_there_is_nothing_of_is_told(bucket: Any) -> None:
    with pytest.raises(ObjectStoreError, match="gs://elsewhere/in/: there is no bucket elsewhere"):
        reading.read(["gs://elsewhere/in"])
    found = store_of("gs")
    assert found.find("logs", "none") is None
    bucket.blob("one").upload_from_string("12345")
    one = found.find("logs", "one")
    assert one is not None
    assert found.part("logs", one, 1, 3) == b"23"
    found.remove("logs", "one")
    found.remove("logs", "one")
    with pytest.raises(ObjectStoreError, match="gs://logs/one: was removed while it was read"):
        found.part("logs", one, 1, 3)


def test_an_object_that_is_to_be_new_or_as_it_was_is_asked_for_as_such(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refused(*_: Any, **given: Any) -> None:
        asked.append(given["if_generation_match"])
        raise exceptions.PreconditionFailed("conditionNotMet")

    found = store_of("gs")
    bucket.blob("one").upload_from_string("12345")
    one = found.find("logs", "one")
    assert one is not None
    monkeypatch.setattr(storage.Blob, "upload_from_string", refused)
    monkeypatch.setattr(storage.Blob, "download_to_file", refused)
    with pytest.raises(ThereAlreadyError, match="gs://logs/one: there is an object of this name"):
        found.put("logs", "one", b"", new=True)
    with pytest.raises(ObjectStoreError, match="gs://logs/one: was replaced by another"):
        found.part("logs", one, 0, 1)
    assert asked == [0, int(one.version)]


@pytest.mark.parametrize(("body", "arrived"), [(b"", "0"), (b"ab", "2"), (b"z" * 5_000, "more than 5")])
def test_an_answer_of_another_length_is_an_error_and_no_more_of_it_is_taken(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, body: bytes, arrived: str
) -> None:
    bucket.blob("one").upload_from_string("12345")
    one = store_of("gs").find("logs", "one")
    assert one is not None

    def answered(_: storage.Blob, file: Any, **__: Any) -> None:
        for place in range(0, len(body), 4):
            file.write(body[place : place + 4])

    monkeypatch.setattr(storage.Blob, "download_to_file", answered)
    assert store_of("gs").part("logs", one, 0, 5) == body[:6]
    with pytest.raises(
        ObjectStoreError, match=rf"^gs://logs/one: the store answered with {arrived} bytes, expected were"
    ):
        log_path("gs://logs/one").read_bytes()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (exceptions.Forbidden("SECRET"), "the store does not let these credentials do it"),
        (
            exceptions.Unauthorized("SECRET"),
            r"no credentials that the store takes .Unauthorized.*GOOGLE_APPLICATION_CREDENTIALS",
        ),
        (DefaultCredentialsError("SECRET"), "no credentials that the store takes"),
        (exceptions.ServiceUnavailable("SECRET"), r"the store does not answer .ServiceUnavailable"),
    ],
)
def test_faults_of_the_store_are_told(
    bucket: Any, monkeypatch: pytest.MonkeyPatch, fault: Exception, said: str
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise fault

    found = store_of("gs")
    monkeypatch.setattr(storage.Bucket, "get_blob", failing)
    with pytest.raises(ObjectStoreError, match=f"gs://logs/one: {said}") as told:
        found.find("logs", "one")
    assert "SECRET" not in str(told.value)


def test_without_its_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    load = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("google"):
            raise ModuleNotFoundError(name)
        return load(name, *rest, **more)

    forget()
    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.delitem(sys.modules, "training.logs.objects.gs", raising=False)
    with pytest.raises(ObjectStoreError, match=r"pip install 'outcome-router\[train,gs\]'"):
        store_of("gs")
    monkeypatch.undo()
    importlib.import_module("training.logs.objects.gs")
    forget()
