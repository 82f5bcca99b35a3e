"""The files of a folder, read by the workers of an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from training.engine.engine import Engine
from training.logs.objects.path import LogPath
from training.logs.outcomes import OutcomeError, Outcomes

Options = TypeVar("Options")
# One file by the importer of a name, a partition at a time.
Read = Callable[[Options, tuple[LogPath, str]], Iterator[Outcomes]]
# A file of at most so many bytes may be held whole.
_WHOLE = 2**27


def each_file(
    read: Read[Options], options: Options, files: Sequence[tuple[LogPath, str]], engine: Engine
) -> Iterator[Outcomes]:
    """The partitions of all files in their order; small files are read side by side, and a large one a partition at a time.

    Raises OutcomeError also where a worker does not see a file.
    """
    small = [] if engine.workers == 1 else [part for part in files if part[0].stat().st_size <= _WHOLE]
    whole = engine.map(
        partial(_whole, read), options, small, "read files", name=lambda part: str(part[0]), ahead=2 * engine.workers
    )
    known = set(small)
    for part in files:
        yield from next(whole) if part in known else read(options, part)


def _whole(read: Read[Options], options: Options, part: tuple[LogPath, str]) -> list[Outcomes]:
    if not part[0].exists():
        raise OutcomeError(
            f"{part[0]}: a worker of the cluster does not see it. Put the log where all machines have it at the same path, or "
            "import it without --cluster"
        )
    return list(read(options, part))
