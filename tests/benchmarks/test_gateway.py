"""A real LiteLLM proxy is killed among requests: the store has what each call cost, once, and as LiteLLM has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gateway.kill import kept_through_kill
from benchmarks.gateway.proxy import usable
from tests import fake_bundle

pytestmark = pytest.mark.skipif(not usable(), reason="LiteLLM's proxy is not installed (make .venv-litellm)")

REQUESTS = 120


@pytest.mark.parametrize("over_http", [False, True], ids=["in process", "over HTTP"])
def test_through_a_kill_the_store_has_each_calls_cost_once(tmp_path: Path, over_http: bool) -> None:
    bundle = fake_bundle.build(tmp_path / "models")
    priced = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
    candidates = [
        one if one.input_usd_per_mtok is not None else one.model_copy(update=priced) for one in fake_bundle.CANDIDATES
    ]
    found = kept_through_kill(tmp_path / "run", bundle, candidates, requests=REQUESTS, over_http=over_http)
    assert found["answered"] == REQUESTS
    assert (found["missing"], found["differing"], found["not_decided"]) == (0, 0, 0)
    assert found["logged_by_litellm"] >= REQUESTS - found["streams_lost"] - found["kept_without_a_log_event"]
    assert found["logged_twice"] == 0
    assert found["broken_by_the_kill"] > 0
    assert found["streams_lost"] <= 8
    assert found["cost_usd"] == pytest.approx(found["litellm_usd"], rel=1e-9)
