"""One importer per kind of log, each giving partitions of outcomes, and the choice between them by looking at the file.

An importer is a module with the attributes of `Importer`; adding one means adding it to `IMPORTERS`. One that can also
read from a URL (a database, a service) has those of `UrlImporter` too. URLs may hold passwords: nothing here says one
other than through `database.shown`.
"""

from __future__ import annotations

import re
import shlex
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from training.dataset.label import judged_quality
from training.engine.local import ALONE
from training.logs.io import database, files
from training.logs.io.side_by_side import each_file
from training.logs.objects.address import SCHEMES, is_object_url
from training.logs.objects.path import LogPath, log_path
from training.logs.outcomes import COLUMNS, OutcomeError, Outcomes, Unreadable, require_usable
from training.logs.pairing import merged_by_prompt, paired
from training.logs.repeated.repeats import concat, unrepeated
from training.logs.repeated.told import Told, overlap
from training.logs.rescale import fitting
from training.logs.sources import canonical, decisions, openai, openrouter
from training.logs.sources.importer import DEFAULT, Accompanied, Importer, ImportOptions, UrlImporter
from training.logs.sources.langfuse import export
from training.logs.sources.litellm import payload, spend
from training.logs.sources.mapped import Mapped
from training.logs.sources.otel import genai
from training.logs.sources.propose import is_open, proposed_mapping
from training.logs.sources.public import routellm, routerbench
from training.logs.validate import refused

IMPORTERS: tuple[Importer, ...] = (
    canonical,
    routerbench,
    routellm,
    payload,
    spend,
    export,
    genai,
    openrouter,
    openai,
    decisions,
)

# How a plan of what to buy begins.
PLAN_MARK = b'{"plan": {'
# At least two letters: a single one is a drive of Windows.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9.-]+)(?:\+[A-Za-z0-9]+)?:")


def read(data: Sequence[Path | str], format: str = "auto", options: ImportOptions = DEFAULT) -> Outcomes:
    """Read files, folders with every log below them, and URLs (as text) into one outcome table.

    `format` is an importer's name, or "auto" to recognise each file; with `options.mapping` every file is read by that.
    A file of a known suffix that is no log, or an empty one, is an error if it was named or if nothing else in its
    folder is a log; otherwise it counts as one skipped row. Other files in a folder are passed over. A log without a
    usable row is an error if it was named; in a folder, one usable row in all is enough. Raises OutcomeError.
    """
    return merged_by_prompt(concat(paired(fitting(_partitions(data, format, options), _together(data)))))


def stream(data: Sequence[Path | str], format: str = "auto", options: ImportOptions = DEFAULT) -> Iterator[Outcomes]:
    """What `read` reads, a partition at a time; none holds a row that repeats or contradicts one of an earlier one."""
    parts = paired(fitting(_partitions(data, format, options), _together(data)))
    yield from unrepeated(parts, _told(data, format, options))


def read_or_stream(
    data: Sequence[Path | str], format: str, options: ImportOptions, held: Callable[[Outcomes], bool]
) -> Outcomes | Iterator[Outcomes]:
    """What `read` gives, or, once a further part is not to be `held` any more, what `stream` gives."""
    parts = paired(fitting(_partitions(data, format, options), _together(data)))
    waiting = deque[Outcomes]()
    for part in parts:
        waiting.append(part)
        if not held(part):
            before = (waiting.popleft() for _ in range(len(waiting)))  # none is kept that was taken
            return unrepeated(chain(before, parts), _told(data, format, options))
    return merged_by_prompt(concat(waiting))


def _told(data: Sequence[Path | str], format: str, options: ImportOptions) -> Told:
    told = Told()
    if overlap(formats(data, format, options)):  # then every log is read once before
        for part in paired(_partitions(data, format, options)):
            told.learn(part)
    return told


