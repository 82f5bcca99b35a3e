"""Replicas behind a load balancer: one is killed, one comes, the bundle changes, and only who was there sees anything of it.

Counts alone are looked at, no times: how many errors, decisions, charges, and requests that a rate lets through.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import sqlalchemy as sa

from serving.store.engine import open_engine
from serving.store.ledger import UNIT
from serving.store.tables import BUDGETS, CHARGES, DECISIONS, REPLAYS
from tests import fake_bundle
from tests.balanced import balanced, needs_haproxy, needs_redis, redis_running
from tests.patience import PATIENCE, reserved_port, until
from tests.postgres_server import needs_postgres, own_database
from tests.processes import serve

pytestmark = [needs_postgres, needs_redis, needs_haproxy]
CLIENTS = 8
RATE = 30
ALLOWED = 7  # decisions that the tight budget holds
RULES = f"""
[keys.load]
sha256 = "{sha256(b"load").hexdigest()}"
budget = {{ month_usd = 1000.0, at_limit = "reject" }}
[keys.tight]
sha256 = "{sha256(b"tight").hexdigest()}"
budget = {{ month_usd = {ALLOWED + 0.5} , at_limit = "reject" }}
[keys.rated]
sha256 = "{sha256(b"rated").hexdigest()}"
rate = "{RATE}/hour"
[keys.talk]
sha256 = "{sha256(b"talk").hexdigest()}"
"""


@dataclass
class Replicas:
    """Real processes of `router-serve` by their names, on ports that stay theirs."""

    folder: Path
    options: list[str]
    environment: dict[str, str]
    ports: dict[str, int]
    running: dict[str, BaseProcess] = field(default_factory=dict)

    def start(self, name: str) -> None:
        options = [*self.options, "--port", str(self.ports[name])]
        self.running[name] = serve(options, self.folder / f"{name}.log", self.environment, self.folder)
        until(lambda: self.ready(name), f"{name} is ready")

    def ready(self, name: str) -> bool:
        assert self.running[name].is_alive(), (self.folder / f"{name}.log").read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{self.ports[name]}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def send(self, name: str, number: int) -> None:
        pid = self.running[name].pid
        assert pid is not None
        os.kill(pid, number)

    def ended(self, name: str) -> None:
        process = self.running.pop(name)
        process.join(PATIENCE)
        assert not process.is_alive(), f"{name} does not end"


@dataclass(frozen=True)
class Site:
    """Three replicas that run, a fourth that may, and the load balancer before them."""

    url: str
    store: str
    models: Path
    replicas: Replicas

    def client(self, key: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, headers={"authorization": f"Bearer {key}"})

    def rows(self, *columns: Any) -> list[Any]:
        engine = open_engine(self.store)
        with engine.connect() as connection:
            found = connection.execute(sa.select(*columns)).all()
        engine.dispose()
        return list(found)


@pytest.fixture
def site(postgres: str, tmp_path: Path) -> Iterator[Site]:
    models = tmp_path / "models"
    fake_bundle.build(models)
    (tmp_path / "policies.toml").write_text(RULES)
    store = own_database(postgres)
    names = ("r1", "r2", "r3", "r4")
    with ExitStack() as stack:
        ports = {name: stack.enter_context(reserved_port()) for name in (*names, "redis")}
        stack.enter_context(redis_running(ports["redis"], tmp_path))
        options = ["--bundle", str(models / "current"), "--policies", str(tmp_path / "policies.toml"), "--store", store]
        options += [
            "--log-level",
            "warning",
            "--watch-seconds",
            "0.2",
            "--drain-seconds",
            "3",
            "--session-margin",
            "10",
        ]
        # Long, for a slow machine: nobody gives up waiting for the store.
        options += ["--session-wait-ms", "30000", "--reserve-wait-ms", "4000"]
        environment = {
            **os.environ,
            "ROUTER_HASH_SECRET": "shared",
            "ROUTER_REDIS": f"redis://127.0.0.1:{ports['redis']}/0",
        }
        replicas = Replicas(tmp_path, options, environment, {name: ports[name] for name in names})
        try:
            for name in names[:3]:
                replicas.start(name)
            url = stack.enter_context(balanced(replicas.ports, tmp_path))
            made = Site(url, store, models, replicas)
            with made.client("talk") as client:
                until(lambda: seen_of(client) >= set(names[:3]), "the load balancer asks all three")
            yield made
        finally:
            for name in [*replicas.running]:
                replicas.send(name, signal.SIGKILL)
                replicas.ended(name)


def seen_of(client: httpx.Client) -> set[str]:
    return {client.get("/v1/candidates").headers.get("x-replica", "") for _ in range(6)}


@dataclass
class Load:
    """Clients that ask again, with the same Idempotency-Key, until they have an answer."""

    site: Site
    over: threading.Event = field(default_factory=threading.Event)
    answers: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)  # what came instead, of a connection that was open
    seen: set[tuple[str, str]] = field(default_factory=set)  # (replica, bundle)

    def run(self) -> None:
        with self.site.client("load") as client:
            while not self.over.is_set():
                self._answered(client, uuid4().hex)

    def _answered(self, client: httpx.Client, key: str) -> None:
        body = {"prompt": f"hello {key}"}
        while True:
            try:
                answer = client.post("/v1/route", json=body, headers={"idempotency-key": key})
            except httpx.TransportError as error:
                self.failed.append(type(error).__name__)
                continue
            document = answer.json() if answer.headers.get("content-type") == "application/json" else {}
            if answer.status_code == 200:
                self.answers.append(document)
                self.seen.add((answer.headers["x-replica"], document["bundle"]))
                return
            if answer.status_code == 409:  # who was killed had claimed it
                assert answer.json()["type"] == "urn:outcome-router:idempotency-under-way"
                self.over.wait(0.2)
            else:
                self.failed.append(str(answer.status_code))


@pytest.fixture
def load(site: Site) -> Iterator[Load]:
    made = Load(site)
    threads = [threading.Thread(target=made.run) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(made.answers) > 100 or made.failed, "a hundred answers")
        assert not made.failed
        yield made
    finally:
        made.over.set()
        for thread in threads:
            thread.join(PATIENCE)


def more(load: Load, count: int = 100) -> None:
    before = len(load.answers)
    until(lambda: len(load.answers) >= before + count, f"{count} more answers")


def finish(load: Load) -> None:
    """Ends the load; every call has its answer then."""
    load.over.set()
    calls = len(load.answers)
    until(
        lambda: not [one for one in threading.enumerate() if getattr(one, "_target", None) == load.run], "clients end"
    )
    assert len(load.answers) <= calls + CLIENTS


def test_one_is_killed_one_comes_and_the_bundle_changes(site: Site, load: Load) -> None:
    site.replicas.send("r1", signal.SIGKILL)
    site.replicas.ended("r1")
    more(load)
    site.replicas.start("r4")
    until(lambda: any(name == "r4" for name, _ in load.seen), "the fourth is asked")
    assert load.failed == [one for one in load.failed if one in ("502", "504", "ReadError", "RemoteProtocolError")]
    assert len(load.failed) <= CLIENTS, "an error of a connection that was not open to the killed one"
    failed = len(load.failed)
    fake_bundle.build(site.models, "fake-2")
    until(lambda: load.seen >= {(name, "fake-2") for name in ("r2", "r3", "r4")}, "all serve the new bundle")
    more(load)
    finish(load)
    assert len(load.failed) == failed, "nothing fails by another replica, or another bundle"

    answered = {one["id"] for one in load.answers}
    assert len(answered) == len(load.answers), "a call has one decision, and a decision one call"
    until(lambda: site.rows(sa.func.count(DECISIONS.c.id))[0][0] > len(answered) / 2, "rows are written")
    for name in [*site.replicas.running]:
        site.replicas.send(name, signal.SIGTERM)
        site.replicas.ended(name)
    stored = {one for (one,) in site.rows(DECISIONS.c.id)}
    assert stored <= answered, "a decision that nobody was told of, or two of one call"
    charges = {row.decision_id: row.amount for row in site.rows(CHARGES)}
    assert charges.keys() == answered, "each decision is charged, also those of who was killed, and nothing else"
    cost = {one["id"]: round(one["expected_cost_usd"] * UNIT) for one in load.answers}
    assert charges == cost
    [(used, decisions)] = [
        row[1:] for row in site.rows(BUDGETS.c.scope, BUDGETS.c.used, BUDGETS.c.decisions) if row[0] == "key:load"
    ]
    assert (used, decisions) == (sum(cost.values()), len(cost))
    kept = site.rows(REPLAYS.c.answer, REPLAYS.c.status)
    assert len(kept) == len(answered)
    assert {status for _, status in kept} == {200}


def test_one_that_is_told_to_stop_is_missed_by_nobody(site: Site, load: Load) -> None:
    site.replicas.send("r1", signal.SIGTERM)
    until(lambda: not site.replicas.running["r1"].is_alive(), "the first ends")
    site.replicas.ended("r1")
    more(load)
    finish(load)
    assert load.failed == []
    assert {name for name, _ in load.seen} == {"r1", "r2", "r3"}


def together(count: int, call: Callable[[int], None]) -> None:
    """Calls with 0 to `count` - 1 in a few threads at once."""
    places, failed = iter(range(count)), list[BaseException]()
    lock = threading.Lock()

    def run() -> None:
        while True:
            with lock:
                place = next(places, None)
            if place is None:
                return
            try:
                call(place)
            except BaseException as error:  # noqa: BLE001 - raised below, in the test
                failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    if failed:
        raise failed[0]


def test_a_rate_and_a_budget_hold_for_all_together(site: Site) -> None:
    statuses: dict[str, list[int]] = {"rated": [], "tight": []}
    names = set()

    def ask(key: str, body: dict[str, Any]) -> None:
        with site.client(key) as client:
            answer = client.post("/v1/route", json=body)
        statuses[key].append(answer.status_code)
        names.add(answer.headers["x-replica"])

    together(3 * RATE, lambda _: ask("rated", {"prompt": "hello"}))
    assert statuses["rated"].count(200) == RATE
    assert statuses["rated"].count(429) == 2 * RATE
    assert names == {"r1", "r2", "r3"}
    # One and the same dear answer each time, of which the budget holds so many.
    dear = {"prompt": "hello", "allow": ["acme/large"], "max_output_tokens": 1}
    with site.client("talk") as client:
        usd = client.post("/v1/route", json=dear).json()["expected_cost_usd"]
    rules = (site.replicas.folder / "policies.toml").read_text()
    (site.replicas.folder / "policies.toml").write_text(rules.replace(f"{ALLOWED + 0.5} ", f"{usd * (ALLOWED + 0.5)} "))
    for port in [site.replicas.ports[name] for name in ("r1", "r2", "r3")]:
        until(lambda port=port: limit_of(port) < 1, "the smaller budget is in force")
    together(5 * ALLOWED, lambda _: ask("tight", dear))
    assert statuses["tight"].count(200) == ALLOWED
    assert statuses["tight"].count(402) == 4 * ALLOWED


def limit_of(port: int) -> float:
    answer = httpx.get(f"http://127.0.0.1:{port}/v1/budgets", headers={"authorization": "Bearer tight"})
    [line] = answer.json()["budgets"]
    return float(line["limit_usd"])


def test_a_conversation_stays_where_it_is_whoever_answers(site: Site) -> None:
    served: dict[int, list[str]] = {}

    def talk(place: int) -> None:
        first = {"prompt": "hello", "session_id": f"s{place}", "allow": ["acme/small"]}
        later = {"prompt": "hello", "session_id": f"s{place}"}
        for body in (first, later, later, later):
            with site.client("talk") as client:  # another connection each time: nothing holds it to one replica
                answer = client.post("/v1/route", json=body)
            served.setdefault(place, []).append(answer.headers["x-replica"])
            assert answer.json()["model"] == "acme/small"
            assert body is first or answer.json()["reason"] == "session"

    with site.client("talk") as client:
        assert client.post("/v1/route", json={"prompt": "hello"}).json()["model"] == "acme/large"
    together(50, talk)
    assert len(served) == 50
    assert sum(len(set(names)) > 1 for names in served.values()) > 25, "most were at several replicas"
