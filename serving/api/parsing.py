"""From a body's bytes to a value: one pass of pydantic, and an error for each field that is wrong.

FastAPI's own way parses, validates and serialises in separate steps, which costs more than deciding does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from serving.api.bodies.chat import BRANCH, resembling
from serving.api.bodies.feedback import FeedbackBody, FeedbackOneOrMany
from serving.api.bodies.route import BatchBody, RouteBody
from serving.api.bounds import too_large

Body = TypeVar("Body", bound=BaseModel)

# So many things that are wrong are named, and of a name so many characters: the answer to a bad body is a short one.
MOST_ERRORS = 20
_LONGEST_STEP = 64
_TOLD = tuple(FeedbackBody.model_fields)
# JSON that is too much for the parser, and not wrong.
_BEYOND = ("recursion limit", "number out of range")
# What it says of half a surrogate pair.
_SURROGATE = "hex escape"

# A surrogate that is not half of a pair, and any other escape sequence, each without its backslash. Taking `\\` whole keeps an
# escaped backslash before a "u" what it is.
_LONE = rb"u[dD](?:[c-fC-F]HH|[89abAB]HH(?!\\u[dD][c-fC-F]HH))"
_OTHER = rb"(?:u[dD][89abAB]HH\\u[dD][c-fC-F]HH|(?!u[dD][89a-fA-F]).)"
# Runs of either; not too long ones, for other threads get their turn between two of them.
_ESCAPES = re.compile(
    rb"\\(?:(LONE(?:\\LONE){0,255}+)|OTHER(?:\\OTHER){0,255}+)".replace(b"LONE", _LONE)
    .replace(b"OTHER", _OTHER)
    .replace(b"HH", rb"[0-9a-fA-F]{2}"),
    re.DOTALL,
)
_LENGTH = len(rb"\ud800")


class BodyError(ValueError):
    """A request body that cannot be used; `errors` are (field, message), at most 20, empty if the body is not JSON."""

    def __init__(self, detail: str, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(detail)
        self.errors = tuple(errors[:MOST_ERRORS])

    @classmethod
    def on(cls, field: str, message: str, others: Sequence[tuple[str, str]] = (), *, more: int = 0) -> BodyError:
        """One wrong field, and `others`; `more` is how many are wrong besides the first."""
        said = f"{field or 'the body'}: {message}" + (f" (and {more} more)" if more else "")
        return cls(said, [(field, message), *others])

    @classmethod
    def of(cls, error: ValidationError) -> BodyError:
        """What pydantic found, without the input it found it in."""
        found = error.errors(include_url=False, include_context=False, include_input=False)
        if found[0]["type"] == "json_invalid":
            message = found[0]["msg"]
            return cls.on("", message) if any(one in message for one in _BEYOND) else cls(message)
        first, *others = [(dotted(one["loc"]), _message(one)) for one in found[:MOST_ERRORS]]
        return cls.on(*first, others, more=len(found) - 1)


def _message(error: ErrorDetails) -> str:
    """What pydantic says, and of a field that there is not in feedback, which one may be meant."""
    if error["type"] != "extra_forbidden":
        return error["msg"]
    meant = resembling(str(error["loc"][-1])[:_LONGEST_STEP], _TOLD)
    return error["msg"] + (f"; did you mean {meant}?" if meant else "")


def dotted(location: Sequence[int | str]) -> str:
    """("messages", 0, "content", "<parts>", 1) as messages.0.content.1; a step that a client made up is cut."""
    return ".".join(str(step)[:_LONGEST_STEP] for step in location if not str(step).startswith(BRANCH))


def without_lone_surrogates(body: bytes) -> bytes:
    r"""The JSON document with every lone surrogate escape (`\ud800`) as `\ufffd`.

    JSON allows them and text cut in the middle of an emoji has them, but no UTF-8 text can hold one.
    """
    return _ESCAPES.sub(lambda run: rb"\ufffd" * (len(run[0]) // _LENGTH) if run[1] else run[0], body)


def parse(model: type[Body], body: bytes, most_values: int) -> Body:
    """The body as `model`; raises BodyError with the path of each field that is wrong, or with what is too much of it."""
    beyond = too_large(body, most_values)
    if beyond is not None:
        raise BodyError.on("", beyond)
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        wrong = BodyError.of(error)
    if wrong.errors or _SURROGATE not in str(wrong):
        raise wrong
    try:
        return model.model_validate_json(without_lone_surrogates(body))
    except ValidationError as error:
        raise BodyError.of(error) from None


def parse_batch(body: bytes, most: int, most_values: int) -> list[RouteBody]:
    """The requests of a batch; raises BodyError, also where there are more than `most`."""
    bodies = parse(BatchBody, body, most_values).requests
    _check_batch("requests", len(bodies), most)
    return bodies


def parse_feedback(body: bytes, most: int, most_values: int) -> tuple[list[FeedbackBody], bool]:
    """Feedback on one decision, or on at most `most`, and whether it came as a list; raises BodyError."""
    said = parse(FeedbackOneOrMany, body, most_values)
    if said.several:
        _check_batch("feedback", len(said.bodies), most)
    return said.bodies, said.several


def _check_batch(field: str, arrived: int, most: int) -> None:
    if arrived > most:
        raise BodyError.on(field, f"{arrived} arrived, a batch takes at most {most} (ROUTER_MAX_BATCH)")
