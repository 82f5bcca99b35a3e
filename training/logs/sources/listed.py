"""`logs.toml`: several logs in one file, each with its own format, mapping and scores."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import tomlkit
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from serving.bundle.atomic_write import written_whole
from serving.bundle.toml_file import TomlError, no_such_field, read_toml
from training.logs import rescale
from training.logs.io import files
from training.logs.objects.address import is_object_url
from training.logs.objects.path import in_order, log_path
from training.logs.outcomes import OutcomeError
from training.logs.sources.mapped import CONSTANT, parse_mapping
from training.logs.sources.propose import is_open, proposed_mapping
from training.logs.sources.reading import is_recognised

_URL = "://"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class Source(BaseModel):
    """One table of the file: `data` are files, folders or URLs, `map` is COLUMN = "FIELD" as of --map.

    `scores` are files of judgements on this source, which `score_rule` turns into quality.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Annotated[_Names, Field(min_length=1)]
    format: str = "auto"
    map: Mapping[str, str] = {}
    scores: _Names = ()
    score_rule: str = "unit"

    @property
    def mapping(self) -> dict[str, str]:
        """Raises OutcomeError."""
        return parse_mapping([f"{column}={field}" for column, field in self.map.items()])

    @property
    def rule(self) -> rescale.Rule:
        """Raises OutcomeError."""
        return rescale.rule(self.score_rule)


def load_sources(path: Path) -> dict[str, Source]:
    """The sources of a file by name, their paths taken from its folder; raises OutcomeError, and reads no log."""
    try:
        document = read_toml(path, "a list of logs, as logs.toml")
    except TomlError as error:
        raise OutcomeError(str(error)) from None
    if not document:
        raise OutcomeError(
            f'{path}: lists no log; expected a table for each, as [harness] and below it data = "runs.csv"'
        )
    found = {}
    for name, table in document.items():
        try:
            source = Source.model_validate(table)
            source.mapping, source.rule  # noqa: B018 - whether they are any
        except ValidationError as error:
            raise OutcomeError(f"{path}: {name}: {_said(error)}") from None
        except OutcomeError as error:
            raise OutcomeError(f"{path}: {name}: {error}") from None
        beside = {"data": tuple(_beside(path, one) for one in source.data)}
        found[name] = source.model_copy(update=beside | {"scores": tuple(_beside(path, one) for one in source.scores)})
    return found


def proposal(
    data: Sequence[str], mapping: Mapping[str, str], scores: Sequence[str], score_rule: str, folder: Path
) -> tuple[str, list[str]]:
    """A list of these logs as text, with paths as from `folder`, and what is in capitals in it, for somebody to replace.

    A log that is not recognised has the mapping that was given, or else one that its columns' names propose. Scores are
    listed with a log that is alone. Raises OutcomeError for a log that there is not.
    """
    document, open_ones = tomlkit.document(), []
    for name in [one for named in data for one in (_files_of(named) if not mapping else [named])]:
        table = tomlkit.table()
        table["data"] = _from(folder, name)
        if mapping or not is_recognised(name):
            own = dict(mapping) or proposed_mapping(log_path(name))
            if name not in data and is_open(
                own["candidate"], log_path(name)
            ):  # a file for each LLM, which no column says
                own["candidate"] = CONSTANT + files.stem(log_path(name))
            fields = tomlkit.inline_table()
            fields.update(own)
            table["map"] = fields
            open_ones += [] if mapping else [field for field in own.values() if is_open(field, log_path(name))]
        if scores and len(data) == 1:
            table["scores"] = [_from(folder, one) for one in scores]
            table["score_rule"] = score_rule
        document[_named(name, document)] = table
    return tomlkit.dumps(document), open_ones


def write_list(
    path: Path,
    data: Sequence[str],
    mapping: Mapping[str, str],
    scores: Sequence[str],
    rules: Sequence[str],
    format: str,
) -> list[str]:
    """Writes `proposal` to a new file; what is in capitals in it. Raises OutcomeError where there is one, or none can be."""
    if not data or path.exists():
        raise OutcomeError(f"{path} is there already: name another" if data else "--write needs the logs: --data")
    if scores and len(data) > 1:
        raise OutcomeError(
            "--write: scores belong to one log: give one --data with its --scores, or write the list by hand"
        )
    if len({*rules}) > 1 or format != "auto":
        raise OutcomeError(
            "--write: a list has one score rule for each log, and recognises formats: leave --format away"
        )
    text, missing = proposal(data, mapping, scores, (*rules, "unit")[0], path.parent)
    try:
        with written_whole(path) as draft:
            draft.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutcomeError(f"{path}: cannot be written ({error.strerror}): name a file in a folder of yours") from None
    return missing


def _files_of(named: str) -> list[str]:
    """What a list names for a folder, file or URL: itself, or of a folder in which nothing is recognised each of its logs."""
    if is_recognised(named) or not (at := log_path(named)).is_dir():
        return [named]
    return [str(one) for one in in_order(at.rglob("*")) if files.is_data(one) and one.stat().st_size]


def _named(name: str, taken: Container[str]) -> str:
    """A name for the table of a log: of its file, numbered where there is one already."""
    bare = name.partition("?")[0].rpartition("@")[2]  # of a URL nothing that may be a password
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(bare).name.partition(".")[0]).strip("-") or "log"
    numbered = (f"{stem}-{number}" for number in count(2))
    return stem if stem not in taken else next(one for one in numbered if one not in taken)


def _from(folder: Path, name: str) -> str:
    if is_object_url(name) or not Path(name).exists():
        return name  # a URL
    # By its own name, wherever a link of that name leads.
    return os.path.relpath(Path(name).parent.resolve() / Path(name).name, folder.resolve())


def _beside(path: Path, name: str) -> str:
    """A file or folder as from the file's own folder; a URL as it is."""
    return name if _URL in name or (name.partition(":")[0].isalpha() and ":" in name) else str(path.parent / name)


def _said(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] != "extra_forbidden":
        return (
            f"{where}: {first['msg']}"
            if where
            else f"expected a table with data, as [name] above it, got {type(first['input']).__name__}"
        )
    return f"{where}: {no_such_field(where, Source.model_fields)}"
