"""What is sent of the page: to whom, with which headers, and that nothing in it needs another origin."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.page import HEADERS, STATIC
from serving.settings import Settings
from tests import fake_bundle

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FILES = sorted(path.name for path in STATIC.iterdir())
MOST_BYTES = 100_000


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    bundle = fake_bundle.build(tmp_path_factory.mktemp("models"))
    return Settings(bundle=str(bundle), store=None)


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as client:
        yield client


def test_a_browser_gets_the_page_and_a_program_what_there_is(client: TestClient) -> None:
    page = client.get("/", headers=BROWSER)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "<title>outcome-router</title>" in page.text
    for accept in ("*/*", "application/json"):
        told = client.get("/", headers={"Accept": accept})
        assert told.json()["service"] == "outcome-router"
        assert told.json()["page"] == "/"
        assert told.headers["vary"] == page.headers["vary"] == "Accept"


def test_every_file_has_the_headers_and_is_not_sent_twice(client: TestClient) -> None:
    for path in ("/", *(f"/page/{name}" for name in FILES)):
        first = client.get(path, headers=BROWSER)
        assert first.status_code == 200, path
        assert {name: first.headers[name] for name in HEADERS} == HEADERS, path
        again = client.get(path, headers=BROWSER | {"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b""), path
        assert again.headers["content-security-policy"] == HEADERS["Content-Security-Policy"]


def test_the_policy_lets_in_nothing_of_another_origin_and_nothing_inline() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "*" not in policy


@pytest.mark.parametrize("path", ["/page/../__init__.py", "/page/%2e%2e/__init__.py", "/page/", "/page/none.js"])
def test_only_the_pages_own_files_are_sent(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_modules_have_the_type_that_a_browser_asks_of_them(client: TestClient) -> None:
    assert client.get("/page/app.js").headers["content-type"].split(";")[0] in (
        "text/javascript",
        "application/javascript",
    )
    assert client.get("/page/page.css").headers["content-type"].startswith("text/css")
    assert client.get("/page/icon.svg").headers["content-type"].startswith("image/svg+xml")


def test_the_page_can_be_turned_off(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"page": False}))) as client:
        told = client.get("/", headers=BROWSER).json()
        assert told["service"] == "outcome-router"
        assert "page" not in told
        assert client.get("/page/app.js").status_code == 404


def test_all_of_it_is_small() -> None:
    assert sum(path.stat().st_size for path in STATIC.iterdir()) < MOST_BYTES


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_nothing_of_another_origin_nothing_inline_and_no_markup_from_text(name: str) -> None:
    text = Path(STATIC / name).read_text("utf-8")
    elsewhere = [one for one in re.findall(r"https?://[^\s\"'`<>)]+", text) if one != "http://www.w3.org/2000/svg"]
    assert not elsewhere
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    if name.endswith(".html"):
        assert not re.search(r"\sstyle=|\son[a-z]+=|<style|<script(?![^>]*\ssrc=)", text)
        links = re.findall(r'(?:src|href)="([^"#][^"]*)"', text)
        assert links
        assert not [one for one in links if one.startswith("/")], "an address from the root breaks behind a path prefix"
