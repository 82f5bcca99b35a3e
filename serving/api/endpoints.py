"""The endpoints. One reads its body as bytes and writes its document with orjson, each in one pass."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import asdict
from typing import Annotated, Any

import orjson
from anyio import to_thread
from fastapi import Query, Request, Response
from starlette.exceptions import HTTPException

from serving.api.auth import administers, caller, count_all, may_see, sees_keys
from serving.api.bodies.route import RouteBody
from serving.api.bounds import is_small
from serving.api.confidential import bundle_for_all
from serving.api.documents import BundleResponse, decision_document
from serving.api.evidence.explain import DRY_RUN, shown
from serving.api.evidence.turns import Turns
from serving.api.made import MadeOnce
from serving.api.parsing import BodyError, parse, parse_batch, parse_feedback
from serving.api.problems import problem_of
from serving.bundle.manifest import Manifest
from serving.decide.decision import Decision
from serving.page import html, wanted
from serving.runtime.metrics import CONTENT_TYPE as METRICS_TYPE
from serving.runtime.pipeline import Answer, Service
from serving.runtime.recording import Case
from serving.state.replays import LONGEST_KEY, Call, Make, Named
from serving.state.rulebook import ForbiddenWorkflowError
from serving.store.queries import compared, held_back
from serving.store.writer import NotStoredError

logger = logging.getLogger(__name__)

# What begins a line's label in the metrics where that names an API key.
_OF_A_KEY = b'="key:'


async def route(request: Request) -> Response:
    """The cheapest candidate that is good enough for one request.

    Hard rules come first: what the caller and the server's rules allow, demand and limit, and what the request needs. Of
    what is left, the operating point's trade of quality against cost picks one.

    With an `Idempotency-Key` the same call again has the same answer, and decides nothing.
    """
    service = service_of(request)
    key = await caller(request, service)
    body = await request.body()

    async def made(call: Call | None) -> tuple[bytes, bool]:
        turns, name = request.app.state.explaining, None if call is None else call.named()
        if is_small(body):
            identifier, decision, document = await decided(service, key, body, turns, name)
            content = orjson.dumps(document)
        else:
            limiter = request.app.state.bodies
            apart = to_thread.run_sync(_decided_apart, service, key, body, turns, name, limiter=limiter)
            identifier, decision, content = await apart
        if service.settings.otel:
            from serving.runtime.traces import annotate

            annotate(identifier, decision)
        return content, identifier != DRY_RUN

    return _json(await _once(request, service, key, body, made))


async def _once(request: Request, service: Service, key: str | None, body: bytes, make: Make) -> bytes:
    """What `make` gives of a body, or gave where the call has an `Idempotency-Key` that came before."""
    header = request.headers.get("idempotency-key")
    if header is None or service.replays is None:
        return (await make(None))[0]
    if not 0 < len(header) <= LONGEST_KEY:
        raise BodyError.on("Idempotency-Key", f"it has {len(header)} characters, expected 1 to {LONGEST_KEY}")
    return await service.replays.once(key, header, request.url.path, body, make)


async def decided(
    service: Service, key: str | None, body: bytes, turns: Turns | None = None, name: Named | None = None
) -> tuple[str, Decision, dict[str, object]]:
    """The decision on a body: its id, which may be named, itself, and its document. What it rests on is found by `turns`."""
    asked = parse(RouteBody, body, service.settings.max_values)
    case = service.case(asked.request(), asked.policy(), key, name)
    if asked.shows:
        return await shown(service, case, asked, turns)
    identifier, decision = await service.route(case)
    return identifier, decision, decision_document(identifier, decision, asked.misspelt)


def _decided_apart(
    service: Service, key: str | None, body: bytes, turns: Turns, name: Named | None
) -> tuple[str, Decision, bytes]:
    """The same in a thread with an event loop of its own: nothing that a large body takes holds up the other requests."""
    identifier, decision, document = asyncio.run(decided(service, key, body, turns, name))
    return identifier, decision, orjson.dumps(document)


async def route_batch(request: Request) -> Response:
    """Decisions for many requests with one forward pass, each under its own policy.

    A request with no eligible candidate, whose budget is spent or whose workflow the key is not for has a problem document
    in its place (it has `status` and no `model`); an invalid request fails the batch. With an `Idempotency-Key` the same batch
    again has the same answer.
    """
    service = service_of(request)
    key = await caller(request, service)
    body = await request.body()

    async def made(call: Call | None) -> tuple[bytes, bool]:
        path, limiter = request.url.path, request.app.state.bodies
        return await to_thread.run_sync(_route_batch, service, key, body, path, call, limiter=limiter), True

    return _json(await _once(request, service, key, body, made))


async def feedback(request: Request) -> Response:
    """What came of one decision, or of several (`feedback`). The answer comes when all of it is on disk.

    What is told later is added to what was told before, and the same again changes nothing. Another value of a field is a 409,
    or takes the other's place with `replace`. A decision that is not known, or another key's, is a 404. In a list each has its
    result in its place, a problem document perhaps. 503: it was not stored, send it again.
    """
    service = service_of(request)
    key = await caller(request, service)
    if service.store is None:
        raise HTTPException(404, "This service stores no decisions (ROUTER_STORE is empty).")
    body = await request.body()
    limits = service.settings.max_batch, service.settings.max_values
    if is_small(body):
        bodies, several = parse_feedback(body, *limits)
    else:
        bodies, several = await to_thread.run_sync(parse_feedback, body, *limits, limiter=request.app.state.bodies)
    if len(bodies) > 1:
        await to_thread.run_sync(count_all, service, key, "feedback", len(bodies))
    try:
        came = await service.recorder.feedback([one.feedback() for one in bodies], key)
    except NotStoredError as error:
        raise HTTPException(503, f"Feedback was not stored: {error}.", {"Retry-After": "1"}) from None
    except TimeoutError:
        raise HTTPException(503, "Feedback was not stored in time; send it again.", {"Retry-After": "1"}) from None
    if not several and isinstance(came[0], Exception):
        raise came[0]
    results = [
        one if isinstance(one, str) else problem_of(one, f"{request.url.path}#{place}")
        for place, one in enumerate(came)
    ]
    counts = {"recorded": came.count("recorded"), "repeated": came.count("repeated")}
    return _json(orjson.dumps({**counts, "results": results}))


async def budgets(request: Request) -> Response:
    """Every budget in its current period that the caller may see.

    Of the keys' budgets its own, of the workflows' those that its key is bound to; all, if the key may administer.
    """
    service = service_of(request)
    key = await caller(request, service)
    return _json(orjson.dumps({"budgets": budget_lines(service, key)}))


async def reload(request: Request) -> Response:
    """Has every worker take over the bundle, the shadow bundle and the rule file as they are now, and says what each has.

    409: something is refused, by one of them at least, and what was there stays.
    """
    service = service_of(request)
    await caller(request, service, admin=True)
    came = await to_thread.run_sync(service.reload)
    refusals = dict.fromkeys(said for one in came for said in one.refusals)
    if refusals:
        raise HTTPException(409, " ".join(refusals))
    workers = [{"worker": one.worker, "bundle": one.bundle, "shadow": one.shadow} for one in came]
    changed = any(one.changed for one in came)
    return _json(orjson.dumps({"changed": changed, "bundle": came[0].bundle, "workers": workers}))


async def shadow(request: Request, hours: Annotated[float, Query(gt=0, le=24 * 366)] = 24.0) -> Response:
    """What the shadow bundle would have decided, against what was decided, over the last hours, for who may administer.

    And what the router itself would have chosen where its decisions were held back, for which no shadow bundle is needed.
    """
    service = service_of(request)
    await caller(request, service, admin=True)
    store, live = service.store, service.live.version
    shadow = None if service.shadow is None else service.shadow.live.version
    if store is None:
        raise HTTPException(404, "This service stores no decisions.")
    since = time.time() - hours * 3600
    own = [asdict(one) for one in await to_thread.run_sync(held_back, store.engine, live, since)]
    rows = []
    if shadow is not None:
        rows = [asdict(one) for one in await to_thread.run_sync(compared, store.engine, live, shadow, since)]
    elif not own and service.settings.share == 1:
        raise HTTPException(
            404, "This service has no shadow bundle (ROUTER_SHADOW), and held no decision back (ROUTER_SHARE)."
        )
    document = {
        "bundle": live,
        "shadow": shadow,
        "hours": hours,
        "total": rows[0] if rows else None,
        "workflows": rows[1:],
        "held_back": {"total": own[0] if own else None, "workflows": own[1:]},
    }
    return _json(orjson.dumps(document))


async def metrics(request: Request) -> Response:
    """Prometheus metrics; what names an API key only for one that may administer, or with the metrics' own token."""
    service = service_of(request)
    everything, for_all = await request.app.state.metrics.value()
    return Response(everything if sees_keys(request, service) else for_all, media_type=METRICS_TYPE)


