"""The rows of LiteLLM's model list, and the candidates that they serve."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from serving.integrations.litellm.refusals import meant

logger = logging.getLogger(__name__)

Deployment = Mapping[str, Any]
# Of so many rows or candidates the names are told.
_MOST_TOLD = 20


def candidate_of(deployment: Deployment) -> str | None:
    """The candidate that a row serves: `model_info.outcome_router`, else `model_info.id`. Several rows may serve one."""
    info = deployment.get("model_info")
    if not isinstance(info, Mapping):
        return None
    named = info.get("outcome_router") or info.get("id")
    return named if isinstance(named, str) and named else None


def id_of(deployment: Deployment) -> str:
    """A row's id, "" for one that has none."""
    info = deployment.get("model_info")
    return str(info.get("id") or "") if isinstance(info, Mapping) else ""


def rows_of(router: Any, group: str) -> list[Deployment]:
    """The rows of a group, healthy or not; none where the router is not known."""
    if router is None:
        return []
    return list(router.get_model_list(model_name=group) or ())


def candidates_of(rows: Sequence[Deployment]) -> tuple[str, ...]:
    """The candidates that rows serve, in the rows' order."""
    return tuple(dict.fromkeys(name for row in rows if (name := candidate_of(row)) is not None))


def behind(rows: Sequence[Deployment], catalogue: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The candidate that all rows of a group call, None where they call several, or one that is not known.

    A row says it by `model_info.outcome_router`, `model_info.id` or `litellm_params.model`: the candidate's name or an alias of
    it, with or without a provider in front.
    """
    names: dict[str, str] = {}
    for name, candidate in catalogue.items():
        listed = candidate.get("aliases")
        for alias in listed if isinstance(listed, list | tuple) else ():
            names.setdefault(str(alias).lower(), name)
    names |= {name.lower(): name for name in catalogue}
    bare: dict[str, set[str]] = {}
    for said, name in names.items():
        bare.setdefault(said.rpartition("/")[2], set()).add(name)
    found = {_known(row, names, bare) for row in rows}
    return found.pop() if len(found) == 1 else None


def _known(row: Deployment, names: Mapping[str, str], bare: Mapping[str, set[str]]) -> str | None:
    info, parameters = row.get("model_info"), row.get("litellm_params")
    info = info if isinstance(info, Mapping) else {}
    model = parameters.get("model") if isinstance(parameters, Mapping) else None
    said = [one.lower() for one in (info.get("outcome_router"), info.get("id"), model) if isinstance(one, str)]
    for one in said:
        if one in names:
            return names[one]
    for one in said:
        without = one.partition("/")[2] or one
        if without in names:
            return names[without]
        # A candidate of the same name at one provider; at several it is not known which.
        if len(at := bare.get(one.rpartition("/")[2], set())) == 1:
            return next(iter(at))
    return None


def unmapped(
    group: str, rows: Sequence[Deployment], catalogue: Mapping[str, Any], reference: str | None = None
) -> str | None:
    """What is wrong between a group's rows, the bundle's candidates, where they are known, and the reference, as a sentence.

    None where they match.
    """
    served = candidates_of(rows)
    strange = [_shown(row) for row in rows if catalogue and candidate_of(row) not in catalogue]
    missing = [name for name in catalogue if name not in served]
    said = []
    if strange:
        said.append(
            f"rows that name no candidate of the bundle and are never used: {listed(strange)} "
            "(model_info.id, or model_info.outcome_router, has to be the candidate's name)"
        )
    if missing:
        said.append(f"candidates without a row, which are never chosen: {listed(missing)}")
    if reference is not None and reference not in served:
        first = served[0] if served else "nobody"
        said.append(
            f"the reference {reference} has no row: while the router does not answer, {first} does"
            + meant(reference, served)
        )
    return f"{group}: {'; '.join(said)}" if said else None


def _shown(row: Deployment) -> str:
    parameters = row.get("litellm_params")
    model = parameters.get("model") if isinstance(parameters, Mapping) else None
    return f"{candidate_of(row)} ({model})"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence has them, so many at most."""
    more = len(names) - _MOST_TOLD
    return ", ".join(names[:_MOST_TOLD]) + (f" and {more} more" if more > 0 else "")
