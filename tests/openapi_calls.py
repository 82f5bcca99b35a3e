"""Calls every function of a client that was generated from the OpenAPI document; run in the environment that generated it.

`python openapi_calls.py FOLDER URL KEY [STREAM ...]` writes a line of JSON per call: method, path, status, and what the
answer was read as. Of a path that is a stream, which has no end, the first event is read.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, get_args

ROUTE = {"messages": [{"role": "user", "content": "hello world"}], "workflow": "easy", "max_cost_usd": 1.0}
FIRST = "route_v1_route_post"  # whose decision the feedback is about


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """Each endpoint's module, the one first whose answer others need."""
    names = [found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.") if not found.ispkg]
    yield from map(importlib.import_module, sorted(names, key=lambda name: not name.endswith(FIRST)))


def bodies(decision: str) -> dict[str, dict[str, Any]]:
    """What is sent, by the name of its model."""
    return {
        "RouteBody": ROUTE,
        "BatchBody": {"requests": [ROUTE, {"prompt": "prove the theorem"}]},
        "FeedbackBody": {"decision_id": decision, "accepted": True, "cost_usd": 0.0002},
    }


def body_of(module: ModuleType, decision: str) -> dict[str, Any]:
    """The arguments that an endpoint's function takes beside the client."""
    asked = module._get_kwargs.__annotations__.get("body")
    kinds = {kind.__name__: kind for kind in get_args(asked) or (asked,) if kind is not None}
    found = [kinds[name].from_dict(content) for name, content in bodies(decision).items() if name in kinds]
    return {"body": found[0]} if found else {}


def main(folder: str, url: str, key: str, *streams: str) -> None:
    sys.path.insert(0, folder)
    package = importlib.import_module("router_client")
    client = package.AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True, timeout=60.0)
    decision = ""
    for module in modules(importlib.import_module("router_client.api")):
        given = body_of(module, decision)
        asked = module._get_kwargs(**given)
        if asked["url"] in streams:
            with client.get_httpx_client().stream(**asked) as answer:
                read_as = next(line for line in answer.iter_lines() if line.startswith("event:"))
        else:
            answer = module.sync_detailed(client=client, **given)
            read_as = type(answer.parsed).__name__
            decision = answer.parsed.id if module.__name__.endswith(FIRST) else decision
        line = json.dumps([asked["method"], asked["url"], int(answer.status_code), read_as])
        sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
