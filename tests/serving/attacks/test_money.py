"""Budgets are money: several services on one store, a kill -9, a database that is locked or away, late feedback."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.store.ledger import units
from serving.store.tables import BUDGETS, CHARGES, DECISIONS
from tests.fake_bundle import LARGE, SMALL
from tests.patience import PATIENCE, until
from tests.postgres_server import needs_postgres, own_database
from tests.serving.attacks.conftest import Attack, Attacked, key_rules
from tests.serving.store.rows import stored

# On "hello" SMALL is expected to cost $.0000401, OPEN $.001, LARGE $.0060 (fake_bundle).
BEST = {"prompt": "hello", "cost_quality": 10}
REJECT = '[default.budget]\nmonth_usd = 1.0\nat_limit = "reject"\n'


def budget(service: Attacked, key: str | None = None) -> dict[str, Any]:
    [line] = service.get("/v1/budgets", key).json()["budgets"]
    return line


def charged(store: Path | str) -> float:
    """USD of all charges, by the rows themselves."""
    return sum(row["amount"] for row in stored(str(store), CHARGES)) / 1e9


def used(store: Path | str) -> int:
    return sum(row["used"] for row in stored(str(store), BUDGETS))


@needs_postgres
def test_two_services_never_spend_a_dollar_twice_not_even_when_one_is_killed(attacked: Attack, postgres: str) -> None:
    store = own_database(postgres)
    # However slow this machine is, the store is waited for: what happens when it is not is another test's.
    services = [attacked(store=store, rules=REJECT, reserve_wait_ms=PATIENCE * 1e3) for _ in range(2)]

    async def send() -> Counter[int]:
        statuses: Counter[int] = Counter()
        numbers = iter(range(2_000))

        async def one_after_another(client: httpx.AsyncClient) -> None:
            for number in numbers:
                try:
                    answer = await client.post("/v1/route", json=BEST)
                except httpx.TransportError:
                    assert client.base_url == services[1].url, "the one that lives loses no request"
                    statuses[0] += 1  # a connection to the one that was killed; the others go on with what is left
                    return
                statuses[answer.status_code] += 1
                if number == 400:
                    services[1].process.kill()

        async with AsyncExitStack() as open_ones:
            # So many at a time: with more requests that wait in one client, its own queue would take most of the time.
            made = [httpx.AsyncClient(base_url=one.url, timeout=PATIENCE) for one in services]
            clients = [await open_ones.enter_async_context(one) for one in made]
            await asyncio.gather(*(one_after_another(client) for client in clients * 50))
        return statuses

    statuses = asyncio.run(send())
    assert set(statuses) <= {0, 200, 402}
    assert sum(statuses.values()) == 2_000
    assert statuses[0] <= 50
    until(lambda: budget(services[0])["left_usd"] < 0.0001)
    assert used(store) <= units(1.0)
    assert charged(store) == pytest.approx(used(store) / 1e9, abs=1e-9)
    assert budget(services[0])["reserved_usd"] + budget(services[0])["spent_usd"] <= 1.0


def test_two_services_on_one_file_spend_one_budget(attacked: Attack) -> None:
    services = [attacked(rules="[default.budget]\nmonth_usd = 0.02\n") for _ in range(2)]
    answers = [services[number % 2].route(**BEST) for number in range(10)]
    assert [one["model"] for one in answers[:3]] == [LARGE] * 3
    assert [one["model"] for one in answers].count(LARGE) == 3, "three of them are what the budget holds"
    assert used(services[0].store) <= units(0.02)


def test_a_restart_changes_no_balance_and_late_feedback_corrects_it(attacked: Attack) -> None:
    first = attacked(rules=REJECT)
    ids = [first.route(**BEST)["id"] for _ in range(3)]
    before = budget(first)["left_usd"]
    first.process.kill()
    first.process.join(PATIENCE)
    again = attacked(rules=REJECT)
    assert budget(again)["left_usd"] == before
    until(lambda: again.post("/v1/feedback", {"decision_id": ids[0], "cost_usd": 0.5}).status_code in (200, 404))
    left = budget(again)["left_usd"]
    # A row that the kill took is a 404; its charge was on disk before its answer, and stays.
    assert left == pytest.approx(before) or left == pytest.approx(before - 0.5 + (1.0 - before) / 3)


def test_a_reserve_that_nobody_settles_stays_spent(attacked: Attack) -> None:
    service = attacked(rules=REJECT)
    for _ in range(5):
        service.route(**BEST)
    assert budget(service)["reserved_usd"] == pytest.approx(5 * 0.0060, rel=0.01)
    assert budget(service)["spent_usd"] == 0.0


def test_a_workflow_named_none_is_not_the_untagged_one(attacked: Attack) -> None:
    service = attacked(rules="[workflows.None.budget]\nmonth_usd = 1.0\n")
    for body in (BEST, {**BEST, "workflow": "hard"}):
        service.route(**body)
    assert budget(service)["reserved_usd"] == 0.0
    service.route(**BEST, workflow="None")
    assert budget(service)["reserved_usd"] > 0.0


def test_a_key_s_budget_is_its_own(attacked: Attack) -> None:
    more = '[keys.{0}.budget]\nmonth_usd = 0.0070\nat_limit = "reject"'
    rules = key_rules("a", "secret-a", more.format("a")) + key_rules("b", "secret-b", more.format("b"))
    service = attacked(rules=rules)
    statuses = [service.post("/v1/route", {**BEST, "allow": [LARGE]}, "secret-a").status_code for _ in range(3)]
    assert statuses == [200, 402, 402]
    assert service.post("/v1/route", BEST, "secret-b").status_code == 200


def test_what_fits_is_used_before_a_request_is_refused(attacked: Attack) -> None:
    service = attacked(rules=REJECT.replace("1.0", "0.0061"))
    models = [service.post("/v1/route", BEST).json().get("model") for _ in range(6)]
    assert models[0] == LARGE
    assert set(models[1:]) <= {SMALL, None}
    assert used(service.store) <= units(0.0061)


def test_a_locked_database_keeps_no_call_from_its_llm_and_is_charged_later(attacked: Attack) -> None:
    service = attacked(rules=REJECT, reserve_wait_ms=50)
    service.route(**BEST)
    locker = sqlite3.connect(service.store, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    answers = [service.route(**BEST) for _ in range(5)]
    locker.execute("ROLLBACK")
    locker.close()
    assert [one["warnings"] for one in answers] == [["unconfirmed"]] * 5
    until(lambda: len(stored(str(service.store), CHARGES)) == 6)
    assert used(service.store) == units(charged(service.store))
    until(lambda: budget(service)["reserved_usd"] == pytest.approx(charged(service.store)))


def test_a_database_that_is_locked_does_not_let_the_queue_grow(attacked: Attack) -> None:
    """Sixty megabytes of rows, and eight megabytes of queue."""
    service = attacked(store_queue_bytes=8 * 2**20)
    text = "e " * 200_000
    for number in range(8):
        service.route(prompt=f"{number}{text}")
    until(lambda: stored(str(service.store), DECISIONS)[-1:] and len(stored(str(service.store), DECISIONS)) == 8)
    before = service.memory()
    locker = sqlite3.connect(service.store, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    for number in range(150):
        service.route(prompt=f"again {number}{text}")
    grown = service.memory() - before
    locker.execute("ROLLBACK")
    locker.close()
    assert grown < 40 * 2**20
    until(lambda: len(stored(str(service.store), DECISIONS)) == 158)


def test_no_cost_that_is_told_makes_room_in_a_budget(attacked: Attack) -> None:
    service = attacked(rules=REJECT)
    ids = [service.route(**BEST)["id"] for _ in range(6)]
    assert service.post("/v1/feedback", {"decision_id": ids[0], "cost_usd": 1e9}).status_code == 422
    for cost in (1e4, 0.0):
        for name in ids:
            said = {"decision_id": name, "cost_usd": cost, "replace": True}
            assert service.post("/v1/feedback", said).status_code == 200
        until(lambda cost=cost: budget(service)["spent_usd"] == 6 * cost)  # type: ignore[misc]
    assert budget(service)["left_usd"] == 1.0


def test_a_budget_that_rejects_goes_by_the_count(attacked: Attack) -> None:
    """Definitions of tools are sent and no log holds them: they count, and expected costs do not know of them."""
    service = attacked(rules=f'[default]\nallow = ["{LARGE}"]\n' + REJECT.replace("1.0", "0.01"))
    parameters = {"type": "object", "description": "0 " * 4_500}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    refused = service.post("/v1/route", {"messages": [{"role": "user", "content": "hello"}], "tools": [tool]})
    assert refused.status_code == 402, refused.text
    assert service.route(prompt="hello")["model"] == LARGE
