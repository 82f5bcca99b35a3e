"""Rates in a real Redis: exact over several processes' counters, and by each of them alone where it is away."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from serving.state import redis_rates as module
from serving.state.rates import NeverFitsError
from serving.state.redis_rates import RedisRates
from serving.state.rulebook import Key
from serving.store.engine import StoreError
from tests.balanced import needs_redis, redis_running
from tests.patience import reserved_port, until

KEYS = {name: Key(sha256=str(place) * 64, rate="10/hour") for place, name in enumerate("ab")}


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[tuple[list[RedisRates], int, int]]:
    """Three counters of one Redis, its port and its process."""
    with reserved_port() as port, redis_running(port, tmp_path) as server:
        made = [RedisRates(KEYS, f"redis://127.0.0.1:{port}/0") for _ in range(3)]
        for one in made:
            one._asker.seconds = 30.0  # a slow machine is not away
        yield made, port, server.pid
        for one in made:
            one.close()


Replicas = tuple[list[RedisRates], int, int]


@needs_redis
def test_as_many_as_the_rate_says_get_through_whoever_is_asked(replicas: Replicas) -> None:
    counters, _, _ = replicas
    with ThreadPoolExecutor(8) as pool:
        came = list(pool.map(lambda place: counters[place % 3].keep("a"), range(50)))
    assert came.count(None) == 10
    assert all(0 < wait <= 3600 for wait in came if wait is not None)
    assert counters[0].keep("b") is None, "each key has its own"
    assert counters[0].keep("nobody") is None
    assert not any(one.unshared for one in counters)


@needs_redis
def test_a_batch_is_counted_whole_or_not_at_all(replicas: Replicas) -> None:
    (first, second, _), port, _ = replicas
    assert asyncio.run(first.kept("a")) is None
    assert second.keep("a", 9, 1) is None  # one of the nine is counted
    assert first.keep("a") is None
    assert first.keep("a", 3, 1) is not None  # and that one is taken back
    with redis.Redis(port=port) as server:
        [name] = server.keys()
        assert server.llen(name) == 9
    with pytest.raises(NeverFitsError):
        first.keep("a", 11)


@needs_redis
def test_where_redis_hangs_or_is_gone_each_counts_by_itself(replicas: Replicas) -> None:
    (first, second, _), _, pid = replicas
    assert [first.keep("a") for _ in range(4)] == [None] * 4
    first._asker.seconds = second._asker.seconds = 0.05
    os.kill(pid, signal.SIGSTOP)
    try:
        assert [first.keep("a") for _ in range(7)].count(None) == 6, "what was counted there is counted here"
        assert asyncio.run(second.kept("a")) is None
        assert first.unshared
        assert second.unshared
    finally:
        os.kill(pid, signal.SIGCONT)
    first._asker.seconds = 30.0

    def back() -> bool:
        first.keep("b")
        return not first.unshared

    until(back, "Redis is asked again")


@needs_redis
def test_who_is_at_the_rate_stays_there_when_redis_goes(replicas: Replicas) -> None:
    """Another process let the ten through: this one has counted none, and knows all the same."""
    (first, second, third), _, pid = replicas
    assert [first.keep("a") for _ in range(10)] == [None] * 10
    assert second.keep("a") is not None
    for one in (second, third):
        one._asker.seconds = 0.05
        one._full = {name: full._replace(said=float("-inf")) for name, full in one._full.items()}
    os.kill(pid, signal.SIGSTOP)
    try:
        assert all((wait := second.keep("a")) is not None and 0 < wait <= 3600 for _ in range(20))
        assert asyncio.run(second.kept("a")) is not None
        assert second.unshared
        assert third.keep("a") is None, "who was told nothing counts by itself"
        first._full = second._full
        assert first.keep("a", 3, 1) is not None
        assert len(first._windows["a"]) == 9, "what was counted of a batch is taken back"
    finally:
        os.kill(pid, signal.SIGCONT)


@needs_redis
def test_a_burst_that_keeps_the_event_loop_busy_lets_nobody_through(replicas: Replicas) -> None:
    counters, _, _ = replicas
    for one in counters:
        one._asker.seconds = module._LONGEST_SECONDS

    async def burst(one: RedisRates) -> list[float | None]:
        calls = [asyncio.create_task(one.kept("a")) for _ in range(400)]
        await asyncio.sleep(0)
        time.sleep(2 * module._LONGEST_SECONDS)  # the loop: nothing that comes is seen meanwhile
        return list(await asyncio.gather(*calls))

    came = [wait for one in counters for wait in asyncio.run(burst(one))]
    assert came.count(None) == 10
    assert not any(one.unshared for one in counters)


@needs_redis
def test_a_window_that_is_full_is_not_asked_about_by_everybody(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, _, _), port, _ = replicas
    assert first.keep("a", 9) is None
    assert first.keep("a", 2) is not None
    assert first.keep("a") is None, "fewer may fit"
    asked, hit = list[int](), first._limiter.hit

    def counting(*arguments: Any, **named: Any) -> bool:
        asked.append(1)
        return hit(*arguments, **named)

    monkeypatch.setattr(first._limiter, "hit", counting)
    waits = [first.keep("a") for _ in range(200)]
    assert all(wait is not None and 3590 < wait <= 3600 for wait in waits)
    assert len(asked) < 200
    with redis.Redis(port=port) as server:
        server.flushall()
    until(lambda: first.keep("a") is None, "it is asked again")


@needs_redis
def test_a_key_that_redis_does_not_count_is_counted_here_and_lifts_no_other(
    replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    (first, second, _), port, _ = replicas
    assert first.keep("a") is None
    assert [first.keep("b") for _ in range(10)] == [None] * 10
    with redis.Redis(port=port) as server:
        [name] = [one for one in server.scan_iter() if b"/a/" in one]
        server.delete(name)
        server.set(name, "a string")
    assert [second.keep("a") for _ in range(11)].count(None) == 10
    assert second.keep("b") is not None, "the other key's ten are counted, by Redis"
    assert [asyncio.run(first.kept("a")) for _ in range(10)].count(None) == 9
    assert (first.unshared, second.unshared) == (True, True)
    assert "Redis does not count the rate of a (ResponseError)" in caplog.text
    with redis.Redis(port=port) as server:
        server.delete(name)
    second.keep("a")
    assert not second.unshared


@pytest.mark.parametrize("url", ["http://secret@host", "redis://:secret@host:port/0", "secret"])
def test_what_is_no_redis_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(StoreError, match="ROUTER_REDIS") as refused:
        RedisRates(KEYS, url)
    assert "secret" not in str(refused.value)
