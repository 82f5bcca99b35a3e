"""A request as LiteLLM has it -> the text and shape of POST /v1/route.

The text is what the importer of LiteLLM's logs makes of the same call, so that the router reads what it was trained on: system
or instructions first, then the messages, the input or the prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from serving.integrations.litellm.request.unlogged import unlogged

# The calls that complete text. Whatever else passes through a proxy is left alone.
COMPLETIONS = frozenset(
    {"completion", "text_completion", "anthropic_messages", "responses"}
    | {"acompletion", "atext_completion", "aresponses"}
)
_LONGEST_LABEL = 256
_MOST_TOKENS = 1_000_000_000  # more than any LLM writes, and the most that the router takes
_ROOM = ("max_tokens", "max_completion_tokens", "max_output_tokens")
# Of a body that cannot be read.
_LONGEST_BEGINNING, _MOST_LOOKED_AT = 4096, 512
# Tags that the proxy adds to those of the sender.
_MADE_TAGS = ("User-Agent:", "Credential:")
_WORKFLOW_TAG = "workflow:"
_SESSION_HEADERS = ("x-litellm-session-id", "x-litellm-trace-id", "x-session-id")


def shape(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is sent to an LLM, in the terms of /v1/route; None for a prompt without text (lists of tokens)."""
    said = _said(data)
    if said is None:
        return None
    body: dict[str, Any] = {**said, "store_prompt": False} if unlogged(data) else dict(said)
    for name in ("tools", "functions"):
        rows = data.get(name)
        if isinstance(rows, list | tuple) and rows:
            body[name] = [row for row in rows if isinstance(row, Mapping)]
    response_format = _response_format(data)
    if response_format is not None:
        body["response_format"] = response_format
    body.update(_room(data))
    return body


def _room(data: Mapping[str, Any]) -> dict[str, int]:
    given = {name: data.get(name) for name in _ROOM}
    return {
        name: min(room, _MOST_TOKENS)
        for name, room in given.items()
        if isinstance(room, int) and not isinstance(room, bool) and room >= 1
    }


def neutral(data: Mapping[str, Any]) -> dict[str, Any]:
    """A body that can be read, of a call whose own cannot: the beginning of its text, a tool if it has any, and its room.

    Nothing of it is stored, for the text is not the call's.
    """
    body: dict[str, Any] = {"prompt": _beginning(data), "store_prompt": False, **_room(data)}
    if any(data.get(name) for name in ("tools", "functions")):
        body["tools"] = [{"type": "function", "function": {"name": "tool"}}]
    response_format = _response_format(data)
    if response_format is not None and response_format["type"].startswith("json"):
        body["response_format"] = {"type": response_format["type"]}
    return body


def _beginning(data: Mapping[str, Any]) -> str:
    """The first texts of a request, whatever holds them."""
    waiting = [
        data[name] for name in ("prompt", "input", "contents", "messages", "instructions", "system") if data.get(name)
    ]
    texts, looked_at = list[str](), 0
    while waiting and looked_at < _MOST_LOOKED_AT:
        one, looked_at = waiting.pop(), looked_at + 1
        if isinstance(one, str):
            texts.append(one[:_LONGEST_BEGINNING].encode("utf-8", "replace").decode())
        elif isinstance(one, Mapping):
            waiting += [one[name] for name in ("parts", "text", "content") if name in one]
        elif isinstance(one, list | tuple):
            waiting += reversed(one[:_MOST_LOOKED_AT])
    return "\n".join(texts)[:_LONGEST_BEGINNING]


def _said(data: Mapping[str, Any]) -> dict[str, Any] | None:
    turns = next((data[name] for name in ("messages", "input", "prompt") if data.get(name) is not None), None)
    system = next((data[name] for name in ("system", "instructions") if data.get(name)), None)
    if isinstance(turns, list | tuple) and len(turns) == 1 and isinstance(turns[0], str):
        turns = turns[0]
    if isinstance(turns, str) and system is None:
        return {"prompt": turns}
    if isinstance(turns, str):
        turns = [{"role": "user", "content": turns}]
    if not isinstance(turns, list | tuple) or not turns or not all(isinstance(one, Mapping) for one in turns):
        return None
    return {"messages": [*([{"role": "system", "content": system}] if system is not None else []), *turns]}


def _response_format(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """OpenAI's response format; the Responses API has it in `text.format`, and a pydantic model stands for its schema."""
    given = data.get("response_format")
    text = data.get("text")
    if given is None and isinstance(text, Mapping):
        given = text.get("format")
    if isinstance(given, type) and hasattr(given, "model_json_schema"):
        return {"type": "json_schema", "json_schema": {"name": given.__name__, "schema": given.model_json_schema()}}
    if not isinstance(given, Mapping) or not isinstance(given.get("type"), str):
        return None
    return dict(given)


def workflow_of(tags: object) -> str | None:
    """The workflow that the request's tags name, as the importer reads them: `workflow:NAME`, else the sender's first tag."""
    texts = [tag.strip() for tag in tags if isinstance(tag, str)] if isinstance(tags, list | tuple) else []
    own = [tag for tag in texts if tag and not tag.startswith(_MADE_TAGS)]
    named = next((tag[len(_WORKFLOW_TAG) :].strip() for tag in own if tag.lower().startswith(_WORKFLOW_TAG)), None)
    return named if named is not None else next(iter(own), None)


def label(value: object) -> str | None:
    """A label that the router takes; None for what is none, or too long."""
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_LABEL else None


def session_of(data: Mapping[str, Any], bucket: Mapping[str, Any], key: str | None) -> str | None:
    """The conversation that a request says it is of, hashed under its key: two keys' sessions are never one.

    Of `session_id`, `litellm_session_id`, `prompt_cache_key`, and the clients' headers, the first that is there; not one that
    the proxy made up for this call alone.
    """
    client = bucket.get("requester_metadata")
    own = client if isinstance(client, Mapping) else {}
    made = bucket.get("litellm_session_id_generated") or data.get("litellm_session_id_generated")
    given = (
        data.get("session_id"),
        own.get("session_id"),
        None if made else data.get("litellm_session_id") or bucket.get("session_id"),
        data.get("prompt_cache_key"),
        _of_headers(data),
        _of_anthropic(own.get("user_id")),
    )
    session = next((one for one in given if isinstance(one, str) and one), None)
    if session is None:
        return None
    return hashlib.blake2b(f"{key or ''}\0{session}".encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _of_headers(data: Mapping[str, Any]) -> str | None:
    request = data.get("proxy_server_request")
    headers = request.get("headers") if isinstance(request, Mapping) else None
    if not isinstance(headers, Mapping):
        return None
    named = {str(name).lower(): value for name, value in headers.items()}
    known: Sequence[Any] = [named.get(name) for name in _SESSION_HEADERS]
    others = [named[name] for name in sorted(named) if name.startswith("x-") and name.endswith("-session-id")]
    return next((one for one in (*known, *others) if isinstance(one, str) and one), None)


def _of_anthropic(user: object) -> str | None:
    """The session that Claude's clients write into `metadata.user_id`."""
    if not isinstance(user, str) or "_session_" not in user:
        return None
    return user.rpartition("_session_")[2] or None