def formats(data: Sequence[Path | str], format: str, options: ImportOptions) -> set[str]:
    """What kinds of logs the data are, as far as their heads say; none where all are of the one that was named."""
    found = set[str]()
    if options.mapping or format != "auto":
        return found
    for named in data:
        if scheme := "sqlite" if _is_database(log_path(named)) else _scheme(named):
            url = database.url_of(log_path(named)) if scheme == "sqlite" and not _scheme(named) else str(named)
            found.add(_of_url(url, scheme, IMPORTERS).NAME)
        elif (path := log_path(named)).is_dir():
            found |= {importer.NAME for _, importer in _sort_folder(path, IMPORTERS)[0]}
        elif path.is_file() and (importer := _recogniser(path, IMPORTERS)):
            found.add(importer.NAME)
    return found


def _together(data: Sequence[Path | str]) -> str:
    """What all the data are called in a message."""
    return database.shown(str(data[0])) if len(data) == 1 else f"the {len(data)} sources together"


def _partitions(data: Sequence[Path | str], format: str, options: ImportOptions) -> Iterator[Outcomes]:
    importers = (Mapped(options.mapping),) if options.mapping else _importers(format)
    if options.mapping and format not in ("auto", Mapped.NAME):
        raise OutcomeError(f"format {format!r} and a mapping were given; a mapped table has no other format: drop one")
    if not data:
        raise OutcomeError("no data given: expected at least one file, folder or URL, got none")
    options = replace(options, batch_requests=(requests := _batch_requests(data, importers)))
    for named in data:
        if log_path(named) in requests and len(requests) < len(data):
            continue
        if scheme := _scheme(named):
            yield from _read_url(str(named), scheme, importers, options)
            continue
        path, strangers = log_path(named), list[LogPath]()
        if _is_database(path):
            yield from _read_url(database.url_of(path), "sqlite", importers, options)
            continue
        if path.is_dir():
            found, strangers = _sort_folder(path, importers)
        else:
            found = [(path, _choose(path, importers, Mapped.NAME if options.mapping else format))]
        formats = ", ".join(dict.fromkeys(importer.NAME for _, importer in found))
        parts = each_file(_named, replace(options, engine=ALONE), [(f, i.NAME) for f, i in found], options.engine)
        # An export by the hour has hours without a usable row; a folder without any is an error.
        yield from _usable(parts, str(path), formats, sorted(files.columns(found[0][0])), found[0][0])
        for file in strangers:
            yield refused(str(file), [_not_recognised(file, importers)])


def _named(options: ImportOptions, part: tuple[LogPath, str]) -> Iterator[Outcomes]:
    return _read(part[0], Mapped(options.mapping) if options.mapping else _importers(part[1])[0], options)


def _batch_requests(data: Sequence[Path | str], importers: tuple[Importer, ...]) -> tuple[LogPath, ...]:
    """The files among those named that hold a batch's requests, which are read with its answers."""
    if openai not in importers:
        return ()
    paths = [log_path(named) for named in data if not _scheme(named)]
    return tuple(path for path in paths if path.is_file() and files.kind(path) and openai.accompanies(path))


def _usable(
    parts: Iterable[Outcomes], source: str, format: str, arrived: Sequence[str], file: LogPath | None = None
) -> Iterator[Outcomes]:
    """The parts; raises OutcomeError at their end when none had a usable row, with how the `file` may be read otherwise."""
    unusable: list[Outcomes] | None = []
    for part in parts:
        unusable = None if unusable is None or len(part.frame) else [*unusable, part]
        yield part
    if unusable is not None:
        try:
            require_usable(unusable, source=source, format=format, arrived=arrived)
        except OutcomeError as error:
            maps = "" if file is None or format in (Mapped.NAME, canonical.NAME) else _own_table(file)
            raise OutcomeError(f"{error} Or read it as a table of your own: {maps}" if maps else str(error)) from None


