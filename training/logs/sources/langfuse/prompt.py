"""What a Langfuse generation was asked: its input as messages or as text.

`input` is whatever the instrumented client recorded: text, a list of chat messages, or the arguments of the call with
the messages in one of its fields. What is none of these is read as text, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from training.logs.cells import blank, first_of, parsed
from training.logs.sources.langfuse.fields import JSON

# Where clients keep the conversation, and the instructions that come before it.
_CONVERSATIONS = ("messages", "input", "contents", "prompt")
_INSTRUCTIONS = ("system", "instructions")


class Asked(NamedTuple):
    """One of the two, or neither; a cell that is neither text nor JSON is the prompt, for validation to refuse."""

    prompt: Any
    messages: list[dict[str, Any]] | None


def asked(cell: Any) -> Asked:
    """The conversation or the text in an observation's `input`."""
    value = parsed(cell, JSON)
    if blank(value):
        return Asked(None, None)
    if isinstance(value, list | tuple):
        return _from_list(list(value))
    if isinstance(value, Mapping):
        return _from_call(value)
    return Asked(value, None)


def answered(cell: Any) -> str | None:
    """The text of an observation's `output`: the content of a message, plain text, or JSON as it is; None if none."""
    value = parsed(cell, JSON)
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping) and isinstance(value.get("content"), str):
        value = value["content"]
    if blank(value):
        return None
    return value if isinstance(value, str) else _json(value)


def _from_list(items: list[Any]) -> Asked:
    if items and all(_is_message(item) for item in items):
        return Asked(None, [_message(item) for item in items])
    if items and all(isinstance(item, str) for item in items):
        return Asked("\n".join(items), None)
    return Asked(_json(items) if items else None, None)


def _from_call(call: Mapping[str, Any]) -> Asked:
    if _is_message(call):
        return Asked(None, [_message(call)])
    conversation = first_of(*(call.get(name) for name in _CONVERSATIONS))
    if isinstance(conversation, str | list | tuple):
        return _after_instructions(call, asked(conversation))
    return Asked(_json(call) if call else None, None)


def _after_instructions(call: Mapping[str, Any], rest: Asked) -> Asked:
    said = next((call[name] for name in _INSTRUCTIONS if isinstance(call.get(name), str) and call[name].strip()), None)
    if said is None or (rest.messages is None and not isinstance(rest.prompt, str)):
        return rest
    messages = rest.messages if rest.messages is not None else [{"role": "user", "content": rest.prompt}]
    return Asked(None, [{"role": "system", "content": said}, *messages])


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("role"), str)


def _message(item: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose content is text or a list of parts; tool definitions and the like as JSON text."""
    content = item.get("content", item.get("parts"))
    if not (content is None or isinstance(content, str | list)):
        content = _json(content)
    return {**{name: cell for name, cell in item.items() if name != "parts"}, "content": content}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
