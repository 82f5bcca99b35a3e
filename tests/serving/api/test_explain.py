"""`explain` and `dry_run`: what is shown is what the service does, and only to who may see it; a trial leaves no trace."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.api.documents import RouteResponse
from serving.api.evidence import explain
from serving.api.evidence.choices import every_pair
from serving.api.evidence.documents import Explanation
from serving.api.evidence.turns import NoTurnError, Turns
from serving.decide.decision import Reason
from serving.settings import Settings
from serving.store.tables import DECISIONS
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.patience import PATIENCE, until
from tests.serving.attacks.conftest import bearer, key_rules
from tests.serving.store.rows import stored

TENANTS = f"""
[default]
max_cost_usd = 1.0

[workflows.easy]
deny = ["{OPEN}"]

[workflows.hard]
cost_quality = 4

{key_rules("easy", "easy", 'workflows = ["easy"]')}
{key_rules("other", "other", 'workflows = ["nobody has this"]')}
{key_rules("app", "app", f'deny = ["{SMALL}"]')}
{key_rules("root", "root", "admin = true")}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"), neighbours=True)


Serve = Callable[..., TestClient]


@pytest.fixture(scope="module")
def serve(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Makes clients of services on the bundle, by rules and settings; each has a store of its own."""
    with ExitStack() as running:

        def made(rules: str = "", **options: Any) -> TestClient:
            return running.enter_context(service(folder, tmp_path_factory.mktemp("service"), rules, **options))

        yield made


def service(bundle: Path, place: Path, rules: str = "", **options: Any) -> TestClient:
    """A service that runs as long as the client is entered; its store is `place/d.db`."""
    (place / "policies.toml").write_text(rules, encoding="utf-8")
    known = {"bundle": bundle, "store": str(place / "d.db"), "policies": place / "policies.toml"} | options
    return TestClient(create_app(Settings(**known)))


@pytest.fixture(scope="module")
def client(serve: Serve) -> TestClient:
    return serve()


@pytest.fixture(scope="module")
def tenants(serve: Serve) -> TestClient:
    return serve(TENANTS)


def routed(client: TestClient, key: str | None = None, **body: Any) -> RouteResponse:
    response = client.post("/v1/route", json={"prompt": "hello", **body}, headers=bearer(key))
    assert response.status_code == 200, response.text
    return RouteResponse.model_validate_json(response.content)


def explained(client: TestClient, key: str | None = None, **body: Any) -> Explanation:
    found = routed(client, key, explain=True, **{"dry_run": True, **body}).explanation
    assert found is not None
    return found


def at(found: Explanation, place: float) -> str:
    """What the flips say of a place: 0 and 10 may be stretches of their own."""
    if place == 10:
        return found.flips[-1].model
    return next(one.model for one in found.flips if one.to_cost_quality >= place)


def edges(found: Explanation) -> list[float]:
    return [one.to_cost_quality for one in found.flips[:-1]]


def check_covers(found: Explanation) -> None:
    assert (found.flips[0].from_cost_quality, found.flips[-1].to_cost_quality) == (0, 10)
    for one, following in zip(found.flips, found.flips[1:], strict=False):
        assert one.to_cost_quality == following.from_cost_quality
        assert (one.model, one.certified) != (following.model, following.certified)
    for one in found.flips:
        assert one.knob_low is not None
        assert one.knob_low <= (float("inf") if one.knob_high is None else one.knob_high)


# What is shown


def test_without_it_the_answer_is_as_it_was(client: TestClient) -> None:
    plain = client.post("/v1/route", json={"prompt": "hello"}).json()
    for said in ({"explain": False}, {"explain": None}, {"dry_run": False}):
        again = client.post("/v1/route", json={"prompt": "hello", **said}).json()
        assert list(again) == list(plain)
        assert again | {"id": ""} == plain | {"id": ""}
    assert not {"explanation", "dry_run"} & plain.keys()


def test_the_nearest_logged_requests_and_what_came_of_them(client: TestClient) -> None:
    found = explained(client, prompt="hello")
    assert [one.id for one in found.nearest[:3]] == ["hello-easy", "hello-hard", "hello-None"]
    easy, hard, none = found.nearest[:3]
    assert (easy.workflow, easy.similarity, easy.text) == ("easy", 1.0, "the text of hello, easy")
    assert [one.model for one in easy.outcomes] == [SMALL]
    assert (easy.outcomes[0].acceptable, easy.outcomes[0].quality, easy.outcomes[0].cost_usd) == (True, 1.0, 0.0001)
    assert hard.outcomes[0].acceptable is False
    small, large = none.outcomes
    assert (large.model, large.acceptable, large.quality, large.cost_usd, large.error) == (
        LARGE,
        None,
        None,
        0.01,
        True,
    )
    assert not small.error
    assert len(found.nearest) == explain.NEAREST
    assert (found.searched, found.of, found.why_none) == (24, 100, None)


def test_a_text_that_says_nothing_is_like_none(client: TestClient) -> None:
    found = explained(client, prompt="")
    assert found.nearest == []
    assert found.why_none == "The request has no text to compare."


def test_a_bundle_without_any_says_so(tmp_path: Path) -> None:
    with TestClient(create_app(Settings(bundle=fake_bundle.build(tmp_path), store=""))) as client:
        found = explained(client)
        assert (found.nearest, found.searched) == ([], 0)
        assert found.why_none == "This bundle has no logged requests along."
        check_covers(found)


def test_what_the_reference_would_cost(client: TestClient) -> None:
    answer = routed(client, cost_quality=0, explain=True)
    cost = {one.model: one.expected_cost_usd for one in answer.candidates}
    assert answer.explanation is not None
    found = answer.explanation.counterfactual
    assert (answer.model, found.model, found.expected_cost_usd) == (SMALL, LARGE, cost[LARGE])
    assert cost[LARGE] is not None
    assert cost[SMALL] is not None
    assert found.saving_usd == pytest.approx(cost[LARGE] - cost[SMALL], rel=1e-4)
    assert found.saving == pytest.approx(1 - cost[SMALL] / cost[LARGE], rel=1e-4)


def test_what_each_target_would_choose(client: TestClient) -> None:
    found = {one.name: one for one in explained(client, workflow="hard").points}
    assert list(found) == ["balanced", "q0.8", "q0.9"], "the points that can be asked for"
    for one in found.values():
        target = {} if one.quality_target is None else {"quality_target": one.quality_target}
        answer = routed(client, workflow="hard", **target)
        assert (answer.operating_point, answer.model) == (one.name, one.model)


# The flips are what the service says

BODIES = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["hello", "prove the theorem", "prove", "", "sum of two " * 60, "never seen"])},
    optional={
        "workflow": st.sampled_from(["easy", "hard", "other"]),
        "deny": st.lists(st.sampled_from([SMALL, OPEN]), max_size=2),
        "max_cost_usd": st.sampled_from([0.002, 1.0]),
        "objective": st.sampled_from(["acceptable", "quality"]),
        "quality_target": st.sampled_from([0.8, 0.9]),
        "provider": st.sampled_from([{"order": ["acme"]}, {"sort": "latency"}, {"preferred_max_latency": 1.0}]),
        "max_output_tokens": st.sampled_from([10, 1_000]),
    },
)
RULES = [
    "",
    "[default]\ncost_quality = 3\n",
    "[default]\nquality_target = 0.8\n",
    f'[default]\nabstain_below = 0.9\n[workflows.hard]\ndeny = ["{OPEN}"]\ncost_quality = 6.5\n',
]


@pytest.mark.parametrize("rules", RULES, ids=["none", "floor", "target", "several"])
def test_at_every_place_the_flips_say_what_is_chosen(serve: Serve, rules: str) -> None:
    client = serve(rules, store="")

    @settings(max_examples=30)
    @given(body=BODIES, places=st.lists(st.floats(0, 10), max_size=6))
    def check(body: dict[str, Any], places: list[float]) -> None:
        found = explained(client, **body)
        check_covers(found)
        near = [edge + step for edge in edges(found) for step in (-1e-3, 1e-3)]
        asked = {name: value for name, value in body.items() if name != "quality_target"}
        for place in {0.0, 10.0, *range(11), *places, *near}:
            if not 0 <= place <= 10 or any(abs(place - edge) < 1e-4 for edge in edges(found) if 0 < edge < 10):
                continue
            assert routed(client, **asked, cost_quality=place).model == at(found, place), place

    check()


def test_there_is_something_to_flip(client: TestClient) -> None:
    found = explained(client, workflow="hard")
    assert [one.model for one in found.flips] == [SMALL, OPEN, LARGE]
    assert all(0 < edge < 10 for edge in edges(found))
    assert found.flips[0].knob_high is None
    assert found.flips[-1].knob_low == 0


# Why the choice is another one


def test_a_session_is_said_to_have_overruled(serve: Serve) -> None:
    client = serve(session_margin=1.0)
    said = {"workflow": "hard", "session_id": "one"}
    assert routed(client, **said, cost_quality=0).model == SMALL
    kept = routed(client, **said, cost_quality=9.5, explain=True)
    assert (kept.model, kept.reason) == (SMALL, "session")
    assert kept.explanation is not None
    assert kept.explanation.overrides == ["session"]
    assert at(kept.explanation, 9.5) == LARGE, "the flips are those of the request alone"
    assert explained(client, **said, cost_quality=9.5).overrides == [], "a trial looks at no session"


def test_a_low_confidence_and_a_budget_are_said(serve: Serve) -> None:
    doubting = serve("[default]\nabstain_below = 0.99\n")
    assert explained(doubting, cost_quality=1).overrides == ["low_confidence"]
    spent = serve("[default.budget]\nday_usd = 0.0\n")
    answer = routed(spent, cost_quality=10, explain=True)
    assert answer.explanation is not None
    assert (answer.reason, answer.explanation.overrides) == ("budget", ["budget"])


def test_each_excluded_candidate_has_its_scope(tenants: TestClient) -> None:
    found = {one.model: one for one in explained(tenants, "app", workflow="easy").rules}
    assert found[SMALL].scopes == ["key:app"]
    assert found[OPEN].scopes == ["workflow:easy"]
    both = {one.model: one for one in explained(tenants, "app", deny=[SMALL]).rules}
    assert both[SMALL].scopes == ["request", "key:app"]
    shape = {one.model: one for one in explained(tenants, "root", tools=[{"type": "function"}]).rules}
    assert (shape[SMALL].rule.value, shape[SMALL].scopes) == ("tools", ["request"])


def test_what_was_held_back_where_nobody_is_eligible_is_explained_all_the_same(serve: Serve) -> None:
    said = {"prompt": "prove", "allow": ["open/*", SMALL], "deny": [SMALL], "requires": ["audio", "vision"]}
    answer = routed(serve(), **said, explain=True, share=0, otherwise="group")
    assert (answer.model, answer.reason) == ("group", "held_back")
    assert answer.explanation is not None
    assert (answer.explanation.overrides, answer.explanation.flips) == (["held_back"], [])
    assert {one.model for one in answer.explanation.rules} == {SMALL, OPEN, LARGE}


# Who may see what


def test_ids_and_texts_are_for_keys_that_may_administer(tenants: TestClient) -> None:
    seen = explained(tenants, "root").nearest
    assert (seen[0].id, seen[0].text) == ("hello-easy", "the text of hello, easy")
    assert {(one.id, one.text) for one in explained(tenants, "easy").nearest} == {(None, None)}


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("said", [{}, {"workflow": "easy"}, {"prompt": "prove the theorem"}, {"prompt": ""}])
def test_a_key_without_workflows_sees_nothing_of_the_log(
    tenants: TestClient, said: dict[str, Any], dry_run: bool
) -> None:
    found = explained(tenants, "app", **said, dry_run=dry_run)
    assert (found.nearest, found.searched, found.of) == ([], 0, 0)
    assert found.why_none == explain._NOT_SHOWN
    check_covers(found)


def test_a_bound_key_cannot_tell_whether_a_text_is_in_the_log(tenants: TestClient) -> None:
    exact = explained(tenants, "root", prompt="hello hello sum").nearest
    assert any(one.similarity != round(one.similarity, 1) for one in exact)
    near = explained(tenants, "easy", prompt="hello hello sum").nearest
    assert near
    assert all(one.similarity == round(one.similarity, 1) for one in near)


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("said", [{}, {"workflow": "easy"}, {"prompt": "prove the theorem"}])
def test_a_bound_key_sees_its_workflows_alone(tenants: TestClient, said: dict[str, Any], dry_run: bool) -> None:
    found = explained(tenants, "easy", **said, dry_run=dry_run)
    assert {one.workflow for one in found.nearest} == {"easy"}
    assert {one.id for one in found.nearest} | {one.text for one in found.nearest} == {None}
    assert (found.searched, found.of) == (8, 8), "how many there are of others is not told"


def test_a_key_of_no_logged_workflow_sees_none(tenants: TestClient) -> None:
    found = explained(tenants, "other")
    assert (found.nearest, found.searched, found.of) == ([], 0, 0)
    assert found.why_none == "It has none of the workflows that this key is for."


def test_nothing_of_another_tenant_is_in_any_byte(tenants: TestClient) -> None:
    for body in ({"explain": True}, {"explain": True, "dry_run": True}, {"explain": True, "deny": ["*/medium"]}):
        content = tenants.post("/v1/route", json={"prompt": "hello", **body}, headers=bearer("easy")).text
        for canary in ("hard", "the text of", "hello-easy", "key:app", "key:root", "key:other", "nobody has this"):
            assert canary not in content


@pytest.mark.parametrize("body", [{"explain": True}, {"dry_run": True}])
def test_keys_and_their_bindings_hold(tenants: TestClient, body: dict[str, Any]) -> None:
    assert tenants.post("/v1/route", json={"prompt": "hello", **body}).status_code == 401
    refused = tenants.post("/v1/route", json={"prompt": "hello", "workflow": "hard", **body}, headers=bearer("easy"))
    assert refused.status_code == 403
    assert routed(tenants, "app", cost_quality=0, **body).model == OPEN, "its rules, too"


def test_a_rate_counts_trials(serve: Serve) -> None:
    client = serve(key_rules("slow", "slow", 'rate = "2/day"'))
    said = {"json": {"prompt": "hello", "dry_run": True}, "headers": bearer("slow")}
    assert [client.post("/v1/route", **said).status_code for _ in range(3)] == [200, 200, 429]


# What is refused


@pytest.mark.parametrize("field", ["explain", "dry_run"])
def test_a_batch_refuses_it(client: TestClient, field: str) -> None:
    plain = {"prompt": "hello"}
    inside = client.post("/v1/route/batch", json={"requests": [plain, {**plain, field: True}]})
    beside = client.post("/v1/route/batch", json={"requests": [plain], field: True})
    for response, where in ((inside, f"requests.1.{field}"), (beside, field)):
        assert response.status_code == 422
        [error] = response.json()["errors"]
        assert error["field"] == where
        assert error["message"] == "a batch has no place for this: send the request by itself, to /v1/route"
    said = client.post("/v1/route/batch", json={"requests": [{**plain, field: False}], field: False})
    assert said.status_code == 200


@pytest.mark.parametrize("value", ["yes", 1, [], {}])
def test_what_is_no_boolean_is_a_clear_error(client: TestClient, value: object) -> None:
    response = client.post("/v1/route", json={"prompt": "hello", "explain": value})
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "explain"


def test_nobody_eligible_is_the_same_problem(client: TestClient) -> None:
    for body in ({"explain": True}, {"dry_run": True}, {"explain": True, "dry_run": True}):
        response = client.post("/v1/route", json={"prompt": "hello", "deny": ["*"], **body})
        assert response.status_code == 422
        assert set(response.json()["ruled_out"].values()) == {"denied"}


def test_whom_a_rule_names_for_that_answers_a_trial_too(serve: Serve) -> None:
    client = serve(f'[default]\ndeny = ["*"]\nno_candidate = "{LARGE}"\n')
    answer = routed(client, dry_run=True, explain=True)
    assert (answer.model, answer.reason) == (LARGE, "no_candidate")
    assert answer.explanation is not None
    assert [one.model for one in answer.explanation.flips] == [LARGE]
    assert answer.explanation.overrides == ["no_candidate"]


# A trial leaves no trace


def metrics_of(client: TestClient) -> str:
    """What is measured, but for the process itself, the trials, and how often an embedding was known."""
    lines = client.get("/metrics").text.splitlines()
    apart = ("router_dry_runs", "router_embedding_cache")
    return "\n".join(line for line in lines if line.startswith("router_") and not line.startswith(apart))


def test_a_trial_is_counted_charged_and_remembered_nowhere(folder: Path, tmp_path: Path) -> None:
    rules = "[default.budget]\nday_usd = 100.0\n[also]\nshare = 1.0\ndaily_usd = 5.0\n"
    shadow = str(fake_bundle.build(tmp_path / "shadow"))
    with service(folder, tmp_path, rules, explore=0.2, share=0.5, shadow=shadow) as client:
        said = {"prompt": "hello", "session_id": "s", "cost_quality": 0, "share": 0.0, "otherwise": "somebody"}
        before, budgets = metrics_of(client), client.get("/v1/budgets").json()
        for more in ({}, {"explain": True}, {"prompt": "hello " * 20_000, "deny": [SMALL, OPEN]}):
            answer = routed(client, **{**said, **more}, dry_run=True)
            assert (answer.id, answer.dry_run, answer.propensity) == ("dry-run", True, 1.0)
            assert (answer.held_back, answer.also) == (None, None)
            assert answer.model == (LARGE if "deny" in more else SMALL)
        assert metrics_of(client) == before
        assert client.get("/v1/budgets").json() == budgets
        # What follows is a conversation that has been nowhere.
        after = routed(client, prompt="hello", session_id="s", cost_quality=10)
        assert after.reason != "session"
    rows = stored(str(tmp_path / "d.db"), DECISIONS)
    assert [row["id"] for row in rows] == [after.id]


SPENT = f"""
{key_rules("poor", "poor", 'budget = {day_usd = 0.0, at_limit = "reject"}')}
{key_rules("thrifty", "thrifty", 'budget = {day_usd = 0.0, at_limit = "cheapest"}')}
{key_rules("warned", "warned", 'budget = {day_usd = 0.0, at_limit = "warn"}')}
{key_rules("root", "root", "admin = true")}
"""


@pytest.mark.parametrize("store", ["", None], ids=["alone", "stored"])
def test_a_trial_is_answered_as_its_budget_would(serve: Serve, store: str | None) -> None:
    client = serve(SPENT, **({} if store is None else {"store": store}))
    for body in ({}, {"dry_run": True}, {"dry_run": True, "explain": True}, {"explain": True}):
        said = {"prompt": "hello", "cost_quality": 10, **body}
        came = {
            name: client.post("/v1/route", json=said, headers=bearer(name)) for name in ("poor", "thrifty", "warned")
        }
        assert came["poor"].status_code == 402
        assert came["poor"].json()["type"] == "urn:outcome-router:budget-spent"
        assert (came["thrifty"].json()["model"], came["thrifty"].json()["reason"]) == (SMALL, "budget")
        assert came["warned"].json()["model"] == LARGE
        assert came["warned"].json()["warnings"] == ["key:warned/day"]


def test_trials_are_counted_by_key(serve: Serve) -> None:
    client = serve(SPENT)
    for _ in range(3):
        assert client.post("/v1/route", json={"prompt": "hello", "dry_run": True}, headers=bearer("poor")).is_error
    routed(client, "root", dry_run=True, explain=True)
    routed(client, "root", explain=True)
    counted = client.get("/metrics", headers=bearer("root")).text
    assert 'router_dry_runs_total{scope="key:poor"} 3.0' in counted
    assert 'router_dry_runs_total{scope="key:root"} 1.0' in counted
    assert 'scope="key:' not in client.get("/metrics").text, "names of keys are not for everybody"


def test_an_explained_decision_is_recorded_as_any_other_and_its_time_is_counted(folder: Path, tmp_path: Path) -> None:
    with service(folder, tmp_path) as client:
        plain, with_it = routed(client), routed(client, explain=True)
        assert with_it.explanation is not None
        assert with_it.explanation.seconds > 0
        assert with_it.dry_run is None
        assert 'router_stage_seconds_count{stage="explain"} 1.0' in metrics_of(client)
    rows = stored(str(tmp_path / "d.db"), DECISIONS)
    assert sorted(row["id"] for row in rows) == sorted([plain.id, with_it.id])


def test_it_is_found_outside_of_the_event_loop(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    found, real = [], explain.explanation

    def watched(*arguments: Any) -> dict[str, object]:
        found.append(threading.current_thread().name)
        return real(*arguments)

    monkeypatch.setattr(explain, "explanation", watched)
    explained(client)
    explained(client, dry_run=False)
    explained(client, prompt="hello " * 20_000)
    assert len(found) == 3
    assert all(name.startswith("explain") for name in found), "nor in the threads of what else is asked"


def test_what_cannot_be_explained_is_decided_all_the_same(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("canary")

    monkeypatch.setattr(explain, "explanation", broken)
    response = client.post("/v1/route", json={"prompt": "hello", "explain": True})
    document = json.loads(response.content)
    assert (response.status_code, document["explanation"]) == (200, None)
    assert document["unexplained"] == "It could not be found out; the log says why."
    assert "could not be explained" in caplog.text


# What it may cost


def test_so_many_are_explained_and_wait_and_the_decisions_of_the_others_stand(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, real = threading.Event(), explain.explanation
    at_work: list[int] = []

    def slow(*arguments: Any) -> dict[str, object]:
        at_work.append(1)
        assert go.wait(PATIENCE)
        return real(*arguments)

    monkeypatch.setattr(explain, "explanation", slow)
    turns = Turns(at_once=2, waiting=3, seconds=PATIENCE)
    assert isinstance(client.app, FastAPI)
    monkeypatch.setattr(client.app.state, "explaining", turns)
    bodies = [{"prompt": "hello" if row % 2 else "hello " * 20_000, "explain": True} for row in range(9)]
    with ThreadPoolExecutor(len(bodies)) as asking:
        coming = [asking.submit(client.post, "/v1/route", json=body) for body in bodies]
        until(lambda: sum(one.done() for one in coming) == 4)
        assert len(at_work) == 2
        plain = client.post("/v1/route", json={"prompt": "hello"})
        assert plain.status_code == 200
        go.set()
        answers = [one.result(PATIENCE).json() for one in coming]
    turns.close()
    assert all(one["model"] and one["id"] for one in answers)
    refused = [one for one in answers if one["explanation"] is None]
    assert [one["unexplained"] for one in refused] == [explain.NO_TURN] * 4
    assert len(at_work) == 5


def test_nobody_waits_longer_than_that_for_an_explanation() -> None:
    go = threading.Event()
    turns = Turns(at_once=1, waiting=1, seconds=0.01)

    async def check() -> None:
        for _ in range(3):  # and one that is given up before its turn makes room for the next one
            with pytest.raises(NoTurnError):
                await turns.call(go.wait)
        go.set()

    asyncio.run(check())
    turns.close()
    with pytest.raises(NoTurnError):
        asyncio.run(turns.call(go.wait))


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_text_is_embedded_once(serve: Serve, monkeypatch: pytest.MonkeyPatch, dry_run: bool) -> None:
    client = serve()
    assert isinstance(client.app, FastAPI)
    encoder, texts = client.app.state.service.live.current.router.encoder, []
    real = encoder.encode

    def watched(asked: list[str]) -> Any:
        texts.extend(asked)
        return real(asked)

    monkeypatch.setattr(encoder, "encode", watched)
    for _ in range(3):
        explained(client, prompt="a text of its own", dry_run=dry_run)
    assert texts == ["a text of its own"]


def test_what_cannot_be_embedded_is_tried_as_it_would_be_decided(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    client = serve(SPENT)
    assert isinstance(client.app, FastAPI)

    async def late(*_: Any) -> Reason:
        return Reason.TIMEOUT

    monkeypatch.setattr(client.app.state.service.embedding, "one", late)
    for dry_run in (True, False):
        said = {"prompt": "hello", "explain": True, "dry_run": dry_run}
        answer = client.post("/v1/route", json=said, headers=bearer("root")).json()
        assert (answer["model"], answer["reason"], answer["explanation"]) == (LARGE, "timeout", None)
        assert answer["unexplained"]
        assert client.post("/v1/route", json=said, headers=bearer("poor")).status_code == 402


def test_pairs_are_looked_at_among_few_candidates_alone() -> None:
    """Each makes a decision or two more: with some seventy an explanation takes a few times what a decision does."""
    assert [len(list(every_pair(range(many)))) for many in (0, 1, 3, 12)] == [0, 0, 3, 66]
    assert max(len(list(every_pair(range(many)))) for many in range(100)) == 66
