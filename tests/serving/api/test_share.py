"""A share of decisions over HTTP: who answers, what is stored, compared, counted and charged, and what it does not move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.api.documents import RouteResponse, ShadowResponse
from serving.bundle.request import RouteRequest
from serving.decide.policy import Policy
from serving.runtime.pipeline import Service
from serving.settings import Settings
from serving.state.budgets import Allowance
from serving.store.tables import DECISIONS
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.patience import until
from tests.serving.store.rows import stored
from training.logs.sources import reading

EXISTING = "gpt-4o-prod"
SHADOW = {"prompt": "hello", "share": 0, "quality_target": 0.8}  # by itself it would be OPEN


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "decisions.db")


@pytest.fixture
def client(folder: Path, path: str, request: pytest.FixtureRequest) -> Iterator[TestClient]:
    """Settings are the fixture's parameter; of these `rules` is the text of a rule file."""
    given = dict(getattr(request, "param", {}))
    if "rules" in given:
        given["policies"] = Path(path).parent / "policies.toml"
        given["policies"].write_text(given.pop("rules"))
    with TestClient(create_app(Settings(bundle=str(folder), store=path, **given))) as client:
        yield client


def service_of(client: TestClient) -> Service:
    service: Service = client.app.state.service  # type: ignore[attr-defined]
    return service


def routed(client: TestClient, **body: Any) -> RouteResponse:
    response = client.post("/v1/route", json={"prompt": "hello", **body})
    assert response.status_code == 200, response.text
    return RouteResponse.model_validate_json(response.content)


def rows(client: TestClient, path: str, count: int) -> list[Any]:
    until(lambda: len(stored(path, DECISIONS)) >= count, f"{count} decisions are stored")
    return stored(path, DECISIONS)


def metric(client: TestClient, line: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(one.rpartition(" ")[2]) for one in lines if one.startswith(line + " "))


def test_the_answer_says_who_would_have_been_chosen(client: TestClient) -> None:
    answer = routed(client, **SHADOW)
    assert (answer.model, answer.reason, answer.propensity) == (LARGE, "held_back", 1.0)
    assert answer.held_back is not None
    own = next(one for one in answer.candidates if one.model == OPEN)
    assert (answer.held_back.model, answer.held_back.confidence) == (OPEN, own.confidence)
    assert answer.held_back.expected_cost_usd == own.expected_cost_usd
    assert answer.fallbacks == [OPEN, SMALL]
    assert routed(client).held_back is None


def test_one_that_is_no_candidate_may_answer(client: TestClient, path: str) -> None:
    answer = routed(client, **SHADOW, otherwise=EXISTING)
    assert (answer.model, answer.confidence, answer.expected_cost_usd, answer.certificate) == (
        EXISTING,
        None,
        None,
        None,
    )
    assert [one.model for one in answer.candidates] == [SMALL, OPEN, LARGE]
    [row] = rows(client, path, 1)
    assert (row["candidate"], row["reason"], row["propensity"]) == (EXISTING, "held_back", 1.0)
    assert (row["confidence"], row["expected_cost_usd"], row["expected_quality"]) == (None, None, None)
    assert (row["shadow_bundle"], row["shadow_candidate"]) == (fake_bundle.VERSION, OPEN)
    assert answer.held_back is not None
    assert row["shadow_confidence"] == pytest.approx(answer.held_back.confidence, rel=1e-5)
    assert row["shadow_expected_cost_usd"] == pytest.approx(answer.held_back.expected_cost_usd)


@pytest.mark.parametrize("client", [{"share": 0.5}], indirect=True)
def test_the_setting_holds_back_and_a_request_only_more(client: TestClient, path: str) -> None:
    service = service_of(client)
    service._random.seed(7)
    bodies = [{"prompt": "hello", "quality_target": 0.8, "share": share} for share in (None, 1, 0.8)] * 200
    answers = [
        one
        for start in range(0, 600, 200)
        for one in client.post("/v1/route/batch", json={"requests": bodies[start : start + 200]}).json()["results"]
    ]
    count = Counter(one["reason"] for one in answers)
    assert 240 < count["held_back"] < 360
    for one in answers:
        assert one["propensity"] == 0.5
        assert (one["model"] == LARGE) is (one["reason"] == "held_back")
    assert routed(client, quality_target=0.8, share=0).reason == "held_back"


