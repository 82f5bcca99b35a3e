"""Why a call may go to nobody, and how its client is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

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


class AdministratorsError(RefusedError):
    """A demand that is none, by an administrator: in the metadata of a key or of a team."""


def is_about_the_text(error: RefusedError | RouteRefusedError) -> bool:
    """Whether the router could not read the request itself: an LLM may, so that is no reason to refuse it."""
    if not isinstance(error, RouteRefusedError):
        return False
    wrong = error.problem.get("errors")
    fields = [str(one.get("field", "")) for one in wrong if isinstance(one, Mapping)] if isinstance(wrong, list) else []
    return bool(fields) and all(field.partition(".")[0] in _OF_THE_TEXT for field in fields)


def meant(name: str, known: Sequence[str]) -> str:
    """Which of the known names a misspelt one may stand for, as the end of a sentence; "" for none."""
    near = get_close_matches(name, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


def said(error: RefusedError | RouteRefusedError) -> str:
    """What its client reads."""
    return str(error.problem.get("detail") or error) if isinstance(error, RouteRefusedError) else str(error)


def undecided(error: RefusedError | RouteRefusedError, key: Any) -> tuple[str, str, Exception | None]:
    """What is said of a call of an existing group: an administrator's fault by its text, a client's may be a prompt."""
    if not isinstance(error, AdministratorsError):
        return "unread", f"no decision on a call of an existing group ({error.status}), it goes on without", error
    alias = getattr(key, "key_alias", None)
    whose = f" (of the key {alias})" if isinstance(alias, str) else ""
    return "metadata", f"no decision on calls of existing groups{whose}: {error}", None


def http_error(error: RefusedError | RouteRefusedError) -> Exception:
    """The refusal as the proxy's client gets it."""
    from fastapi import HTTPException

    return HTTPException(error.status, {"error": f"outcome-router: {said(error)}"})
