"""Figures are looked up no oftener than is good for who has to find them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.api.views.live import paced
from serving.api.views.live.paced import Behind, Paced, Worker
from tests.patience import until


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_is_quick_is_found_again_after_the_seconds() -> None:
    clock, found = Clock(), iter(range(10))
    figure = Paced(lambda: next(found), 1.0, clock)
    assert (figure.value(), figure.value()) == (0, 0)
    clock.now += 0.9
    assert figure.value() == 0
    clock.now += 0.1
    assert (figure.value(), figure.value()) == (1, 1)


def test_what_takes_long_rests_twenty_times_as_long() -> None:
    clock, found = Clock(), iter(range(10))

    def slow() -> int:
        clock.now += 3.0
        return next(found)

    figure = Paced(slow, 1.0, clock)
    assert figure.value() == 0
    clock.now += 59.9
    assert figure.value() == 0
    clock.now += 0.1
    assert figure.value() == 1


def test_no_rest_is_longer_than_ten_minutes() -> None:
    clock, found = Clock(), iter(range(10))

    def endless() -> int:
        clock.now += 3_600.0
        return next(found)

    figure = Paced(endless, 1.0, clock)
    assert figure.value() == 0
    clock.now += 600.0
    assert figure.value() == 1


def test_a_failure_is_told_as_long_and_then_tried_again() -> None:
    clock = Clock()
    came: list[object] = [ValueError("gone"), 7]

    def find() -> object:
        one = came.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    figure = Paced(find, 1.0, clock)
    for _ in range(3):
        with pytest.raises(ValueError, match="gone"):
            figure.value()
    clock.now += 1.0
    assert figure.value() == 7


def test_several_threads_find_it_once() -> None:
    asked = threading.Semaphore(0)
    release = threading.Event()

    def find() -> int:
        asked.release()
        assert release.wait(60)
        return 5

    figure = Paced(find, 3_600.0)
    with ThreadPoolExecutor(8) as threads:
        values = [threads.submit(figure.value) for _ in range(8)]
        assert asked.acquire(timeout=60)
        release.set()
        assert [one.result() for one in values] == [5] * 8
    assert not asked.acquire(blocking=False)


def test_who_asks_does_not_wait_for_what_takes_long() -> None:
    release, found = threading.Event(), iter(range(10))

    def slow() -> int:
        assert release.wait(60)
        return next(found)

    clock = Clock()
    behind = Behind(Paced(slow, 1.0, clock), Worker("slow"))
    assert [behind.value(0.01) for _ in range(3)] == [None] * 3
    release.set()
    assert behind.value(60) == 0
    clock.now += 1.0
    release.clear()
    assert behind.value(0.01) == 0  # what was known before
    release.set()
    assert behind.value(60) == 1


def test_a_failure_behind_is_told_and_the_thread_lives_on() -> None:
    worker = Worker("failing")

    def fail() -> int:
        raise ValueError("gone")

    behind = Behind(Paced(fail, 3_600.0), worker)
    for _ in range(2):
        with pytest.raises(ValueError, match="gone"):
            behind.value(60)
    assert Behind(Paced(lambda: 3, 1.0), worker).value(60) == 3


def test_a_worker_ends_where_there_is_nothing_and_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paced, "_IDLE_SECONDS", 0.01)
    worker = Worker("idle")
    for number in range(3):
        assert worker.does(lambda: number).result(60) == number  # noqa: B023 - it is done before the next
        until(lambda: not any(one.name == "idle" for one in threading.enumerate()))
