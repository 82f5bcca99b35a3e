"""Names that mean the same LLM: an outcome table under the names that logs use -> one under the catalogue's names.

Only what the catalogue says is an alias is one: a gateway's name for a deployment, or a dated snapshot, is never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from serving.bundle.catalogue import Candidate
from training.logs.outcomes import AliasUse, Outcomes
from training.prices.catalogue import alias_names


def resolve(table: Outcomes, catalogue: Mapping[str, Candidate]) -> Outcomes:
    """The same outcomes, each under its candidate's name; `aliases` says which rows were logged under another.

    Two outcomes of one request that now are of one candidate are two attempts of it.
    """
    names = alias_names(catalogue)
    logged = table.frame["candidate"]
    renamed = logged[logged.isin(list(names))]
    if renamed.empty:
        return table
    uses = tuple(
        AliasUse(str(alias), names[str(alias)], int(rows))
        for alias, rows in renamed.value_counts().sort_index().items()
    )
    candidate = logged.replace(names).astype(logged.dtype)
    return replace(table, frame=table.frame.assign(candidate=candidate), aliases=uses)
