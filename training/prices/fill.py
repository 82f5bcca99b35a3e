"""The catalogue, filled in from price lists for the candidates of a log; what a person wrote stays as it is.

Takes the text of the file and gives the text it would become, comments and order kept.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.items import AoT, Table

from serving.bundle.catalogue import Candidate, Capability
from training.logs.aliases import Alike, alike
from training.prices.catalogue import CatalogueError, parse_catalogue
from training.prices.price_map import PRICES, Facts, PriceList, Value

# What price lists can tell of a candidate, in the order in which it is written.
_FIGURES = (*PRICES, "cache_minimum_tokens", "context_window", "max_output_tokens")
FIELDS = ("provider", *_FIGURES, *(capability.value for capability in Capability))
# What only its user knows.
YOURS = ("hosting", "regions", "zero_retention")


@dataclass(frozen=True)
class Filled:
    """What is added to a candidate, from where; `new` where it had no table."""

    candidate: str
    fields: Mapping[str, Value]
    source: str
    new: bool


@dataclass(frozen=True)
class Differs:
    """A figure that a person wrote and a list has otherwise; the person's stays."""

    candidate: str
    field: str
    written: float
    listed: float
    source: str


@dataclass(frozen=True)
class Missing:
    """What could not be found for a candidate, and why."""

    candidate: str
    fields: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Proposal:
    """The catalogue file before and after, and the account of it. `alike` are names that may be aliases: nothing is written
    for them until a person gives them a table, or makes them an alias."""

    before: str
    after: str
    filled: tuple[Filled, ...]
    differs: tuple[Differs, ...]
    missing: tuple[Missing, ...]
    alike: tuple[Alike, ...]

    def diff(self, name: str) -> str:
        """What would change, as a unified diff; "" for nothing."""
        lines = difflib.unified_diff(
            self.before.splitlines(keepends=True), self.after.splitlines(keepends=True), name, name
        )
        return "".join(line if line.endswith("\n") else f"{line}\n" for line in lines)


def read_text(path: Path) -> str:
    """The text of a catalogue file, "" where there is none yet, line ends as they are; raises CatalogueError."""
    try:
        return path.read_bytes().decode() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(f"{path}: cannot be read ({error}); expected a TOML file in UTF-8") from error


def propose(
    text: str,
    path: Path,
    rows: Mapping[str, int],
    lists: Sequence[PriceList],
    month: str,
    shipped: Mapping[str, Candidate] | None = None,
) -> Proposal:
    """Fill the catalogue `text` for the candidates seen in a log, each with its number of `rows`, aliases resolved.

    Nothing is written for a `shipped` one that the text does not have. A list earlier in `lists` is preferred, unless only
    a later one has the name itself, or a price. `month` dates the sources; `path` is for messages. Raises CatalogueError
    when the text is no catalogue.
    """
    catalogue = parse_catalogue(text, path)
    rows = {name: count for name, count in rows.items() if name in catalogue or name not in (shipped or {})}
    suggestions = alike(rows, (*catalogue, *(shipped or {})))
    undecided = {name for suggestion in suggestions for name in suggestion.aliases}
    filled, differs, missing = [], [], []
    for name in sorted(rows, key=lambda name: list(catalogue).index(name) if name in catalogue else len(catalogue)):
        if name in undecided:
            continue
        entry = catalogue.get(name, Candidate(name=name))
        facts, why = _facts(entry, lists)
        found = _fillable(entry, facts)
        differs += _differences(entry, facts)
        if found:
            filled.append(Filled(name, found, f"{facts.source}, {month}", name not in catalogue))
        lacking = tuple(field for field in FIELDS if getattr(entry, field) is None and field not in found)
        if lacking:
            missing.append(Missing(name, lacking, why))
    after = _written(text, path, filled)
    return Proposal(text, after, tuple(filled), tuple(differs), tuple(missing), tuple(suggestions))


def _facts(entry: Candidate, lists: Sequence[PriceList]) -> tuple[Facts, str]:
    """What is known of a candidate, and why what is missing is."""
    names = (entry.name, *entry.aliases)
    found = [one.find(names, entry.provider) for one in lists]
    known = [facts for facts in found if isinstance(facts, Facts)]
    if not known:
        return Facts("", "", {}), "; ".join(dict.fromkeys(str(why) for why in found))
    best = max(known, key=lambda facts: (_by_name(facts, names), PRICES[0] in facts.fields))
    return best, f"not told by {best.source}"


def _by_name(facts: Facts, names: Sequence[str]) -> bool:
    """Whether a name is the list's own, with its provider in front or not, and not just the end of one."""
    return facts.key in names or f"{facts.fields.get('provider')}/{facts.key}" in names


def _fillable(entry: Candidate, facts: Facts) -> dict[str, Value]:
    """The fields that nobody has written. Prices belong together: beside others than the list's, the list's mean nothing."""
    written = [field for field in PRICES if getattr(entry, field) is not None]
    own_prices = any(not _same(getattr(entry, field), facts.fields.get(field)) for field in written)
    return {
        field: facts.fields[field]
        for field in FIELDS
        if field in facts.fields and getattr(entry, field) is None and not (own_prices and field in PRICES)
    }


def _differences(entry: Candidate, facts: Facts) -> list[Differs]:
    return [
        Differs(entry.name, field, getattr(entry, field), float(facts.fields[field]), facts.source)
        for field in _FIGURES
        if field in facts.fields
        and getattr(entry, field) is not None
        and not _same(getattr(entry, field), facts.fields[field])
    ]


def _same(written: float, listed: Value | None) -> bool:
    return isinstance(listed, int | float) and math.isclose(written, listed, rel_tol=1e-9)


def _written(text: str, path: Path, filled: Sequence[Filled]) -> str:
    """The text with the tables filled and the new ones at its end."""
    if not filled:
        return text
    whole = text if text.endswith("\n") or not text else text + "\n"
    document = tomlkit.parse(whole)
    tables = document.get("candidate", [])
    if tables and not isinstance(tables, AoT):
        raise CatalogueError(
            f"{path}: candidate is an inline array; expected [[candidate]] tables, which can be added to"
        )
    by_name = {str(table["name"]): table for table in tables}
    for one in filled:
        if not one.new:
            _add(by_name[one.candidate], one)
    made = [document.as_string(), *(_table(one) for one in filled if one.new)]
    after = "\n".join(part if part.endswith("\n") else f"{part}\n" for part in made if part)
    parse_catalogue(after, path)
    return after


def _add(table: Table, filled: Filled) -> None:
    """New keys below the last one. What stands after that (a comment on the next table, a blank line) stays after it."""
    body = table.value.body
    tail = []
    while body and body[-1][0] is None:
        tail.append(body.pop())
    unsourced = "source" not in table
    for field, value in filled.fields.items():
        item: Any = tomlkit.item(value)
        table.append(field, item if unsourced else item.comment(filled.source))
    if unsourced:
        table.append("source", filled.source)
    body.extend(reversed(tail))


def _table(filled: Filled) -> str:
    document = tomlkit.document()
    made = tomlkit.table()
    for field, value in {"name": filled.candidate, **filled.fields, "source": filled.source}.items():
        made.append(field, value)
    tables = tomlkit.aot()
    tables.append(made)
    document.append("candidate", tables)
    return document.as_string()
