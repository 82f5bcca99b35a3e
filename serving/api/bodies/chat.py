"""OpenAI's chat completions, as far as they are read: messages, their parts, and the response format."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import lru_cache
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Discriminator, Field, Tag
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

# What names a branch of a union in an error's location; a client sees only the path in its own document.
BRANCH = "<"
MOST_MESSAGES = 10_000
MOST_PARTS = 1_000
MOST_TOOLS = 1_024


def _content_branch(content: Any) -> str | None:
    if isinstance(content, str):
        return "<text>"
    return "<parts>" if isinstance(content, list) else None


def _part_branch(part: Any) -> str | None:
    if isinstance(part, str):
        return "<text>"
    return "<part>" if isinstance(part, dict) else None


Part = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[dict[str, Any], Tag("<part>")],
    Discriminator(
        _part_branch,
        custom_error_type="part_type",
        custom_error_message="a content part must be an object or a string",
    ),
]
Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[Part], Field(max_length=MOST_PARTS, fail_fast=True), Tag("<parts>")],
    Discriminator(
        _content_branch,
        custom_error_type="content_type",
        custom_error_message="content must be a string, a list of parts or null",
    ),
]


class ChatMessage(TypedDict):
    """An OpenAI chat message. Text is read from `content`; other keys are kept and not looked at."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    role: NotRequired[str]
    content: NotRequired[Content | None]


class ResponseFormat(TypedDict):
    """OpenAI's `response_format`; the type `json_schema` asks for a candidate that can keep to the schema beside it.

    Whatever stands beside the type is sent along, and read as the prompt is."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]

    type: str
    json_schema: NotRequired[Any]


# A list's length is looked at before its items, and its first wrong item ends it: neither takes long, whatever arrives.
Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MOST_MESSAGES, fail_fast=True)]
Tools = Annotated[list[dict[str, Any]], Field(max_length=MOST_TOOLS, fail_fast=True)]


# Fields of OpenAI, of gateways and of servers that resemble one of ours and mean something else.
_OF_OTHERS = frozenset(
    {
        "object",
        "model",
        "tool",
        "function",
        "functions_call",
        "request",
        "prompt_id",
        "privacy_id",
        "no_tracing",
        "min_tokens",
        "min_completion_tokens",
    }
    | {f"max_{what}_tokens" for what in ("prompt", "input", "new", "context")}
)
_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ALIKE, _LONGER = 0.8, 5
# Of the letters of a field so many have to be in a name that is compared with it.
_SHARED = 0.7


_DEMANDS = ("zdr", "data_collection", "zero_retention", "no_training")
_LONGEST_DEMAND = 40


@lru_cache(maxsize=1024)
def resembling(name: str, fields: tuple[str, ...]) -> str:
    """The field that the name may be a slip of the pen for, "" for none; one in another case is a slip."""
    spelt = _spelt(name)
    if spelt in _OF_OTHERS:
        return ""
    near = [one for one in fields if one[0] == spelt[:1] and abs(len(one) - len(spelt)) <= _LONGER]
    return "".join(get_close_matches(spelt, near, 1, _ALIKE))


@lru_cache(maxsize=1024)
def may_resemble(name: str, fields: frozenset[str]) -> bool:
    """Whether it is worth the time to ask whether a name resembles one of a few fields."""
    letters = set(_spelt(name))
    return any(len(letters & set(one)) >= _SHARED * len(set(one)) for one in fields)


def _spelt(name: str) -> str:
    """As fields are spelt here: noSuchField and No-Such-Field are no_such_field."""
    return _CAPITAL.sub("_", name).lower().replace("-", "_").strip("_ ")


def demands_of(provider: Any) -> tuple[bool, bool]:
    """What OpenRouter's `provider` asks of privacy: whether nothing may be kept, and whether nothing may be trained on.

    As it is spelt there (`zdr`, `data_collection`) or nearly so, and by the names that the demands have here.
    """
    kept = trained = False
    for name, value in provider.items() if isinstance(provider, dict) else ():
        meant = resembling(name, _DEMANDS) if len(name) <= _LONGEST_DEMAND else ""
        asked = value is True or value == 1 or (isinstance(value, str) and value.lower() in ("true", "deny"))
        kept = kept or (asked and meant in ("zdr", "zero_retention"))
        trained = trained or (asked and meant in ("data_collection", "no_training"))
    return kept, trained
