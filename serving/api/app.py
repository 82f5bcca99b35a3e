"""The router over HTTP, as an application."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Any

from anyio import CapacityLimiter
from fastapi import FastAPI, Response
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from serving.api import endpoints
from serving.api.arrival import BodyLimits
from serving.api.bodies.feedback import FeedbackOneOrMany
from serving.api.bodies.route import BatchBody, RouteBody
from serving.api.documents import (
    BatchResponse,
    BudgetsResponse,
    BundleResponse,
    CandidatesResponse,
    FeedbackResponse,
    HealthResponse,
    ReloadResponse,
    RouteResponse,
    ShadowResponse,
)
from serving.api.evidence.turns import Turns
from serving.api.made import Together
from serving.api.openapi import TAGS, document_bodies, document_once, guard_pages, problem_responses, request_body
from serving.api.problems import install
from serving.api.views import VIEWS
from serving.api.views.live.feed import LiveFeed
from serving.page import mount
from serving.runtime.pipeline import Service
from serving.settings import Settings

logger = logging.getLogger(__name__)

_SWITCH_SECONDS = 0.0005
# So many large bodies and batches are worked on at once; metrics and reloading have threads of their own.
_BODIES_AT_ONCE = 16
# What is asked for most, or by anybody without a key.
_OFTEN = (
    endpoints.candidates,
    endpoints.bundle,
    endpoints.healthz,
    endpoints.readyz,
    endpoints.feedback,
    endpoints.route,
)
Endpoint = Callable[..., Awaitable[Response]]


def create_app(settings: Settings | None = None, service: Service | None = None) -> FastAPI:
    """The application; `service` is one that is made already, without it startup makes it from the settings.

    Startup raises BundleError, RulesError or StoreError.
    """
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        made = service if service is not None else Service(settings)
        # The store's thread shares the interpreter with the event loop, and would keep it from a request for 5 ms at a time.
        sys.setswitchinterval(_SWITCH_SECONDS)
        made.start()
        app.state.service, app.state.bodies = made, CapacityLimiter(_BODIES_AT_ONCE)
        app.state.live, app.state.explaining = LiveFeed(made), Turns()
        app.state.metrics = Together(lambda: endpoints.metrics_of(made))
        router = made.live.current.router
        logger.info("serving bundle %s with %d candidates", router.manifest.version, len(router.candidates))
        with _told_before_it_stops(app, settings.drain_seconds):
            yield
        app.state.service = None
        app.state.live.close()
        app.state.explaining.close()
        made.close()

    app = FastAPIOffline(
        title="outcome-router",
        version="1",
        summary="For each request: the cheapest LLM that is good enough, learned from logged outcomes.",
        openapi_tags=TAGS,
        lifespan=lifespan,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.service, app.state.stopping = None, False
    app.add_middleware(
        BodyLimits,
        max_bytes=settings.max_body_bytes,
        seconds=settings.body_seconds,
        most_held=settings.bodies_bytes,
    )
    install(app)
    _add_routes(app)
    document_bodies(app)
    document_once(app)
    guard_pages(app)
    if settings.page:
        app.router.routes.append(mount())
    if settings.otel:
        from serving.runtime.traces import trace

        trace(app)
    return app


@contextmanager
def _told_before_it_stops(app: FastAPI, seconds: float) -> Iterator[None]:
    """On SIGTERM the process is not ready any more, but takes requests for so many seconds, until load balancers know it.

    A second SIGTERM ends that. Where it is not the main thread's event loop, or there is nothing to wait for, nothing is done.
    """
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, stop = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

    def stopped(number: int, _: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, stop)
        app.state.stopping = True
        logger.info("stopping in %g s, not ready any more", seconds)
        loop.call_soon_threadsafe(loop.call_later, seconds, signal.raise_signal, number)

    signal.signal(signal.SIGTERM, stopped)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, stop)


def _add_routes(app: FastAPI) -> None:
    unready = (503, "No bundle is loaded yet.")
    failed = (500, "The request could not be handled.")
    invalid = (
        (400, "The body is not JSON."),
        (408, "The body took too long to arrive."),
        (413, "The body is too long."),
        (422, "A field is wrong, and `errors` names it; or no candidate is eligible, and `ruled_out` says why."),
    )
    twice = (
        409,
        "The Idempotency-Key came with another body, or elsewhere; or the call with it is under way (Retry-After).",
    )
    refused = ((401, "No API key, or one that is not known."), (429, "The API key is over its rate."))
    bound = (403, "The API key is not for the request's workflow.")
    spent = (402, "A budget is spent, and its rule is to reject.")
    unstored = (
        (404, "The decision is not known, or another key's; or nothing is stored."),
        (409, "A field has another value than before; `fields` says which."),
        (503, "Feedback could not be stored; send it again."),
    )
    operators = (403, "The key may not administer.")
    routes: tuple[
        tuple[str, Endpoint, type[BaseModel] | None, type[BaseModel], str, tuple[tuple[int, str], ...]], ...
    ] = (
        ("/v1/route", endpoints.route, RouteBody, RouteResponse, "route", (*invalid, *refused, spent, bound, twice)),
        ("/v1/route/batch", endpoints.route_batch, BatchBody, BatchResponse, "route", (*invalid, *refused, twice)),
        (
            "/v1/feedback",
            endpoints.feedback,
            FeedbackOneOrMany,
            FeedbackResponse,
            "feedback",
            (*invalid, *refused, *unstored),
        ),
        ("/v1/candidates", endpoints.candidates, None, CandidatesResponse, "bundle", ()),
        ("/v1/bundle", endpoints.bundle, None, BundleResponse, "bundle", ()),
        ("/v1/budgets", endpoints.budgets, None, BudgetsResponse, "operations", refused),
        (
            "/v1/shadow",
            endpoints.shadow,
            None,
            ShadowResponse,
            "operations",
            (*refused, operators, (404, "There is no shadow bundle, or no store."), (422, "`hours` is wrong.")),
        ),
        (
            "/v1/admin/reload",
            endpoints.reload,
            None,
            ReloadResponse,
            "operations",
            (*refused, operators, (409, "The bundle is refused.")),
        ),
        ("/healthz", endpoints.healthz, None, HealthResponse, "health", ()),
        ("/readyz", endpoints.readyz, None, HealthResponse, "health", ()),
    )
    for path, endpoint, body, answer, tag, errors in routes:
        method = "POST" if body is not None or endpoint is endpoints.reload else "GET"
        if endpoint in _OFTEN:
            # The endpoint takes the request as it is, so Starlette's own route does: FastAPI's, which follows for the
            # document, would resolve dependencies that there are none of. First of all, for routes are tried in their order.
            app.router.routes.insert(0, Route(path, endpoint, methods=[method]))
        always = (failed,) if endpoint is endpoints.healthz else (failed, unready)
        app.add_api_route(
            path,
            endpoint,
            methods=[method],
            tags=[tag],
            response_model=None,
            responses={200: {"model": answer}, **problem_responses(*always, *errors)},
            openapi_extra=request_body(body) if body is not None else None,
        )
    for view in VIEWS:
        well: dict[str, Any] = {} if view.streams else {"model": view.answer}
        well |= {} if view.media is None or view.streams else {"content": {view.media: {}}}
        named = type("Streamed", (Response,), {"media_type": view.media}) if view.streams else JSONResponse
        app.add_api_route(
            view.path,
            view.endpoint,
            methods=["GET"],
            tags=[view.tag],
            response_model=None,
            response_class=named,
            responses={200: well, **problem_responses(failed, unready, *view.errors)},
        )
    app.add_api_route("/", endpoints.root, methods=["GET"], include_in_schema=False)
    app.add_api_route("/metrics", endpoints.metrics, methods=["GET"], tags=["health"], response_class=PlainTextResponse)
