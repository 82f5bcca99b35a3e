"""Why a call may go to nobody, and how its client is told."""

from __future__ import annotations

from collections.abc import Mapping

from serving.client import RouteRefusedError

# Fields of /v1/route that say what is sent to an LLM; "" is the body as a whole.
_OF_THE_TEXT = (
    "prompt", "messages", "tools", "functions", "response_format", "max_tokens", "max_completion_tokens",
    "max_output_tokens", "",
)  # fmt: skip


class RefusedError(Exception):
    """Nobody may answer: by rights or names (403), by a demand that is none (422), or for want of a check (503)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def is_about_the_text(error: RefusedError | RouteRefusedError) -> bool:
    """Whether the router could not read the request itself: an LLM may, so that is no reason to refuse it."""
    if not isinstance(error, RouteRefusedError):
        return False
    wrong = error.problem.get("errors")
    fields = [str(one.get("field", "")) for one in wrong if isinstance(one, Mapping)] if isinstance(wrong, list) else []
    return bool(fields) and all(field.partition(".")[0] in _OF_THE_TEXT for field in fields)


def said(error: RefusedError | RouteRefusedError) -> str:
    """What its client reads."""
    return str(error.problem.get("detail") or error) if isinstance(error, RouteRefusedError) else str(error)


def http_error(error: RefusedError | RouteRefusedError) -> Exception:
    """The refusal as the proxy's client gets it."""
    from fastapi import HTTPException

    return HTTPException(error.status, {"error": f"outcome-router: {said(error)}"})