@pytest.mark.parametrize("client", [{"share": 0.3}], indirect=True)
def test_what_begins_alike_is_drawn_afresh_and_a_session_that_is_named_keeps_its_side(client: TestClient) -> None:
    service_of(client)._random.seed(5)

    def held(count: int, **said: Any) -> int:
        body = {"messages": [{"role": "user", "content": "hello"}], "quality_target": 0.8, **said}
        answers: list[Any] = []
        for start in range(0, count, 200):
            bodies = [body] * min(200, count - start)
            answers += client.post("/v1/route/batch", json={"requests": bodies}).json()["results"]
        return Counter(one["reason"] for one in answers)["held_back"]

    # 700 in 1,000 with a standard deviation of 14.5: seven of these to either side.
    assert 600 < held(1_000) < 800
    sides = [held(50, session_id=f"s{number}") for number in range(30)]
    assert set(sides) == {0, 50}


@pytest.mark.parametrize("client", [{"explore": 0.2}], indirect=True)
def test_what_is_drawn_stays_however_often_a_request_is_decided(client: TestClient) -> None:
    service = service_of(client)
    service._random.seed(6)
    drawn = set()
    for _ in range(50):
        case = service.case(RouteRequest(prompt="hello"), Policy(), None)
        situations = [service._situation(case, Allowance()) for _ in range(3)]
        assert {one.draw for one in situations} == {case.draw}
        drawn.add(case.draw)
    assert len(drawn) == 50


def test_half_of_it_is_logged_with_the_probability_of_who_answered(client: TestClient, path: str) -> None:
    """What the store says is what training reads: who answered, with its propensity, whatever its name."""
    service_of(client)._random.seed(3)
    asked = {"quality_target": 0.8, "share": 0.25, "otherwise": EXISTING}
    answers = [routed(client, **asked, session_id=f"s{k}") for k in range(60)]
    for one in answers:
        said = {"decision_id": one.id, "quality": 1.0, "cost_usd": 0.001}
        assert client.post("/v1/feedback", json=said).status_code == 200
    frame = reading.read([path]).frame.set_index("request_id")
    assert len(frame) == 60
    for one in answers:
        assert (frame.loc[one.id, "candidate"], frame.loc[one.id, "propensity"]) == (one.model, one.propensity)
    assert {(one.model, one.propensity) for one in answers} == {(EXISTING, 0.75), (OPEN, 0.25)}
    assert set(frame["status"]) == {"success"}


def test_held_back_decisions_are_compared_without_a_shadow(client: TestClient, path: str) -> None:
    missing = client.get("/v1/shadow")
    assert (missing.status_code, "ROUTER_SHARE" in missing.json()["detail"]) == (404, True)
    routed(client, **SHADOW)
    routed(client, **SHADOW, otherwise=OPEN)
    routed(client, **SHADOW, otherwise=EXISTING, workflow="hard")
    routed(client)  # was followed
    rows(client, path, 4)
    found = ShadowResponse.model_validate_json(client.get("/v1/shadow").content)
    assert (found.bundle, found.shadow, found.total, found.workflows) == (fake_bundle.VERSION, None, None, [])
    total = found.held_back.total
    assert total is not None
    assert (total.decisions, total.agreement, total.spent) == (3, 0.5, None)
    assert total.live_cost_usd == pytest.approx((0.00601 + 0.001) / 2, rel=1e-3)
    assert [(one.workflow, one.decisions) for one in found.held_back.workflows] == [(None, 2), ("hard", 1)]
    existing = found.held_back.workflows[1]
    assert (existing.live_cost_usd, existing.live_confidence, existing.agreement) == (None, None, None)
    assert existing.shadow_confidence is not None


def test_what_was_spent_stands_beside_what_was_expected_of_the_same_decisions(client: TestClient, path: str) -> None:
    first, second, unpriced = (routed(client, **SHADOW, otherwise=EXISTING) for _ in range(3))
    for answer, said in ((first, {"cost_usd": 0.5}), (second, {"cost_usd": 0.25}), (unpriced, {"quality": 1.0})):
        assert client.post("/v1/feedback", json={"decision_id": answer.id, **said}).status_code == 200
    total = ShadowResponse.model_validate_json(client.get("/v1/shadow").content).held_back.total
    assert total is not None
    assert total.spent is not None
    expected = sum(one.held_back.expected_cost_usd or 0 for one in (first, second) if one.held_back is not None)
    assert (total.spent.decisions, total.spent.cost_usd) == (2, 0.75)
    assert total.spent.expected_cost_usd == pytest.approx(expected)
    assert expected > 0


