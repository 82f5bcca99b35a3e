"""What a module has to offer to import a kind of log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

from training.logs.outcomes import Outcomes
from training.logs.sources.options import ImportOptions


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

    def recognises(self, path: Path) -> bool:
        """Whether the file is of this kind, from its name and its head only."""

    def read(self, path: Path, options: ImportOptions, /) -> Iterator[Outcomes]:
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

    def accompanies(self, path: Path) -> bool:
        """Whether the file is read together with logs of this kind, from its head and the files beside it."""
