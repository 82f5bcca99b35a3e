"""The client: asks a router over HTTP, and never keeps a call waiting or fails it because the router is away.

    from serving.client import RouterClient

    with RouterClient("http://localhost:8080", fallback="gpt-4o") as router:
        route = router.route({"messages": messages, "workflow": "sql"})
        answer = call(route.model, messages)
        router.feedback([{"decision_id": route.id, "quality": 1.0}])

It needs httpx alone (extra `client`), and loads nothing of the service. `AsyncRouterClient` is the same with `await`.
"""

try:
    import httpx as _  # noqa: F401 - looked for before what needs it
except ModuleNotFoundError as error:
    needed = "the client needs outcome-router's extra `client`: pip install '.[client]'"
    raise ModuleNotFoundError(f"{error}; {needed}", name="httpx") from None

from serving.client.answers import Also, Route
from serving.client.asynchronous import AsyncRouterClient
from serving.client.errors import ClientError, FeedbackError, RouteRefusedError
from serving.client.synchronous import RouterClient

__all__ = [
    "Also",
    "AsyncRouterClient",
    "ClientError",
    "FeedbackError",
    "Route",
    "RouteRefusedError",
    "RouterClient",
]
