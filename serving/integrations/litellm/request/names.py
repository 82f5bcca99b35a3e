"""Whom a request names beside a group: rows, by their id or by the LLM that they call, and what its fallbacks name.

LiteLLM takes a name that is no group's for a row's id, and else for the `litellm_params.model` of any row; neither asks for
a decision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from serving.integrations.litellm.rows import Deployment, id_of

_FALLBACKS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")
_OF_KEY, _BY_MODEL = "router_settings_override", "specific_deployment"
Entry = MutableMapping[str, Any]


def lists_one(name: str, ours: Callable[[str], bool], router: Any) -> bool:
    """Whether a name is LiteLLM's list of models, by commas, and one of them stands for a group or a row of candidates."""
    return any(
        ours(aliased(router, one)) or any(_is_ours(row, ours) for row in rows_called(router, one, by_model=True))
        for one in (part.strip() for part in name.split(","))
    )


def aliased(router: Any, name: str) -> str:
    """The group that a name stands for in LiteLLM's `model_group_alias`."""
    aliases = getattr(router, "model_group_alias", None)
    alias = aliases.get(name) if isinstance(aliases, Mapping) else None
    found = alias.get("model") if isinstance(alias, Mapping) else alias
    return found if isinstance(found, str) else name


def rows_called(router: Any, name: str, *, by_model: bool) -> list[Deployment]:
    """The rows that a call of this name may reach without being of a group of this name. `by_model`: even if there is one."""
    if router is None or (name in router.model_names and not by_model):
        return []
    row = router.get_model_info(name)
    if row is not None and name not in router.model_names:
        return [row]
    return [one for one in router.model_list or () if (one.get("litellm_params") or {}).get("model") == name]


def ours_alone(router: Any, name: str, ours: Callable[[str], bool], *, by_model: bool) -> list[Deployment]:
    """Of those the candidates' rows; none where another group's row has the name too, for then that answers."""
    rows = rows_called(router, name, by_model=by_model)
    return rows if all(_is_ours(row, ours) for row in rows) else []


def without_candidates(rows: list[Any], group: str, ours: Callable[[str], bool]) -> list[Any]:
    """The rows of another group's call, less those of candidates that only call the same LLM."""
    if all(row.get("model_name") == group or not _is_ours(row, ours) for row in rows):
        return rows
    return [row for row in rows if not _is_ours(row, ours)] or rows


def _is_ours(row: Deployment, ours: Callable[[str], bool]) -> bool:
    return ours(str(row.get("model_name")))


def names_of_rows(router: Any, ours: Callable[[str], bool]) -> frozenset[str]:
    """The names by which a candidate's row may be called."""
    rows = [] if router is None else [row for row in router.model_list or () if _is_ours(row, ours)]
    return frozenset(
        name for row in rows for name in (id_of(row), (row.get("litellm_params") or {}).get("model")) if name
    )


def in_front(said: Mapping[str, Any]) -> bool:
    """Whether a request, or a fallback of it, has LiteLLM look among the rows' LLMs before the groups."""
    return _BY_MODEL in said


def has_fallbacks(data: Mapping[str, Any]) -> bool:
    """Whether the request brings fallbacks of its own."""
    return any(data.get(name) for name in (*_FALLBACKS, _OF_KEY))


def fallbacks_of(data: Mapping[str, Any]) -> Iterator[tuple[str, Entry]]:
    """Each name among the request's fallbacks, with the entry that stands beside it (an empty one for a text)."""
    override = data.get(_OF_KEY)
    sources = (data, override if isinstance(override, Mapping) else {})
    waiting = [one[name] for one in sources for name in _FALLBACKS if one.get(name)]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one, {}
        elif isinstance(one, list | tuple):
            waiting.extend(one)
        elif isinstance(one, MutableMapping):
            model = one.get("model")
            if isinstance(model, str):
                yield model, one
            # {"a group": ["its", "fallbacks"]}, and an entry that brings fallbacks itself
            waiting.extend(value for value in one.values() if isinstance(value, list | tuple | Mapping))
