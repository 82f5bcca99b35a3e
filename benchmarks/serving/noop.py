"""What `/v1/route` is measured against: endpoints that take the same body and give the same document without deciding."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response

from serving.api.bodies.examples import decision_example
from serving.api.bodies.route import RouteBody
from serving.api.documents import RouteResponse
from serving.api.parsing import parse
from serving.settings import Settings


def create_app() -> FastAPI:
    """Two endpoints: `/v1/route` as FastAPI does it, with its own parsing and writing, and `/bare` with the router's."""
    app = FastAPI()
    most_values = Settings().max_values
    answer = RouteResponse.model_validate(decision_example(candidates=6))
    fixed = answer.model_dump_json().encode()

    @app.post("/v1/route")
    async def framework(body: RouteBody) -> RouteResponse:
        assert body.prompt is None or body.messages is None
        return answer

    async def bare(request: Request) -> Response:
        parse(RouteBody, await request.body(), most_values)
        return Response(fixed, media_type="application/json")

    app.add_api_route("/bare", bare, methods=["POST"], response_model=None)
    return app
