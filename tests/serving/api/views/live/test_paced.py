"""Figures are looked up no oftener than is good for who has to find them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.api.views.live.paced import Paced


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_quick_is_found_again_after_the_seconds() -> None:
    clock, found = Clock(), iter(range(10))
    paced = Paced(lambda: next(found), 1.0, clock)
    assert (paced.value(), paced.value()) == (0, 0)
    clock.now += 0.9
    assert paced.value() == 0
    clock.now += 0.1
    assert (paced.value(), paced.value()) == (1, 1)


def test_what_takes_long_rests_twenty_times_as_long() -> None:
    clock, found = Clock(), iter(range(10))

    def slow() -> int:
        clock.now += 3.0
        return next(found)

    paced = Paced(slow, 1.0, clock)
    assert paced.value() == 0
    clock.now += 59.9
    assert paced.value() == 0
    clock.now += 0.1
    assert paced.value() == 1


def test_no_rest_is_longer_than_ten_minutes() -> None:
    clock, found = Clock(), iter(range(10))

    def endless() -> int:
        clock.now += 3_600.0
        return next(found)

    paced = Paced(endless, 1.0, clock)
    assert paced.value() == 0
    clock.now += 600.0
    assert paced.value() == 1


def test_a_failure_is_told_as_long_and_then_tried_again() -> None:
    clock = Clock()
    came: list[object] = [ValueError("gone"), 7]

    def find() -> object:
        one = came.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    paced = Paced(find, 1.0, clock)
    for _ in range(3):
        with pytest.raises(ValueError, match="gone"):
            paced.value()
    clock.now += 1.0
    assert paced.value() == 7


def test_several_threads_find_it_once() -> None:
    asked = threading.Semaphore(0)
    release = threading.Event()

    def find() -> int:
        asked.release()
        assert release.wait(60)
        return 5

    paced = Paced(find, 3_600.0)
    with ThreadPoolExecutor(8) as threads:
        values = [threads.submit(paced.value) for _ in range(8)]
        assert asked.acquire(timeout=60)
        release.set()
        assert [one.result() for one in values] == [5] * 8
    assert not asked.acquire(blocking=False)
