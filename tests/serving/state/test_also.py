"""Asking another candidate too: the share that is asked for, within a cap that all who share a store keep, and never more."""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from serving.bundle.manifest import open_bundle
from serving.bundle.request import RouteRequest
from serving.decide.decision import Decision, Reason
from serving.decide.policy import Policy
from serving.runtime.pipeline import Service
from serving.settings import Settings
from serving.state.also import AlsoAsked, Asked, Drawn
from serving.state.rulebook import AlsoRules, RulesError, load_rules
from serving.store.ledger import ALSO, BudgetKey, Charge, Totals, units
from serving.store.tables import BUDGETS, CHARGES, DECISIONS, SESSIONS
from serving.store.writer import NotStoredError, StoreFullError
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL
from tests.patience import PATIENCE, until
from tests.serving.state.test_budgets import DAY, Clock
from tests.serving.store.rows import feedback, locked, stored, told

# On "hello" SMALL is expected to cost $.0000401, OPEN $.001, LARGE $.0060 (fake_bundle).
CHEAP, CAREFUL = Policy(cost_quality=0), Policy(quality_target=0.999)
ALWAYS = "[also]\nshare = 1.0\ndaily_usd = 100.0\n"
Make = Callable[..., Service]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture
def make(folder: Path, tmp_path: Path) -> Iterator[Make]:
    """Makes services on one store, under rules; however slow the machine is, the store is waited for."""
    made: list[Service] = []

    def service(rules: str, clock: Callable[[], float] | None = None, **options: Any) -> Service:
        path = tmp_path / f"policies-{len(made)}.toml"
        path.write_text(rules)
        given = {"bundle": str(folder), "store": str(tmp_path / "d.db"), "reserve_wait_ms": PATIENCE * 1e3, **options}
        settings = Settings(policies=path, **given)
        made.append(Service(settings) if clock is None else Service(settings, clock))
        made[-1]._random = random.Random(7)
        return made[-1]

    yield service
    for one in made:
        one.close()


def route(service: Service, policy: Policy = CHEAP, prompt: str = "hello", **asked: Any) -> tuple[str, Decision]:
    return asyncio.run(service.route(service.case(RouteRequest(prompt, **asked), policy, None)))


def batch(service: Service, n: int, policy: Policy = CHEAP) -> list[Decision]:
    """n decisions, a batch after the other."""
    found: list[Decision] = []
    while len(found) < n:
        cases = [service.case(RouteRequest("hello"), policy, None) for _ in range(min(500, n - len(found)))]
        answers = service.route_batch(cases)
        assert all(isinstance(one, tuple) for one in answers)
        found += [one[1] for one in answers if isinstance(one, tuple)]
    return found


def also_of(decisions: Sequence[Decision]) -> Counter[str]:
    return Counter(one.also.candidate for one in decisions if one.also is not None)


def spent(path: Path) -> int:
    return sum(row["used"] for row in stored(str(path), BUDGETS) if row["scope"] == ALSO)


# --- the rules ---


