"""Takes the pictures of the page that README.md shows, in a real Chromium: `python -m docs.pictures`, or `make pictures`.

They are of `models/current` where a bundle has been trained (`--models` names another folder), else of figures that a test's
small backend makes up, which the page then calls simulated; it says which.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.browser import launched, served, visiting

if TYPE_CHECKING:
    from playwright.sync_api import Page
    from starlette.types import ASGIApp

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "pictures"
MODELS = ROOT / "models"
PROMPT, WORKFLOW = "Summarise: the customer asks for a refund of the May invoice.", "summarising"  # as in README.md
WIDTH, HEIGHT, SCALE = 1280, 960, 1.0


def application(models: Path, folder: Path) -> ASGIApp:
    """What serves the page: the bundle in `models` with an empty store in `folder`, or the small backend."""
    current = models / "current"
    if not current.exists():
        from tests.whole.page_backend import Backend

        return Backend().app()
    from serving.api.app import create_app
    from serving.settings import Settings

    return create_app(Settings(bundle=str(current), store=f"sqlite:///{folder / 'decisions.db'}"))


def source(models: Path) -> str:
    """What the pictures are of, in words."""
    current = models / "current"
    return (
        f"the bundle {current.resolve().name}"
        if current.exists()
        else f"made-up figures: {models} has no bundle (make train)"
    )


def take(folder: Path, models: Path = MODELS) -> list[Path]:
    """Writes page.png (a decision) and frontier.png into `folder`; raises an error of Playwright's where nothing is shown."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = [folder / "page.png", folder / "frontier.png"]
    with (
        tempfile.TemporaryDirectory() as kept,
        launched() as browser,
        served(application(models, Path(kept))) as origin,
        visiting(browser, origin, width=WIDTH, height=HEIGHT, device_scale_factor=SCALE) as visit,
    ):
        _decided(visit.page)
        visit.page.screenshot(path=taken[0])
        visit.page.get_by_role("tab", name="Frontier").click()
        visit.page.locator("#here").wait_for()
        visit.page.screenshot(path=taken[1])
        visit.sound()
    return taken


def _decided(page: Page) -> None:
    page.get_by_label("Workflow").first.fill(WORKFLOW)
    page.locator("textarea").fill(PROMPT)
    page.locator(".answer:not([aria-busy]) #choice").wait_for()
    page.locator("h1").click()  # the focus is elsewhere


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder that they are written to")
    parser.add_argument("--models", type=Path, default=MODELS, help="the folder whose current bundle they are of")
    named = parser.parse_args()
    for picture in take(named.out, named.models):
        sys.stdout.write(f"{picture}, of {source(named.models)}\n")


if __name__ == "__main__":
    main()
