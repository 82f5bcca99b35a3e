"""The router over HTTP, and `router-serve`.

An endpoint reads the body as bytes and has pydantic parse and validate it in one pass, and writes the decision with
orjson: FastAPI's own way parses, validates and serialises in separate steps, which costs more than deciding does.
"""

from __future__ import annotations

import gc
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_args

import orjson
import typer
import uvicorn
from anyio import to_thread
from fastapi import FastAPI, Query, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from serving.api.problems import (
    MEDIA_TYPE,
    BodyError,
    budget_problem,
    install,
    no_candidate_problem,
    without_lone_surrogates,
)
from serving.api.schemas import (
    BatchBody,
    BatchResponse,
    BudgetsResponse,
    BundleResponse,
    CandidatesResponse,
    FeedbackBatchBody,
    FeedbackBody,
    FeedbackOneOrMany,
    FeedbackResponse,
    HealthResponse,
    ReloadResponse,
    RouteBody,
    RouteResponse,
    ShadowResponse,
    decision_document,
)
from serving.bundle.manifest import BundleError, Manifest
from serving.decide.eligibility import NoEligibleCandidateError
from serving.runtime.logs import configure_logging
from serving.runtime.metrics import CONTENT_TYPE as METRICS_TYPE
from serving.runtime.pipeline import Service
from serving.settings import LogLevel, Settings, hand_on, share_metrics
from serving.state.budgets import BudgetSpentError
from serving.state.rulebook import RulesError
from serving.store.engine import StoreError
from serving.store.feedback import Feedback
from serving.store.queries import compared
from serving.store.writer import NotStoredError

logger = logging.getLogger(__name__)

Body = TypeVar("Body", bound=BaseModel)

