"""When a router that failed is asked again."""

from __future__ import annotations

import threading

import pytest

from serving.client.breaker import MOST_WAIT_SECONDS, Breaker


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ask(breaker: Breaker, alive: bool | None) -> bool:
    """Whether the attempt was let through."""
    with breaker.attempt() as attempt:
        if attempt is not None:
            attempt.alive = alive
        return attempt is not None


def test_it_waits_twice_as_long_after_each_failure_and_begins_anew_after_an_answer() -> None:
    clock = Clock()
    breaker = Breaker(5.0, clock)
    assert ask(breaker, True)
    waits = []
    for _ in range(6):
        assert ask(breaker, False)
        failed = clock.now
        while not ask(breaker, None):
            clock.now += 0.5
        waits.append(clock.now - failed)
    assert waits == [5.0, 10.0, 20.0, 40.0, MOST_WAIT_SECONDS, MOST_WAIT_SECONDS]
    assert ask(breaker, True)
    assert not breaker.is_open
    assert ask(breaker, False)
    clock.now += 4.9
    assert not ask(breaker, True)
    clock.now += 0.1
    assert ask(breaker, True)


def test_attempts_that_were_under_way_count_as_one_failure() -> None:
    clock = Clock()
    breaker = Breaker(5.0, clock)
    under_way = [breaker.attempt() for _ in range(100)]
    attempts = [one.__enter__() for one in under_way]
    for attempt, one in zip(attempts, under_way, strict=True):
        assert attempt is not None
        attempt.alive = False
        one.__exit__(None, None, None)
    clock.now += 5.0
    assert ask(breaker, True)


def test_one_that_was_answered_late_does_not_close_it() -> None:
    breaker = Breaker(5.0, Clock())
    with breaker.attempt() as late:
        assert late is not None
        assert ask(breaker, False)
        late.alive = True
    assert breaker.is_open


def test_a_probe_that_is_given_up_leaves_the_place_to_the_next() -> None:
    clock = Clock()
    breaker = Breaker(5.0, clock)
    assert ask(breaker, False)
    clock.now += 5.0
    with pytest.raises(KeyboardInterrupt), breaker.attempt():
        raise KeyboardInterrupt
    assert ask(breaker, True)
    assert not breaker.is_open


def test_of_many_threads_one_probes() -> None:
    clock = Clock()
    breaker = Breaker(5.0, clock)
    assert ask(breaker, False)
    clock.now += 5.0
    together, let_through = threading.Barrier(16), []

    def one() -> None:
        together.wait()
        with breaker.attempt() as attempt:
            if attempt is not None:
                let_through.append(attempt)
                attempt.alive = False
            together.wait()

    threads = [threading.Thread(target=one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(let_through) == 1
