"""Rates of API keys: by hand, in any order of requests, and without a thread of their own."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.state.rates import NeverFitsError, Rates
from serving.state.rulebook import Key


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def rates_of(clock: Clock, rate: str | None) -> Rates:
    return Rates({"a": Key(sha256="0" * 64, rate=rate), "b": Key(sha256="1" * 64, rate=rate)}, clock)


def test_three_a_minute_by_hand() -> None:
    clock = Clock()
    rates = rates_of(clock, "3/minute")
    assert rates.keep("a") is None
    clock.now += 20.0
    assert [rates.keep("a"), rates.keep("a"), rates.keep("a")] == [None, None, 40.0]
    clock.now += 39.0
    assert rates.keep("a") == 1.0
    assert rates.keep("b") is None  # each key has its own
    clock.now += 1.0
    assert [rates.keep("a"), rates.keep("a")] == [None, 20.0]


def test_requests_together_are_counted_all_or_none() -> None:
    clock = Clock()
    rates = rates_of(clock, "4/minute")
    assert rates.keep("a", 2) is None
    clock.now += 10.0
    assert [rates.keep("a"), rates.keep("a", 2), rates.keep("a"), rates.keep("a", 2)] == [None, 50.0, None, 50.0]
    assert rates.keep("a", 4) == 60.0


def test_more_at_once_than_the_rate_allows_never_fit() -> None:
    rates = rates_of(Clock(), "3/minute")
    for _ in range(2):
        with pytest.raises(NeverFitsError, match="4 arrived together, and the key's rate is 3 in 60 s"):
            rates.keep("a", 4)
        rates.keep("a", 3)


def test_a_refused_batch_takes_back_what_it_had_counted() -> None:
    clock = Clock()
    rates = rates_of(clock, "4/minute")
    assert rates.keep("a", 2) is None
    clock.now += 30.0
    assert rates.keep("a") is None  # the first of the batch, by which its sender got in
    assert rates.keep("a", 4, counted=1) == 30.0
    clock.now += 30.0
    assert rates.keep("a") is None
    assert rates.keep("a", 4, counted=1) is None
    assert rates.keep("a") == 60.0


@pytest.mark.parametrize("key", ["a", "unknown"])
def test_without_a_rate_nothing_is_limited(key: str) -> None:
    rates = rates_of(Clock(), None)
    assert all(rates.keep(key, 1_000) is None for _ in range(10))


@given(st.lists(st.tuples(st.integers(0, 120).map(lambda quarters: quarters / 4), st.integers(1, 5)), max_size=40))
def test_no_window_has_more_than_the_rate_and_a_wait_is_long_enough(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    rates = rates_of(clock, "5/minute")
    taken: list[float] = []
    for passes, requests in steps:
        clock.now += passes
        wait = rates.keep("a", requests)
        if wait is None:
            taken += [clock.now] * requests
        else:
            assert len([at for at in taken if at > clock.now - 60.0]) + requests > 5
            assert 0.0 < wait <= 60.0
            assert len([at for at in taken if at > clock.now + wait - 60.0]) + requests <= 5
        assert len([at for at in taken if at > clock.now - 60.0]) <= 5


def test_under_load_no_thread_is_started_and_no_request_too_many_gets_through() -> None:
    rates = rates_of(Clock(), "500/minute")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: None, range(4)))
        before = set(threading.enumerate())
        kept = list(pool.map(lambda _: rates.keep("a"), range(2_000)))
        assert set(threading.enumerate()) <= before | set(pool._threads)
    assert kept.count(None) == 500


def test_other_rates_are_taken_over_and_what_was_used_counts_on() -> None:
    clock = Clock()
    rates = rates_of(clock, "3/minute")
    assert [rates.keep("a") for _ in range(3)] == [None] * 3
    rates.follow({"a": Key(sha256="0" * 64, rate="2/minute"), "c": Key(sha256="2" * 64, rate="1/minute")})
    assert rates.keep("a") == 60.0
    assert (rates.keep("b"), rates.keep("c")) == (None, None)
    assert rates.keep("c") == 60.0
    clock.now += 60.0
    assert (rates.keep("a"), rates.keep("a")) == (None, None)
    assert rates.keep("a") == 60.0
