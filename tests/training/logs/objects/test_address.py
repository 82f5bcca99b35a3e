"""URLs of objects: what they name, what is refused, and that no secret of one is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.logs.io import database
from training.logs.objects.address import Address, ObjectStoreError, is_object_url, parse, shown
from training.logs.objects.path import ObjectPath, log_path


@pytest.mark.parametrize(
    ("url", "bucket", "key"),
    [
        ("s3://logs/a/b.jsonl", "logs", "a/b.jsonl"),
        ("S3://logs", "logs", ""),
        ("s3://logs/", "logs", ""),
        ("gs://my.logs-1/a/", "my.logs-1", "a/"),
        ("s3://logs//a/../b/./%20 #ü@:", "logs", "/a/../b/./%20 #ü@:"),
    ],
)
def test_a_key_is_taken_as_it_is_written(url: str, bucket: str, key: str) -> None:
    assert parse(url) == Address(url[:2].lower(), bucket, key)
    assert isinstance(log_path(url), ObjectPath)


@given(st.text(st.characters(exclude_characters="?"), max_size=20))
def test_what_is_written_of_a_key_reads_as_that_key(key: str) -> None:
    assert parse(str(Address("s3", "logs", key))) == Address("s3", "logs", key)


@pytest.mark.parametrize(
    ("url", "said", "expected"),
    [
        ("s3://KEY:SECRET@logs/a", "s3://***@logs/a: ", "has no user, password or parameters"),
        ("s3://KEY:SEC/RET@logs/a", "s3://***@logs/a: ", "has no user, password or parameters"),
        ("s3://KEY:SEC/RET", "s3://***: ", "has no user, password or parameters"),
        ("s3://logs/a?X-Amz-Signature=SECRET", "s3://logs/a?***: ", "has no user, password or parameters"),
        ("s3:/logs/a", "s3:/logs/a: ", "expected gs://bucket/folder or s3://bucket/folder"),
        ("s3:KEY:SECRET@logs", "s3:***: ", "expected gs://bucket/folder or s3://bucket/folder"),
        ("s3:///a", "s3:///a: ", "'' is no name of a bucket"),
        ("s3://lo gs/a", "s3://lo gs/a: ", "'lo gs' is no name of a bucket"),
    ],
)
def test_a_url_that_names_no_object_is_refused_without_its_secrets(url: str, said: str, expected: str) -> None:
    with pytest.raises(ObjectStoreError) as found:
        parse(url)
    assert str(found.value).startswith(said)
    assert expected in str(found.value)
    assert not {"KEY", "SECRET", "RET"} & set(str(found.value).replace("/", " ").replace("@", " ").split())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://u:SECRET@host/a?sig=SECRET", "https://***@host/a?***"),
        ("s3://SECRET:SEC/RET@logs/a", "s3://***@logs/a"),
        ("s3://logs/a@b", "s3://logs/a@b"),
        ("azure://logs", "azure://logs"),
        ("postgresql://u:SECRET@host/d?schema=x", "postgresql://u:***@host/d?schema=x"),
        ("langfuse:?from=2026-01-01", "langfuse:?from=2026-01-01"),
        ("a/folder", "a/folder"),
    ],
)
def test_urls_are_shown_without_what_may_be_secret(url: str, expected: str) -> None:
    assert database.shown(url) == expected
    assert shown(shown(url)) == shown(url)


def test_names_that_are_no_urls_of_objects_stay_files(tmp_path: Path) -> None:
    for name in ("s3", "s3.jsonl", "a/s3:/b", "./s3://logs/a", "gs.jsonl", "sqlite:///a"):
        assert not is_object_url(name)
        assert log_path(name) == Path(name)
    assert log_path(tmp_path) is tmp_path
