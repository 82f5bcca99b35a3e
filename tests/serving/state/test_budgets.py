"""Budgets: amounts worked out by hand, what no order of events may break, and what a request sees of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from serving.api.app import create_app
from serving.api.problems import BUDGET_SPENT
from serving.decide.policy import Policy
from serving.decide.router import Router
from serving.runtime.pipeline import Service
from serving.settings import Settings
from serving.state.budgets import Account, Allowance, Budgets, BudgetSpentError, Rhythm, bounds
from serving.state.reservations import Reservations
from serving.state.rulebook import Budget, RuleBook, Rules
from serving.store.ledger import BudgetKey, Charge, Totals, units
from tests import fake_bundle
from tests.fake_bundle import LARGE, OPEN, SMALL

NOON = datetime(2026, 1, 30, 12, tzinfo=UTC).timestamp()
HOUR, DAY = 3_600.0, 86_400.0


class Clock:
    """A clock that is moved by hand."""

    def __init__(self, now: float = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def budgets_of(clock: Clock, shared: bool = False, **budget: Any) -> Budgets:
    return Budgets(RuleBook(default=Rules(budget=Budget(**budget))), clock, shared)


def hold(budgets: Budgets, decision: str, usd: float, scopes: tuple[str, ...] = ("default",)) -> Charge:
    """Charges a decision as this process counts it: where nothing is shared, for good."""
    charge = budgets.charge(decision, scopes, usd)
    budgets.hold(charge)
    budgets.pace(scopes, usd)
    return charge


def only(budgets: Budgets) -> Account:
    [account] = budgets.lines()
    return account


def totals(used: float, settled: float = 0.0, decisions: int = 1) -> Totals:
    return Totals(units(used), units(settled), decisions)


# --- by hand ---


def test_a_day_and_a_month_by_hand() -> None:
    leap = datetime(2028, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)
    assert bounds("day", leap) == (datetime(2028, 2, 29, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC))
    assert bounds("month", leap) == (datetime(2028, 2, 1, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC))
    december = datetime(2026, 12, 31, 5, tzinfo=UTC)
    assert bounds("month", december) == (datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))


def test_what_the_store_says_and_what_waits_make_the_use_by_hand() -> None:
    budgets = budgets_of(Clock(), shared=True, day_usd=1.0, at_limit="warn")
    charge = hold(budgets, "a", 0.25)
    assert (only(budgets).reserved, only(budgets).spent, only(budgets).left) == (0.25, 0.0, 0.75)
    budgets.told({only(budgets).key: totals(0.75, 0.25, 3)}, [charge])  # it is in there now
    assert (only(budgets).reserved, only(budgets).spent, only(budgets).left) == (0.5, 0.25, 0.25)


def test_what_waits_to_be_written_is_not_lost_when_the_store_is_read() -> None:
    budgets = budgets_of(Clock(), shared=True, day_usd=1.0, at_limit="warn")
    hold(budgets, "queued", 0.25)
    budgets.told({only(budgets).key: totals(0.5)})
    assert only(budgets).left == 0.25


def test_what_was_decided_before_midnight_belongs_to_that_day() -> None:
    clock = Clock(datetime(2026, 1, 29, 23, 59, tzinfo=UTC).timestamp())
    budgets = budgets_of(clock, shared=True, day_usd=1.0, month_usd=10.0, at_limit="warn")
    late = hold(budgets, "late", 0.5)
    before = {account.key.period: account.key for account in budgets.lines()}
    clock.now += 120.0
    day, month = budgets.lines()
    assert (day.reserved, month.reserved) == (0.0, 0.5)
    budgets.told({before["day"]: totals(0.5), before["month"]: totals(0.5)}, [late])
    assert (day.reserved, month.reserved) == (0.0, 0.5)


def test_a_clock_that_steps_back_over_midnight_resets_nothing() -> None:
    clock = Clock(datetime(2026, 1, 31, 0, 0, 5, tzinfo=UTC).timestamp())
    budgets = budgets_of(clock, day_usd=1.0, pacing=True)
    hold(budgets, "a", 0.5)
    clock.now -= 60.0
    assert only(budgets).left == 0.5
    hold(budgets, "b", 0.25)
    clock.now += 60.0
    assert only(budgets).left == 0.25
    assert only(budgets).begins == datetime(2026, 1, 31, tzinfo=UTC)


def test_every_scope_of_a_request_pays() -> None:
    rules = RuleBook(
        default=Rules(budget=Budget(day_usd=1.0)),
        workflows={"a": Rules(budget=Budget(month_usd=2.0)), "b": Rules(budget=Budget(month_usd=3.0))},
    )
    budgets = Budgets(rules, Clock())
    hold(budgets, "1", 0.5, ("default", "workflow:a"))
    assert {account.scope: account.left for account in budgets.lines()} == {
        "default": 0.5,
        "workflow:a": 1.5,
        "workflow:b": 3.0,
    }


@pytest.mark.parametrize(("at_limit", "allowed"), [("cheapest", Allowance(most_usd=0.0)), ("warn", None)])
def test_at_the_limit_by_hand(at_limit: str, allowed: Allowance | None) -> None:
    budgets = budgets_of(Clock(), day_usd=0.25, at_limit=at_limit)
    assert budgets.allowance(["default"]).most_usd == (0.25 if at_limit == "cheapest" else inf)
    hold(budgets, "a", 0.25)
    assert budgets.allowance(["default"]) == (allowed or Allowance(warned=("default/day",)))


def test_a_budget_that_rejects_never_holds_more_than_its_limit() -> None:
    budgets = budgets_of(Clock(), day_usd=0.5, at_limit="reject")
    hold(budgets, "a", 0.375)
    with pytest.raises(BudgetSpentError, match=r"0\.125000 of 0\.5000 USD are left"):
        hold(budgets, "b", 0.25)
    assert only(budgets).reserved == 0.375
    hold(budgets, "c", 0.125)
    with pytest.raises(BudgetSpentError, match="2026-01-31 00:00 UTC"):
        hold(budgets, "d", 1e-9)
    hold(budgets, "free", 0.0)  # what costs nothing fits


def test_the_cheapest_is_held_to_the_limit_while_it_fits_and_charged_when_nothing_does() -> None:
    budgets = budgets_of(Clock(), day_usd=0.5, at_limit="cheapest")
    fits, over = budgets.charge("a", ["default"], 0.5), budgets.charge("b", ["default"], 0.75)
    assert [charge.limits[0].most for charge in (fits, over)] == [units(0.5), None]
    assert budgets.charge("a", ["default"], 0.5, last=True).limits[0].most is None
    budgets.hold(over)
    with pytest.raises(BudgetSpentError):  # somebody was quicker
        budgets.hold(fits)


# --- whatever happens ---

amounts = st.integers(0, 32).map(lambda n: n / 64)
events = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), amounts),
        st.tuples(st.just("write")),
        st.tuples(st.just("wait"), st.sampled_from([1.0, -30.0, 61.0, HOUR, DAY, 40 * DAY])),
    ),
    max_size=30,
)


@given(events, st.sampled_from(["cheapest", "reject", "warn"]), st.booleans())
def test_no_order_of_events_breaks_the_books(happening: list[Any], at_limit: str, pacing: bool) -> None:
    """Charges that wait, and a store that takes all of them now and then: what is used is their sum, whenever one looks."""
    clock = Clock()
    budgets = budgets_of(clock, True, day_usd=1.0, month_usd=4.0, at_limit=at_limit, pacing=pacing)
    store: dict[BudgetKey, Totals] = {}
    waiting: list[Charge] = []
    charged: dict[BudgetKey, float] = {}
    for number, event in enumerate(happening):
        if event[0] == "wait":
            clock.now += event[1]
        elif event[0] == "hold":
            left = min(account.left for account in budgets.lines())
            try:
                charge = hold(budgets, str(number), event[1])
            except BudgetSpentError:
                assert (at_limit, event[1] > left) == ("reject", True)
                continue
            assert at_limit != "reject" or event[1] <= left
            waiting.append(charge)
            for limit in charge.limits:
                charged[limit.budget] = charged.get(limit.budget, 0.0) + event[1]
        else:
            for charge in waiting:
                for limit in charge.limits:
                    had = store.get(limit.budget, Totals(0, 0, 0))
                    store[limit.budget] = Totals(had.used + charge.amount, 0, had.decisions + 1)
            budgets.told(store, waiting)
            waiting = []
        for account in budgets.lines():
            assert account.reserved == charged.get(account.key, 0.0)
            assert account.left == max(account.limit - account.reserved, 0.0)
            assert 0.0 <= account.pace < inf


def test_threads_do_not_lose_or_invent_money() -> None:
    budgets = budgets_of(Clock(), day_usd=100.0, at_limit="reject")
    refused: list[int] = []

    def work(thread: int) -> None:
        for number in range(250):
            try:
                budgets.allowance(["default"])
                hold(budgets, f"{thread}-{number}", 0.125)
            except BudgetSpentError:
                refused.append(1)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # 2,000 decisions of an eighth are asked for and 800 can be held.
    assert only(budgets).reserved == 100.0
    assert len(refused) == 2_000 - 800


# --- pacing ---


def test_a_day_that_has_begun_evenly_goes_on_evenly() -> None:
    rhythm = Rhythm()
    midnight = NOON - 12 * HOUR
    for minute in range(0, 6 * 60):
        rhythm.saw(midnight + 60.0 * minute)
    at = midnight + 6 * HOUR
    assert rhythm.to_come(at, midnight + DAY) == pytest.approx(360 * 3, rel=0.01)
    assert rhythm.to_come(at, midnight + 3 * DAY) == pytest.approx(360 * 3 + 2 * 1440, rel=0.01)


def test_the_second_day_expects_the_first_one_s_hours() -> None:
    rhythm = Rhythm()
    midnight = NOON - 12 * HOUR
    for day in range(2):
        for second in range(2_000 if day == 0 else 1_000):  # all of it between 8 and 10
            rhythm.saw(midnight + day * DAY + 8 * HOUR + second * 3.6)
    assert rhythm.to_come(midnight + DAY + 9 * HOUR, midnight + 2 * DAY) == pytest.approx(1_000, rel=0.1)
    assert rhythm.to_come(midnight + DAY + 10 * HOUR, midnight + 2 * DAY) < 50


def test_money_is_priced_while_it_goes_too_fast_and_no_longer() -> None:
    clock = Clock(NOON - 12 * HOUR)
    budgets = budgets_of(clock, day_usd=1.0, pacing=True)

    def decisions(count: int, usd: float) -> float:
        for _ in range(count):
            clock.now += 60.0
            hold(budgets, str(clock.now), usd)
        return budgets.allowance(["default"]).pace

    assert decisions(100, 0.5 / 1440) == 0.0  # half of what the day can bear
    risen = decisions(200, 2.0 / 1440)
    assert risen > 1.0
    assert decisions(400, 0.1 / 1440) < risen


def test_without_pacing_nothing_is_priced() -> None:
    budgets = budgets_of(Clock(), day_usd=0.01)
    hold(budgets, "a", 1.0)
    assert budgets.allowance(["default"]).pace == 0.0


def test_four_processes_spend_shared_money_no_faster_than_one() -> None:
    def left_at_noon(processes: int) -> float:
        clock = Clock(NOON - 12 * HOUR)
        every = [budgets_of(clock, True, day_usd=1.0, pacing=True, at_limit="warn") for _ in range(processes)]
        stored = Totals(0, 0, 0)
        for number in range(720):
            clock.now += 60.0
            budgets = every[number % processes]
            # The dearer the money, the less a decision spends: a candidate at 4 times an even share, or one at a quarter.
            usd = (4.0 if budgets.allowance(["default"]).pace < 1.0 else 0.25) / 1440
            charge = hold(budgets, str(number), usd)
            stored = Totals(stored.used + charge.amount, 0, stored.decisions + 1)
            budgets.told({}, [charge])
            for one in every:
                one.told({only(one).key: stored})
        return only(every[0]).left

    assert left_at_noon(4) == pytest.approx(left_at_noon(1), abs=0.1)
    assert left_at_noon(4) > 0.4


# --- over HTTP; on "hello" SMALL is expected to cost $.0000402, OPEN $.001, LARGE $.0060 (fake_bundle) ---


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_bundle.build(tmp_path_factory.mktemp("models"))


@pytest.fixture
def served(bundle: Path, tmp_path: Path) -> Iterator[Any]:
    clients: list[TestClient] = []

    def serve(budget: str, store: str = "") -> TestClient:
        rules = tmp_path / "policies.toml"
        rules.write_text(f"[default.budget]\n{budget}\n")
        settings = Settings(bundle=str(bundle), policies=rules, store=store or None)
        client = TestClient(create_app(settings, Service(settings, Clock())))  # midnight never comes
        clients.append(client)
        client.__enter__()
        return client

    yield serve
    for client in clients:
        client.__exit__(None, None, None)


BEST = {"prompt": "hello", "cost_quality": 10}


def line(client: TestClient) -> dict[str, Any]:
    [found] = client.get("/v1/budgets").json()["budgets"]
    return found


def test_at_the_limit_the_cheapest_answers(served: Any) -> None:
    client = served("day_usd = 0.008")
    first = client.post("/v1/route", json=BEST).json()
    assert (first["model"], first["reason"]) == (LARGE, "best_value")
    second = client.post("/v1/route", json=BEST).json()  # .002 are left: not enough for LARGE
    assert (second["model"], second["reason"]) == (OPEN, "budget")
    assert client.post("/v1/route", json=BEST).json()["model"] == SMALL  # .00099 are left
    for _ in range(30):
        last = client.post("/v1/route", json=BEST).json()
    assert (last["model"], last["reason"]) == (SMALL, "budget")
    assert line(client)["left_usd"] == 0.0


def test_at_the_limit_a_request_is_refused(served: Any) -> None:
    client = served('day_usd = 0.0070\nat_limit = "reject"')
    assert client.post("/v1/route", json=BEST).json()["model"] == LARGE
    spent = [client.post("/v1/route", json=BEST) for _ in range(40)]
    assert spent[0].json()["model"] == SMALL  # what is left still pays for it
    refused = spent[-1]
    assert refused.status_code == 402
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["type"] == BUDGET_SPENT
    assert line(client)["reserved_usd"] <= 0.0070
    batch = client.post("/v1/route/batch", json={"requests": [BEST, BEST]}).json()["results"]
    assert [one["status"] for one in batch] == [402, 402]


def test_a_batch_does_not_spend_the_same_money_twice(served: Any) -> None:
    client = served("day_usd = 0.008")
    results = client.post("/v1/route/batch", json={"requests": [BEST] * 3}).json()["results"]
    assert [one["model"] for one in results] == [LARGE, OPEN, SMALL]


def test_at_the_limit_a_warning_comes_with_the_decision(served: Any) -> None:
    client = served('day_usd = 0.001\nmonth_usd = 100\nat_limit = "warn"')
    first, second = (client.post("/v1/route", json=BEST).json() for _ in range(2))
    assert (first["model"], first["warnings"]) == (LARGE, [])
    assert (second["model"], second["warnings"]) == (LARGE, ["default/day"])


def test_budgets_are_shown_and_survive_a_restart(served: Any, tmp_path: Path) -> None:
    budget, store = "day_usd = 1.0", str(tmp_path / "decisions.db")
    client = served(budget, store)
    ids = [client.post("/v1/route", json=BEST).json()["id"] for _ in range(2)]
    client.post("/v1/feedback", json={"decision_id": ids[0], "cost_usd": 0.25})
    before = line(client)
    assert (before["scope"], before["period"], before["limit_usd"]) == ("default", "day", 1.0)
    assert (before["at_limit"], before["pace"], before["spent_usd"]) == ("cheapest", 0.0, 0.25)
    assert before["reserved_usd"] == pytest.approx(0.00601, rel=1e-3)
    client.__exit__(None, None, None)
    client.__exit__ = lambda *_: None
    again = served(budget, store)
    after = line(again)
    assert after["spent_usd"] == before["spent_usd"]
    assert after["reserved_usd"] == pytest.approx(before["reserved_usd"])
    again.post("/v1/feedback", json={"decision_id": ids[1], "cost_usd": 0.125})
    assert line(again)["spent_usd"] == pytest.approx(0.375)
    assert line(again)["reserved_usd"] == pytest.approx(0.0, abs=1e-12)


def test_what_another_thread_takes_in_between_is_decided_again(bundle: Path, tmp_path: Path) -> None:
    rules = tmp_path / "policies.toml"
    rules.write_text('[default.budget]\nday_usd = 0.008\nat_limit = "reject"\n')
    service = Service(Settings(bundle=str(bundle), policies=rules, store=None), Clock())
    from serving.bundle.request import RouteRequest

    case = service.case(RouteRequest("hello"), Policy(cost_quality=10), None)
    serving = service.live.current
    decide, taken = serving.router.decide, []

    def slow(*arguments: Any) -> Any:
        decision = decide(*arguments)
        if not taken:
            hold(service.budgets, "another", 0.005)
            taken.append(decision.candidate)
        return decision

    object.__setattr__(serving.router, "decide", slow)
    _, decision = service.decide(case, serving, serving.embed("hello"), 0.0)
    service.close()
    assert taken == [LARGE]
    assert decision.candidate == OPEN


@pytest.mark.parametrize("at_limit", ["reject", "cheapest"])
def test_what_is_held_against_a_decision_has_to_fit_where_the_budget_rejects(tmp_path: Path, at_limit: str) -> None:
    made = Router.load(fake_bundle.build(tmp_path)).route("hello")
    counted = replace(made, expected_cost_usd=0.1, held_usd=0.3)
    budgets = budgets_of(Clock(), day_usd=0.25, at_limit=at_limit)
    reservations = Reservations(budgets, None, 1.0)
    if at_limit == "reject":
        with pytest.raises(BudgetSpentError):
            reservations.decided("a", ["default"], lambda _: counted)
        assert only(budgets).left == 0.25
    else:
        assert reservations.decided("a", ["default"], lambda _: counted) == counted
        assert only(budgets).left == 0.15
