"""From a body's bytes to a value: one pass of pydantic, and an error for each field that is wrong.

FastAPI's own way parses, validates and serialises in separate steps, which costs more than deciding does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from serving.api.bodies import BRANCH, BatchBody, FeedbackBatchBody, FeedbackBody, RouteBody
from serving.store.feedback import Feedback

Body = TypeVar("Body", bound=BaseModel)

# One escape sequence of a JSON string; the group is a surrogate that is not half of a pair. Taking `\\` whole keeps
# an escaped backslash before a "u" what it is.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)"
)


class BodyError(ValueError):
    """A request body that cannot be used; `errors` are (field, message), empty if the body is not JSON."""

    def __init__(self, detail: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.errors = tuple(errors)

    @classmethod
    def of(cls, error: ValidationError) -> BodyError:
        """What pydantic found, without the input it found it in."""
        found = error.errors(include_url=False, include_context=False, include_input=False)
        if found[0]["type"] == "json_invalid":
            return cls(found[0]["msg"])
        errors = [(dotted(one["loc"]), one["msg"]) for one in found]
        field, message = errors[0]
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        return cls(f"{field or 'the body'}: {message}{more}", errors)


def dotted(location: Sequence[int | str]) -> str:
    """("messages", 0, "content", "<parts>", 1) as messages.0.content.1."""
    return ".".join(str(step) for step in location if not str(step).startswith(BRANCH))


def without_lone_surrogates(body: bytes) -> bytes:
    r"""The JSON document with every lone surrogate escape (`\ud800`) as `\ufffd`.

    JSON allows them and text cut in the middle of an emoji has them, but no UTF-8 text can hold one.
    """
    return _ESCAPE.sub(lambda escape: rb"\ufffd" if escape.group(1) else escape.group(0), body)


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


def parse_batch(body: bytes, most: int) -> list[RouteBody]:
    """The requests of a batch; raises BodyError, also where there are more than `most`."""
    bodies = parse(BatchBody, body).requests
    _check_batch("requests", len(bodies), most)
    return bodies


def parse_feedback(body: bytes, most: int) -> list[Feedback]:
    """Feedback on one decision, or on at most `most`; raises BodyError."""
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
