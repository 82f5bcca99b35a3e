"""An object store on the loopback address, a new one for each module and empty before each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.object_stores import S3Server, empty, forget, s3_server


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def s3_store(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    empty(server, monkeypatch)
    yield server
    forget()
