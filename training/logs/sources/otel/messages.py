"""The prompt of a GenAI span as OpenAI chat messages, from each of the ways in which it has been recorded.

Source: OpenTelemetry's GenAI semantic conventions (gen_ai.input.messages and gen_ai.system_instructions, with parts),
and what came before: message events (until 1.36), gen_ai.prompt (until 1.27), and gen_ai.prompt.0.content (OpenLLMetry).
"""

from __future__ import annotations

import json
import re
from typing import Any

from training.logs.cells import fields, first_of, parsed
from training.logs.io.files import Row
from training.logs.sources.otel import otlp

_INDEXED = re.compile(r"gen_ai\.prompt\.(\d{1,6})\.(role|content)")
_MESSAGE_EVENT = re.compile(r"gen_ai\.(system|user|assistant|tool)\.message")


def prompt_cells(span: Row, said: Row) -> Row:
    """`messages` or `prompt` of a span whose attributes are `said`, as cells; both None when it was not recorded."""
    current = parsed(said.get("gen_ai.input.messages"), "")
    if current is not None:
        system = _system(parsed(said.get("gen_ai.system_instructions"), ""))
        messages = [chat for message in current for chat in _chat(message)] if isinstance(current, list) else current
        return {"messages": [*system, *messages] if isinstance(messages, list) else messages, "prompt": None}
    if found := _indexed(said) or _from_events(span):
        return {"messages": found, "prompt": None}
    return _older(said.get("gen_ai.prompt"))


def answer_text(said: Row) -> str | None:
    """The text of the first answer, where it was recorded."""
    messages = parsed(said.get("gen_ai.output.messages"), "")
    if isinstance(messages, list) and messages:
        content = [chat.get("content") for chat in _chat(messages[0]) if isinstance(chat, dict)]
        return next((text for text in content if isinstance(text, str)), None)
    text = said.get("gen_ai.completion.0.content")
    return text if isinstance(text, str) else None


def _older(cell: Any) -> Row:
    """gen_ai.prompt: JSON of messages or of one message, else plain text."""
    value = parsed(cell, "")
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list):
        return {"messages": [chat for message in value for chat in _chat(message)], "prompt": None}
    return {"messages": None, "prompt": cell}


def _indexed(said: Row) -> list[Row]:
    found: dict[int, Row] = {}
    for name, cell in said.items():
        if match := _INDEXED.fullmatch(name):
            found.setdefault(int(match.group(1)), {"role": "user"})[match.group(2)] = cell
    return [{**found[place], "content": _content(found[place].get("content"))} for place in sorted(found)]


def _content(cell: Any) -> Any:
    """The content of an indexed message: text, or the JSON of a list of parts in OpenAI's form."""
    parts = parsed(cell, "") if isinstance(cell, str) and cell.lstrip().startswith("[{") else None
    return parts if isinstance(parts, list) and all(isinstance(p, dict) and "type" in p for p in parts) else cell


def _from_events(span: Row) -> list[Row]:
    found = []
    for event in otlp.events(span):
        match = _MESSAGE_EVENT.fullmatch(str(event.get("name")))
        if match is None:
            continue
        said = otlp.attributes(event)
        inner = fields(said.get("gen_ai.event.content"))
        content = first_of(said.get("content"), inner.get("content"))
        found.append({"role": first_of(said.get("role"), inner.get("role"), match.group(1)), "content": content})
    return found


def _system(parts: Any) -> list[Row]:
    if isinstance(parts, str):
        return [{"role": "system", "content": parts}]
    texts = _texts(parts) if isinstance(parts, list) else []
    return [{"role": "system", "content": "\n".join(texts)}] if texts else []


def _texts(parts: list[Any]) -> list[str]:
    texts = [part.get("content") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    return [text for text in texts if isinstance(text, str)]


def _chat(message: Any) -> list[Any]:
    """A message with parts as chat messages: each tool result is one of its own. Anything else is left as it is."""
    if not isinstance(message, dict) or not isinstance(message.get("parts"), list):
        return [message]
    parts = [part for part in message["parts"] if isinstance(part, dict)]
    results = [_tool_result(part) for part in parts if part.get("type") == "tool_call_response"]
    calls = [_tool_call(part) for part in parts if part.get("type") == "tool_call"]
    content = [shape for part in parts if (shape := _content_part(part)) is not None]
    if results and not content and not calls:
        return results
    plain = content[0]["text"] if len(content) == 1 and content[0]["type"] == "text" else content
    chat: Row = {"role": message.get("role"), "content": plain or None}
    return [*results, {**chat, "tool_calls": calls} if calls else chat]


def _content_part(part: Row) -> Row | None:
    """Text and images in OpenAI's form; reasoning and tool calls are no content."""
    if part.get("type") == "text":
        return {"type": "text", "text": first_of(part.get("content"), part.get("text"), "")}
    if part.get("type") not in ("blob", "uri", "file"):
        return None
    if part.get("modality") == "image":  # that there is one is enough; its bytes are not kept
        return {"type": "image_url", "image_url": {"url": str(part.get("uri", ""))}}
    return {"type": str(part.get("modality"))}


def _tool_call(part: Row) -> Row:
    arguments = part.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": part.get("id"), "type": "function", "function": {"name": part.get("name"), "arguments": text}}


def _tool_result(part: Row) -> Row:
    result = first_of(part.get("response"), part.get("result"))
    text = result if isinstance(result, str) else json.dumps(result)
    return {"role": "tool", "tool_call_id": part.get("id"), "content": text}
