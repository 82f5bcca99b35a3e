"""The OpenAPI document: what FastAPI cannot see, because the endpoints read their bodies themselves."""

from __future__ import annotations

import hashlib
from functools import cache
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.datastructures import MutableHeaders
from starlette.routing import Route, request_response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.bodies.feedback import FeedbackOneOrMany
from serving.api.bodies.route import BatchBody, RouteBody
from serving.api.documents import BatchResponse
from serving.api.problems import MEDIA_TYPE
from serving.state.replays import LONGEST_KEY

_REF = "#/components/schemas/{model}"
# The documentation's pages have scripts of their own inline; but nobody else shows them in a frame.
_PAGES = ("/docs", "/docs/oauth2-redirect")
_HEADERS = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "frame-ancestors 'none'"}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same call again, with the same body, has the same answer and decides nothing.",
    "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY},
}
TAGS = [
    {"name": "route", "description": "Which candidate a request should be sent to."},
    {"name": "feedback", "description": "What came of a decision."},
    {"name": "bundle", "description": "What decides: the candidates, and what training measured."},
    {"name": "operations", "description": "Budgets, the shadow bundle, reloading."},
    {"name": "health", "description": "For load balancers, orchestrators and Prometheus."},
]


def problem_responses(*statuses: tuple[int, str]) -> dict[int | str, dict[str, Any]]:
    """How a route documents its errors: (status, what it means)."""
    content = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
    return {status: {"description": description, "content": content} for status, description in statuses}


def request_body(model: type[BaseModel]) -> dict[str, Any]:
    """How a route documents a body that its endpoint reads itself."""
    schema = {"$ref": _REF.format(model=model.__name__)}
    body = {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
    return {**body, "parameters": [_IDEMPOTENCY_KEY]} if model in (RouteBody, BatchBody) else body


def document_bodies(app: FastAPI) -> None:
    """Adds the models that FastAPI does not see, because the endpoints read their bodies themselves.

    The examples of the others are put back as they are: FastAPI drops every null from its document.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, summary=app.summary, tags=app.openapi_tags, routes=app.routes
            )
            _, definitions = models_json_schema(
                [
                    (RouteBody, "validation"),
                    (BatchBody, "validation"),
                    (FeedbackOneOrMany, "validation"),
                    (BatchResponse, "serialization"),
                ],
                ref_template=_REF,
            )
            components = document.setdefault("components", {})
            components.setdefault("schemas", {}).update(definitions["$defs"])
            # What /docs has its Authorize button for; no key is needed where the rules have none.
            components["securitySchemes"] = {"API key": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"API key": []}, {}]
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def document_once(app: FastAPI) -> None:
    """Serves the document as bytes that are made once, and to who has them already nothing but that they are the same.

    Anybody may ask, and as often as they like: to make it takes as long as many decisions. Behind a path prefix it has that
    prefix in it, and is FastAPI's own.
    """

    @cache
    def made() -> tuple[bytes, str]:
        content = orjson.dumps(app.openapi())
        return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def openapi(request: Request) -> Response:
        content, etag = made()
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
        if etag in known:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type="application/json")

    for one in app.routes:
        if isinstance(one, Route) and one.path == app.openapi_url:
            one.app = _without_prefix(request_response(openapi), one.app)


def _without_prefix(ours: ASGIApp, others: ASGIApp) -> ASGIApp:
    async def choose(scope: Scope, receive: Receive, send: Send) -> None:
        await (others if scope.get("root_path") else ours)(scope, receive, send)

    return choose


def guard_pages(app: FastAPI) -> None:
    """Has a browser show the documentation's pages in no frame, and take them for nothing but what they are."""
    for one in app.routes:
        if isinstance(one, Route) and one.path in _PAGES:
            one.app = _guarded(one.app)


def _guarded(page: ASGIApp) -> ASGIApp:
    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await page(scope, receive, with_headers)

    return guarded
