"""The report in a real Chromium without a network: charts are drawn, nothing complains, and nobody is kept out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from serving.bundle.manifest import open_bundle
from tests import fake_bundle
from tests.browser import PATIENCE_MS, grave
from training.publish.document import read_document
from training.publish.making import of_addition
from training.publish.pages import of_comparison, of_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTHS = (360, 1024)
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
CHARTS = {"report": 7, "bare": 0, "both": 1}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """report.html of a certified bundle, bare.html of one that nothing was measured of, both.html of two."""
    folder = tmp_path_factory.mktemp("pages")
    bundle = open_bundle(fake_bundle.build(folder, frontier=True))
    making = of_addition(None, "", "On 300 requests routing costs less.")
    document = read_document(bundle.folder) or {}
    (folder / "report.html").write_text(of_report.render(bundle.manifest, document, making | {"added": None}))
    nothing = {
        name: []
        for name in ("points", "sweep", "guarded", "singles", "profiles", "workflows", "routers", "risk_coverage")
    }
    nothing |= {"curves": {}, "reliability": None, "calibration": None, "why_not": "There was no test part."}
    (folder / "bare.html").write_text(
        of_report.render(bundle.manifest, document | nothing, making | {"added": "open/new"})
    )
    (folder / "both.html").write_text(of_comparison.render(bundle, bundle, None, "No log was given."))
    return folder


def visit(
    chromium: Browser, path: Path, width: int, scheme: Literal["light", "dark"], **more: Any
) -> tuple[Page, list[str], list[str]]:
    """The page once it has drawn its charts, what its console complains of, and what it asked for."""
    context = chromium.new_context(
        offline=True, viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=False, **more
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    if more.get("java_script_enabled", True):
        page.wait_for_function(f"document.querySelectorAll('figure.drawn').length === {CHARTS[path.stem]}")
    return page, said, [url for url in asked if not url.startswith(("data:", "blob:"))]


@pytest.mark.parametrize("name", CHARTS)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_without_a_network_and_keeps_nobody_out(
    chromium: Browser, pages: Path, width: int, scheme: Literal["light", "dark"], name: str
) -> None:
    path = pages / f"{name}.html"
    page, said, asked = visit(chromium, path, width, scheme)
    assert said == []
    assert asked == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for box in page.locator(".box:visible").all():
        assert box.evaluate("one => one.scrollWidth <= one.clientWidth") or width > 360, "a table is half hidden"
    assert grave(page) == []
    page.context.close()


def test_without_scripts_the_pictures_stay(chromium: Browser, pages: Path) -> None:
    page, _, asked = visit(chromium, pages / "report.html", 1024, "light", java_script_enabled=False)
    assert page.locator("figure .still img").count() == CHARTS["report"]
    assert page.locator("figure .still img").first.is_visible()
    assert len(asked) == 1
    page.context.close()


def test_printed_it_begins_with_the_first_screen_alone_and_cuts_nothing_off(chromium: Browser, pages: Path) -> None:
    page, _, _ = visit(chromium, pages / "report.html", 703, "dark")  # as wide as A4 between its margins
    page.emulate_media(media="print")
    header = page.locator("header").bounding_box()
    assert header is not None
    assert header["height"] <= 1016, "the first screen is one page of A4"
    assert page.evaluate("getComputedStyle(document.querySelector('header')).breakAfter") == "page"
    assert page.evaluate("document.documentElement.scrollWidth") <= 703
    wide = "[...document.querySelectorAll('.box')].filter(one => one.scrollWidth > one.clientWidth + 1).length"
    assert page.evaluate(wide) == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("figure .still img").first.is_visible()
    assert not page.locator("figure .live").first.is_visible()
    size = "getComputedStyle(document.querySelector('{}')).fontSize"
    small, text = (float(page.evaluate(size.format(one)).removesuffix("px")) for one in ("main .muted", "body"))
    assert small < text, "small print is no larger than the text"
    tallest = "Math.max(...[...document.querySelectorAll('figure .still img')].map(one => one.getBoundingClientRect().height))"
    assert page.evaluate(tallest) <= 500, "no picture needs half a page: it would leave as much white before it"
    page.context.close()


def test_a_chart_is_saved_as_a_picture(chromium: Browser, pages: Path, tmp_path: Path) -> None:
    page, said, _ = visit(chromium, pages / "report.html", 1024, "light")
    with page.expect_download() as waited:
        page.get_by_role("button", name="Save as PNG").first.click()
    waited.value.save_as(tmp_path / "chart.png")
    assert waited.value.suggested_filename == "chart-frontier.png"
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    assert said == []
    page.context.close()