def test_the_rules_are_read(tmp_path: Path) -> None:
    path = tmp_path / "policies.toml"
    path.write_text('[also]\nshare = 0.05\ndaily_usd = 2\ncandidates = ["acme/*"]\nworkflows = ["sql"]\n')
    assert load_rules(path).also == AlsoRules(share=0.05, daily_usd=2.0, candidates=("acme/*",), workflows=("sql",))
    path.write_text("")
    assert load_rules(path).also.share == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("share = 0.1", "also: Value error, share is above 0 and nothing caps what that costs; expected daily_usd"),
        ("share = 1e-9\ndaily_usd = 1", "share is too small to be drawn; expected 0, or at least 0.000001"),
        ("share = 1.5\ndaily_usd = 1", "also.share: "),
        ("share = -0.1\ndaily_usd = 1", "also.share: "),
        ("share = nan\ndaily_usd = 1", "also.share: "),
        ("share = 'x'\ndaily_usd = 1", "also.share: "),
        ("share = 0.1\ndaily_usd = inf", "also.daily_usd: "),
        ("share = 0.1\ndaily_usd = 1e300", "also.daily_usd: "),
        ("share = 0.1\ndaily_usd = -1", "also.daily_usd: "),
        ("share = 0.1\ndaily_usd = 1\ncandidates = ['']", "also.candidates.0: "),
        ("share = 0.1\ndaily_usd = 1\ncandidates = 'a'", "also.candidates: "),
        (f"share = 0.1\ndaily_usd = 1\nworkflows = ['{'a' * 300}']", "also.workflows.0: "),
        (
            "shares = 0.1",
            "also.shares: there is no such field; did you mean share? expected one of candidates, daily_usd",
        ),
        ("day_usd = 0.1", "also.day_usd: there is no such field; did you mean daily_usd?"),
    ],
)
def test_wrong_rules_are_refused_by_field(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "policies.toml"
    path.write_text(f"[also]\n{text}\n")
    with pytest.raises(RulesError) as error:
        load_rules(path)
    assert said in str(error.value)


def test_candidates_that_the_bundle_does_not_have_are_refused(make: Make) -> None:
    with pytest.raises(
        RulesError, match=r"also: candidates = \['gpt-\*'\] matches no candidate; the bundle has acme/small"
    ):
        make(ALWAYS + 'candidates = ["gpt-*"]\n')


def test_a_rule_file_that_changes_is_followed(make: Make) -> None:
    service = make("[also]\nshare = 0.0\n")
    assert route(service)[1].also is None
    assert service.settings.policies is not None
    service.settings.policies.write_text(ALWAYS)
    assert [one.refusals for one in service.reload()] == [[]]
    assert route(service)[1].also is not None


# --- who, and how often ---


@pytest.mark.parametrize(
    ("policy", "served", "expected"),
    [(CHEAP, SMALL, {LARGE: 0.2, OPEN: 0.2}), (CAREFUL, LARGE, {SMALL: 0.2, OPEN: 0.2})],
    ids=["another answers", "the reference always answers"],
)
def test_the_share_and_the_propensities_are_true(
    make: Make, policy: Policy, served: str, expected: dict[str, float]
) -> None:
    found = batch(make("[also]\nshare = 0.4\ndaily_usd = 100.0\n"), 3_000, policy)
    assert {one.candidate for one in found} == {served}
    assert {one.propensity for one in found} == {1.0}
    for name, count in also_of(found).items():
        interval = binomtest(count, len(found)).proportion_ci(0.999, "exact")
        assert interval.low < expected[name] < interval.high
    assert {one.also.candidate: one.also.propensity for one in found if one.also} == pytest.approx(expected)
    [cost] = {one.alternatives[1].expected_cost_usd for one in found}
    assert {one.also.expected_cost_usd for one in found if one.also and one.also.candidate == OPEN} == {cost}


def test_it_does_not_depend_on_what_is_explored(make: Make) -> None:
    found = batch(make("[also]\nshare = 0.5\ndaily_usd = 100.0\n", explore=0.2), 3_000)
    for explored in (True, False):
        these = [one for one in found if (one.reason is Reason.EXPLORE) is explored]
        assert len(these) > 400
        interval = binomtest(sum(also_of(these).values()), len(these)).proportion_ci(0.999, "exact")
        assert interval.low < 0.5 < interval.high
    assert all(one.also is None or one.also.candidate != one.candidate for one in found)


def test_the_same_seed_asks_the_same(make: Make) -> None:
    first, second = (batch(make("[also]\nshare = 0.4\ndaily_usd = 100.0\n"), 200) for _ in range(2))
    assert [one.also for one in first] == [one.also for one in second]


def test_one_by_one_and_under_a_budget_it_is_the_same(make: Make) -> None:
    service = make(ALWAYS + '[default.budget]\nday_usd = 50.0\nat_limit = "reject"\n')
    found = [route(service)[1] for _ in range(20)] + batch(service, 5)
    assert sum(also_of(found).values()) == 25
    assert set(also_of(found)) == {OPEN, LARGE}
    [line] = service.budgets.lines()
    assert line.reserved == pytest.approx(sum(one.expected_cost_usd or 0.0 for one in found), abs=1e-6), (
        "apart from that"
    )


def test_a_private_request_asks_nobody_else(make: Make) -> None:
    service = make(ALWAYS + "[workflows.medical]\nno_training = true\n[workflows.kept]\nzero_retention = true\n")
    for tag in ("medical", "kept"):
        assert service.case(RouteRequest("hello", workflow=tag), Policy(), None).also is None
    for policy in (Policy(zero_retention=True), Policy(no_training=True)):
        assert service.case(RouteRequest("hello"), policy, None).also is None
    assert service.case(RouteRequest("hello"), Policy(), None).also is not None


def test_workflows_and_candidates_narrow_it(make: Make) -> None:
    service = make(ALWAYS + 'workflows = ["easy"]\ncandidates = ["open/*"]\n')
    asked = {tag: route(service, workflow=tag)[1].also for tag in ("easy", "hard", None)}
    assert (asked["hard"], asked[None]) == (None, None)
    assert asked["easy"] is not None
    assert (asked["easy"].candidate, asked["easy"].propensity) == (OPEN, 1.0)


def test_who_the_request_rules_out_is_never_asked(make: Make) -> None:
    service = make(ALWAYS)
    assert also_of(batch(service, 50, Policy(cost_quality=0, deny=(LARGE,)))) == {OPEN: 50}
    assert also_of(batch(service, 5, Policy(allow=((SMALL,),)))) == {}


def test_a_decision_in_haste_asks_nobody_else(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    service = make(ALWAYS)
    monkeypatch.setattr(service.live.current.router, "decide", lambda *_: 1 / 0)
    _, decision = route(service)
    assert (decision.reason, decision.also) == (Reason.FAULT, None)


def test_a_conversation_stays_where_it_is(make: Make, tmp_path: Path) -> None:
    service = make(ALWAYS)
    kept = [route(service, session_id="s")[1] for _ in range(10)]
    assert {one.candidate for one in kept} == {SMALL}
    assert all(one.also is not None for one in kept)
    session = service.case(RouteRequest("hello", session_id="s"), CHEAP, None).session
    assert session is not None
    known = service.conversations.sessions.get(session)
    assert known is not None
    assert known.candidate == SMALL
    assert [one.candidate for one in known.read] == [SMALL]
    assert stored(str(tmp_path / "d.db"), SESSIONS) == []


@pytest.mark.parametrize("options", [{"store": None}, {"store_prompts": False}], ids=["no store", "no prompts"])
def test_where_nothing_could_be_learnt_or_capped_nobody_is_asked_and_it_is_said(
    make: Make, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    with caplog.at_level(logging.WARNING):
        service = make(ALWAYS, **options)
    assert [one.getMessage() for one in caplog.records if "nobody is asked too" in one.getMessage()]
    assert also_of(batch(service, 20)) == {}
    assert route(service)[1].also is None


# --- what is recorded ---


def test_the_row_says_who_was_asked_too(make: Make, tmp_path: Path) -> None:
    service = make("[also]\nshare = 0.5\ndaily_usd = 100.0\n")
    made = dict(route(service) for _ in range(30))
    service.close()
    rows = {row["id"]: row for row in stored(str(tmp_path / "d.db"), DECISIONS)}
    asked = {name: one.also for name, one in made.items()}
    assert 0 < sum(one is not None for one in asked.values()) < 30
    for name, also in asked.items():
        row = rows[name]
        found = row["also_candidate"], row["also_propensity"], row["also_expected_cost_usd"]
        assert found == ((None,) * 3 if also is None else also)
        assert row["candidate"] == SMALL


# --- the money ---


def test_several_threads_and_services_keep_one_cap(make: Make, tmp_path: Path) -> None:
    cap = '[also]\nshare = 1.0\ndaily_usd = 0.0361\ncandidates = ["acme/large"]\n'
    services = [make(cap) for _ in range(3)]
    with ThreadPoolExecutor(12) as pool:
        found = [one for _, one in pool.map(lambda n: route(services[n % 3]), range(120))]
    assert {one.candidate for one in found} == {SMALL}
    assert also_of(found) == {LARGE: 6}
    path = tmp_path / "d.db"
    assert spent(path) == sum(row["amount"] for row in stored(str(path), CHARGES)) <= units(0.0361)
    again = make(cap)
    assert again.also.spent_usd == pytest.approx(0.0360, abs=1e-4), "known from the start"
    assert also_of(batch(again, 20)) == {}


def test_a_batch_keeps_the_cap(make: Make) -> None:
    service = make('[also]\nshare = 1.0\ndaily_usd = 0.0361\ncandidates = ["acme/large"]\n')
    assert also_of(batch(service, 50)) == {LARGE: 6}


def test_who_is_asked_does_not_depend_on_what_is_left(make: Make) -> None:
    """Where the cap does not hold the dearest any more, the cheap ones are not asked either."""
    found = batch(make("[also]\nshare = 1.0\ndaily_usd = 0.02\n"), 200)
    asked = [one.also for one in found if one.also is not None]
    left = 0.02 - sum(one.expected_cost_usd for one in asked)
    assert OPEN in also_of(found)
    assert 0 <= left < 0.0061
    assert all(one.also is None for one in found[-100:])


def test_feedback_settles_it_and_the_next_day_begins_anew(make: Make, tmp_path: Path) -> None:
    clock = Clock()
    service = make('[also]\nshare = 1.0\ndaily_usd = 0.0061\ncandidates = ["acme/large"]\n', clock)
    assert service.store is not None
    first, decision = route(service)
    assert decision.also is not None
    assert route(service)[1].also is None, "the cap is spent"
    told(service.store, feedback(first, cost_usd=0.0001, candidate=LARGE))
    assert spent(tmp_path / "d.db") == units(0.0001)
    assert service.also.spent_usd == pytest.approx(0.0001)
    assert route(service)[1].also is None, "what is left holds no other"
    told(service.store, feedback(first, cost_usd=0.0, candidate=LARGE, replace=True))
    second, decision = route(service)
    assert decision.also is not None
    told(service.store, feedback(second, cost_usd=3.0, candidate=LARGE), feedback(second, cost_usd=1.0))
    assert service.also.spent_usd == pytest.approx(3.0), "what the decision itself cost is another budget's"
    assert route(service)[1].also is None
    clock.now += DAY
    assert service.also.spent_usd == 0.0
    assert route(service)[1].also is not None


def test_a_cap_of_nothing_asks_who_costs_nothing(make: Make) -> None:
    assert also_of(batch(make("[also]\nshare = 1.0\ndaily_usd = 0.0\n"), 20)) == {}


def test_a_store_that_does_not_answer_keeps_no_decision_and_gives_no_money(make: Make, tmp_path: Path) -> None:
    service = make(ALWAYS, reserve_wait_ms=50.0)
    assert service.store is not None
    with locked(tmp_path / "d.db"):
        found = [route(service)[1] for _ in range(5)] + batch(service, 20)
        assert also_of(found) == {}
        assert {one.reason for one in found} <= {Reason.BEST_VALUE}
        assert service.store.failing
    service.also._wait = PATIENCE
    until(lambda: route(service)[1].also is not None, "it is asked again once the store writes")


def test_a_store_that_fails_in_any_way_fails_no_decision(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = make(ALWAYS)
    assert service.store is not None

    def broken(_: Charge) -> Any:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(service.store, "take", broken)
    assert also_of([route(service)[1], *batch(service, 5)]) == {}
    assert [one.getMessage() for one in caplog.records] == ["recording a decision failed: also"]
    assert b'router_record_failures_total{part="also"} 2.0' in service.metrics.document()


class _Ends:
    """A store that is stopping, or cannot write."""

    failing = False

    def __init__(self, *, at_once: bool) -> None:
        self.at_once = at_once

    def take(self, _: Charge) -> Future[BudgetKey | None]:
        if self.at_once:
            raise StoreFullError("the service is stopping")
        done: Future[BudgetKey | None] = Future()
        done.set_exception(NotStoredError("the store does not take it"))
        return done


@pytest.mark.parametrize("at_once", [True, False])
def test_what_a_stopping_store_does_not_take_is_not_given_out(folder: Path, make: Make, at_once: bool) -> None:
    rules = AlsoRules(share=1.0, daily_usd=1.0)
    also = AlsoAsked(lambda: rules, lambda: 0.5, Clock(), stored=True, wait_seconds=PATIENCE)
    decision = make("").live.current.router.route("hello", CHEAP)
    reference = open_bundle(folder).manifest.reference
    store: Any = _Ends(at_once=at_once)
    assert also.ask(store, reference, [Asked("a", decision, Drawn(rules, 0.5))]) == [decision]


def test_totals_of_other_budgets_and_of_other_days_are_not_todays() -> None:
    rules = AlsoRules(share=1.0, daily_usd=1.0)
    clock = Clock()
    also = AlsoAsked(lambda: rules, lambda: 0.5, clock, stored=True, wait_seconds=1.0)
    [today] = also.keys()
    also.told({BudgetKey("default", "day", today.begins): Totals(5, 0, 1)})
    assert also.spent_usd == 0.0
    also.told({today: Totals(units(0.25), 0, 1)})
    assert also.spent_usd == 0.25
    clock.now += DAY
    assert also.spent_usd == 0.0


def test_the_metrics_say_who_was_asked_and_what_it_costs(make: Make) -> None:
    service = make(ALWAYS + 'candidates = ["acme/large"]\n')
    for _ in range(3):
        route(service)
    document = service.metrics.document().decode()
    assert f'router_also_total{{model="{LARGE}"}} 3.0' in document
    [line] = [line for line in document.splitlines() if line.startswith("router_also_spent_usd ")]
    assert float(line.split()[1]) == pytest.approx(3 * 0.006, rel=0.01)
