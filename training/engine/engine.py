"""What every engine does: one function over the parts of a stage, their results in the parts' order.

A function is pure, a module's own (workers find it by name), and takes what all parts share and its part. So a part may be
worked on twice, or by another worker after the first died, and nothing but time is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

# Told of each stage as it begins, and of how much of how many is done where that is known.
Progress = Callable[[str, int | None, int | None], None]

Given = TypeVar("Given")
Part = TypeVar("Part")
Result = TypeVar("Result")
Running = TypeVar("Running", bound=Hashable)


def silent(stage: str, done: int | None = None, total: int | None = None) -> None:
    """Progress that nobody watches."""


class Engine(Protocol):
    """`workers` is how many parts are worked on at a time; what workers open lies below `folder`, None for anywhere."""

    @property
    def workers(self) -> int: ...

    @property
    def folder(self) -> Path | None: ...

    def map(
        self,
        function: Callable[[Given, Part], Result],
        given: Given,
        parts: Sequence[Part],
        stage: str,
        progress: Progress = silent,
        *,
        name: Callable[[Part], str] = str,
        ahead: int | None = None,
    ) -> Iterator[Result]:
        """function(given, part) of each part, in the parts' order, whatever is done first.

        `progress` is told of the stage with the parts done and all parts, `name` says what a part is where one fails. With
        `ahead` no more than so many results are begun before the first of them is taken, which bounds the memory that they
        take. What a function raises is raised here, with a note of where it was.
        """
        ...


def in_order(
    count: int,
    begin: Callable[[int], Running],
    finished: Callable[[Iterable[Running]], Iterable[Running]],
    result: Callable[[Running, int], Result],
    told: Callable[[int], None],
    ahead: int | None,
) -> Iterator[Result]:
    """The results of `count` parts in their order, while they are worked on in any.

    `begin` starts one, `finished` waits for at least one of those running, `result` takes one that finished, `told` gets how
    many have.
    """
    running: dict[Running, int] = {}
    waiting: dict[int, Result] = {}
    begun = done = 0
    for wanted in range(count):
        while wanted not in waiting:
            while begun < count and (ahead is None or begun < wanted + ahead):
                running[begin(begun)] = begun
                begun += 1
            for one in list(finished(running)):
                place = running.pop(one)
                waiting[place] = result(one, place)
                done += 1
                told(done)
        yield waiting.pop(wanted)


def noted(error: BaseException, where: str) -> BaseException:
    """The error, with a note of where it was raised unless it has one."""
    if not getattr(error, "__notes__", None):
        error.add_note(f"raised in {where}")
    return error


def place_of(stage: str, place: int, count: int, name: str) -> str:
    """How an error names a part."""
    return f"{stage}: part {place + 1:,} of {count:,} ({name})"
