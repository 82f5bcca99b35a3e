"""axe-core looks at each tab of the page, in light and dark, and finds nothing serious."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import grave, served, visiting
from tests.whole.page_backend import Backend
from tests.whole.test_page import TABS, settled

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="module")
def backend() -> Backend:
    return Backend()


@pytest.fixture(scope="module")
def origin(backend: Backend) -> Iterator[str]:
    with served(backend.app()) as origin:
        yield origin


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_on_any_tab_keeps_somebody_out(chromium: Browser, origin: str, scheme: Any, width: int) -> None:
    with visiting(chromium, origin, width=width, scheme=scheme, script=True) as visit:
        for name in TABS:
            settled(visit.page, name)
            visit.page.evaluate("for (const one of document.querySelectorAll('.panel details')) one.open = true")
            assert not grave(visit.page), name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nor_do_the_questions_it_asks(chromium: Browser, backend: Backend, origin: str, scheme: Any) -> None:
    with visiting(chromium, origin, scheme=scheme, script=True) as visit:
        settled(visit.page, "Bundles")
        visit.page.get_by_role("button", name="Reload…").click()
        assert not grave(visit.page)
        visit.page.get_by_role("button", name="Cancel").click()
        backend.keys = True
        try:
            visit.page.reload()
            visit.page.get_by_role("dialog").wait_for()
            assert not grave(visit.page)
        finally:
            backend.keys = False


def test_it_finds_what_is_wrong(chromium: Browser, origin: str) -> None:
    with visiting(chromium, origin, script=True) as visit:
        visit.page.evaluate("document.body.append(document.createElement('button'))")
        assert any("button-name" in one for one in grave(visit.page))
