"""The columns of a table of one's own that nothing reads, each with the column of the outcome table that it looks like.

Only tables whose columns are named by hand have such: a known format's other fields are known not to be needed.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from training.logs.cells import shown
from training.logs.io import files
from training.logs.objects.path import LogPath, in_order
from training.logs.outcomes import ALIASES, BESIDE, COLUMNS
from training.logs.sources import canonical
from training.logs.sources.chat_bodies import PARAMETER_FIELDS
from training.logs.sources.mapped import CONSTANT, without_unit
from training.logs.sources.propose import cells_of, looks_like

_OWN = frozenset(COLUMNS) | frozenset(ALIASES) | frozenset(BESIDE) | PARAMETER_FIELDS
_MOST = 100
# Where one of these is read, the other is not missed.
_TEXTS = frozenset({"prompt", "messages"})


class Unread(NamedTuple):
    """A field that nothing reads, nested ones by dots, and the mapping that would read it ("" where it looks like nothing)."""

    field: str
    mapping: str = ""


def unread(paths: Iterable[LogPath], mapping: Mapping[str, str], format: str = "auto") -> tuple[Unread, ...]:
    """At most 100 fields of the tables' first records that are read neither by `mapping` nor under their own name.

    Those that look like a column that nothing fills come first. In a folder the first table stands for the others.
    """
    found: dict[str, Unread] = {}
    for path in paths:
        table = _table(path, mapping, format)
        if table is not None:
            found = {one.field: one for one in _of_table(table, mapping)} | found
    return tuple(sorted(found.values(), key=lambda one: not one.mapping)[:_MOST])


def sentence(found: Sequence[Unread], most: int = 10) -> str:
    """The first of them in one line, and how many there are besides."""
    named = [
        f"{one.field} ({one.mapping.partition('=')[0]}? --map {shlex.quote(one.mapping)})" if one.mapping else one.field
        for one in ((Unread(shown(name, phrase=True), pair)) for name, pair in found[:most])
    ]
    rest = len(found) - len(named)
    more = f", and {rest} more" if rest > 0 else ""
    return f"columns that nothing reads: {', '.join(named)}{more}"


def _table(path: LogPath, mapping: Mapping[str, str], format: str) -> LogPath | None:
    """The table that is looked at, None where what is there is of a known format."""
    if path.is_dir():
        path = next((one for one in in_order(path.rglob("*")) if files.is_data(one)), path)
    if not path.is_file() or not files.kind(path):
        return None
    own = bool(mapping) or (format in ("auto", canonical.NAME) and canonical.recognises(path))
    return path if own else None


def _of_table(path: LogPath, mapping: Mapping[str, str]) -> list[Unread]:
    cells = cells_of(path)
    tops = {name.partition(".")[0] for name in cells}
    fields = [
        field.partition(":")[0] if column == "quality" else without_unit(column, field)
        for column, field in mapping.items()
        if not field.startswith(CONSTANT)
    ]
    filled = {ALIASES.get(name, name) for name in tops & _OWN} | mapping.keys()
    filled |= _TEXTS if filled & _TEXTS else frozenset()
    found = []
    for name, values in cells.items():
        if name in _OWN or name.partition(".")[0] in _OWN or any(_on_one_path(name, field) for field in fields):
            continue
        hint = next((pair for column, pair in looks_like(name, values).items() if column not in filled), "")
        found.append(Unread(name, hint))
    return found


def _on_one_path(name: str, field: str) -> bool:
    return name == field or name.startswith(f"{field}.") or field.startswith(f"{name}.")
