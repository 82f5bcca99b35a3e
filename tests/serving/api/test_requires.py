"""What a request requires of a candidate: said outright, or by the shape of an OpenAI body."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.api.bodies.route import RouteBody
from serving.bundle.catalogue import Capability
from serving.bundle.request import read

TEXT = [{"role": "user", "content": "hello"}]
PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("body", "needs"),
    [
        ({"messages": TEXT}, (False, False, False)),
        ({"messages": TEXT, "tools": []}, (False, False, False)),
        ({"messages": TEXT, "tools": [TOOL]}, (True, False, False)),
        ({"messages": PICTURE}, (False, True, False)),
        ({"messages": TEXT, "response_format": {"type": "text"}}, (False, False, False)),
        ({"messages": TEXT, "response_format": {"type": "json_object"}}, (False, False, False)),
        ({"messages": TEXT, "response_format": {"type": "json_schema", "json_schema": {}}}, (False, False, True)),
        ({"messages": PICTURE, "tools": [TOOL], "response_format": {"type": "json_schema"}}, (True, True, True)),
    ],
)
def test_the_shape_says_what_is_needed(body: dict[str, Any], needs: tuple[bool, bool, bool]) -> None:
    request = RouteBody.model_validate(body).request()
    assert (request.tools, Capability.VISION in read(request).needs, request.json_schema) == needs


def test_definitions_are_counted_as_they_are_sent() -> None:
    schema = {"name": "x", "schema": {"type": "object", "default": 9**40}}
    body = {"messages": TEXT, "tools": [TOOL], "response_format": {"type": "json_schema", "json_schema": schema}}
    bare, full = RouteBody.model_validate({"messages": TEXT}).request(), RouteBody.model_validate(body).request()
    assert bare.definitions == ""
    assert [json.loads(line) for line in full.definitions.splitlines()] == [[TOOL], {"json_schema": schema}]
    assert read(full).counted > read(bare).counted + 30
    older = RouteBody.model_validate({"messages": TEXT, "functions": [TOOL["function"]]}).request()
    assert (older.tools, json.loads(older.definitions)) == (True, [TOOL["function"]])


def test_what_is_required_outright_is_required_of_what_is_known() -> None:
    body = RouteBody.model_validate_json('{"prompt": "hello", "requires": ["vision", "tools"]}')
    assert body.policy().requires == {Capability.VISION, Capability.TOOLS}
    assert RouteBody.model_validate({"messages": PICTURE}).policy().requires == frozenset()
