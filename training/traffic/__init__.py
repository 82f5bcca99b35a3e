"""One importer per kind of log, each giving partitions of outcomes, and the choice between them by looking at the file.

An importer is a module with the attributes of `Importer`; adding one means adding it to `IMPORTERS`. One that can also
read from a URL (a database, a service) has those of `UrlImporter` too. URLs may hold passwords: nothing here says one
other than through `database.shown`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import pandas as pd

from training import outcomes
from training.outcomes import OutcomeError, Outcomes, Unreadable
from training.traffic import (
    canonical,
    database,
    decisions,
    files,
    litellm_payload,
    litellm_spend,
    routellm,
    routerbench,
)


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

    def read(self, path: Path) -> Iterator[Outcomes]:
        """The outcomes of one file, a partition at a time (`partitions.outcomes_of`); raises OutcomeError."""


@runtime_checkable
class UrlImporter(Importer, Protocol):
    """What a module has to offer to import from a URL as well."""

    @property
    def SCHEMES(self) -> frozenset[str]:  # noqa: N802
        """The schemes of its URLs, without a driver: "postgresql" for postgresql+psycopg://…"""

    def recognises_url(self, url: str) -> bool:
        """Whether what the URL names is of this kind; asked only if several importers have its scheme."""

    def read_url(self, url: str) -> Iterator[Outcomes]:
        """The outcomes behind the URL, a partition at a time, their source without secrets; raises OutcomeError."""


IMPORTERS: tuple[Importer, ...] = (canonical, routerbench, routellm, litellm_payload, litellm_spend, decisions)

# At least two letters: a single one is a drive of Windows.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9.-]+)(?:\+[A-Za-z0-9]+)?:")


def read(data: Sequence[Path | str], format: str = "auto") -> Outcomes:
    """Read files, folders with every log below them, and URLs (as text) into one outcome table.

    `format` is an importer's name, or "auto" to recognise each file. A file of a known suffix that is no log, or an
    empty one, is an error if it was named or if nothing else in its folder is a log; otherwise it counts as one
    skipped row. Other files in a folder are passed over. Raises OutcomeError.
    """
    importers = _importers(format)
    if not data:
        raise OutcomeError("no data given: expected at least one file, folder or URL, got none")
    read_parts: list[Outcomes] = []
    skipped: list[pd.DataFrame] = []
    for named in data:
        if scheme := _scheme(named):
            read_parts += _read_url(str(named), scheme, importers)
            continue
        path = Path(named)
        if _is_database(path):
            read_parts += _read_url(database.url_of(path), "sqlite", importers)
            continue
        if path.is_dir():
            found, unrecognised = _sort_folder(path, importers)
            skipped += [_not_recognised(file, importers) for file in unrecognised]
        else:
            found = [(path, _choose(path, importers, format))]
        for file, importer in found:
            read_parts += _read(file, importer)
    result = outcomes.concat(read_parts)
    if not skipped:
        return result
    return replace(
        result,
        skipped=pd.concat([result.skipped, *skipped], ignore_index=True),
        rows_read=result.rows_read + len(skipped),
    )


def _importers(format: str) -> tuple[Importer, ...]:
    if format == "auto":
        return IMPORTERS
    named = tuple(importer for importer in IMPORTERS if format == importer.NAME)
    if not named:
        names = ", ".join(["auto", *(importer.NAME for importer in IMPORTERS)])
        raise OutcomeError(f"format {format!r} is not known; expected one of: {names}")
    return named


def _choose(path: Path, importers: tuple[Importer, ...], format: str) -> Importer:
    """The importer of a file that was named."""
    if not path.exists():
        raise OutcomeError(f"{path}: does not exist; expected a file or a folder with logs")
    if path.stat().st_size == 0:
        raise OutcomeError(f"{path}: is empty; expected a log with at least one attempt")
    if not files.kind(path):
        raise OutcomeError(f"{path}: its suffix is not one of {', '.join(files.SUFFIXES)} (text also with .gz)")
    if format != "auto":
        return importers[0]
    if chosen := _recogniser(path, importers):
        return chosen
    for importer in importers:
        if path.name in importer.COMPANIONS:
            return importer
    raise OutcomeError(_unknown(path, importers))


