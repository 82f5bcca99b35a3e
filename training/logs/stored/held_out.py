"""A log with another beside it that is held out to test on: in memory, or a partition at a time where that is too much."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

from training.logs.outcomes import Outcomes
from training.logs.repeated.repeats import concat, unrepeated
from training.logs.repeated.told import overlap
from training.logs.sources.importer import ImportOptions
from training.logs.sources.reading import formats, read_or_stream, stream

Data = Sequence[Path | str]


def needs_all_at_once(data: Data, test: Data, format: str, options: ImportOptions) -> bool:
    """Whether the two are of kinds that tell the same outcomes: which row of one counts is then for the other to say."""
    return overlap(formats([*data, *test], format, options))


def read_or_stream_both(
    data: Data, test: Data, format: str, options: ImportOptions, held: Callable[[Outcomes], bool]
) -> Outcomes | Iterator[Outcomes]:
    """What `read_or_stream` gives; where there is a `test`, its rows behind those of `data`, `split` saying which are which.

    A row of the test that was in `data`, or contradicts it, is skipped and counted, as `concat` does.
    """
    table = read_or_stream(data, format, options, held)
    if not test:
        return table
    if not isinstance(table, Outcomes):
        return unrepeated(chain(_marked(table, "train"), _marked(stream(test, format, options), "test")))
    held_out = read_or_stream(test, format, options, held)
    if isinstance(held_out, Outcomes):
        return concat([*_marked([table], "train"), *_marked([held_out], "test")])
    return unrepeated(chain(_marked([table], "train"), _marked(held_out, "test")))


def _marked(parts: Iterable[Outcomes], split: str) -> Iterator[Outcomes]:
    return map(partial(_with_split, split), parts)


def _with_split(split: str, part: Outcomes) -> Outcomes:
    return replace(part, frame=part.frame.assign(split=split))
