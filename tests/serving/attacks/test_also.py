"""The cap on what is asked too is money: services on one store, a kill, and a database that is locked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from serving.store.ledger import ALSO, units
from serving.store.tables import BUDGETS, CHARGES
from tests.fake_bundle import LARGE, SMALL
from tests.patience import PATIENCE
from tests.postgres_server import needs_postgres, own_database
from tests.serving.attacks.conftest import Attack
from tests.serving.store.rows import locked, stored

# On "hello" LARGE is expected to cost $.0060 (fake_bundle): six of them.
RULES = '[also]\nshare = 1.0\ndaily_usd = 0.0361\ncandidates = ["acme/large"]\n'
CHEAP = {"prompt": "hello", "cost_quality": 0}


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=needs_postgres)])
def test_two_services_keep_one_cap_and_a_kill_gives_nothing_back(
    attacked: Attack, kind: str, request: pytest.FixtureRequest
) -> None:
    # However slow this machine is, the store is waited for.
    given: dict[str, Any] = {"rules": RULES, "reserve_wait_ms": PATIENCE * 1e3}
    if kind == "postgresql":
        given["store"] = own_database(request.getfixturevalue("postgres"))
    services = [attacked(**given) for _ in range(2)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: services[n % 2].route(**CHEAP), range(60)))
    assert {one["model"] for one in answers} == {SMALL}
    assert [one["also"]["model"] for one in answers if one["also"] is not None] == [LARGE] * 6
    store = str(services[0].store)
    [cap] = [row for row in stored(store, BUDGETS) if row["scope"] == ALSO]
    assert cap["used"] == sum(row["amount"] for row in stored(store, CHARGES)) <= units(0.0361)
    for service in services:
        service.process.kill()
        service.process.join(PATIENCE)
    again = attacked(**given)
    assert [again.route(**CHEAP)["also"] for _ in range(3)] == [None] * 3


def test_a_locked_store_holds_up_no_decision(attacked: Attack) -> None:
    service = attacked(rules=RULES, reserve_wait_ms=50)
    assert not isinstance(service.store, str)
    with locked(service.store):
        answers = [service.route(**CHEAP) for _ in range(10)]
    assert {(one["model"], one["reason"]) for one in answers} == {(SMALL, "best_value")}
    assert [one["also"] for one in answers] == [None] * 10
