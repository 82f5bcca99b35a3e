"""What a module has to offer to import a kind of log, and what it can be told about one.

Every option has a default that suits most logs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from training.engine.engine import Engine
from training.engine.local import ALONE
from training.logs.objects.path import LogPath
from training.logs.outcomes import Outcomes


@dataclass(frozen=True)
class ImportOptions:
    """How logs are read.

    `score_name`: which score becomes quality where a log carries several. `score_range`: the lowest and highest value of
    a numeric score, which become 0 and 1. `score_mapping`: categories and the quality each stands for. `trace_scores`:
    whether a score of a whole trace applies to its last generation or to every one. `mapping`: column of the outcome
    table -> column or dotted path in the source, for tables of any shape. `answers`: whether answers and expected
    answers are carried beside the outcomes (`Outcomes.beside`), for checks and the judge; `parameters`: whether tools,
    tool_choice and response_format are, for asking again. `cache`: where downloads are kept.
    `batch_requests`: files with the requests of a batch that were named beside its answers. `engine`: what reads the files of a
    folder; it changes nothing of what is read.
    """

    score_name: str | None = None
    score_range: tuple[float, float] | None = None
    score_mapping: Mapping[str, float] = field(default_factory=dict)
    trace_scores: Literal["last", "all"] = "last"
    mapping: Mapping[str, str] = field(default_factory=dict)
    answers: bool = False
    parameters: bool = False
    cache: Path = Path(".cache")
    batch_requests: tuple[LogPath, ...] = ()
    engine: Engine = field(default=ALONE, repr=False, compare=False)


DEFAULT = ImportOptions()


class Importer(Protocol):
    """What a module has to offer to import a kind of log."""

    @property
    def NAME(self) -> str:  # noqa: N802
        """The name that `--format` takes."""

    @property
    def EXPECTS(self) -> str:  # noqa: N802
        """What such a file looks like, in one line, for error messages."""

    @property
    def COMPANIONS(self) -> frozenset[str]:  # noqa: N802
        """Names of files that belong to the format without being logs."""

    def recognises(self, path: LogPath) -> bool:
        """Whether the file is of this kind, from its name and its head only."""

    def read(self, path: LogPath, options: ImportOptions, /) -> Iterator[Outcomes]:
        """The outcomes of one file, a partition at a time (`partitions.outcomes_of`); raises OutcomeError."""


@runtime_checkable
class UrlImporter(Importer, Protocol):
    """What a module has to offer to import from a URL as well."""

    @property
    def SCHEMES(self) -> frozenset[str]:  # noqa: N802
        """The schemes of its URLs, without a driver: "postgresql" for postgresql+psycopg://…"""

    def recognises_url(self, url: str) -> bool:
        """Whether what the URL names is of this kind; asked only if several importers have its scheme."""

    def read_url(self, url: str, options: ImportOptions, /) -> Iterator[Outcomes]:
        """The outcomes behind the URL, a partition at a time, their source without secrets; raises OutcomeError."""


@runtime_checkable
class Accompanied(Protocol):
    """What an importer adds if files of any name can belong to its format without being logs."""

    def accompanies(self, path: LogPath) -> bool:
        """Whether the file is read together with logs of this kind, from its head and the files beside it."""
