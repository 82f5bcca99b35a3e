"""How large a body for the router is, and a smaller one that says the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A body of more characters is written and read in a thread.
_INLINE = 32 * 1024


def is_short(body: Mapping[str, Any]) -> bool:
    """Whether the characters of a body's texts, about, are so few that it is handled at once."""
    total, waiting = 0, list(body.values())
    while waiting and total <= _INLINE:
        one = waiting.pop()
        if isinstance(one, str):
            total += len(one)
        elif isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, list | tuple):
            waiting.extend(one)
        total += 8
    return total <= _INLINE


def without_pictures(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body with pictures as empty ones: they count as one picture each whatever is in them, and are megabytes."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not any(isinstance(_content(one), list) for one in messages):
        return body
    return {**body, "messages": [_bare(one) for one in messages]}


def _content(message: Any) -> Any:
    return message.get("content") if isinstance(message, Mapping) else None


def _bare(message: Any) -> Any:
    content = _content(message)
    if not isinstance(content, list):
        return message
    return {**message, "content": [_bare_part(part) for part in content]}


_PICTURES = ("image_url", "input_image", "image")


def _bare_part(part: Any) -> Any:
    return {"type": part["type"]} if isinstance(part, Mapping) and part.get("type") in _PICTURES else part