def metrics_of(service: Service) -> tuple[bytes, bytes]:
    """The metrics' document, and the same without what names an API key."""
    document = service.metrics.document()
    return document, b"".join(line for line in document.splitlines(keepends=True) if _OF_A_KEY not in line)


async def candidates(request: Request) -> Response:
    """The candidates, in the order of every decision's list."""
    return _json(_CANDIDATES.of(_manifest(request)))


def _candidates(manifest: Manifest) -> bytes:
    rows = [{**one.model_dump(), "cost_from": manifest.cost_from[one.name]} for one in manifest.candidates]
    return orjson.dumps({"reference": manifest.reference, "candidates": rows})


async def bundle(request: Request) -> Response:
    """What decides: the bundle's version, encoder, head, operating points and test metrics.

    No key is asked for. Where there are keys, names of workflows and the log's volume and cost are for one that may administer.
    """
    made = _BUNDLE if administers(request, service_of(request)) else _BUNDLE_FOR_ALL
    return _json(made.of(_manifest(request)))


def _bundle(manifest: Manifest) -> dict[str, Any]:
    return manifest.model_dump(include=set(BundleResponse.model_fields))


_CANDIDATES = MadeOnce(_candidates)
_BUNDLE = MadeOnce(lambda manifest: orjson.dumps(_bundle(manifest)))
_BUNDLE_FOR_ALL = MadeOnce(lambda manifest: orjson.dumps(bundle_for_all(_bundle(manifest))))


