"""What `from serving import ...` gives, and what it does not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

import serving
from serving import client
from serving.bundle.request import RouteRequest
from serving.decide.policy import Policy
from serving.decide.router import Router


def test_the_public_names_are_those_of_the_rooms() -> None:
    assert (serving.Router, serving.RouteRequest, serving.Policy) == (Router, RouteRequest, Policy)
    assert sorted(serving.__all__) == ["Policy", "RouteRequest", "Router"]
    unknown = "Nothing"
    with pytest.raises(AttributeError, match="it has Policy, RouteRequest, Router"):
        getattr(serving, unknown)


def test_the_catalogue_is_read_without_a_runtime() -> None:
    code = "import sys, serving.bundle.catalogue; print({'onnxruntime', 'tokenizers', 'numpy'} & set(sys.modules))"
    came = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert came.stdout.strip() == "set()"


def test_the_client_is_its_names_and_loads_nothing_of_the_service() -> None:
    assert sorted(client.__all__) == [
        "Also",
        "AsyncRouterClient",
        "ClientError",
        "FeedbackError",
        "Route",
        "RouteRefusedError",
        "RouterClient",
    ]
    assert all(hasattr(client, name) for name in client.__all__)
    heavy = {"numpy", "onnxruntime", "tokenizers", "fastapi", "starlette", "pydantic", "sqlalchemy", "orjson"}
    code = f"import sys, serving.client; print({heavy} & set(sys.modules))"
    came = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert came.stdout.strip() == "set()"
