"""The endpoints. One reads its body as bytes and writes its document with orjson, each in one pass."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import orjson
from anyio import to_thread
from fastapi import Query, Request, Response
from starlette.exceptions import HTTPException

from serving.api.auth import caller, keep_rate
from serving.api.bodies import RouteBody
from serving.api.documents import BundleResponse, decision_document
from serving.api.parsing import parse, parse_batch, parse_feedback
from serving.api.problems import budget_problem, no_candidate_problem, problem
from serving.bundle.manifest import Manifest
from serving.decide.eligibility import NoEligibleCandidateError
from serving.runtime.metrics import CONTENT_TYPE as METRICS_TYPE
from serving.runtime.pipeline import Service, UndecidedError
from serving.state.budgets import BudgetSpentError
from serving.store.feedback import ConflictError, UnknownDecisionError
from serving.store.queries import compared
from serving.store.writer import NotStoredError

# From this length on a body is handled in a worker thread: reading it would hold up the requests behind it.
_INLINE_BYTES = 32 * 1024


async def route(request: Request) -> Response:
    """The cheapest candidate that is good enough for one request.

    Hard rules come first: what the caller and the server's rules allow, demand and limit, and what the request needs. Of
    what is left, the operating point's trade of quality against cost picks one.
    """
    service = service_of(request)
    key = caller(request, service)
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
    service = service_of(request)
    key = caller(request, service)
    body = await request.body()
    return _json(await to_thread.run_sync(_route_batch, service, key, body, request.url.path))


async def feedback(request: Request) -> Response:
    """What came of one decision, or of several (`feedback`). The answer comes when all of it is on disk.

    Sending the same again changes nothing. 503: it was not stored, send it again.
    """
    service = service_of(request)
    key = caller(request, service)
    if service.store is None:
        raise HTTPException(404, "This service stores no decisions (ROUTER_STORE is empty).")
    body = await request.body()
    said = await to_thread.run_sync(parse_feedback, body, service.settings.max_batch)
    try:
        came = await service.recorder.feedback(said, key)
    except NotStoredError as error:
        raise HTTPException(503, f"Feedback was not stored: {error}.", {"Retry-After": "1"}) from None
    except TimeoutError:
        raise HTTPException(503, "Feedback was not stored in time; send it again.", {"Retry-After": "1"}) from None
    for one in came if len(said) == 1 else ():
        if isinstance(one, UnknownDecisionError):
            raise HTTPException(404, str(one))
        if isinstance(one, ConflictError):
            raise HTTPException(409, str(one))
    return _json(orjson.dumps({"recorded": came.count("recorded"), "repeated": came.count("repeated")}))


async def budgets(request: Request) -> Response:
    """Every budget in its current period; of the keys' budgets only the caller's own, unless its key may administer."""
    service = service_of(request)
    key = caller(request, service)
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
    """Has every worker take over the bundle, the shadow bundle and the rule file as they are now, and says what each has.

    409: something is refused, by one of them at least, and what was there stays.
    """
    service = service_of(request)
    caller(request, service, admin=True)
    came = await to_thread.run_sync(service.reload)
    refusals = dict.fromkeys(said for one in came for said in one.refusals)
    if refusals:
        raise HTTPException(409, " ".join(refusals))
    workers = [{"worker": one.worker, "bundle": one.bundle, "shadow": one.shadow} for one in came]
    changed = any(one.changed for one in came)
    return _json(orjson.dumps({"changed": changed, "bundle": came[0].bundle, "workers": workers}))


async def shadow(request: Request, hours: Annotated[float, Query(gt=0, le=24 * 366)] = 24.0) -> Response:
    """What the shadow bundle would have decided, against what was decided, over the last hours."""
    service = service_of(request)
    caller(request, service)
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
    service = service_of(request)
    return Response(await to_thread.run_sync(service.metrics.document), media_type=METRICS_TYPE)


async def candidates(request: Request) -> Response:
    """The candidates, in the order of every decision's list."""
    manifest = service_of(request).live.current.router.manifest
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
    bodies = parse_batch(body, service.settings.max_batch)
    if key is not None and len(bodies) > 1:
        keep_rate(service, key, len(bodies) - 1)
    cases = [service.case(one.request(), one.policy(), key) for one in bodies]
    results = []
    for place, came in enumerate(service.route_batch(cases)):
        if isinstance(came, NoEligibleCandidateError):
            results.append(no_candidate_problem(came, f"{instance}#{place}"))
        elif isinstance(came, BudgetSpentError):
            results.append(budget_problem(came, f"{instance}#{place}"))
        elif isinstance(came, UndecidedError):
            results.append(problem(500, str(came), f"{instance}#{place}"))
        else:
            results.append(decision_document(*came))
    return orjson.dumps({"results": results})


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
