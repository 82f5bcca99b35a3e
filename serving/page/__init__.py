"""The page: static files that a browser needs, and the headers they are sent with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"
# Nothing of another origin, nothing inline, and no text that becomes markup. Shown in no frame.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # An upgrade shows at the next visit, and a file that is still the same is not sent again.
    "Cache-Control": "no-cache",
}


class PageFiles(StaticFiles):
    """The page's files, each with an ETag and the page's headers."""

    def file_response(self, *arguments: Any, **named: Any) -> Response:
        response = super().file_response(*arguments, **named)
        response.headers.update(HEADERS)
        return response


_FILES = PageFiles(directory=STATIC)


def mount() -> Mount:
    """Where the page's files are: `/page/<file>`."""
    return Mount("/page", _FILES, name="page")


def wanted(request: Request) -> bool:
    """Whether who asks reads HTML, as a browser does and a program does not."""
    return "text/html" in request.headers.get("accept", "")


def html(request: Request) -> Response:
    """The page itself; its links are relative, so that it works behind a path prefix as well."""
    path = STATIC / "index.html"
    response = _FILES.file_response(path, path.stat(), request.scope)
    response.headers["Vary"] = "Accept"
    return response