def _importers(format: str) -> tuple[Importer, ...]:
    if format == "auto":
        return IMPORTERS
    named = tuple(importer for importer in IMPORTERS if format == importer.NAME)
    if format == Mapped.NAME:
        raise OutcomeError("format 'mapped' needs a mapping: give --map COLUMN=FIELD, for example --map candidate=llm")
    if not named:
        names = ", ".join(["auto", *(importer.NAME for importer in IMPORTERS)])
        raise OutcomeError(f"format {format!r} is not known; expected one of: {names}")
    return named


def _choose(path: LogPath, importers: tuple[Importer, ...], format: str) -> Importer:
    """The importer of a file that was named."""
    if not path.exists():
        raise OutcomeError(f"{path}: does not exist; expected a file or a folder with logs")
    if path.stat().st_size == 0:
        raise OutcomeError(f"{path}: is empty; expected a log with at least one try")
    if not files.kind(path):
        raise OutcomeError(f"{path}: its suffix is not one of {', '.join(files.SUFFIXES)} (text also with .gz)")
    if is_plan(path):
        raise OutcomeError(
            f"{path}: is a plan of what to buy, not a log; router-train replay --plan {path} buys its answers"
        )
    if format != "auto":
        return importers[0]
    if chosen := _recogniser(path, importers):
        return chosen
    for importer in importers:
        if _accompanies(path, importer):
            return importer
    raise OutcomeError(_unknown(path, importers))


def _sort_folder(
    folder: LogPath, importers: tuple[Importer, ...]
) -> tuple[list[tuple[LogPath, Importer]], list[LogPath]]:
    """The logs below a folder with their importers, and the files that look like data but are not logs."""
    found, unrecognised = [], []
    for file in sorted(file for file in filter(files.is_data, folder.rglob("*")) if not is_plan(file)):
        importer = _recogniser(file, importers) if file.stat().st_size else None
        if importer is not None:
            found.append((file, importer))
        elif not any(_accompanies(file, importer) for importer in importers):
            unrecognised.append(file)
    if found:
        return found, unrecognised
    if unrecognised:
        raise OutcomeError(_unknown(unrecognised[0], importers))
    raise OutcomeError(
        f"{folder}: holds no log; expected files ending in {', '.join(files.SUFFIXES)} (text also with .gz)"
    )


def is_plan(path: LogPath) -> bool:
    """Whether a file lists what is to be bought (`training.replay.pairs`): no outcome is in it."""
    try:
        with path.open("rb") as file:
            return file.read(len(PLAN_MARK)) == PLAN_MARK
    except OSError as error:
        raise OutcomeError(f"{path}: cannot be opened ({error}); check the file and its permissions") from error


def _accompanies(path: LogPath, importer: Importer) -> bool:
    if path.name in importer.COMPANIONS:
        return True
    return isinstance(importer, Accompanied) and importer.accompanies(path)


def _recogniser(path: LogPath, importers: tuple[Importer, ...]) -> Importer | None:
    try:
        return next((importer for importer in importers if importer.recognises(path)), None)
    except OSError as error:
        raise OutcomeError(f"{path}: cannot be opened ({error}); check the file and its permissions") from error


def _read(path: LogPath, importer: Importer, options: ImportOptions) -> Iterator[Outcomes]:
    judged, last = False, None
    try:
        for part in fitting(importer.read(path, options), str(path)):
            judged = judged or bool(judged_quality(part.frame).notna().any())
            if last is not None:
                yield last
            last = part
        if last is not None:
            yield last if judged or isinstance(importer, Mapped) else _noted(last, path, importer.NAME)
    except OSError as error:
        raise OutcomeError(f"{path}: cannot be read ({error}); check the file and its permissions") from error


def _noted(part: Outcomes, path: LogPath, format: str) -> Outcomes:
    """The last part of a file without a grade, noted if a field that its format does not read looks like one."""
    field = proposed_mapping(path).get("quality", "")
    if not field or is_open(field, path) or not (maps := _own_table(path)):
        return part
    note = f"{path}: nothing of it is judged as {format}, but {field.partition(':')[0]} looks like grades. Read it with {maps}"
    return replace(part, notes=(*part.notes, note))


