"""What a candidate is sent for a pair, what that can cost at most, and by what the call is known again."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from training.replay.pairs import Pair

PARAMETERS = ("tools", "tool_choice", "response_format")
# Tokens beside the bytes of a request: of the chat format, of what providers put before tools, of a picture or file that is
# named by its address.
_FORMAT_TOKENS, _MESSAGE_TOKENS, _TOOL_TOKENS, _REMOTE_TOKENS = 64, 16, 1024, 16_384


def request_body(pair: Pair) -> dict[str, Any]:
    """Messages and parameters as logged; a prompt is the one message of a user."""
    messages = pair.messages if pair.messages is not None else [{"role": "user", "content": pair.prompt}]
    return {"messages": messages, **{name: pair.parameters[name] for name in PARAMETERS if name in pair.parameters}}


def most_tokens(body: dict[str, Any]) -> int:
    """Input tokens that a request can have at most: no token is shorter than a byte."""
    messages = body["messages"]
    contents = [message.get("content") for message in messages]
    parts = [part for content in contents if isinstance(content, list) for part in content if isinstance(part, dict)]
    remote = sum(part.get("type") not in ("text", "input_text") for part in parts)
    extra = _FORMAT_TOKENS + _MESSAGE_TOKENS * len(messages) + _REMOTE_TOKENS * remote
    return len(_text(body)) + extra + (_TOOL_TOKENS if "tools" in body else 0)


def roughly_tokens(text: str) -> int:
    """Tokens of a text of which nobody said how many it has: one for four bytes."""
    return -(-len(text.encode("utf-8", "replace")) // 4)


def digest(*parts: Any) -> str:
    """By what a request is known again: equal ones have one digest."""
    return hashlib.sha256(_text(parts)).hexdigest()


def _text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace")
