"""`logs.toml`: several logs in one file, each with its own format, mapping and scores."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

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
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OutcomeError(
            f"{path}: cannot be read ({error.strerror}); expected a list of logs, as logs.toml"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise OutcomeError(f"{path}: not valid TOML: {error}") from None
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
    near = get_close_matches(where, Source.model_fields, 1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{where}: there is no such field; {meant}expected one of {', '.join(Source.model_fields)}"
