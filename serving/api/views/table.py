"""What the application adds for each view."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from fastapi import Response
from pydantic import BaseModel

OPERATORS = (403, "The key may not administer.")
REFUSED = ((401, "No API key, or one that is not known."), (429, "The API key is over its rate."))


class View(NamedTuple):
    """A GET endpoint: its path, what answers, the model of the answer, its tag, and the errors it may give with their texts.

    `media` is the type of an answer that is no JSON. Of one that `streams` there is no other, and it is documented as text: the
    model, which is that of each event's data, is for people.
    """

    path: str
    endpoint: Callable[..., Awaitable[Response]]
    answer: type[BaseModel]
    tag: str
    errors: tuple[tuple[int, str], ...] = REFUSED
    media: str | None = None
    streams: bool = False
