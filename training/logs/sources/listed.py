"""`logs.toml`: several logs in one file, each with its own format, mapping and scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from serving.bundle.toml_file import TomlError, no_such_field, read_toml
from training.logs import rescale
from training.logs.outcomes import OutcomeError
from training.logs.sources.mapped import parse_mapping

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
            else f"expected a table with data, as [name] above it, got {first['input']!r}"
        )
    return f"{where}: {no_such_field(where, Source.model_fields)}"