def test_a_group_is_recorded_as_the_candidate_behind_it(client: TestClient, path: str) -> None:
    """The decision, its probability and what is stored are the candidate's; the rules go by what is known, not by limits."""
    asked = {"quality_target": 0.8, "otherwise": EXISTING, "otherwise_candidate": LARGE}
    held = routed(client, **asked, share=0)
    assert (held.model, held.reason, held.propensity) == (LARGE, "held_back", 1.0)
    assert held.expected_cost_usd is not None
    half = [routed(client, **asked, share=0.25, session_id=f"s{k}") for k in range(40)]
    assert {(one.model, one.propensity) for one in half} == {(LARGE, 0.75), (OPEN, 0.25)}
    same = [routed(client, **{**asked, "otherwise_candidate": OPEN}, share=0.25, session_id=f"s{k}") for k in range(40)]
    assert {(one.model, one.propensity) for one in same} == {(OPEN, 1.0)}
    assert {one.reason for one in same} > {"held_back"}
    # What keeps the candidate itself from answering moves nobody off the group.
    assert routed(client, **asked, share=0, allow=[SMALL, OPEN]).model == LARGE
    assert routed(client, **asked, share=0, max_cost_usd=0.002).model == LARGE
    # One that is unknown is of no account.
    assert routed(client, **{**asked, "otherwise_candidate": "nobody"}, share=0).model == EXISTING


@pytest.mark.parametrize("client", [{"share": 0.0}], indirect=True)
def test_where_all_are_held_back_it_is_there_from_the_start(client: TestClient) -> None:
    found = ShadowResponse.model_validate_json(client.get("/v1/shadow").content)
    assert (found.held_back.total, found.held_back.workflows) == (None, [])


def test_a_shadow_bundle_is_not_asked_about_them(folder: Path, path: str, tmp_path: Path) -> None:
    other = fake_bundle.build(tmp_path / "other", "shadow-1")
    with TestClient(create_app(Settings(bundle=str(folder), shadow=str(other), store=path))) as client:
        routed(client, **SHADOW)
        routed(client, quality_target=0.8)
        until(
            lambda: Counter(one["shadow_bundle"] for one in stored(path, DECISIONS))["shadow-1"] == 1, "it has answered"
        )
        found = ShadowResponse.model_validate_json(client.get("/v1/shadow").content)
    assert found.shadow == "shadow-1"
    assert (found.total, found.held_back.total) != (None, None)
    assert found.total is not None
    assert found.held_back.total is not None
    assert (found.total.decisions, found.held_back.total.decisions) == (1, 1)


def test_metrics_count_them_and_no_name_that_is_made_up(client: TestClient) -> None:
    routed(client, **SHADOW)
    for name in ("made-up-1", "made-up-2"):
        routed(client, **SHADOW, otherwise=name)
    assert metric(client, f'router_decisions_total{{candidate="{LARGE}",reason="held_back"}}') == 1
    assert metric(client, 'router_decisions_total{candidate="(other)",reason="held_back"}') == 2
    assert "made-up" not in client.get("/metrics").text
    assert metric(client, f'router_expected_cost_usd_total{{candidate="{LARGE}"}}') == pytest.approx(0.00601, rel=1e-3)


def test_a_conversation_is_not_moved(client: TestClient, path: str) -> None:
    service = service_of(client)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "settings", service.settings.model_copy(update={"session_margin": 10.0}))
        assert routed(client, session_id="one", quality_target=0.8).model == OPEN
        assert routed(client, session_id="one", **{**SHADOW, "otherwise": SMALL}).model == SMALL
        rows(client, path, 2)
        kept = routed(client, session_id="one")
        assert (kept.model, kept.reason) == (OPEN, "session")
        assert routed(client, session_id="two", **SHADOW).model == LARGE
        rows(client, path, 4)
        assert routed(client, session_id="two", quality_target=0.8).reason == "best_value", "it has not begun"


