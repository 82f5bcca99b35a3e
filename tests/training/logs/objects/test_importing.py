"""Imports onto S3: the parts first, the account last; nothing that is not whole is read, and no two are mixed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.object_stores import S3Server, forget
from training.logs.dataset import ACCOUNT, ImportAccount, skipped_in, store
from training.logs.objects import s3
from training.logs.objects.address import ObjectStoreError
from training.logs.objects.path import ObjectPath, log_path
from training.logs.outcomes import Outcomes
from training.logs.sources import reading
from training.logs.stored.rows import open_stored
from training.logs.validate import validate

OUT = "s3://logs/imports/one"


def parts(count: int = 3, marker: str = "a") -> Iterator[Outcomes]:
    """So many of two rows each, of which a third cannot be used."""
    for part in range(count):
        rows: list[dict[str, Any]] = [
            {"request_id": f"{marker}{part}-{n}", "prompt": f"question {n}", "candidate": "a", "quality": 1.0}
            for n in range(2)
        ]
        rows.append({**rows[0], "quality": "fine"})
        yield validate(pd.DataFrame(rows), source=marker, format="canonical", partition=True)


def imported(log: Iterator[Outcomes], into: str = OUT) -> ImportAccount:
    account = ImportAccount(["log"])
    store(log, log_path(into), account, rows=2)
    return account


def names(server: S3Server) -> list[str]:
    return [key.removeprefix("imports/one/") for key in server.listed()]


def test_an_import_gives_the_rows_that_it_gives_on_a_disk(s3_store: S3Server, tmp_path: Path) -> None:
    account = imported(parts())
    store(parts(), tmp_path / "local", ImportAccount(["log"]), rows=2)
    found, local = reading.read([OUT]), reading.read([tmp_path / "local"])
    pd.testing.assert_frame_equal(found.frame, local.frame)
    stored, on_disk = open_stored(log_path(OUT)), open_stored(tmp_path / "local")
    assert stored is not None
    assert on_disk is not None
    pd.testing.assert_frame_equal(stored.skeleton().frame, on_disk.skeleton().frame)
    pd.testing.assert_frame_equal(stored.rows_of(["a1-0"]).frame, on_disk.rows_of(["a1-0"]).frame)
    assert (stored.requests(), len(stored), stored.account.skipped) == (6, 6, {"quality is not a number": 3})
    assert len(stored.skeleton().skipped) == 3
    assert sorted(names(s3_store)) == sorted([ACCOUNT, skipped_in(account), *account.files])
    assert list(account.files.values()) == [2, 2, 2]


def test_the_account_is_written_last_and_until_then_nothing_is_read(s3_store: S3Server) -> None:
    seen: list[list[str]] = []

    def watched() -> Iterator[Outcomes]:
        for part in parts():
            seen.append(names(s3_store))
            assert open_stored(log_path(OUT)) is None
            for url in (OUT, f"{OUT}/", "s3://logs"):
                with pytest.raises(ObjectStoreError, match="an import into it has not come to its end"):
                    reading.read([url])
            yield part

    imported(watched())
    assert [len(one) for one in seen] == [1, 2, 3]
    assert not any(ACCOUNT in one for one in seen)
    assert len(reading.read(["s3://logs"]).frame) == 6


def failing() -> Iterator[Outcomes]:
    yield from parts(2)
    raise KeyboardInterrupt


def test_an_import_that_ends_early_leaves_nothing(s3_store: S3Server) -> None:
    with pytest.raises(KeyboardInterrupt):
        imported(failing())
    assert s3_store.listed() == []
    imported(parts())
    assert len(reading.read([OUT]).frame) == 6


def test_an_import_that_was_killed_is_never_read_and_the_next_says_what_to_do(
    s3_store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(s3.S3, "remove", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            imported(failing())
    assert len(names(s3_store)) == 3
    with pytest.raises(ObjectStoreError, match=r"began at \d{4}-.* UTC and has not come to its end.*begins anew"):
        imported(parts())
    with pytest.raises(ObjectStoreError, match="has not come to its end, and what is there may be a part"):
        reading.read([OUT])
    assert len(names(s3_store)) == 3


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (ACCOUNT, "exists already; an import is never overwritten. Remove it, or give another --out"),
        ("sub/other.csv", "holds sub/other.csv already, which is of no import"),
    ],
)
def test_a_folder_that_holds_something_is_refused_and_stays_as_it_is(s3_store: S3Server, key: str, said: str) -> None:
    s3_store.put(f"imports/one/{key}", "x")
    with pytest.raises(ObjectStoreError, match=said):
        imported(parts())
    assert names(s3_store) == [key]


def test_a_folder_beside_one_of_a_longer_name_is_empty(s3_store: S3Server) -> None:
    s3_store.put("imports/one-more/log.csv", "x")
    s3_store.put("imports/one/", "")
    imported(parts())
    assert len(reading.read([OUT]).frame) == 6


def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if two imports had begun at once, so that neither saw the other."""
    monkeypatch.setattr("training.logs.objects.importing.ObjectDraft._require_nothing", lambda _: None)


