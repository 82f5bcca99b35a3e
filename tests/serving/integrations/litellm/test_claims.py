"""A real proxy, and what somebody says of decisions who has no key, or another one: nothing of it is taken."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests import fake_bundle
from tests.fake_bundle import LARGE
from tests.patience import PATIENCE, until
from tests.serving.integrations.litellm.proxy import EXISTING, GROUP, ROWS, Proxy, configuration, needs_proxy, running
from tests.serving.integrations.litellm.upstreams import serving

pytestmark = needs_proxy
FORGED = "ab" * 16
ROUTES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}]},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 5},
    "/v1/embeddings": {"input": "hello"},
}


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    folder = tmp_path_factory.mktemp("claims")
    settings = {
        "ROUTER_BUNDLE": str(fake_bundle.build(folder / "models")),
        "ROUTER_STORE": f"sqlite:///{folder}/router.db",
        "ROUTER_LITELLM_SPOOL": str(folder / "spool.db"),
        "ROUTER_SESSION_MARGIN": "10",
    }
    with serving(*ROWS, EXISTING) as upstreams:
        config = configuration(upstreams)
        # A path that goes to an upstream as it is, and through none of the router's hooks before it.
        target = config["model_list"][0]["litellm_params"]["api_base"] + "/chat/completions"
        config["general_settings"]["pass_through_endpoints"] = [
            {"path": "/through", "target": target, "headers": {"content-type": "application/json"}, "auth": True}
        ]
        with running(folder / "proxy", config, upstreams, **settings) as started:
            yield started


def rows(proxy: Proxy, file: str, asked: str, *values: object) -> list[tuple[Any, ...]]:
    path = proxy.folder.parent / file
    if not path.exists():
        return []
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as opened:
        return opened.execute(asked, values).fetchall()


def told(proxy: Proxy, decision: str) -> list[tuple[Any, ...]]:
    """What is stored as feedback on a decision, waited for."""
    asked = "select quality, error, cost_usd from feedback where decision_id = ?"
    until(lambda: rows(proxy, "router.db", asked, decision), "the outcome is stored")
    return rows(proxy, "router.db", asked, decision)


def claim(decision: str) -> dict[str, Any]:
    left = {"decision_id": decision, "model": LARGE, "propensity": 1e-9, "ranks": [LARGE], "reason": "SECRET " * 1000}
    return {"user_api_key_hash": "mallory", "spend_logs_metadata": {"outcome_router": left}}


def test_whoever_has_no_key_writes_no_outcome_no_decision_and_no_owner(proxy: Proxy) -> None:
    proxy.keys(**{"sk-few": {"models": [EXISTING]}, "sk-any": {}})
    answer = proxy.ask("hello")
    decided = answer.headers["x-router-decision-id"]
    before = told(proxy, decided)
    statuses = set()
    for decision in (FORGED, decided):
        for path, body in ROUTES.items():
            for place in ("metadata", "litellm_metadata"):
                sent = {"model": GROUP, **body, place: claim(decision)}
                statuses |= {proxy.post(path, sent, key=key).status_code for key in ("sk-none", "sk-few")}
                statuses.add(httpx.post(f"{proxy.url}{path}", json=sent, timeout=PATIENCE).status_code)
    assert all(400 <= status < 500 for status in statuses)
    assert 401 in statuses
    for place in ("metadata", "litellm_metadata"):
        sent = {"model": "m", **ROUTES["/v1/chat/completions"], place: claim(FORGED)}
        assert proxy.post("/through", sent, key="sk-any").status_code == 200
    last = proxy.ask("hello").headers["x-router-decision-id"]
    told(proxy, last)  # whatever was taken before it is written too
    of_it = "select count(*) from {} where {} = ?"
    assert rows(proxy, "spool.db", of_it.format("told", "name"), FORGED) == [(0,)]
    assert rows(proxy, "spool.db", of_it.format("owner", "key"), "mallory") == [(0,)]
    assert rows(proxy, "router.db", of_it.format("decision", "id"), FORGED) == [(0,)]
    assert rows(proxy, "router.db", of_it.format("feedback", "decision_id"), FORGED) == [(0,)]
    assert told(proxy, decided) == before
    assert "SECRET" not in (proxy.folder.parent / "spool.db").read_bytes().decode("latin-1")
    assert 'outcomes_total{what="failed"}' not in proxy.metrics()


def test_who_has_no_virtual_key_has_sessions_and_decisions_of_its_own(proxy: Proxy) -> None:
    users = {name: {"api_key": None, "user_id": name, "team_id": "t"} for name in ("one", "two")}
    proxy.keys(**users)
    answers = {
        name: proxy.ask("hello", key=name, session_id="default", cost_quality=quality)
        for name, quality in (("one", 0), ("two", 10))
    }
    decisions = {name: answer.headers["x-router-decision-id"] for name, answer in answers.items()}
    sessions = {proxy.record(decision)["session"] for decision in decisions.values()}
    assert (len(sessions), None in sessions) == (2, False)
    assert answers["one"].headers["x-router-model"] != answers["two"].headers["x-router-model"]
    for decision in decisions.values():
        told(proxy, decision)
    feedback = [{"decision_id": decisions["one"], "quality": 0.25}, {"decision_id": decisions["two"], "quality": 0.75}]
    metadata = {"outcome_router_feedback": feedback, "user_api_key_hash": "x"}
    assert proxy.ask("hello", key="two", metadata=json.loads(json.dumps(metadata))).status_code == 200
    until(lambda: told(proxy, decisions["two"])[0][0] == 0.75, "the thumb of whoever asked is stored")
    assert told(proxy, decisions["one"])[0][0] is None