async def root(request: Request) -> Response:
    """What answers here: the page for who opened the address in a browser, and for a program what there is."""
    page = request.app.state.settings.page
    if page and wanted(request):
        return html(request)
    bundle = None if request.app.state.service is None else _manifest(request).version
    links = {"documentation": "/docs", "openapi": "/openapi.json", "health": "/healthz", "metrics": "/metrics"}
    shown = {"page": "/"} if page else {}
    answer = _json(orjson.dumps({"service": "outcome-router", "bundle": bundle, **links, **shown}))
    answer.headers["Vary"] = "Accept"
    return answer


async def healthz(request: Request) -> Response:
    """The process is alive."""
    service: Service | None = request.app.state.service
    return _json(
        orjson.dumps(
            {"status": "ok", "bundle": None if service is None else service.live.current.router.manifest.version}
        )
    )


async def readyz(request: Request) -> Response:
    """A bundle is loaded and warm, and the process is not about to stop."""
    if request.app.state.stopping:
        raise HTTPException(503, "This process is about to stop.")
    return _json(orjson.dumps({"status": "ok", "bundle": _manifest(request).version}))


def _route_batch(service: Service, key: str | None, body: bytes, instance: str, call: Call | None) -> bytes:
    bodies = parse_batch(body, service.settings.max_batch, service.settings.max_values)
    count_all(service, key, "requests", len(bodies))
    names = [None if call is None else call.named(place) for place in range(len(bodies))]
    cases = [_case(service, one, key, name) for one, name in zip(bodies, names, strict=True)]
    answers = iter(service.route_batch([case for case in cases if isinstance(case, Case)]))
    came: list[Answer | Exception] = [next(answers) if isinstance(case, Case) else case for case in cases]
    results = [
        problem_of(one, f"{instance}#{place}")
        if isinstance(one, Exception)
        else decision_document(*one, bodies[place].misspelt)
        for place, one in enumerate(came)
    ]
    return orjson.dumps({"results": results})


def _case(service: Service, body: RouteBody, key: str | None, name: Named | None) -> Case | Exception:
    """One request of a batch, or why it is none, which is no reason to refuse the others."""
    try:
        return service.case(body.request(), body.policy(), key, name)
    except ForbiddenWorkflowError as error:
        return error
    except Exception as error:
        logger.exception("one request of a batch could not be read")
        return error


def budget_lines(service: Service, key: str | None) -> list[dict[str, object]]:
    """Every budget in its current period that a caller may see, as `BudgetLine` describes it."""
    return [
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
        if may_see(service, key, one.scope)
    ]


def service_of(request: Request) -> Service:
    """The service behind the application; raises HTTPException 503 before it has started."""
    service: Service | None = request.app.state.service
    if service is None:
        raise HTTPException(503, "No bundle is loaded yet.", {"Retry-After": "1"})
    return service


def _manifest(request: Request) -> Manifest:
    return service_of(request).live.current.router.manifest


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")