def test_of_two_imports_at_once_one_is_refused_before_it_reads(s3_store: S3Server) -> None:
    def with_another() -> Iterator[Outcomes]:
        with pytest.raises(ObjectStoreError, match=r"has not come to its end. Wait for it"):
            imported(parts(marker="b"))
        yield from parts()

    imported(with_another())
    assert set(reading.read([OUT]).frame["request_id"].str[0]) == {"a"}


def test_of_two_imports_that_never_saw_each_other_the_first_to_end_is_kept(
    s3_store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    unseen(monkeypatch)

    def with_another() -> Iterator[Outcomes]:
        yield from parts(2)
        imported(parts(marker="b"))
        assert set(reading.read([OUT]).frame["request_id"].str[0]) == {"b"}

    with pytest.raises(ObjectStoreError, match="another import into it came to its end before this one, and is kept"):
        imported(with_another())
    assert set(reading.read([OUT]).frame["request_id"].str[0]) == {"b"}
    assert len([name for name in names(s3_store) if name.startswith("part-")]) == 3
    assert not any("_importing" in name for name in names(s3_store))


def lost(monkeypatch: pytest.MonkeyPatch, *, written: bool, told: bool = True) -> None:
    """The account's answer gets lost: after it was `written`, or before; whether it is there cannot be asked unless `told`."""
    put = s3.S3.put

    def losing(self: s3.S3, bucket: str, key: str, data: bytes, *, new: bool = False) -> None:
        if key.endswith(ACCOUNT):
            if written:
                put(self, bucket, key, data, new=new)
            if not told:
                monkeypatch.setattr(s3.S3, "find", away)
            away()
        put(self, bucket, key, data, new=new)

    def away(*_: object) -> None:
        raise ObjectStoreError("the store does not answer")

    monkeypatch.setattr(s3.S3, "put", losing)


def test_an_account_whose_answer_was_lost_counts_if_it_is_there(
    s3_store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost(monkeypatch, written=True)
    imported(parts())
    assert len(reading.read([OUT]).frame) == 6


def test_an_account_that_did_not_get_there_is_no_import(s3_store: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    lost(monkeypatch, written=False)
    with pytest.raises(ObjectStoreError, match="the store does not answer"):
        imported(parts())
    assert s3_store.listed() == []


def test_where_it_cannot_be_told_whether_it_is_an_import_nothing_is_taken_back(
    s3_store: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        lost(away, written=True, told=False)
        with pytest.raises(ObjectStoreError, match="the store does not answer"):
            imported(parts())
    assert len(reading.read([OUT]).frame) == 6


def removed(server: S3Server, files: list[str]) -> None:
    server.client.delete_object(Bucket="logs", Key=f"imports/one/{files[1]}")


def added(server: S3Server, _: list[str]) -> None:
    server.put("imports/one/more.jsonl", b"{}\n")


def other(server: S3Server, _: list[str]) -> None:
    server.put(f"imports/one/{ACCOUNT}", b"{}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (removed, "part-00001-.*parquet of the import is not there. Import the log again"),
        (added, "more.jsonl: is not of the import in its folder"),
        (other, "_account.json: is no account of an import"),
    ],
)
def test_an_import_that_is_not_as_its_account_says_is_not_read(
    s3_store: S3Server, change: Callable[[S3Server, list[str]], None], said: str
) -> None:
    change(s3_store, list(imported(parts()).files))
    for ask in (lambda: reading.read([OUT]), lambda: open_stored(log_path(OUT))):
        with pytest.raises(ObjectStoreError, match=said):
            ask()


@pytest.mark.parametrize(
    ("account", "said"),
    [
        ("[" * 100_000, "it is nested deeper than JSON can be read"),
        ("{", "JSON was expected, and it is none"),
        ("[]", "a JSON object was expected, and it is a list"),
        ("{}", "`files` was expected to be an object with the rows of each file, and is not there"),
        ('{"files": [1, null]}', "`files` was expected to be an object with the rows of each file, and is a list"),
        ('{"files": [["a"]]}', "and is a list"),
        ('{"files": "abc"}', "and is a text"),
        ('{"files": null}', "and is null"),
    ],
    ids=["deep", "broken", "list", "nothing", "numbers", "lists", "text", "null"],
)
def test_an_account_of_another_shape_is_said_to_be_none(s3_store: S3Server, account: str, said: str) -> None:
    s3_store.put(f"imports/one/{ACCOUNT}", account)
    with pytest.raises(ObjectStoreError) as found:
        reading.read([OUT])
    assert str(found.value).startswith(f"{OUT}/{ACCOUNT}: is no account of an import: ")
    assert str(found.value).endswith(f"{said}. Remove it, or import the log again")


def test_what_a_terminal_would_act_on_is_escaped_in_an_error(s3_store: S3Server) -> None:
    imported(parts())
    s3_store.put("imports/one/evil\x1b]0;owned\x07\u202e ü.jsonl", "{}")
    with pytest.raises(ObjectStoreError) as found:
        reading.read([OUT])
    assert str(found.value).startswith(
        f"{OUT}/evil\\x1b]0;owned\\x07\\u202e ü.jsonl: is not of the import in its folder"
    )


def test_what_a_killed_import_left_beside_a_whole_one_is_passed_over(s3_store: S3Server) -> None:
    imported(parts())
    s3_store.put("imports/one/_importing-abcdef123456", b"{}")
    s3_store.put("imports/one/part-00000-abcdef123456.parquet", b"x")
    assert len(reading.read([OUT]).frame) == 6
    assert open_stored(log_path(OUT)) is not None


def test_an_import_that_is_replaced_between_two_looks_is_an_error(s3_store: S3Server) -> None:
    account = imported(parts())
    stored = open_stored(log_path(OUT))
    assert stored is not None
    first = next(iter(account.files))
    at = log_path(f"{OUT}/{first}")
    assert isinstance(at, ObjectPath)
    s3_store.put(f"imports/one/{first}", at.read_bytes() + b"\0")
    forget()
    with pytest.raises(ObjectStoreError, match=f"{first}: was replaced by another"):
        stored.skeleton()


def test_what_is_written_holds_no_credentials(s3_store: S3Server) -> None:
    imported(parts())
    for key in s3_store.listed():
        body = s3_store.client.get_object(Bucket="logs", Key=key)["Body"].read()
        assert not any(s3_store.variables[name].encode() in body for name in s3_store.variables if "KEY" in name)
    account = json.loads(s3_store.client.get_object(Bucket="logs", Key=f"imports/one/{ACCOUNT}")["Body"].read())
    assert account["rows_used"] == 6
