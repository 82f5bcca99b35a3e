"""Errors on the wire: every one is an `application/problem+json` document (RFC 9457).

    BodyError                     the body is not JSON (400), or not what the endpoint takes (422)
    RemovedKeyError               401
    BudgetSpentError              402
    ForbiddenWorkflowError        403
    UnknownDecisionError          404
    ConflictError                 409, with the fields that feedback contradicts
    OtherBodyError                409, of an Idempotency-Key
    UnderWayError                 409 with Retry-After, of an Idempotency-Key
    NoEligibleCandidateError      422, with the rule that excludes each candidate
    HTTPException                 401, 403, 404, 405, 413, 429, 503
    anything else                 500, logged with its traceback, and nothing of it on the wire

What a client sent is never echoed and never logged, for it may be a prompt: names of fields alone are, cut short.
"""

from __future__ import annotations

import logging
from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api.parsing import BodyError, dotted
from serving.decide.eligibility import NoEligibleCandidateError
from serving.state.budgets import BudgetSpentError
from serving.state.replays import OtherBodyError, UnderWayError
from serving.state.rulebook import ForbiddenWorkflowError, RemovedKeyError
from serving.store.feedback import ConflictError, UnknownDecisionError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
INVALID = "urn:outcome-router:invalid-request"
BUDGET_SPENT = "urn:outcome-router:budget-spent"
FORBIDDEN_WORKFLOW = "urn:outcome-router:forbidden-workflow"
UNKNOWN_DECISION = "urn:outcome-router:unknown-decision"
CONFLICT = "urn:outcome-router:feedback-conflict"
IDEMPOTENCY_CONFLICT = "urn:outcome-router:idempotency-conflict"
UNDER_WAY = "urn:outcome-router:idempotency-under-way"
NO_CANDIDATE = "urn:outcome-router:no-eligible-candidate"
# What the store calls otherwise than clients do.
_FIELDS = {"candidate": "model"}
_OF_CALLERS, _UNKEPT = "/v1/", (b"cache-control", b"no-store")
_LEAVE = (b"connection", b"close")
_FAILED = "The request could not be handled; the log says why."


def problem(
    status: int, detail: str, instance: str, kind: str = "about:blank", title: str = "", **more: object
) -> dict[str, object]:
    """A problem document; `more` are members of its kind."""
    title = title or HTTPStatus(status).phrase
    return {"type": kind, "title": title, "status": status, "detail": detail, "instance": instance, **more}


def problem_of(error: Exception, instance: str) -> dict[str, object]:
    """The problem that an error is on the wire; what is none of the known ones is a 500 that says nothing of it."""
    match error:
        case BodyError():
            return body_problem(error, instance)
        case NoEligibleCandidateError():
            return problem(422, str(error), instance, NO_CANDIDATE, "No eligible candidate", ruled_out=error.rules)
        case BudgetSpentError():
            return problem(402, str(error), instance, BUDGET_SPENT, "Budget spent")
        case RemovedKeyError():
            return problem(401, str(error), instance)
        case ForbiddenWorkflowError():
            return problem(403, str(error), instance, FORBIDDEN_WORKFLOW, "Forbidden workflow")
        case UnknownDecisionError():
            return problem(404, str(error), instance, UNKNOWN_DECISION, "Unknown decision")
        case ConflictError():
            return _conflict(error, instance)
        case OtherBodyError():
            return problem(409, str(error), instance, IDEMPOTENCY_CONFLICT, "Idempotency conflict")
        case UnderWayError():
            return problem(409, str(error), instance, UNDER_WAY, "Under way")
        case HTTPException():
            return problem(error.status_code, error.detail, instance)
        case _:
            return problem(500, _FAILED, instance)


def _conflict(error: ConflictError, instance: str) -> dict[str, object]:
    """Names the fields as a client does, and no value: what was told before may be a secret of who told it."""
    fields = [_FIELDS.get(one, one) for one in error.fields]
    detail = (
        f"Earlier feedback on this decision has another {', '.join(fields)}; leave that out, or send replace: true."
    )
    return problem(409, detail, instance, CONFLICT, "Feedback conflict", fields=fields)


def body_problem(error: BodyError, instance: str) -> dict[str, object]:
    """The problem of a body that is not JSON, or not what the endpoint takes."""
    if not error.errors:
        return problem(400, str(error), instance, INVALID, "Malformed JSON")
    fields = [{"field": field, "message": message} for field, message in error.errors]
    return problem(422, str(error), instance, INVALID, "Invalid request", errors=fields)


def problem_response(document: dict[str, object], headers: dict[str, str] | None = None) -> Response:
    """The response that carries a problem document, with the document's status."""
    status = document["status"]
    assert isinstance(status, int)
    return Response(orjson.dumps(document), status, headers, MEDIA_TYPE)


async def _on_error(request: Request, error: Exception) -> Response:
    headers = dict(error.headers) if isinstance(error, HTTPException) and error.headers else None
    if isinstance(error, UnderWayError):
        headers = {"Retry-After": "1"}
    return problem_response(problem_of(error, request.url.path), headers)


async def _on_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    (field, message), *others = [(dotted(one["loc"][1:]), one["msg"]) for one in error.errors()]
    return problem_response(body_problem(BodyError.on(field, message, others), request.url.path))


# What `problem_of` knows; what it does not is for the last resort, which logs it.
_KNOWN = (
    BodyError,
    RemovedKeyError,
    BudgetSpentError,
    ForbiddenWorkflowError,
    UnknownDecisionError,
    ConflictError,
    OtherBodyError,
    UnderWayError,
    NoEligibleCandidateError,
    HTTPException,
)


class LastResort:
    """Middleware: an exception that nothing else handles is logged, and answered by a problem without its text.

    What is answered under /v1/ is for who asked, now: nobody on the way may keep it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _count(scope, message["status"])
                if scope["path"].removeprefix(scope.get("root_path", "")).startswith(_OF_CALLERS):
                    message["headers"] = [*message.get("headers", ()), _UNKEPT]
                if scope["app"].state.stopping:  # who asks again is to find another
                    message["headers"] = [*message.get("headers", ()), _LEAVE]
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except ClientDisconnect:
            logger.debug("the client of %s %s left before its request was read", scope["method"], scope["path"])
        except Exception:  # the process has to outlive any one request
            logger.exception("unexpected error on %s %s", scope["method"], scope["path"])
            if started:
                raise
            document = problem(500, _FAILED, scope["path"])
            await problem_response(document)(scope, receive, watch)


def _count(scope: Scope, status: int) -> None:
    service = scope["app"].state.service
    if status >= 400 and service is not None:
        service.metrics.problem(status)


def install(app: FastAPI) -> None:
    """Makes every error of `app` a problem document."""
    for known in _KNOWN:
        app.add_exception_handler(known, _on_error)
    app.add_exception_handler(RequestValidationError, _on_query)
    app.add_middleware(LastResort)