# From this length on a body is handled in a worker thread: reading it would hold up the requests behind it.
_INLINE_BYTES = 32 * 1024
_REF = "#/components/schemas/{model}"
_SWITCH_SECONDS = 0.0005
Endpoint = Callable[[Request], Awaitable[Response]]


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
        app.state.service = made
        router = made.live.current.router
        logger.info("serving bundle %s with %d candidates", router.manifest.version, len(router.candidates))
        yield
        app.state.service = None
        made.close()

    app = FastAPI(
        title="outcome-router",
        version="1",
        summary="For each request: the cheapest LLM that is good enough, learned from logged outcomes.",
        openapi_tags=[
            {"name": "route", "description": "Which candidate a request should be sent to."},
            {"name": "feedback", "description": "What came of a decision."},
            {"name": "bundle", "description": "What decides: the candidates, and what training measured."},
            {"name": "operations", "description": "Budgets, the shadow bundle, reloading."},
            {"name": "health", "description": "For load balancers, orchestrators and Prometheus."},
        ],
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.state.service = None
    install(app, settings.max_body_bytes)
    _add_routes(app)
    _document_bodies(app)
    if settings.otel:
        from serving.runtime.traces import trace

        trace(app)
    return app


async def route(request: Request) -> Response:
    """The cheapest candidate that is good enough for one request.

    Hard rules come first: what the caller and the server's rules allow, demand and limit, and what the request needs. Of
    what is left, the operating point's trade of quality against cost picks one.
    """
    service = _service(request)
    key = _key(request, service)
    body = await request.body()
    asked = parse(RouteBody, body) if len(body) <= _INLINE_BYTES else await to_thread.run_sync(parse, RouteBody, body)
    identifier, decision = await service.route(service.case(asked.request(), asked.policy(), key))
    if service.settings.otel:
        from serving.runtime.traces import annotate

        annotate(identifier, decision)
    return _json(orjson.dumps(decision_document(identifier, decision)))


async def route_batch(request: Request) -> Response:
    """Decisions for many requests with one forward pass, each under its own policy.

    A request with no eligible candidate, or whose budget is spent, has a problem document in its place (it has `status`
    and no `model`); an invalid request fails the batch.
    """
    service = _service(request)
    key = _key(request, service)
    body = await request.body()
    return _json(await to_thread.run_sync(_route_batch, service, key, body, request.url.path))


async def feedback(request: Request) -> Response:
    """What came of one decision, or of several (`feedback`). The answer comes when all of it is on disk.

    Sending the same again changes nothing. 503: it was not stored, send it again.
    """
    service = _service(request)
    _key(request, service)
    if service.store is None:
        raise HTTPException(404, "This service stores no decisions (ROUTER_STORE is empty).")
    body = await request.body()
    said = await to_thread.run_sync(_feedback, body, service.settings.max_batch)
    try:
        recorded, repeated = await service.feedback(said)
    except NotStoredError as error:
        raise HTTPException(503, f"Feedback was not stored: {error}.", {"Retry-After": "1"}) from None
    except TimeoutError:
        raise HTTPException(503, "Feedback was not stored in time; send it again.", {"Retry-After": "1"}) from None
    return _json(orjson.dumps({"recorded": recorded, "repeated": repeated}))


async def budgets(request: Request) -> Response:
    """Every budget in its current period; of the keys' budgets only the caller's own, unless its key may administer."""
    service = _service(request)
    key = _key(request, service)
    lines = [
        {
            "scope": one.scope,
            "period": one.period,
            "limit_usd": one.limit,
            "spent_usd": one.spent,
            "reserved_usd": one.reserved,
            "left_usd": one.left,
            "resets_at": one.ends.isoformat(),
            "at_limit": one.at_limit,
            "pace": one.pace,
        }
        for one in service.budgets.lines()
        if service.may_see(key, one.scope)
    ]
    return _json(orjson.dumps({"budgets": lines}))


async def reload(request: Request) -> Response:
    """Loads the bundle again now, instead of when the watcher sees that it is another one."""
    service = _service(request)
    _key(request, service, admin=True)
    came = await to_thread.run_sync(service.live.reload)
    if came.refused is not None:
        raise HTTPException(409, f"The bundle is refused and {came.version} stays: {came.refused}")
    return _json(orjson.dumps({"changed": came.changed, "bundle": came.version}))


async def shadow(request: Request, hours: Annotated[float, Query(gt=0, le=24 * 366)] = 24.0) -> Response:
    """What the shadow bundle would have decided, against what was decided, over the last hours."""
    service = _service(request)
    _key(request, service)
    if service.shadow is None or service.store is None:
        missing = "has no shadow bundle (ROUTER_SHADOW)" if service.shadow is None else "stores no decisions"
        raise HTTPException(404, f"This service {missing}.")
    versions = service.live.version, service.shadow.live.version
    found = await to_thread.run_sync(compared, service.store.engine, *versions, time.time() - hours * 3600)
    rows = [asdict(one) for one in found]
    document = {
        "bundle": versions[0],
        "shadow": versions[1],
        "hours": hours,
        "total": rows[0] if rows else None,
        "workflows": rows[1:],
    }
    return _json(orjson.dumps(document))


async def metrics(request: Request) -> Response:
    """Prometheus metrics."""
    service = _service(request)
    return Response(await to_thread.run_sync(service.metrics.document), media_type=METRICS_TYPE)


async def candidates(request: Request) -> Response:
    """The candidates, in the order of every decision's list."""
    manifest = _service(request).live.current.router.manifest
    rows = [{**one.model_dump(), "cost_from": manifest.cost_from[one.name]} for one in manifest.candidates]
    return _json(orjson.dumps({"reference": manifest.reference, "candidates": rows}))


async def bundle(request: Request) -> Response:
    """What decides: the bundle's version, encoder, head, operating points and test metrics."""
    return _json(orjson.dumps(_manifest(request).model_dump(include=set(BundleResponse.model_fields))))


async def healthz(request: Request) -> Response:
    """The process is alive."""
    service: Service | None = request.app.state.service
    return _json(
        orjson.dumps(
            {"status": "ok", "bundle": None if service is None else service.live.current.router.manifest.version}
        )
    )


async def readyz(request: Request) -> Response:
    """A bundle is loaded and warm."""
    return _json(orjson.dumps({"status": "ok", "bundle": _manifest(request).version}))


def _route_batch(service: Service, key: str | None, body: bytes, instance: str) -> bytes:
    bodies = parse(BatchBody, body).requests
    _check_batch("requests", len(bodies), service.settings.max_batch)
    if key is not None and len(bodies) > 1:
        _keep_rate(service, key, len(bodies) - 1)
    cases = [service.case(one.request(), one.policy(), key) for one in bodies]
    results = []
    for place, came in enumerate(service.route_batch(cases)):
        if isinstance(came, NoEligibleCandidateError):
            results.append(no_candidate_problem(came, f"{instance}#{place}"))
        elif isinstance(came, BudgetSpentError):
            results.append(budget_problem(came, f"{instance}#{place}"))
        else:
            results.append(decision_document(*came))
    return orjson.dumps({"results": results})


def _feedback(body: bytes, most: int) -> list[Feedback]:
    if not _is_batch(body):
        return [parse(FeedbackBody, body).feedback()]
    bodies = parse(FeedbackBatchBody, body).feedback
    _check_batch("feedback", len(bodies), most)
    return [one.feedback() for one in bodies]


def _is_batch(body: bytes) -> bool:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(document, dict) and "feedback" in document


def _check_batch(field: str, arrived: int, most: int) -> None:
    if arrived > most:
        message = f"{arrived} arrived, a batch takes at most {most} (ROUTER_MAX_BATCH)"
        raise BodyError(f"{field}: {message}", [(field, message)])


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


def _service(request: Request) -> Service:
    service: Service | None = request.app.state.service
    if service is None:
        raise HTTPException(503, "No bundle is loaded yet.", {"Retry-After": "1"})
    return service


def _manifest(request: Request) -> Manifest:
    return _service(request).live.current.router.manifest


def _key(request: Request, service: Service, *, admin: bool = False) -> str | None:
    """The name of the caller's API key; None where the rules have no keys. Raises HTTPException 401, 403 or 429."""
    if not service.rules.keys:
        return None
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    name = service.rules.key_of(secret.strip()) if scheme.lower() == "bearer" else None
    if name is None:
        raise HTTPException(401, "An API key is needed: Authorization: Bearer <key>.", {"WWW-Authenticate": "Bearer"})
    if admin and not service.rules.keys[name].admin:
        raise HTTPException(403, f"The key {name} may not administer (admin = true in the rule file).")
    _keep_rate(service, name)
    return name


def _keep_rate(service: Service, key: str, requests: int = 1) -> None:
    wait = service.rates.keep(key, requests)
    if wait is not None:
        raise HTTPException(429, f"The key {key} is over its rate.", {"Retry-After": str(max(1, ceil(wait)))})


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
    refused = ((401, "No API key, or one that is not known."), (429, "The API key is over its rate."))
    spent = (402, "A budget is spent, and its rule is to reject.")
    unstored = ((404, "Nothing is stored."), (503, "Feedback could not be stored; send it again."))
    unloaded = ((403, "The key may not administer."), (409, "The bundle is refused."))
    routes: tuple[
        tuple[str, Endpoint, type[BaseModel] | None, type[BaseModel], str, tuple[tuple[int, str], ...]], ...
    ] = (
        ("/v1/route", route, RouteBody, RouteResponse, "route", (*invalid, *refused, spent)),
        ("/v1/route/batch", route_batch, BatchBody, BatchResponse, "route", (*invalid, *refused)),
        (
            "/v1/feedback",
            feedback,
            FeedbackOneOrMany,
            FeedbackResponse,
            "feedback",
            (*invalid, *refused, *unstored),
        ),
        ("/v1/candidates", candidates, None, CandidatesResponse, "bundle", ()),
        ("/v1/bundle", bundle, None, BundleResponse, "bundle", ()),
        ("/v1/budgets", budgets, None, BudgetsResponse, "operations", refused),
        (
            "/v1/shadow",
            shadow,
            None,
            ShadowResponse,
            "operations",
            (*refused, (404, "There is no shadow bundle, or no store."), (422, "`hours` is wrong.")),
        ),
        (
            "/v1/admin/reload",
            reload,
            None,
            ReloadResponse,
            "operations",
            (*refused, *unloaded),
        ),
        ("/healthz", healthz, None, HealthResponse, "health", ()),
        ("/readyz", readyz, None, HealthResponse, "health", ()),
    )
    for path, endpoint, body, answer, tag, errors in routes:
        if endpoint in (route, feedback):
            # The endpoint takes the request as it is, so Starlette's own route does: FastAPI's, which follows for the
            # document, would resolve dependencies that there are none of.
            app.router.routes.append(Route(path, endpoint, methods=["POST"]))
        always = (failed,) if endpoint is healthz else (failed, unready)
        app.add_api_route(
            path,
            endpoint,
            methods=["POST" if body is not None or endpoint is reload else "GET"],
            tags=[tag],
            response_model=None,
            responses={200: {"model": answer}, **_problems(*always, *errors)},
            openapi_extra=_body_schema(body) if body is not None else None,
        )
    app.add_api_route("/metrics", metrics, methods=["GET"], tags=["health"], response_class=PlainTextResponse)


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
                [
                    (RouteBody, "validation"),
                    (BatchBody, "validation"),
                    (FeedbackOneOrMany, "validation"),
                    (BatchResponse, "serialization"),
                ],
                ref_template=_REF,
            )
            document.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def serve(
    bundle: Annotated[str | None, typer.Option(help="Folder of the bundle, or models:/<name>@<alias>.")] = None,
    shadow: Annotated[str | None, typer.Option(help="A second bundle that is asked as well and never answers.")] = None,
    policies: Annotated[Path | None, typer.Option(help="The rule file: rules, budgets, API keys.")] = None,
    store: Annotated[
        str | None, typer.Option(help="Decisions and feedback: an SQLite file or a PostgreSQL URL.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that serve.")] = None,
    log_level: Annotated[str | None, typer.Option(help=" | ".join(get_args(LogLevel)))] = None,
) -> None:
    """Serve a bundle over HTTP. What is not given comes from ROUTER_<NAME> in the environment, or the default."""
    options = {
        "bundle": bundle, "shadow": shadow, "policies": policies, "store": store, "host": host, "port": port,
        "workers": workers, "log_level": log_level,
    }  # fmt: skip
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = Settings.model_validate(given)
        service = Service(settings) if settings.workers == 1 else None
        if service is None:
            Service(settings).close()  # says what is wrong before there are workers to say it each
    except ValidationError as error:
        wrong = error.errors()[0]
        _give_up(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}; {wrong['input']!r} arrived")
    except (BundleError, RulesError, StoreError) as error:
        _give_up(str(error))
    configure_logging(settings.log_level)
    options_of_server: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "log_config": None,
        "access_log": settings.log_level == "debug",
        "timeout_graceful_shutdown": 15,
        # A worker that loads on a busy machine is not dead yet, and killing it makes the machine busier.
        "timeout_worker_healthcheck": 60,
    }
    if service is not None:
        gc.freeze()  # what is loaded now stays: looking through it again and again would make some decisions slow
        uvicorn.run(create_app(settings, service), **options_of_server)
        return
    # Workers are new processes that read their settings from the environment.
    hand_on(given)
    with tempfile.TemporaryDirectory(prefix="router-metrics-") as folder:
        share_metrics(folder)
        uvicorn.run("serving.api.app:worker", factory=True, workers=settings.workers, **options_of_server)


def worker() -> FastAPI:
    """The application of one worker process, which sets up its own logging."""
    settings = Settings()
    configure_logging(settings.log_level)
    return create_app(settings)


def _give_up(why: str) -> NoReturn:
    typer.echo(f"router-serve: {why}", err=True)
    raise typer.Exit(2)


def main() -> None:
    """`router-serve`."""
    typer.run(serve)