def _sort_folder(folder: Path, importers: tuple[Importer, ...]) -> tuple[list[tuple[Path, Importer]], list[Path]]:
    """The logs below a folder with their importers, and the files that look like data but are not logs."""
    below = sorted(file for file in folder.rglob("*") if file.is_file() and files.kind(file))
    candidates = [file for file in below if not file.name.startswith((".", "_"))]
    companions = frozenset[str]().union(*(importer.COMPANIONS for importer in importers))
    found, unrecognised = [], []
    for file in candidates:
        importer = _recogniser(file, importers) if file.stat().st_size else None
        if importer is not None:
            found.append((file, importer))
        elif file.name not in companions:
            unrecognised.append(file)
    if found:
        return found, unrecognised
    if unrecognised:
        raise OutcomeError(_unknown(unrecognised[0], importers))
    raise OutcomeError(
        f"{folder}: holds no log; expected files ending in {', '.join(files.SUFFIXES)} (text also with .gz)"
    )


def _recogniser(path: Path, importers: tuple[Importer, ...]) -> Importer | None:
    try:
        return next((importer for importer in importers if importer.recognises(path)), None)
    except OSError as error:
        raise OutcomeError(f"{path}: cannot be opened ({error}); check the file and its permissions") from error


def _read(path: Path, importer: Importer) -> list[Outcomes]:
    try:
        parts = list(importer.read(path))
    except OSError as error:
        raise OutcomeError(f"{path}: cannot be read ({error}); check the file and its permissions") from error
    outcomes.require_usable(parts, source=str(path), format=importer.NAME, arrived=sorted(files.columns(path)))
    return parts


def _scheme(named: Path | str) -> str:
    """The scheme of a URL in lower case, without a driver; "" for anything else, and for a file that has such a name."""
    found = _URL.match(named) if isinstance(named, str) else None
    return "" if found is None or Path(named).exists() else found.group(1).lower()


def _is_database(path: Path) -> bool:
    try:
        return path.is_file() and database.is_sqlite(path)
    except OSError as error:
        raise OutcomeError(f"{path}: cannot be opened ({error}); check the file and its permissions") from error


def _read_url(url: str, scheme: str, importers: tuple[Importer, ...]) -> list[Outcomes]:
    shown = database.shown(url)
    sources = [importer for importer in importers if isinstance(importer, UrlImporter)]
    able = [importer for importer in sources if scheme in importer.SCHEMES]
    if not able:
        known = ", ".join(sorted({name for importer in sources for name in importer.SCHEMES})) or "none"
        raise OutcomeError(f"{shown}: nothing reads a URL of this kind; schemes that can be read: {known}")
    chosen = able[0] if len(able) == 1 else next((source for source in able if source.recognises_url(url)), None)
    if chosen is None:
        formats = "; ".join(f"{importer.NAME}: {importer.EXPECTS}" for importer in able)
        raise OutcomeError(f"{shown}: not recognised. Formats: {formats}.")
    parts = list(chosen.read_url(url))
    outcomes.require_usable(parts, source=shown, format=chosen.NAME, arrived=outcomes.COLUMNS)
    return parts


def _unknown(path: Path, importers: tuple[Importer, ...]) -> str:
    if path.stat().st_size == 0:
        return f"{path}: is empty; expected a log with at least one attempt"
    formats = "; ".join(f"{importer.NAME}: {importer.EXPECTS}" for importer in importers)
    return f"{path}: not recognised. Arrived: {files.shown_columns(path)}. Formats: {formats}."


def _not_recognised(path: Path, importers: tuple[Importer, ...]) -> pd.DataFrame:
    size = path.stat().st_size
    reason = "file not recognised" if size else "file is empty"
    names = ", ".join(importer.NAME for importer in importers)
    return outcomes.unreadable_rows(str(path), [Unreadable(1, reason, f"a file of {size} bytes", names)])
