"""The page before the service itself, with a bundle whose estimates can be worked out by hand: no backend of a test's own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.api.documents import BundleResponse, RouteResponse
from serving.api.evidence.documents import Explanation
from serving.api.views.bundles import BundlesResponse
from serving.api.views.live import paced
from serving.api.views.live.documents import LiveResponse
from serving.api.views.me import MeResponse
from serving.api.views.savings import SavingsResponse
from serving.settings import Settings
from tests import fake_bundle
from tests.browser import Visit, grave, served, visiting
from tests.whole import page_backend
from tests.whole.page_backend import Backend
from tests.whole.test_page import TABS, choice, go_to, settled, turn

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PROMPT = "prove the theorem"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "decisions.db"


@pytest.fixture(scope="module")
def origin(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = tmp_path_factory.mktemp("models")
    fake_bundle.build(models, "fake-0", neighbours=True, frontier=True)
    fake_bundle.build(models, neighbours=True, frontier=True)
    settings = Settings(
        bundle=str(models / "current"), shadow=str(models / "fake-0"), store=f"sqlite:///{store}", live_seconds=0.2
    )
    with pytest.MonkeyPatch.context() as patch, served(create_app(settings)) as origin:
        patch.setattr(paced, "_REST", 0.0)  # what took long on a slow machine is shown anew at once all the same
        yield origin


@pytest.fixture
def visit(chromium: Browser, origin: str) -> Iterator[Visit]:
    with visiting(chromium, origin) as visit:
        yield visit
        visit.sound()


def decide(origin: str, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{origin}/v1/route", json={"prompt": PROMPT, **body})
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def stored(store: Path) -> int:
    with sqlite3.connect(store) as connection:
        return int(connection.execute("select count(*) from decision").fetchone()[0])


def test_the_choice_flips_as_v1_route_says_and_nothing_is_recorded(visit: Visit, origin: str, store: Path) -> None:
    before = stored(store)
    page = visit.page
    page.locator("textarea").fill(PROMPT)
    page.locator("#choice").wait_for()
    flips = decide(origin, explain=True, dry_run=True, cost_quality=5)["explanation"]["flips"]
    assert len({one["model"] for one in flips}) >= 2
    for one in flips:
        place = round((one["from_cost_quality"] + one["to_cost_quality"]) / 2, 1)
        if one["to_cost_quality"] - one["from_cost_quality"] < 0.4:
            continue
        turn(page, place)
        choice(page, decide(origin, cost_quality=place, dry_run=True)["model"])
        assert page.locator("#choice .name").inner_text() == one["model"]
    assert page.locator(".near").count() > 0
    assert stored(store) == before


def test_live_counts_what_is_decided_meanwhile(visit: Visit, origin: str) -> None:
    settled(visit.page, "Live")
    visit.page.get_by_text("live", exact=True).wait_for()
    before = int(visit.page.locator("#total").inner_text().replace(",", ""))
    for _ in range(7):
        decide(origin, workflow="easy")
    visit.page.locator("#total", has_text=f"{before + 7:,}").wait_for()


def test_the_frontier_and_the_bundles_are_the_services_own(visit: Visit, origin: str) -> None:
    settled(visit.page, "Frontier")
    document = httpx.get(f"{origin}/v1/frontier").json()
    visit.page.get_by_text("Figures behind the chart").click()
    rows = visit.page.get_by_role("region", name="One candidate for everything").locator("tbody tr")
    assert rows.count() == len(document["singles"])
    go_to(visit.page, "Bundles")
    visit.page.get_by_label("Compare fake-0").wait_for()
    visit.page.get_by_role("button", name="Reload…").click()
    visit.page.get_by_role("button", name="Reload", exact=True).click()
    visit.page.get_by_text("Nothing has changed.").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_on_any_tab_keeps_somebody_out(chromium: Browser, origin: str, scheme: Any) -> None:
    with visiting(chromium, origin, scheme=scheme, script=True) as visit:
        visit.page.locator("textarea").fill(PROMPT)
        for name in TABS:
            settled(visit.page, name)
            assert not grave(visit.page), name


def test_the_backend_of_the_other_tests_answers_as_the_service_documents_it() -> None:
    client = TestClient(Backend().app())
    asked: dict[str, Any] = {"prompt": PROMPT, "explain": True, "dry_run": True}
    answer = client.post("/v1/route", json=asked).json()
    Explanation.model_validate(answer["explanation"])
    RouteResponse.model_validate(answer)
    MeResponse.model_validate(client.get("/v1/me").json())
    assert set(BundleResponse.model_fields) > set(client.get("/v1/bundle").json())
    BundlesResponse.model_validate(client.get("/v1/bundles").json())
    LiveResponse.model_validate(page_backend.snapshot(1))
    for by in ("day", "workflow", "candidate", "key"):
        SavingsResponse.model_validate(client.get("/v1/savings", params={"by": by}).json())
