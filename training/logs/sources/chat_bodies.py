"""OpenAI-shaped request and response bodies -> the cells of an outcome.

Requests: chat completions (`messages`), completions (`prompt`), responses (`instructions` and `input`). Responses: the
three of these, a list of streamed chunks, or an error body. Cells are left as they arrived; validation is not done here.
"""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from training.logs.cells import blank, fields, first_of, json_object, parsed, shown
from training.logs.io.files import Records, Row
from training.logs.sources.tries import Skip

# What a request says beside its messages that decides what an answer can be.
PARAMETERS = ("tools", "tool_choice", "response_format")
PARAMETER_FIELDS = frozenset({"parameters", *PARAMETERS})
_NOT_A_CHAT = Skip("not a chat request", "", "a chat completion, completion or response")
_FAILED = ("failed", "cancelled")
_COUNTS = (("input_tokens", "prompt_tokens", "input_tokens"), ("output_tokens", "completion_tokens", "output_tokens"))


def prompt_cells(request: Row) -> Row:
    """`messages` or `prompt` of a request body, as cells; both None when it has neither."""
    if request.get("messages") is not None:
        return {"messages": request["messages"], "prompt": None}
    if request.get("prompt") is not None:
        prompt = request["prompt"]
        return {"messages": None, "prompt": prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt}
    asked = request.get("input")
    if asked is None:
        return {"messages": None, "prompt": None}
    items = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    if not isinstance(items, list):
        return {"messages": items, "prompt": None}
    system = request.get("instructions")
    first = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
    return {"messages": [*first, *(_input_item(item) for item in items)], "prompt": None}


def answer_cells(response: Row) -> Row:
    """Model, tokens, cost, time and status of a response body, as cells; None where it does not say."""
    usage = fields(response.get("usage"))
    details = fields(usage.get("cost_details"))
    cells = {name: first_of(*(usage.get(place) for place in places)) for name, *places in _COUNTS}
    return {
        **cells,
        "candidate": response.get("model"),
        "cost_usd": billed(usage.get("cost"), usage.get("is_byok"), details.get("upstream_inference_cost")),
        "timestamp": first_of(response.get("created"), response.get("created_at")),
        "status": "error" if _is_error(response) else None,
    }


def parameters_text(*places: Any) -> str | None:
    """The JSON of tools, tool_choice and response_format as the first of some objects has each; None where none has any."""
    found: dict[str, Any] = {}
    for said in map(fields, places):
        for name in PARAMETERS:
            value = parsed(said.get(name))
            if name not in found and not blank(value) and value != []:
                found[name] = [_tool(one) for one in value] if isinstance(value, list) else value
    return json.dumps(found, default=_listed) if found else None


def _listed(cell: Any) -> Any:
    """Parquet has arrays where JSON has lists."""
    return cell.tolist() if hasattr(cell, "tolist") else str(cell)


def with_parameters(records: Records) -> Records:
    """A table's rows with the column `parameters`, from that or from columns of the parameters' own names."""
    cells = [parameters_text(row.get("parameters"), row) for _, row in records.numbered()]
    if not any(cells):
        return records._replace(table=records.table.drop(columns=["parameters"], errors="ignore"))
    return records._replace(table=records.table.assign(parameters=pd.Series(cells, dtype=object)))


def _tool(said: Any) -> Any:
    """A tool as chat completions have it; responses and traces name its function without a level of its own."""
    if not isinstance(said, dict) or said.get("type") != "function" or "function" in said or "name" not in said:
        return said
    return {"type": "function", "function": {name: value for name, value in said.items() if name != "type"}}


def not_a_chat(request: Row, response: Row, url: Any = None) -> Skip | None:
    """A `Skip` for an embedding, moderation, image or audio call, None for anything else."""
    if isinstance(url, str) and url and not url.rstrip("/").endswith(("/completions", "/responses")):
        return _NOT_A_CHAT._replace(value=shown(url))
    if response.get("object") == "list" or "results" in response or "embedding" in str(request.get("model", "")):
        return _NOT_A_CHAT._replace(value=shown(first_of(response.get("object"), request.get("model"))))
    return None


def body(cell: Any) -> Row | None:
    """A response body from a cell: an object, its JSON text, or streamed chunks (the last usage counts); else None."""
    cell = parsed(cell)
    if not isinstance(cell, list):
        return json_object(cell)
    chunks = [chunk for chunk in cell if isinstance(chunk, dict)]
    if not chunks:
        return None
    usages = [chunk["usage"] for chunk in chunks if isinstance(chunk.get("usage"), dict)]
    return {**chunks[0], "usage": usages[-1] if usages else None}


def answer_text(response: Row) -> str | None:
    """The text that was answered, of the first choice; None where there is none (a tool call, an error)."""
    choices = response.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        message = fields(choices[0].get("message"))
        return _text(first_of(message.get("content"), choices[0].get("text")))
    output = response.get("output")
    if not isinstance(output, list):
        return None
    contents = [item.get("content") for item in output if isinstance(item, dict) and item.get("type") == "message"]
    return "".join(text for text in map(_text, contents) if text) or None


def _text(content: Any) -> str | None:
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(text for text in texts if isinstance(text, str)) or None
    return content if isinstance(content, str) else None


def _input_item(item: Any) -> Any:
    """An item of a responses request as a chat message: calls and their outputs have no role there."""
    if not isinstance(item, dict) or "role" in item:
        return item
    if item.get("type") == "function_call_output":
        output = item.get("output")
        return {"role": "tool", "content": output if isinstance(output, str | list) else json.dumps(output)}
    return {"role": "assistant", "content": None}


def billed(cost: Any, own_key: Any, upstream: Any) -> Any:
    """USD: the cost, which is OpenRouter's fee alone where the provider bills the caller's own key as well."""
    if own_key is True and isinstance(cost, int | float) and isinstance(upstream, int | float):
        return cost + upstream
    return cost


def _is_error(response: Row) -> bool:
    if first_of(response.get("error")) is not None or response.get("status") in _FAILED:
        return True
    choices = response.get("choices")
    if not isinstance(choices, list):
        return False
    return any(_failed_choice(choice) for choice in choices)


def _failed_choice(choice: Any) -> bool:
    return isinstance(choice, dict) and (choice.get("error") is not None or choice.get("finish_reason") == "error")
