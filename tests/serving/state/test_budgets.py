"""Budgets: amounts worked out by hand, what no order of events may break, and what a request sees of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
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
from serving.runtime.pipeline import Service
from serving.settings import Settings
from serving.state.budgets import Account, Allowance, Budgets, BudgetSpentError, Rhythm, bounds
from serving.state.rulebook import Budget, RuleBook, Rules
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


def budgets_of(clock: Clock, release_after: float = 900.0, **budget: Any) -> Budgets:
    return Budgets(RuleBook(default=Rules(budget=Budget(**budget))), clock, release_after)


def only(budgets: Budgets) -> Account:
    [account] = budgets.lines()
    return account


# --- by hand ---


def test_a_day_and_a_month_by_hand() -> None:
    leap = datetime(2028, 2, 29, 23, 59, 59, 999_999, tzinfo=UTC)
    assert bounds("day", leap) == (datetime(2028, 2, 29, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC))
    assert bounds("month", leap) == (datetime(2028, 2, 1, tzinfo=UTC), datetime(2028, 3, 1, tzinfo=UTC))
    december = datetime(2026, 12, 31, 5, tzinfo=UTC)
    assert bounds("month", december) == (datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))


def test_reserved_then_settled_by_hand() -> None:
    budgets = budgets_of(Clock(), day_usd=1.0)
    budgets.reserve("a", ["default"], 0.25)
    budgets.reserve("b", ["default"], 0.5)
    assert (only(budgets).reserved, only(budgets).spent, only(budgets).left) == (0.75, 0.0, 0.25)
    assert budgets.settle("a", 0.125)
    assert (only(budgets).reserved, only(budgets).spent, only(budgets).left) == (0.5, 0.125, 0.375)
    assert budgets.settle("b", None)  # feedback without a cost: what was expected counts
    assert (only(budgets).reserved, only(budgets).spent, only(budgets).left) == (0.0, 0.625, 0.375)


def test_feedback_counts_once_and_only_for_what_is_held() -> None:
    budgets = budgets_of(Clock(), day_usd=1.0)
    budgets.reserve("a", ["default"], 0.25)
    assert [budgets.settle("a", 0.25), budgets.settle("a", 0.25), budgets.settle("unknown", 9.0)] == [
        True,
        False,
        False,
    ]
    assert only(budgets).spent == 0.25


def test_a_reservation_ends_after_the_time_out() -> None:
    clock = Clock()
    budgets = budgets_of(clock, release_after=60.0, day_usd=1.0)
    budgets.reserve("a", ["default"], 0.25)
    clock.now += 59.0
    budgets.reserve("b", ["default"], 0.5)
    assert only(budgets).reserved == 0.75
    clock.now += 1.0
    assert only(budgets).reserved == 0.5
    assert not budgets.settle("a", 0.25)


def test_a_new_period_begins_at_midnight_and_at_the_end_of_the_month() -> None:
    clock = Clock(datetime(2026, 1, 30, 23, 59, tzinfo=UTC).timestamp())
    budgets = budgets_of(clock, day_usd=1.0, month_usd=10.0)

    def spent() -> dict[str, float]:
        return {account.period: account.spent for account in budgets.lines()}

    def spend(decision: str, usd: float) -> None:
        budgets.reserve(decision, ["default"], usd)
        budgets.settle(decision, usd)

    spend("a", 0.5)
    assert spent() == {"day": 0.5, "month": 0.5}
    clock.now += 60.0
    assert spent() == {"day": 0.0, "month": 0.5}
    spend("b", 0.25)
    clock.now += DAY
    assert spent() == {"day": 0.0, "month": 0.0}


def test_what_was_decided_before_midnight_belongs_to_that_day() -> None:
    clock = Clock(datetime(2026, 1, 29, 23, 59, tzinfo=UTC).timestamp())
    budgets = budgets_of(clock, day_usd=1.0, month_usd=10.0)
    budgets.reserve("late", ["default"], 0.5)
    clock.now += 120.0
    day, month = budgets.lines()
    assert (day.reserved, month.reserved) == (0.0, 0.5)
    assert budgets.settle("late", 0.75)
    assert (day.spent, month.spent) == (0.0, 0.75)
    assert (day.reserved, month.reserved) == (0.0, 0.0)


def test_every_scope_of_a_request_pays() -> None:
    rules = RuleBook(
        default=Rules(budget=Budget(day_usd=1.0)),
        workflows={"a": Rules(budget=Budget(month_usd=2.0)), "b": Rules(budget=Budget(month_usd=3.0))},
    )
    budgets = Budgets(rules, Clock(), 900.0)
    budgets.reserve("1", ["default", "workflow:a"], 0.5)
    assert {account.scope: account.left for account in budgets.lines()} == {
        "default": 0.5,
        "workflow:a": 1.5,
        "workflow:b": 3.0,
    }


@pytest.mark.parametrize(("at_limit", "allowed"), [("cheapest", Allowance(most_usd=0.0)), ("warn", None)])
def test_at_the_limit_by_hand(at_limit: str, allowed: Allowance | None) -> None:
    budgets = budgets_of(Clock(), day_usd=0.25, at_limit=at_limit)
    assert budgets.allowance(["default"]).most_usd == (0.25 if at_limit == "cheapest" else inf)
    budgets.reserve("a", ["default"], 0.25)
    assert budgets.allowance(["default"]) == (allowed or Allowance(warned=("default/day",)))


def test_a_budget_that_rejects_never_holds_more_than_its_limit() -> None:
    budgets = budgets_of(Clock(), day_usd=0.5, at_limit="reject")
    budgets.reserve("a", ["default"], 0.375)
    with pytest.raises(BudgetSpentError, match=r"0\.125000 of 0\.5000 USD are left"):
        budgets.reserve("b", ["default"], 0.25)
    assert only(budgets).reserved == 0.375
    assert not budgets.settle("b", 0.25)
    budgets.reserve("c", ["default"], 0.125)
    with pytest.raises(BudgetSpentError, match="2026-01-31 00:00 UTC"):
        budgets.allowance(["default"])


def test_what_other_processes_spent_comes_from_the_store() -> None:
    budgets = budgets_of(Clock(), day_usd=1.0)
    budgets.reserve("own", ["default"], 0.125)
    # (key, workflow, settled, reserved): the store's reserve has our own one in it.
    budgets.load([(None, None, 0.25, 0.125), ("k", "w", 0.0, 0.25)], "day")
    assert (only(budgets).spent, only(budgets).reserved, only(budgets).left) == (0.25, 0.375, 0.375)
    budgets.settle("own", 0.125)
    assert (only(budgets).spent, only(budgets).reserved) == (0.375, 0.25)
    budgets.load([], "month")
    assert only(budgets).spent == 0.375
    budgets.load([], "day")
    assert (only(budgets).spent, only(budgets).reserved) == (0.0, 0.0)


def test_what_an_earlier_process_held_is_held_again() -> None:
    clock = Clock()
    budgets = budgets_of(clock, release_after=60.0, day_usd=1.0)
    budgets.restore([("old", None, None, 0.25, NOON - 50.0), ("new", "k", "w", 0.5, NOON - 10.0)])
    assert only(budgets).reserved == 0.75
    assert budgets.settle("new", 0.375)
    assert (only(budgets).spent, only(budgets).reserved) == (0.375, 0.25)
    clock.now += 10.0
    assert only(budgets).reserved == 0.0


# --- whatever happens ---

amounts = st.integers(0, 32).map(lambda n: n / 64)
events = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), amounts),
        st.tuples(st.just("settle"), st.integers(0, 20), st.one_of(st.none(), amounts)),
        st.tuples(st.just("wait"), st.sampled_from([1.0, 30.0, 61.0, HOUR, DAY, 40 * DAY])),
    ),
    max_size=30,
)


@given(events, st.sampled_from(["cheapest", "reject", "warn"]), st.booleans())
def test_no_order_of_events_breaks_the_books(happening: list[Any], at_limit: str, pacing: bool) -> None:
    clock = Clock()
    budgets = budgets_of(clock, release_after=60.0, day_usd=1.0, month_usd=4.0, at_limit=at_limit, pacing=pacing)
    held: dict[str, tuple[float, float]] = {}
    paid: list[tuple[float, float]] = []
    for number, event in enumerate(happening):
        held = {name: (usd, at) for name, (usd, at) in held.items() if clock.now < at + 60.0}
        if event[0] == "wait":
            clock.now += event[1]
        elif event[0] == "reserve":
            before = min(account.left for account in budgets.lines())
            try:
                budgets.reserve(str(number), ["default"], event[1])
                held[str(number)] = (event[1], clock.now)
                assert at_limit != "reject" or event[1] <= before
            except BudgetSpentError:
                assert (at_limit, event[1] > before) == ("reject", True)
        elif (name := str(event[1])) in held and budgets.settle(name, event[2]):
            usd, at = held.pop(name)
            paid.append((usd if event[2] is None else event[2], at))
        held = {name: (usd, at) for name, (usd, at) in held.items() if clock.now < at + 60.0}
        for account in budgets.lines():
            began = account.begins.timestamp()
            assert account.spent == sum(usd for usd, at in paid if at >= began)
            assert account.reserved == sum(usd for usd, at in held.values() if at >= began)
            assert account.left == max(account.limit - account.spent - account.reserved, 0.0)
            assert 0.0 <= account.pace < inf
            assert account.begins.timestamp() <= clock.now < account.ends.timestamp()


def test_threads_do_not_lose_or_invent_money() -> None:
    budgets = budgets_of(Clock(), day_usd=100.0, at_limit="reject")
    refused: list[int] = []

    def work(thread: int) -> None:
        for number in range(250):
            name = f"{thread}-{number}"
            try:
                budgets.allowance(["default"])
                budgets.reserve(name, ["default"], 0.125)
            except BudgetSpentError:
                refused.append(1)
                continue
            if number % 2:
                budgets.settle(name, 0.125)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    account = only(budgets)
    # 2,000 decisions of an eighth are asked for and 800 can be held.
    assert account.spent + account.reserved == 100.0
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
            budgets.reserve(str(clock.now), ["default"], usd)
            budgets.settle(str(clock.now), usd)
        return budgets.allowance(["default"]).pace

    assert decisions(100, 0.5 / 1440) == 0.0  # half of what the day can bear
    risen = decisions(200, 2.0 / 1440)
    assert risen > 1.0
    assert decisions(400, 0.1 / 1440) < risen


def test_without_pacing_nothing_is_priced() -> None:
    budgets = budgets_of(Clock(), day_usd=0.01)
    budgets.reserve("a", ["default"], 1.0)
    assert budgets.allowance(["default"]).pace == 0.0


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
            service.budgets.reserve("another", ["default"], 0.005)
            taken.append(decision.candidate)
        return decision

    object.__setattr__(serving.router, "decide", slow)
    _, decision = service.decide(case, serving, serving.embed("hello"), 0.0)
    service.close()
    assert taken == [LARGE]
    assert decision.candidate == OPEN
