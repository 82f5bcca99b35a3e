"""One importer per kind of log, each giving partitions of outcomes, and the choice between them by looking at the file.

An importer is a module with the attributes of `Importer`; adding one means adding it to `IMPORTERS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from training import outcomes
from training.outcomes import OutcomeError, Outcomes, Unreadable
from training.traffic import canonical, files, routellm, routerbench


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


IMPORTERS: tuple[Importer, ...] = (canonical, routerbench, routellm)


def read(paths: Sequence[Path], format: str = "auto") -> Outcomes:
    """Read files, and folders with every log below them, into one outcome table.

    `format` is an importer's name, or "auto" to recognise each file. A file of a known suffix that is no log, or an
    empty one, is an error if it was named or if nothing else in its folder is a log; otherwise it counts as one
    skipped row. Other files in a folder are passed over. Raises OutcomeError.
    """
    return outcomes.concat(_partitions(paths, format))


def stream(paths: Sequence[Path], format: str = "auto") -> Iterator[Outcomes]:
    """What `read` reads, a partition at a time; none holds a row that repeats or contradicts one of an earlier one."""
    return outcomes.unrepeated(_partitions(paths, format))


def _partitions(paths: Sequence[Path], format: str) -> Iterator[Outcomes]:
    importers = _importers(format)
    if not paths:
        raise OutcomeError("no data given: expected at least one file or folder, got none")
    found: list[tuple[Path, Importer]] = []
    strangers: list[Path] = []
    for path in paths:
        if path.is_dir():
            logs, others = _sort_folder(path, importers)
            found += logs
            strangers += others
        else:
            found.append((path, _choose(path, importers, format)))
    for file, importer in found:
        yield from _read(file, importer)
    for file in strangers:
        yield outcomes.refused(str(file), [_not_recognised(file, importers)])


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


def _read(path: Path, importer: Importer) -> Iterator[Outcomes]:
    """The partitions of one file; raises OutcomeError at its end when none had a usable row."""
    unusable: list[Outcomes] | None = []
    try:
        for part in importer.read(path):
            unusable = None if unusable is None or len(part.frame) else [*unusable, part]
            yield part
    except OSError as error:
        raise OutcomeError(f"{path}: cannot be read ({error}); check the file and its permissions") from error
    if unusable is not None:
        arrived = sorted(files.columns(path))
        outcomes.require_usable(unusable, source=str(path), format=importer.NAME, arrived=arrived)


def _unknown(path: Path, importers: tuple[Importer, ...]) -> str:
    if path.stat().st_size == 0:
        return f"{path}: is empty; expected a log with at least one attempt"
    formats = "; ".join(f"{importer.NAME}: {importer.EXPECTS}" for importer in importers)
    return f"{path}: not recognised. Arrived: {files.shown_columns(path)}. Formats: {formats}."


def _not_recognised(path: Path, importers: tuple[Importer, ...]) -> Unreadable:
    size = path.stat().st_size
    reason = "file not recognised" if size else "file is empty"
    return Unreadable(1, reason, f"a file of {size} bytes", ", ".join(importer.NAME for importer in importers))
