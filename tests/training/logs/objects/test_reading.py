"""Logs that are read from S3: the same outcomes as from a disk, of what was there when they were listed."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import socket
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pandas as pd
import pytest
from botocore import exceptions
from botocore.response import StreamingBody

from tests.object_stores import KEY, SECRET, S3Server, forget
from training.inspect.large import large
from training.logs.io import files
from training.logs.objects import path, s3, store
from training.logs.objects.address import ObjectStoreError
from training.logs.objects.kinds import store_of
from training.logs.objects.path import ObjectPath, log_path
from training.logs.outcomes import OutcomeError, Outcomes
from training.logs.sources import reading
from training.logs.sources.importer import ImportOptions
from training.logs.stored.work import work_folder


def rows_of(count: int, first: int = 0) -> list[dict[str, Any]]:
    numbers = range(first, first + count)
    return [
        {
            "request_id": f"r{n}",
            "prompt": f"question {n}",
            "candidate": "ab"[n % 2],
            "quality": n % 3 / 2,
            "cost_usd": 0.1,
        }
        for n in numbers
    ]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    held = io.BytesIO()
    pd.DataFrame(rows).to_parquet(held)
    return held.getvalue()


FORMATS = {
    "log.jsonl": jsonl(rows_of(50)),
    "log.jsonl.gz": gzip.compress(jsonl(rows_of(50))),
    "log.csv": as_csv(rows_of(50)),
    "log.csv.gz": gzip.compress(as_csv(rows_of(50))),
    "log.json": json.dumps(rows_of(50)).encode(),
    "log.parquet": parquet(rows_of(50)),
}


def same(found: Outcomes, expected: Outcomes) -> None:
    pd.testing.assert_frame_equal(found.frame, expected.frame)
    assert found.reasons == expected.reasons
    assert (found.rows_read, found.formats) == (expected.rows_read, expected.formats)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_gives_what_it_gives_on_a_disk(s3_store: S3Server, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMATS[name])
    s3_store.put(f"in/{name}", FORMATS[name])
    url = f"s3://logs/in/{name}"
    same(reading.read([url]), reading.read([tmp_path / name]))
    mapped = ImportOptions(mapping={"prompt": "prompt"})
    same(reading.read([url], options=mapped), reading.read([tmp_path / name], options=mapped))
    assert set(reading.read([url]).origin["source"]) == {url}


def test_a_folder_of_two_hundred_parts_is_read_in_the_order_of_their_names(s3_store: S3Server, tmp_path: Path) -> None:
    for part in range(200):
        body, name = jsonl(rows_of(3, 3 * part)), f"day={part // 50}/part-{part:03}.jsonl"
        s3_store.put(f"big/{name}", body)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(body)
    s3_store.put("big/", b"")
    s3_store.put("big/_SUCCESS", b"")
    s3_store.put("big/.hidden.jsonl", b"{}")
    s3_store.put("bigger/other.jsonl", jsonl(rows_of(1, 9_000)))
    found, expected = reading.read(["s3://logs/big"]), reading.read([tmp_path])
    same(found, expected)
    assert len(found.frame) == 600
    assert found.origin["source"].iloc[[0, -1]].tolist() == [
        "s3://logs/big/day=0/part-000.jsonl",
        "s3://logs/big/day=3/part-199.jsonl",
    ]


def test_odd_keys_are_read_as_they_are(s3_store: S3Server) -> None:
    keys = ["a/../b//c/./%20 #+ü.jsonl", "/lead.jsonl", "q?x=1&y.jsonl"]
    for place, key in enumerate(keys):
        s3_store.put(f"odd/{key}", jsonl(rows_of(1, place)))
    assert len(reading.read(["s3://logs/odd"]).frame) == 3
    for key in keys[:2]:
        assert len(reading.read([f"s3://logs/odd/{key}"]).frame) == 1
    assert set(reading.read(["s3://logs/odd"]).origin["source"]) == {f"s3://logs/odd/{key}" for key in keys}


def test_a_url_is_never_a_file_of_this_name(
    s3_store: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "s3:" / "logs" / "in"
    folder.mkdir(parents=True)
    (folder / "log.jsonl").write_bytes(jsonl(rows_of(9)))
    monkeypatch.chdir(tmp_path)
    for url in ("s3://logs/in", "s3://logs/in/log.jsonl", "s3:/logs/in", "s3://logs/../in/log.jsonl"):
        with pytest.raises((OutcomeError, ObjectStoreError), match=r"does not exist|expected gs://bucket"):
            reading.read([url])


def test_a_folder_and_an_object_of_one_name_are_told_apart_by_the_slash(s3_store: S3Server) -> None:
    s3_store.put("both.jsonl", jsonl(rows_of(2)))
    s3_store.put("both.jsonl/more.jsonl", jsonl(rows_of(5)))
    assert len(reading.read(["s3://logs/both.jsonl"]).frame) == 2
    assert len(reading.read(["s3://logs/both.jsonl/"]).frame) == 5


def test_what_belongs_together_is_found_beside_a_file(s3_store: S3Server, tmp_path: Path) -> None:
    """The requests of a batch, which are in another file than its answers."""
    asked = {"custom_id": "c1", "method": "POST", "url": "/v1/chat/completions"}
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}
    answer = {"choices": [{"message": {"role": "assistant", "content": "hi"}}], "model": "gpt-4o"}
    batch = {
        "in.jsonl": [{**asked, "body": body}],
        "out.jsonl": [{"custom_id": "c1", "response": {"status_code": 200, "body": answer}}],
    }
    for name, rows in batch.items():
        s3_store.put(f"batch/{name}", jsonl(rows))
        (tmp_path / name).write_bytes(jsonl(rows))
    found = reading.read(["s3://logs/batch"])
    same(found, reading.read([tmp_path]))
    assert found.formats == ("openai",)
    urls = [f"s3://logs/batch/{name}" for name in batch]
    same(reading.read(urls), reading.read([tmp_path / name for name in batch]))


def test_a_row_that_cannot_be_used_is_told_with_its_object_and_its_number(s3_store: S3Server) -> None:
    s3_store.put("in/log.jsonl", jsonl(rows_of(3)) + b"nothing\n" + jsonl(rows_of(1, 7)))
    skipped = reading.read(["s3://logs/in"]).skipped
    assert skipped[["source", "row", "reason"]].to_numpy().tolist() == [
        ["s3://logs/in/log.jsonl", 4, "unreadable line"]
    ]


def changing(monkeypatch: pytest.MonkeyPatch, after: int, change: Any) -> list[int]:
    """Once so many blocks were fetched, `change` is made; how many there were."""
    part, fetched = s3.S3.part, []

    def counted(self: s3.S3, bucket: str, found: store.Found, start: int, end: int) -> bytes:
        if len(fetched) == after:
            change()
        fetched.append(end - start)
        return part(self, bucket, found, start, end)

    monkeypatch.setattr(s3.S3, "part", counted)
    return fetched


class Body(io.BytesIO):
    """The body of an answer, and how many bytes of it were read."""

    taken = 0

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        self.taken += len(found)
        return found


@pytest.mark.parametrize(
    ("answer", "arrived"),
    [
        (b"", "0 bytes, expected were the 10 from 0 on"),
        (b"ab", "2 bytes, expected were the 10 from 0 on"),
        (b"z" * 5_000, "more than 10 bytes, expected were the 10 from 0 on"),
    ],
    ids=["empty", "short", "longer"],
)
def test_an_answer_of_another_length_than_was_asked_for_is_an_error_and_no_more_of_it_is_read(
    s3_store: S3Server, monkeypatch: pytest.MonkeyPatch, answer: bytes, arrived: str
) -> None:
    s3_store.put("in/log.jsonl", "x" * 10)
    [at] = list(log_path("s3://logs/in").as_listed().rglob("*"))  # type: ignore[union-attr]
    body = Body(answer)
    monkeypatch.setattr(store_of("s3")._client, "get_object", lambda **_: {"Body": body})  # type: ignore[attr-defined]
    with pytest.raises(ObjectStoreError, match=rf"^s3://logs/in/log\.jsonl: the store answered with {arrived}"):
        at.open().read()
    assert body.taken == min(len(answer), 11)
    assert body.closed


def test_an_answer_that_breaks_off_is_asked_for_again(s3_store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_store.put("in/log.jsonl", "x" * 10)
    answers = [StreamingBody(io.BytesIO(b"x" * 4), 10), StreamingBody(io.BytesIO(b"x" * 10), 10)]
    monkeypatch.setattr(store_of("s3")._client, "get_object", lambda **_: {"Body": answers.pop(0)})  # type: ignore[attr-defined]
    assert log_path("s3://logs/in/log.jsonl").read_bytes() == b"x" * 10
    assert answers == []


class Damaged(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise exceptions.FlexibleChecksumError(error_msg="Expected checksum AAAA== did not match")


def test_an_answer_that_is_not_what_its_checksum_says_is_asked_for_again(
    s3_store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_store.put("in/log.jsonl", "x" * 10)
    answers = [Damaged(), io.BytesIO(b"x" * 10), *(Damaged() for _ in range(store.TRIES))]
    monkeypatch.setattr(store_of("s3")._client, "get_object", lambda **_: {"Body": answers.pop(0)})  # type: ignore[attr-defined]
    at = log_path("s3://logs/in/log.jsonl")
    assert at.read_bytes() == b"x" * 10
    path._kept.cache_clear()
    with pytest.raises(ObjectStoreError, match=r"^s3://logs/in/log\.jsonl: arrived damaged 3 times"):
        at.read_bytes()
    assert answers == []


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"Size": None}, "answers otherwise than S3 does .TypeError"),
        ({"Size": -5}, "S3 cannot be asked .ValueError"),
        ({"ETag": ...}, "answers otherwise than S3 does .KeyError"),
    ],
)
def test_a_list_that_no_s3_gives_is_an_error(
    s3_store: S3Server, monkeypatch: pytest.MonkeyPatch, told: dict[str, Any], said: str
) -> None:
    whole = {"Key": "in/log.jsonl", "Size": 1, "ETag": "1", "LastModified": datetime.now(UTC)} | told
    page = {"Contents": [{name: value for name, value in whole.items() if value is not ...}]}
    pages = SimpleNamespace(paginate=lambda **_: [page])
    monkeypatch.setattr(store_of("s3")._client, "get_paginator", lambda _: pages)  # type: ignore[attr-defined]
    with pytest.raises(ObjectStoreError, match=rf"^s3://logs/in/: .*{said}"):
        reading.read(["s3://logs/in/"])


def test_an_answer_that_boto3_fails_at_is_an_error(s3_store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_store.put("in/log.jsonl", "x" * 10)

    def fails(**_: Any) -> None:
        raise TypeError("a bytes-like object is required, not 'StreamingChecksumBody'")

    monkeypatch.setattr(store_of("s3")._client, "get_object", fails)  # type: ignore[attr-defined]
    with pytest.raises(ObjectStoreError, match=r"log\.jsonl: .* answers otherwise than S3 does .TypeError"):
        log_path("s3://logs/in/log.jsonl").read_bytes()


LONG = jsonl([{**row, "prompt": os.urandom(512).hex()} for row in rows_of(6_000)])  # more than 6 MB


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_an_object_that_vanishes_in_the_middle_is_an_error(
    s3_store: S3Server, monkeypatch: pytest.MonkeyPatch, pack: Any
) -> None:
    key = f"in/log.jsonl{'' if pack is bytes else '.gz'}"
    s3_store.put(key, pack(LONG))
    fetched = changing(monkeypatch, 2, lambda: s3_store.client.delete_object(Bucket="logs", Key=key))
    with pytest.raises(ObjectStoreError, match=rf"^s3://logs/{key}: was removed while it was read"):
        reading.read(["s3://logs/in"])
    assert len(fetched) == 3


@pytest.mark.parametrize("name", ["log.jsonl", "log.json", "log.parquet"])
def test_an_object_that_is_replaced_in_the_middle_is_an_error(
    s3_store: S3Server, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    rows = [json.loads(line) for line in LONG.splitlines()]
    bodies = {
        "log.jsonl": lambda: LONG,
        "log.json": lambda: json.dumps(rows).encode(),
        "log.parquet": lambda: parquet(rows),
    }
    s3_store.put(f"in/{name}", bodies[name]())
    rows[-1]["prompt"] = "another"
    later = {"log.jsonl": jsonl(rows)}.get(name) or bodies[name]()
    changing(monkeypatch, 2, lambda: s3_store.put(f"in/{name}", later))
    with pytest.raises(ObjectStoreError, match=rf"^s3://logs/in/{name}: was replaced by another"):
        reading.read(["s3://logs/in"])


def test_an_object_is_read_a_block_at_a_time(s3_store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_store.put("in/log.jsonl", LONG)
    fetched = changing(monkeypatch, -1, None)
    parts = list(files.partitions(log_path("s3://logs/in/log.jsonl")))
    assert sum(len(part.rows) for part in parts) == 6_000
    assert sum(fetched) == len(LONG)
    assert fetched[:3] == [1 << 20, 2 << 20, len(LONG) - (3 << 20)]
    assert max(fetched) <= 8 << 20


def test_the_head_of_an_object_is_fetched_once_however_many_importers_look_at_it(
    s3_store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_store.put("in/log.csv", b"question,llm\nwhat,a\n")
    fetched = changing(monkeypatch, -1, None)
    with pytest.raises(OutcomeError, match=r"not recognised. Arrived: llm, question"):
        reading.read(["s3://logs/in/log.csv"])
    assert len(fetched) == 1


def test_a_database_is_said_to_be_read_from_a_disk(s3_store: S3Server, tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "d.db").execute("create table a (b)").connection.close()
    s3_store.put("d.db", (tmp_path / "d.db").read_bytes())
    with pytest.raises(OutcomeError, match=r"s3://logs/d.db: is an SQLite database, which is read from a disk"):
        reading.read(["s3://logs/d.db"])


def test_what_there_is_nothing_of_is_an_error_with_the_url(s3_store: S3Server) -> None:
    s3_store.put("in/log.txt", b"x")
    s3_store.put("in/none.jsonl", b"")
    for url, said in {
        "s3://elsewhere/log.jsonl": "there is no bucket elsewhere at 127.0.0.1:",
        "s3://logs/none.jsonl": "s3://logs/none.jsonl: does not exist",
        "s3://logs/in/none.jsonl": "s3://logs/in/none.jsonl: is empty",
        "s3://logs/in/log.txt": "its suffix is not one of .parquet",
        "s4://u:SECRET@logs/in": "schemes that can be read: gs, langfuse, postgres, postgresql, s3, sqlite",
    }.items():
        with pytest.raises((OutcomeError, ObjectStoreError)) as found:
            reading.read([url])
        assert said in str(found.value)
        assert "SECRET" not in str(found.value)


def test_credentials_that_the_store_does_not_take_are_told(s3_store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    s3_store.put("in/log.jsonl", jsonl(rows_of(3)))
    iam = boto3.client("iam", endpoint_url=s3_store.url, region_name="us-east-1")
    iam.create_user(UserName="reader")
    reader = iam.create_access_key(UserName="reader")["AccessKey"]
    monkeypatch.setattr("moto.settings.INITIAL_NO_AUTH_ACTION_COUNT", 0.0)  # from now on it looks
    for url in ("s3://logs/in/log.jsonl", "s3://logs/in/"):
        forget()
        with pytest.raises(ObjectStoreError, match=r"does not take the credentials .InvalidAccessKeyId") as found:
            reading.read([url])
        assert "AWS_ACCESS_KEY_ID" in str(found.value)
        assert KEY not in str(found.value)
        assert SECRET not in str(found.value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", reader["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", reader["SecretAccessKey"])
    forget()
    with pytest.raises(ObjectStoreError, match=r"does not let these credentials do it .AccessDenied"):
        reading.read(["s3://logs/in/log.jsonl"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    forget()
    with pytest.raises(ObjectStoreError, match=r"does not take the credentials .SignatureDoesNotMatch"):
        reading.read(["s3://logs/in/log.jsonl"])


def test_no_credentials_are_told(s3_store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ObjectStoreError, match=r"no credentials for S3 .NoCredentialsError"):
        reading.read(["s3://logs/in"])
    monkeypatch.setenv("AWS_PROFILE", "missing")
    forget()
    with pytest.raises(ObjectStoreError, match=r"no credentials for S3 .ProfileNotFound"):
        reading.read(["s3://logs/in"])


def test_credentials_and_endpoint_are_found_in_the_files_of_a_profile(
    s3_store: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3_store.put("in/log.jsonl", jsonl(rows_of(3)))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(f"[profile minio]\nendpoint_url = {s3_store.url}\nregion = here-1\n")
    (tmp_path / "credentials").write_text("[minio]\naws_access_key_id = a\naws_secret_access_key = b\n")
    for name, value in (("CONFIG_FILE", "config"), ("SHARED_CREDENTIALS_FILE", "credentials")):
        monkeypatch.setenv(f"AWS_{name}", str(tmp_path / value))
    monkeypatch.setenv("AWS_PROFILE", "minio")
    assert len(reading.read(["s3://logs/in"]).frame) == 3


def test_an_endpoint_that_nobody_answers_at_is_given_up(s3_store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://user:SECRET@127.0.0.1:{closed.getsockname()[1]}")
    with pytest.raises(ObjectStoreError, match=r"127\.0\.0\.1:\d+ does not answer .EndpointConnectionError") as found:
        reading.read(["s3://logs/in"])
    assert "SECRET" not in str(found.value)
    assert store.TRIES * (store.CONNECT_S + store.ANSWER_S) < 60


def test_an_endpoint_that_never_answers_is_given_up(s3_store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "ANSWER_S", 0.2)
    monkeypatch.setattr(s3, "TRIES", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ObjectStoreError, match=r"does not answer .ReadTimeoutError"):
            reading.read(["s3://logs/in"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nowhere")
    forget()
    with pytest.raises(ObjectStoreError, match=r"S3 cannot be asked .ValueError"):
        reading.read(["s3://logs/in"])


def test_the_size_of_a_log_is_told_before_it_is_read(s3_store: S3Server, tmp_path: Path) -> None:
    s3_store.put("in/log.parquet", FORMATS["log.parquet"])
    s3_store.put("in/log.jsonl", FORMATS["log.jsonl"])
    assert large(["s3://logs/in"], rows=49)
    assert not large(["s3://logs/in"], rows=50)
    assert not large(["s3://logs/none"], rows=0)
    work = [work_folder(["s3://logs/in"], "options", tmp_path) for _ in range(2)]
    assert work[0].path == work[1].path
    assert work[0].again
    assert work[0].takes == 1.5 * len(FORMATS["log.parquet"]) + len(FORMATS["log.jsonl"])
    s3_store.put("in/log.jsonl", b"{}\n")
    assert work_folder(["s3://logs/in"], "options", tmp_path).path != work[0].path


def test_a_path_is_what_a_path_on_a_disk_would_be(s3_store: S3Server) -> None:
    for key in ("a/b/c.csv.gz", "a/b/d.jsonl", "a/e.jsonl"):
        s3_store.put(key, b"x")
    folder = log_path("s3://logs/a")
    assert isinstance(folder, ObjectPath)
    for one in (folder, folder.as_listed(), log_path("s3://logs/a/")):
        assert sorted(map(str, one.iterdir())) == ["s3://logs/a/b", "s3://logs/a/e.jsonl"]
        assert [str(found) for found in one.rglob("*.jsonl")] == ["s3://logs/a/b/d.jsonl", "s3://logs/a/e.jsonl"]
        assert (one / "b").is_dir()
        assert not (one / "b").is_file()
        assert not (one / "x").exists()
        assert (one / "e.jsonl").read_bytes() == b"x"
    named = folder / "b/c.csv.gz"
    assert (named.name, named.suffix, named.suffixes, named.stem) == ("c.csv.gz", ".gz", [".csv", ".gz"], "c.csv")
    assert str(named.with_suffix("")) == "s3://logs/a/b/c.csv"
    assert str(named.with_name("z")) == "s3://logs/a/b/z"
    assert str(named.parent.parent) == "s3://logs/a/"
    assert named.resolve() is named
    assert path.in_order([named, folder]) == [folder, named]
    with pytest.raises(ObjectStoreError, match="s3://logs/a/x: was removed"):
        (folder / "x").open()
