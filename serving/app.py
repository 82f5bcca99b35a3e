"""The router over HTTP, and `router-serve`.

An endpoint reads the body as bytes and has pydantic parse and validate it in one pass, and writes the decision with
orjson: FastAPI's own way parses, validates and serialises in separate steps, which costs more than deciding does.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_args

import orjson
import typer
import uvicorn
from anyio import to_thread
from fastapi import FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException

from serving.bundle import BundleError
from serving.policy import NoEligibleCandidateError
from serving.problems import MEDIA_TYPE, BodyError, install, no_candidate_problem, without_lone_surrogates
from serving.router import Router
from serving.schemas import (
    BatchBody,
    BatchResponse,
    BundleResponse,
    CandidatesResponse,
    HealthResponse,
    RouteBody,
    RouteResponse,
    decision_document,
)
from serving.settings import LogLevel, Settings

logger = logging.getLogger(__name__)

Body = TypeVar("Body", bound=BaseModel)

# From this length on a body is handled in a worker thread: reading it would hold up the requests behind it.
_INLINE_BYTES = 32 * 1024
_REF = "#/components/schemas/{model}"
_WARM_UP = ("Is it warm?", "", "A longer text, so that both paths have run. " * 500)


def create_app(settings: Settings, router: Router | None = None) -> FastAPI:
    """The application; `router` is one that is loaded already, without it startup loads `settings.bundle`.

    Startup raises BundleError when the bundle cannot be served.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loaded = router if router is not None else Router.load(settings.bundle, settings.threads)
        _warm_up(loaded)
        app.state.router = loaded
        logger.info("serving bundle %s with %d candidates", loaded.manifest.version, len(loaded.candidates))
        yield
        app.state.router = None

    app = FastAPI(
        title="outcome-router",
        version="1",
        summary="For each request: the cheapest LLM that is good enough, learned from logged outcomes.",
        openapi_tags=[
            {"name": "route", "description": "Which candidate a request should be sent to."},
            {"name": "bundle", "description": "What decides: the candidates, and what training measured."},
            {"name": "health", "description": "For load balancers and orchestrators."},
        ],
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.router = None
    install(app, settings.max_body_bytes)
    _add_routes(app)
    _document_bodies(app)
    return app


def _warm_up(router: Router) -> None:
    """Runs both paths once: the first run of a graph allocates, and is many times slower than the second."""
    for text in _WARM_UP:
        router.estimate([text])
    router.estimate(_WARM_UP)


async def route(request: Request) -> Response:
    """The cheapest candidate that is good enough for one request.

    Hard rules come first: `allow` and `deny`, the context window, and the capabilities the request needs (tools,
    images, a JSON schema). Of what is left, the operating point's trade of quality against cost picks one.
    """
    router = _router(request)
    body = await request.body()
    if len(body) > _INLINE_BYTES:
        return _json(await to_thread.run_sync(_route, router, body))
    return _json(_route(router, body))


async def route_batch(request: Request) -> Response:
    """Decisions for many requests with one forward pass, each under its own policy.

    A request with no eligible candidate has a problem document in its place (it has `status` and no `model`); an
    invalid request fails the batch.
    """
    router = _router(request)
    settings: Settings = request.app.state.settings
    body = await request.body()
    instance = request.url.path
    return _json(await to_thread.run_sync(_route_batch, router, body, settings.max_batch, instance))


async def candidates(request: Request) -> Response:
    """The candidates, in the order of every decision's list."""
    manifest = _router(request).manifest
    rows = [{**one.model_dump(), "cost_from": manifest.cost_from[one.name]} for one in manifest.candidates]
    return _json(orjson.dumps({"reference": manifest.reference, "candidates": rows}))


async def bundle(request: Request) -> Response:
    """What decides: the bundle's version, encoder, head, operating points and test metrics."""
    return _json(orjson.dumps(_router(request).manifest.model_dump(include=set(BundleResponse.model_fields))))


async def healthz(request: Request) -> Response:
    """The process is alive."""
    router: Router | None = request.app.state.router
    return _json(orjson.dumps({"status": "ok", "bundle": router.manifest.version if router is not None else None}))


async def readyz(request: Request) -> Response:
    """A bundle is loaded and warm."""
    return _json(orjson.dumps({"status": "ok", "bundle": _router(request).manifest.version}))


def _route(router: Router, body: bytes) -> bytes:
    asked = parse(RouteBody, body)
    return orjson.dumps(decision_document(router.route(asked.request(), asked.policy())))


def _route_batch(router: Router, body: bytes, max_batch: int, instance: str) -> bytes:
    asked = parse(BatchBody, body).requests
    if len(asked) > max_batch:
        message = f"{len(asked)} requests arrived, a batch takes at most {max_batch} (ROUTER_MAX_BATCH)"
        raise BodyError(f"requests: {message}", [("requests", message)])
    decisions = router.route_each([(one.request(), one.policy()) for one in asked])
    results = [
        no_candidate_problem(decision, f"{instance}#{place}")
        if isinstance(decision, NoEligibleCandidateError)
        else decision_document(decision)
        for place, decision in enumerate(decisions)
    ]
    return orjson.dumps({"results": results})


def parse(model: type[Body], body: bytes) -> Body:
    """The body as `model`; raises BodyError with the path of each field that is wrong."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        if error.errors(include_input=False, include_context=False)[0]["type"] != "json_invalid":
            raise BodyError.of(error) from None
    try:
        return model.model_validate_json(without_lone_surrogates(body))
    except ValidationError as error:
        raise BodyError.of(error) from None


def _router(request: Request) -> Router:
    router: Router | None = request.app.state.router
    if router is None:
        raise HTTPException(503, "No bundle is loaded yet.", {"Retry-After": "1"})
    return router


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")


def _problems(*statuses: tuple[int, str]) -> dict[int | str, dict[str, Any]]:
    content = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
    return {status: {"description": description, "content": content} for status, description in statuses}


def _add_routes(app: FastAPI) -> None:
    unready = (503, "No bundle is loaded yet.")
    failed = (500, "The request could not be handled.")
    invalid = (
        (400, "The body is not JSON."),
        (413, "The body is too long."),
        (422, "A field is wrong, and `errors` names it; or no candidate is eligible, and `ruled_out` says why."),
    )
    for path, endpoint, body, answer, tag in (
        ("/v1/route", route, RouteBody, RouteResponse, "route"),
        ("/v1/route/batch", route_batch, BatchBody, BatchResponse, "route"),
        ("/v1/candidates", candidates, None, CandidatesResponse, "bundle"),
        ("/v1/bundle", bundle, None, BundleResponse, "bundle"),
        ("/healthz", healthz, None, HealthResponse, "health"),
        ("/readyz", readyz, None, HealthResponse, "health"),
    ):
        errors = (failed,) if endpoint is healthz else (failed, unready)
        app.add_api_route(
            path,
            endpoint,
            methods=["GET" if body is None else "POST"],
            tags=[tag],
            response_model=None,
            responses={200: {"model": answer}, **_problems(*errors, *(invalid if body is not None else ()))},
            openapi_extra=_body_schema(body) if body is not None else None,
        )


def _body_schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": _REF.format(model=model.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _document_bodies(app: FastAPI) -> None:
    """Adds the models that FastAPI does not see, because the endpoints read their bodies themselves.

    The examples of the others are put back as they are: FastAPI drops every null from its document.
    """

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = get_openapi(
                title=app.title, version=app.version, summary=app.summary, tags=app.openapi_tags, routes=app.routes
            )
            _, definitions = models_json_schema(
                [(RouteBody, "validation"), (BatchBody, "validation"), (BatchResponse, "serialization")],
                ref_template=_REF,
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def serve(
    bundle: Annotated[Path | None, typer.Option(help="Folder of the bundle.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    log_level: Annotated[str | None, typer.Option(help=" | ".join(get_args(LogLevel)))] = None,
) -> None:
    """Serve a bundle over HTTP. What is not given comes from ROUTER_<NAME> in the environment, or the default."""
    options = {"bundle": bundle, "host": host, "port": port, "log_level": log_level}
    try:
        settings = Settings.model_validate({name: value for name, value in options.items() if value is not None})
        router = Router.load(settings.bundle, settings.threads)
    except ValidationError as error:
        wrong = error.errors()[0]
        _give_up(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}; {wrong['input']!r} arrived")
    except BundleError as error:
        _give_up(str(error))
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s: %(name)s: %(message)s")
    uvicorn.run(
        create_app(settings, router),
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        access_log=settings.log_level == "debug",
    )


def _give_up(why: str) -> NoReturn:
    typer.echo(f"router-serve: {why}", err=True)
    raise typer.Exit(2)


def main() -> None:
    """`router-serve`."""
    typer.run(serve)