def _own_table(path: LogPath) -> str:
    """The options that read a file as a table of one's own; "" where its fields do not say what they hold."""
    found = proposed_mapping(path)
    if any(is_open(field, path) for field in found.values()):
        return ""
    return _maps(found)


def _maps(mapping: Mapping[str, str]) -> str:
    """The options for a shell, which is to read nothing into the names of somebody else's fields."""
    return " ".join(f"--map {shlex.quote(f'{column}={field}')}" for column, field in mapping.items())


def _scheme(named: LogPath | str) -> str:
    """The scheme of a URL in lower case, without a driver; "" for anything else, and for a file or object of such a name."""
    found = _URL.match(named) if isinstance(named, str) and not is_object_url(named) else None
    return "" if found is None or Path(found.string).exists() else found.group(1).lower()


def _is_database(path: LogPath) -> bool:
    try:
        return path.is_file() and database.is_sqlite(path)
    except OSError as error:
        raise OutcomeError(f"{path}: cannot be opened ({error}); check the file and its permissions") from error


def _read_url(url: str, scheme: str, importers: tuple[Importer, ...], options: ImportOptions) -> Iterator[Outcomes]:
    shown, chosen = database.shown(url), _of_url(url, scheme, importers)
    yield from _usable(fitting(chosen.read_url(url, options), shown), shown, chosen.NAME, COLUMNS)


def _of_url(url: str, scheme: str, importers: tuple[Importer, ...]) -> UrlImporter:
    shown = database.shown(url)
    sources = [importer for importer in importers if isinstance(importer, UrlImporter)]
    able = [importer for importer in sources if scheme in importer.SCHEMES]
    if not able:
        known = ", ".join(sorted({name for importer in sources for name in importer.SCHEMES} | {*SCHEMES}))
        raise OutcomeError(f"{shown}: nothing reads a URL of this kind; schemes that can be read: {known}")
    chosen = able[0] if len(able) == 1 else next((source for source in able if source.recognises_url(url)), None)
    if chosen is None:
        formats = "; ".join(f"{importer.NAME}: {importer.EXPECTS}" for importer in able)
        raise OutcomeError(f"{shown}: not recognised. Formats: {formats}.")
    return chosen


def is_recognised(named: str) -> bool:
    """Whether a file, folder or URL is read without a mapping; raises OutcomeError where there is none."""
    path = log_path(named)
    if _scheme(named) or _is_database(path):
        return True
    if path.is_dir() and not any(files.is_data(one) for one in path.rglob("*")):
        return True  # there is nothing to map
    try:
        if path.is_dir():
            _sort_folder(path, IMPORTERS)
        else:
            _choose(path, IMPORTERS, "auto")
    except OutcomeError:
        if not path.is_dir() and not (path.exists() and path.stat().st_size and files.kind(path)):
            raise
        return False
    return True


def _unknown(path: LogPath, importers: tuple[Importer, ...]) -> str:
    if path.stat().st_size == 0:
        return f"{path}: is empty; expected a log with at least one try"
    return (
        f"{path}: not recognised. Arrived: {files.shown_columns(path)}. A table of your own is read with --map COLUMN=FIELD, "
        f"this one perhaps with {_maps(proposed_mapping(path))}, what is in capitals to be replaced by the field that holds it."
        f" Formats: {'; '.join(f'{importer.NAME}: {importer.EXPECTS}' for importer in importers)}."
    )


def _not_recognised(path: LogPath, importers: tuple[Importer, ...]) -> Unreadable:
    size, known = path.stat().st_size, ", ".join(importer.NAME for importer in importers)
    return Unreadable(1, "file not recognised" if size else "file is empty", f"a file of {size} bytes", known)
