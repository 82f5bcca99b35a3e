"""A real Chromium, headless: the system's own, driven by Playwright, and axe-core, which looks for what keeps people out.

Who has no Chromium, or no npm to fetch axe-core with, has these tests skipped, and is told why.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import uvicorn
from filelock import FileLock

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page
    from starlette.types import ASGIApp

ROOT = Path(__file__).parents[1]
AXE = "4.14.1"
# What axe-core calls serious or critical keeps somebody from using the page.
_GRAVE = ("serious", "critical")
_STARTED_S = 30.0
# How long a page is waited for before a test fails: on a busy machine a picture of a long page takes half a minute.
PATIENCE_MS = 180_000
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def program() -> str | None:
    """Where Chromium is, or None."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


@contextmanager
def launched() -> Iterator[Browser]:
    """Chromium, headless. Skips the test where there is none."""
    found = program()
    if found is None:
        pytest.skip(f"no Chromium ({', '.join(PROGRAMS)}): apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, headless=True, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(app: ASGIApp) -> Iterator[str]:
    """The application behind a port of this machine, in a thread; its address, without a slash at the end."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="auto", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        until = time.monotonic() + _STARTED_S
        while not server.started and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        assert server.started, "the application did not start"
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join(_STARTED_S)


@dataclass
class Visit:
    """A page that is looked at, and what it did: addresses it asked for, and what it complained of."""

    page: Page
    origin: str
    asked: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def sound(self, *, but: tuple[str, ...] = ()) -> None:
        """Nothing was asked of another origin, and nothing complained of, except what contains one of `but`."""
        elsewhere = [one for one in self.asked if not one.startswith((f"{self.origin}/", "data:"))]
        assert self.asked
        assert not elsewhere, elsewhere
        assert not (left := [one for one in self.complaints if not any(word in one for word in but)]), left


@contextmanager
def visiting(
    browser: Browser,
    origin: str,
    path: str = "/",
    *,
    width: int = 1280,
    height: int = 900,
    scheme: Literal["light", "dark"] = "light",
    script: bool = False,
    **options: Any,
) -> Iterator[Visit]:
    """A page in a context of its own. `script` lets a test put scripts of its own past the page's policy."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, bypass_csp=script, locale="en-GB", **options
    )
    try:
        context.set_default_timeout(PATIENCE_MS)
        visit = Visit(context.new_page(), origin)
        visit.page.on("request", lambda one: visit.asked.append(one.url))
        visit.page.on("pageerror", lambda one: visit.complaints.append(str(one)))
        visit.page.on(
            "console", lambda one: visit.complaints.append(one.text) if one.type in ("error", "warning") else None
        )
        visit.page.goto(origin + path)
        yield visit
    finally:
        context.close()


def axe_source() -> str:
    """axe-core's script, fetched by npm once. Skips the test where it is neither there nor to be had."""
    folder = ROOT / ".cache" / "axe"
    script = folder / f"axe-core-{AXE}.min.js"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not script.exists():
            npm = shutil.which("npm")
            if npm is None:
                pytest.skip("no npm, which fetches axe-core: apt-get install npm")
            packed = [npm, "pack", f"axe-core@{AXE}", "--silent", "--pack-destination", str(folder)]
            done = subprocess.run(packed, capture_output=True, text=True, timeout=120, check=False)
            if done.returncode:
                pytest.skip(f"npm could not fetch axe-core {AXE}: {done.stderr.strip()[-200:]}")
            with tarfile.open(folder / f"axe-core-{AXE}.tgz") as package:
                inside = package.extractfile("package/axe.min.js")
                assert inside is not None
                part = script.with_suffix(".part")
                part.write_bytes(inside.read())
                part.replace(script)
    return script.read_text("utf-8")


def grave(page: Page) -> list[str]:
    """What axe-core finds serious or critical, each with the elements that it is about. The page is visited with `script`."""
    page.evaluate(axe_source())
    found = page.evaluate("async () => (await axe.run(document)).violations")
    assert isinstance(found, list)
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: "
        + "; ".join(f"{node['target']} {node['failureSummary']}" for node in one["nodes"][:4])
        for one in found
        if one["impact"] in _GRAVE
    ]
