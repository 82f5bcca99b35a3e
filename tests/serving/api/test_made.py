"""What anybody may ask for is made no oftener than it changes, and nobody gets what was begun before they asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from serving.api import endpoints
from serving.api.app import create_app
from serving.api.made import Together
from serving.settings import Settings
from tests import fake_bundle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(bundle=folder, store=None))) as client:
        yield client


def test_the_openapi_document_is_made_once_and_sent_to_who_has_none(client: TestClient) -> None:
    first = client.get("/openapi.json")
    app = client.app
    assert isinstance(app, FastAPI)
    app.openapi_schema = {"paths": {}}
    again = client.get("/openapi.json")
    assert again.content == first.content
    tag = first.headers["etag"]
    for known in (tag, f'"other", W/{tag}'):
        same = client.get("/openapi.json", headers={"If-None-Match": known})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    other = client.get("/openapi.json", headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)
    assert client.get("/openapi.json").json()["openapi"].startswith("3.")


def test_behind_a_prefix_the_document_names_it(folder: Path) -> None:
    app = create_app(Settings(bundle=folder, store=None))
    with TestClient(app, root_path="/router") as client:
        assert client.get("/router/openapi.json").json()["servers"] == [{"url": "/router"}]


@pytest.mark.parametrize("path", ["/v1/bundle", "/v1/candidates"])
def test_what_a_bundle_says_is_made_once(client: TestClient, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = client.get(path)
    assert first.status_code == 200
    monkeypatch.setattr(endpoints.orjson, "dumps", None)
    assert client.get(path).content == first.content


def test_another_bundle_says_something_else(client: TestClient, tmp_path: Path) -> None:
    before = client.get("/v1/bundle").json()["version"]
    other = fake_bundle.build(tmp_path / "models", version="other")
    with TestClient(create_app(Settings(bundle=other, store=None))) as second:
        assert second.get("/v1/bundle").json()["version"] == "other"
    assert client.get("/v1/bundle").json()["version"] == before


def test_many_who_ask_at_once_wait_for_one_that_is_begun_after_they_asked() -> None:
    async def asked() -> tuple[int, list[int]]:
        begun, goes_on = threading.Event(), threading.Event()
        made = 0

        def make() -> int:
            nonlocal made
            made += 1
            begun.set()
            goes_on.wait()
            return made

        together = Together(make)
        first = asyncio.create_task(together.value())
        await asyncio.to_thread(begun.wait)
        others = [asyncio.create_task(together.value()) for _ in range(50)]
        leaves = asyncio.create_task(together.value())
        await asyncio.sleep(0)
        leaves.cancel()
        goes_on.set()
        return await first, list(await asyncio.gather(*others))

    assert asyncio.run(asked()) == (1, [2] * 50)


def test_what_fails_is_raised_to_all_who_waited_and_made_anew_afterwards() -> None:
    async def asked() -> list[int | BaseException]:
        made = 0

        def make() -> int:
            nonlocal made
            made += 1
            if made == 1:
                raise OSError("a file is gone")
            return made

        together = Together(make)
        failed = await asyncio.gather(together.value(), together.value(), return_exceptions=True)
        return [*failed, await together.value()]

    first, second, third = asyncio.run(asked())
    assert isinstance(first, OSError)
    assert isinstance(second, OSError)
    assert third == 2


@pytest.mark.parametrize(
    "path", ["/v1/bundle", "/v1/me", "/v1/live/snapshot", "/v1/savings", "/v1/nothing", "/v1/route"]
)
def test_no_answer_to_a_caller_is_kept_on_the_way(client: TestClient, path: str) -> None:
    assert client.get(path).headers.get_list("cache-control") == ["no-store"]


def test_a_decision_is_kept_no_more_than_what_refuses_one(client: TestClient) -> None:
    for body in ({"prompt": "hello"}, {"prompt": 1}):
        assert client.post("/v1/route", json=body).headers["cache-control"] == "no-store"
    assert "cache-control" not in client.get("/healthz").headers


def test_behind_a_prefix_they_are_not_kept_either(folder: Path) -> None:
    with TestClient(create_app(Settings(bundle=folder, store=None)), root_path="/router") as client:
        assert client.get("/router/v1/me").headers["cache-control"] == "no-store"
