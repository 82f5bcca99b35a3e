"""The harness itself: a held-up event loop is seen, and two services can share a store."""

from __future__ import annotations

from sqlalchemy import create_engine, func, select

from serving.store.tables import DECISIONS
from tests.patience import until
from tests.serving.attacks.conftest import Attack, key_rules


def test_two_services_share_a_store_and_their_figures_are_there(attacked: Attack) -> None:
    first, second = attacked(), attacked(rules=key_rules("bot", "secret"))
    with first.ticking() as stall:
        assert first.route(prompt="hello")["id"]
    assert stall.ticks > 0
    assert 0 < stall.worst < 10
    assert second.post("/v1/route", {"prompt": "hello"}).status_code == 401
    assert second.route("secret", prompt="hello")["id"]
    assert first.memory() > 10_000_000
    engine = create_engine(f"sqlite:///{first.store}")

    def stored() -> int:
        with engine.connect() as connection:
            return int(connection.scalar(select(func.count()).select_from(DECISIONS)) or 0)

    until(lambda: stored() == 2, "both decisions are in the store")
    engine.dispose()
