"""Requests made from the OpenAPI document, right and wrong ones: none is a server error, and every error is a problem."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.schemas import BaseSchema
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.api.documents import Problem
from serving.settings import Settings
from serving.state import reservations
from serving.store.writer import DecisionStore
from tests import fake_bundle

PATHS = [
    "/healthz", "/metrics", "/readyz", "/v1/admin/reload", "/v1/budgets", "/v1/bundle", "/v1/bundles", "/v1/candidates",
    "/v1/feedback", "/v1/frontier", "/v1/live/snapshot", "/v1/me", "/v1/route", "/v1/route/batch", "/v1/savings",
]  # fmt: skip
# /v1/live is not asked here, for its answer has no end, and this client reads answers to their end. Its document is that of
# /v1/live/snapshot, and its tests are in views/live.
ENDLESS = ["/v1/live"]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("models")
    store = str(tmp_path_factory.mktemp("store") / "decisions.db")
    # Feedback on decisions that nobody made, as it is here, would each wait for them.
    hasty = partial(DecisionStore, late_seconds=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reservations, "DecisionStore", hasty)
        app = create_app(Settings(bundle=str(fake_bundle.build(folder)), store=store))
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client


@pytest.fixture(scope="module")
def document(client: TestClient) -> BaseSchema:
    return schemathesis.openapi.from_dict(client.get("/openapi.json").json())


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", PATHS)
def test_no_request_is_a_server_error_and_every_error_is_a_problem(
    client: TestClient, document: BaseSchema, path: str, mode: GenerationMode
) -> None:
    (operation,) = document[path].values()

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    def check(case: Case) -> None:
        response = client.request(**case.as_transport_kwargs(base_url="http://testserver"))
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"
            assert Problem.model_validate_json(response.content).status == response.status_code

    try:
        check()
    except Unsatisfiable:
        assert mode is GenerationMode.NEGATIVE  # a request without parameters and body cannot be wrong
        assert operation.body == [] or not list(operation.body)


def test_the_document_has_every_path(client: TestClient) -> None:
    assert {*PATHS, *ENDLESS} <= client.get("/openapi.json").json()["paths"].keys()


def test_a_stream_is_documented_as_one(client: TestClient) -> None:
    for path in ENDLESS:
        content = client.get("/openapi.json").json()["paths"][path]["get"]["responses"]["200"]["content"]
        assert content == {"text/event-stream": {"schema": {"type": "string"}}}


@pytest.mark.parametrize("path", ["/docs", "/docs/oauth2-redirect"])
def test_the_documentation_is_shown_in_no_frame(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"