BUDGET = '[default.budget]\nmonth_usd = 0.01\nat_limit = "{}"\n'


@pytest.mark.parametrize("client", [{"rules": BUDGET.format("cheapest")}], indirect=True)
def test_budgets_pay_for_who_answers(client: TestClient) -> None:
    def reserved() -> float:
        [line] = client.get("/v1/budgets").json()["budgets"]
        amount: float = line["reserved_usd"]
        return amount

    assert routed(client, **SHADOW).model == LARGE
    assert reserved() == pytest.approx(0.00601, rel=1e-3)
    answer = routed(client, **SHADOW)
    assert (answer.model, answer.reason, answer.held_back) == (OPEN, "best_value", None), "it holds no second one"
    before = reserved()
    assert routed(client, **SHADOW, otherwise=EXISTING).model == EXISTING
    assert reserved() == before, "what one costs of which nothing is known is known with its feedback"


@pytest.mark.parametrize("client", [{"rules": BUDGET.format("reject")}], indirect=True)
def test_what_feedback_says_of_the_cost_is_charged(client: TestClient) -> None:
    answer = routed(client, **SHADOW, otherwise=EXISTING)
    client.post("/v1/feedback", json={"decision_id": answer.id, "cost_usd": 0.02})
    until(lambda: client.get("/v1/budgets").json()["budgets"][0]["left_usd"] == 0, "it is spent")
    assert client.post("/v1/route", json={"prompt": "hello"}).status_code == 402


@pytest.mark.parametrize("client", [{"rules": '[default]\ndeny = ["*/large"]\n'}], indirect=True)
def test_no_rule_is_shed_by_it(client: TestClient) -> None:
    assert routed(client, **SHADOW).model == OPEN, "the reference is denied, so the router's own is followed"
    private = client.post("/v1/route", json={**SHADOW, "otherwise": EXISTING, "privacy": {"self_hosted": True}}).json()
    assert (private["model"], private["held_back"]) == (OPEN, None)


def test_private_text_is_not_written_of_one_that_is_held_back_either(client: TestClient, path: str) -> None:
    routed(client, **SHADOW, workflow="hard")
    body = {**SHADOW, "privacy": {"no_training": True}}
    assert client.post("/v1/route", json=body).status_code == 422  # nobody here is known not to train
    [row] = rows(client, path, 1)
    assert (row["prompt"], row["workflow"]) == ("hello", "hard")


def test_a_prompt_is_not_stored_where_the_request_says_so_and_the_decision_is_the_same(
    client: TestClient, path: str
) -> None:
    asked = {"quality_target": 0.8, "workflow": "somebody's own", "session_id": "my session"}
    plain = routed(client, **asked)
    unstored = routed(client, **asked, store_prompt=False)
    alike = {"model", "fallbacks", "reason", "confidence", "certificate", "expected_cost_usd"}
    assert unstored.model_dump(include=alike) == plain.model_dump(include=alike)
    kept, bare = sorted(rows(client, path, 2), key=lambda row: row["prompt"] is None)
    assert (kept["prompt"], kept["session_id"], kept["workflow"]) == ("hello", "my session", "somebody's own")
    assert (bare["prompt"], bare["messages"], bare["workflow"]) == (None, None, None)
    assert bare["session_id"] not in (None, "my session")
    assert routed(client, store_prompt=None).model == routed(client, store_prompt=True).model
    assert [row["prompt"] for row in rows(client, path, 4)].count("hello") == 3
    response = client.post("/v1/route", json={"prompt": "hello", "store_prompt": "no"})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "store_prompt")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"share": 1.5}, "share"),
        ({"share": -0.1}, "share"),
        ({"share": "half"}, "share"),
        ({"otherwise": ""}, "otherwise"),
        ({"otherwise": "x" * 257}, "otherwise"),
    ],
)
def test_a_share_that_is_none_is_named(client: TestClient, body: dict[str, Any], field: str) -> None:
    response = client.post("/v1/route", json={"prompt": "hello", **body})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, field)


def test_a_name_may_be_any_text(client: TestClient, path: str) -> None:
    content = b'{"prompt": "hello", "share": 0, "otherwise": "\\ud83d \\u0000"}'
    assert client.post("/v1/route", content=content).status_code == 200
    [row] = rows(client, path, 1)
    assert row["candidate"].startswith("\ufffd")
