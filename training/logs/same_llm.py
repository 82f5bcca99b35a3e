"""Which names look as if they meant the same LLM. Only a person knows whether they do: these are suggestions."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

# Bedrock: an optional region and the maker before the name, a revision behind the date.
_MAKER = re.compile(r"^(?:[a-z-]+\.){1,2}(?=[a-z])")
_REVISION = re.compile(r"(?<=\d{8})-v\d+:\d+$")
_DATE = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})$")
_LATEST = re.compile(r"[-:]latest$")


class Alike(NamedTuple):
    """Names that look like other names of one candidate."""

    candidate: str
    aliases: tuple[str, ...]


def alike(rows: Mapping[str, int], catalogue: Collection[str]) -> list[Alike]:
    """Names seen in a log (each with its `rows`) that may be aliases of one another, or of the catalogue's candidates.

    Alike are names that differ in providers' and regions' prefixes, in punctuation, and in one snapshot date against none.
    Two names that both are in the catalogue are two candidates because somebody said so.
    """
    groups: dict[str, dict[str, str | None]] = {}
    for name in [*catalogue, *(name for name in rows if name not in catalogue)]:
        base, date = _parts(name)
        groups.setdefault(base, {})[name] = date
    found = []
    for dates in groups.values():
        for names in _compatible(dates):
            chosen = max(names, key=lambda name: (name in catalogue, rows.get(name, 0)))
            others = tuple(name for name in names if name != chosen and name not in catalogue)
            if others:
                found.append(Alike(chosen, others))
    return found


def _compatible(dates: Mapping[str, str | None]) -> list[list[str]]:
    """Names of one base that may be one LLM: with one date among them all of them, else those of the same date."""
    known = list(dict.fromkeys(date for date in dates.values() if date is not None))
    if len(known) <= 1:
        return [list(dates)]
    return [[name for name, date in dates.items() if date == wanted] for wanted in dict.fromkeys(dates.values())]


def _parts(name: str) -> tuple[str, str | None]:
    """What a name comes down to, and the date of its snapshot."""
    last = _REVISION.sub("", _MAKER.sub("", name.lower().rpartition("/")[2]))
    last = _LATEST.sub("", last)
    dated = _DATE.search(last)
    base = last if dated is None else last[: dated.start()]
    return re.sub(r"[._]", "-", base), None if dated is None else dated.group(1).replace("-", "")
