"""Writes docs/api.md, the reference of the HTTP API, from the OpenAPI document that the service gives itself.

`python -m docs.api` writes it; a test compares it with the service's document of today.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from serving.api.app import create_app
from serving.settings import Settings

PAGE = Path(__file__).parent / "api.md"
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minLength": "{} characters or more",
    "maxLength": "up to {} characters",
    "minItems": "{} items or more",
    "maxItems": "up to {} items",
}
_INTRODUCTION = """# HTTP API

Made by `python -m docs.api` from the service's own OpenAPI document, which a running service has at `/openapi.json`, with a
form to try it at `/docs`. What the endpoints mean is told in [Serving](serving.md); every limit on what a client may send is in
[what a body may be](serving.md#what-a-body-may-be).

Where the rule file has [API keys](serving.md#api-keys), `Authorization: Bearer <key>` goes with each request. Every error is a
[Problem](#problem) with the content type `application/problem+json`.
"""


def document() -> dict[str, Any]:
    """The service's OpenAPI document; no bundle is loaded for it."""
    return create_app(Settings(store=None)).openapi()


def page(api: Mapping[str, Any]) -> str:
    """docs/api.md."""
    schemas = api["components"]["schemas"]
    parts = [_INTRODUCTION, *_contents(api), *_operations(api), "## Schemas\n"]
    parts += [_schema(name, schemas[name]) for name in sorted(schemas)]
    return "\n".join(parts).rstrip() + "\n"


def _each(api: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            yield method.upper(), path, operation


def _contents(api: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| [{method} {path}](#{_anchor(f'{method} {path}')}) | {_cell(operation['description'].partition(chr(10))[0])} |"
        for method, path, operation in _each(api)
    ]
    return ["| endpoint | what it does |", "|---|---|", *rows, "", "## Endpoints", ""]


def _operations(api: Mapping[str, Any]) -> Iterator[str]:
    for method, path, operation in _each(api):
        yield f"### {method} {path}\n\n{operation['description']}\n"
        if parameters := operation.get("parameters"):
            yield "| parameter | type | default | meaning |\n|---|---|---|---|"
            for one in parameters:
                yield _row(
                    f"{one['name']} ({one['in']})", one["schema"], one.get("required", False), one.get("description")
                )
            yield ""
        if body := operation.get("requestBody"):
            yield f"Body: {', '.join(_content(body))}.\n"
        yield "| status | answer | when |\n|---|---|---|"
        for status, answer in sorted(operation["responses"].items()):
            shown = _cell(" or ".join(_content(answer)))
            yield f"| {status} | {shown} | {'' if status == '200' else _cell(answer['description'])} |"
        yield ""


def _content(of: Mapping[str, Any]) -> list[str]:
    """What a body or an answer may be: a schema, or the content type where it has none."""
    found = []
    for media, content in of.get("content", {}).items():
        schema = _type(content.get("schema", {}))
        kind = "" if media in ("application/json", "application/problem+json") else f"`{media}`"
        found.append(" ".join(part for part in (schema if schema != "anything" else "", kind) if part) or "JSON")
    return found


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    lines = [f"### {name}", ""]
    if text := schema.get("description"):
        lines += [text, ""]
    if "enum" in schema:
        lines += [", ".join(f"`{value}`" for value in schema["enum"]) + ".", ""]
    elif properties := schema.get("properties"):
        required = schema.get("required", ())
        lines += ["| field | type | default | meaning |", "|---|---|---|---|"]
        lines += [_row(field, of, field in required, of.get("description")) for field, of in properties.items()]
        lines.append("")
    else:
        lines += [f"{_type(schema)}.", ""]
    if examples := schema.get("examples"):
        lines += ["```json", json.dumps(examples[0], indent=2, ensure_ascii=False), "```", ""]
    return "\n".join(lines)


def _row(name: str, schema: Mapping[str, Any], required: bool, meaning: str | None) -> str:
    default = "" if required or "default" not in schema else f"`{json.dumps(schema['default'])}`"
    bounds = _bounds(schema)
    kind = _cell(_type(schema) + (f", {bounds}" if bounds else ""))
    return f"| `{name}` | {kind} | {_cell(default)} | {_cell(meaning or '')} |"


def _bounds(schema: Mapping[str, Any]) -> str:
    found = [text.format(schema[key]) for key, text in _BOUNDS.items() if key in schema]
    for inner in schema.get("anyOf", ()):
        found += [text.format(inner[key]) for key, text in _BOUNDS.items() if key in inner]
    return ", ".join(dict.fromkeys(found))


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, the named ones as links."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{_anchor(name)})"
    if several := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return " or ".join(dict.fromkeys(_type(one) for one in several))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kind = schema.get("type")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"object of {_type(inner)}" if isinstance(inner, Mapping) and inner else "object"
    return str(kind) if kind else "anything"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _anchor(heading: str) -> str:
    """What GitHub and the site call a heading."""
    return "".join(one for one in heading.lower().replace(" ", "-") if one.isalnum() or one in "-_")


if __name__ == "__main__":
    PAGE.write_text(page(document()), encoding="utf-8")
