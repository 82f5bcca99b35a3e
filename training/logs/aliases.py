"""Names that mean the same LLM: an outcome table under the names that logs use -> one under the catalogue's names.

Only what the catalogue says is an alias is one: a gateway's name for a deployment, or a dated snapshot, is never guessed.
Names that look alike are suggestions, for only a person knows whether they mean the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from serving.bundle.catalogue import Candidate
from training.logs.outcomes import AliasUse, Outcomes

# Bedrock: an optional region and the maker before the name, a revision behind the date.
_MAKER = re.compile(r"^(?:[a-z-]+\.){1,2}(?=[a-z])")
_REVISION = re.compile(r"(?<=\d{8})-v\d+:\d+$")
_DATE = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8})$")
_LATEST = re.compile(r"[-:]latest$")


class Alike(NamedTuple):
    """Names that look like other names of one candidate."""

    candidate: str
    aliases: tuple[str, ...]


def alias_names(catalogue: Mapping[str, Candidate]) -> dict[str, str]:
    """Each alias of the catalogue with the name of the candidate that it stands for."""
    return {alias: entry.name for entry in catalogue.values() for alias in entry.aliases if alias != entry.name}


def resolve(table: Outcomes, catalogue: Mapping[str, Candidate]) -> Outcomes:
    """The same outcomes, each under its candidate's name; `aliases` says which rows were logged under another.

    Two outcomes of one request that now are of one candidate are two tries of it. A propensity that is not 1 is of one name: of
    a candidate that was drawn under two names nobody knows with which probability it was drawn at all, so its rows lose theirs.
    """
    names = alias_names(catalogue)
    logged = table.frame["candidate"]
    renamed = logged[logged.isin(list(names))]
    if renamed.empty:
        return table
    candidate = logged.replace(names).astype(logged.dtype)
    unknown = _drawn_under_two_names(table.frame["propensity"], logged, candidate)
    lost = candidate[unknown].value_counts()
    uses = tuple(
        AliasUse(str(alias), names[str(alias)], int(rows), int(lost.get(names[str(alias)], 0)))
        for alias, rows in renamed.value_counts().sort_index().items()
    )
    propensity = table.frame["propensity"].mask(unknown)
    return replace(table, frame=table.frame.assign(candidate=candidate, propensity=propensity), aliases=uses)


def _drawn_under_two_names(propensity: pd.Series, logged: pd.Series, candidate: pd.Series) -> pd.Series:
    """Which rows have a propensity that is of a name alone, while their candidate was drawn under another name as well."""
    drawn = propensity.notna() & (propensity < 1)
    names = logged[drawn].groupby(candidate[drawn], observed=True).nunique()
    return propensity.notna() & candidate.isin(names.index[names > 1])


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
