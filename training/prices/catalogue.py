"""The catalogue: candidates.toml -> one validated Candidate per name; one is shipped, and one's own adds to it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.bundle.catalogue import Candidate
from training.errors import TrainingError

SHIPPED = Path(__file__).with_name("candidates.toml")
OWN = Path("candidates.toml")


_REPLAY = "replay"
_REPLAY_FIELDS = (
    "expected a table [candidate.replay] of model, api_base, api_key_env (the NAME of a variable of the environment, never a "
    "key), rpm, parallel and idempotent"
)


class CatalogueError(TrainingError):
    """A catalogue file that cannot be used; the message names the file, the table and the field."""


class Replay(BaseModel):
    """A candidate's `[candidate.replay]` table: where it is asked when answers are bought. No bundle has it.

    `model` is its name as LiteLLM has it, or as the endpoint at `api_base` does; `api_key_env` names the variable of the
    environment that holds its key. `rpm`: calls per minute; `parallel`: calls at a time. `idempotent`: its server bills calls
    with one Idempotency-Key once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(default=None, min_length=1)
    api_base: str | None = None
    api_key_env: str | None = Field(default=None, min_length=1)
    rpm: float | None = Field(default=None, gt=0)
    parallel: int | None = Field(default=None, gt=0)
    idempotent: bool = False


def known_candidates(own: Path = OWN) -> dict[str, Candidate]:
    """The shipped candidates and one's own, keyed by name; where `own` is left at its default there need be no such file.

    Raises CatalogueError as `load_catalogue` does.
    """
    return merged(load_catalogue(SHIPPED), {} if own == OWN and not own.exists() else load_catalogue(own))


def merged(shipped: Mapping[str, Candidate], own: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """Both catalogues; an own candidate replaces a shipped one that has one of its names, and takes its aliases from others."""
    claimed = {name for one in own.values() for name in (one.name, *one.aliases)}
    kept = {
        name: one.model_copy(update={"aliases": tuple(alias for alias in one.aliases if alias not in claimed)})
        for name, one in shipped.items()
        if name not in claimed
    }
    return {**kept, **own}


def load_catalogue(path: Path) -> dict[str, Candidate]:
    """Read the `[[candidate]]` tables of a TOML file, in file order; there may be none.

    Returns the candidates keyed by name. Raises CatalogueError when the file is missing or is not TOML, has a key that
    Candidate does not know or a value it refuses, names a candidate twice, or has an alias that is another candidate's
    name or alias.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CatalogueError(
            f"{path}: cannot be read ({error.strerror}); expected a catalogue like {SHIPPED}"
        ) from error
    except UnicodeDecodeError as error:
        raise CatalogueError(f"{path}: not UTF-8 text ({error}); expected a TOML file") from error
    return parse_catalogue(text, path)


def parse_catalogue(text: str, path: Path) -> dict[str, Candidate]:
    """The candidates in the text of a catalogue file, keyed by name; `path` is for the messages of its CatalogueError."""
    catalogue: dict[str, Candidate] = {}
    for number, table in enumerate(_tables(text, path), start=1):
        where = f"{path}: candidate {number}{_named(table)}"
        candidate = _candidate(table, where)
        if candidate.name in catalogue:
            raise CatalogueError(
                f"{where}: name: {candidate.name!r} is already an earlier table's name; "
                "expected each candidate once. Merge the two tables or rename one."
            )
        catalogue[candidate.name] = candidate
    _check_aliases(catalogue, path)
    return catalogue


def replay_tables(own: Path = OWN) -> dict[str, Replay]:
    """The `[candidate.replay]` tables of a catalogue file by candidate; raises CatalogueError, which never shows a value."""
    if own == OWN and not own.exists():
        return {}
    load_catalogue(own)
    found: dict[str, Replay] = {}
    for table in _tables(own.read_text(encoding="utf-8"), own):
        if not isinstance(table, Mapping) or _REPLAY not in table:
            continue
        try:
            found[table["name"]] = Replay.model_validate(table[_REPLAY])
        except ValidationError as error:
            places = ", ".join(".".join(map(str, (_REPLAY, *one["loc"]))) for one in error.errors())
            what = error.errors()[0]["msg"]
            raise CatalogueError(f"{own}: candidate {table['name']!r}: {places}: {what}; {_REPLAY_FIELDS}") from None
    return found


def _check_aliases(catalogue: Mapping[str, Candidate], path: Path) -> None:
    """Raises CatalogueError when a name could mean two candidates."""
    claimed: dict[str, str] = {}
    for entry in catalogue.values():
        for alias in entry.aliases:
            owner = alias if alias in catalogue else claimed.setdefault(alias, entry.name)
            if owner != entry.name:
                raise CatalogueError(
                    f"{path}: aliases of {entry.name!r}: got {alias!r}, which already stands for {owner!r}; expected a name "
                    "that means one candidate. Remove the alias, or the other table if both are the same LLM."
                )


def _tables(text: str, path: Path) -> list[object]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogueError(f"{path}: not valid TOML: {error}") from error
    tables = document.pop("candidate", [])
    if document:
        raise CatalogueError(
            f"{path}: unexpected top-level keys {sorted(document)}; expected [[candidate]] tables only"
        )
    if not isinstance(tables, list):
        raise CatalogueError(f"{path}: candidate: got {tables!r}; expected [[candidate]] tables")
    return tables


def _named(table: object) -> str:
    name = table.get("name") if isinstance(table, Mapping) else None
    return f" ({name!r})" if name is not None else ""


def _candidate(table: object, where: str) -> Candidate:
    if not isinstance(table, Mapping):
        raise CatalogueError(f"{where}: got {table!r}; expected a [[candidate]] table")
    try:
        return Candidate.model_validate({name: value for name, value in table.items() if name != _REPLAY})
    except ValidationError as error:
        problems = "; ".join(
            _problem(detail["loc"], detail["type"], detail["msg"], detail["input"]) for detail in error.errors()
        )
        raise CatalogueError(f"{where}: {problems}") from error


def _problem(location: tuple[int | str, ...], kind: str, message: str, got: object) -> str:
    field = ".".join(str(part) for part in location)
    if kind == "missing":
        return f"{field}: missing; expected a value for it in the table"
    if kind == "extra_forbidden":
        return f"{field}: unknown field (got {got!r}); expected one of {', '.join(Candidate.model_fields)}"
    return f"{field}: got {got!r}; expected: {message}"
