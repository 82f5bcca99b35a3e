"""Which candidates the key of a request may use, by LiteLLM's own checks of keys, teams, members, projects and end users.

A key, or a team, that is given the candidates' group and names none of them may use all of its rows; as soon as it names one,
only those that it names. Each level narrows what the others leave, and what cannot be checked is not granted.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cachetools import TTLCache

logger = logging.getLogger(__name__)

_MOST_KEPT = 10_000
_UNRESTRICTED: list[str] = []


class Access:
    """Asks LiteLLM, and remembers the answer for `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._known: TTLCache[tuple[Any, ...], frozenset[str]] | None = (
            TTLCache(_MOST_KEPT, seconds) if seconds > 0 else None
        )

    async def permitted(self, key: Any, router: Any, group: str, candidates: Sequence[str]) -> frozenset[str]:
        """Those of the candidates that the key (UserAPIKeyAuth) may use; all of them where there is no key (no proxy)."""
        if key is None:
            return frozenset(candidates)
        asked = (_of_key(key), group, tuple(candidates))
        known = None if self._known is None else self._known.get(asked)
        if known is None:
            known = await _permitted(key, router, group, candidates)
            if self._known is not None:
                self._known[asked] = known
        return known


def _of_key(key: Any) -> tuple[Any, ...]:
    """All of a key that its rights may depend on."""
    names = ("token", "api_key", "team_id", "project_id", "end_user_id", "user_id", "org_id")
    lists = ("models", "team_models", "access_group_ids")
    settled = (
        bool(getattr(key, "config", None)),
        *(str(getattr(key, name, None)) for name in ("aliases", "team_model_aliases")),
    )
    ids = (getattr(key, name, None) for name in names)
    return (*ids, *(tuple(getattr(key, name, None) or ()) for name in lists), *settled)


_Check = Callable[[str], Awaitable[object]]


async def _permitted(key: Any, router: Any, group: str, candidates: Sequence[str]) -> frozenset[str]:
    free = {"models": _UNRESTRICTED, "project_id": None, "end_user_id": None}
    team, member = key.model_copy(update={**free, "user_id": None}), key.model_copy(update=free)
    others = key.model_copy(update={"models": _UNRESTRICTED, "team_id": None})
    levels = [_check_of_key(key, router)]
    if key.team_id is not None:
        levels += [_check_of(team, router), *([_check_of(member, router)] if key.user_id is not None else [])]
    levels.append(_check_of(others, router))
    allowed = frozenset(candidates)
    for check in levels:
        if allowed:
            allowed &= await _level(check, group, candidates)
    return allowed


async def _level(check: _Check, group: str, candidates: Sequence[str]) -> frozenset[str]:
    """What one level grants: the candidates that it names, else all of them where it grants their group."""
    named = frozenset([name for name in candidates if await _passes(check, name)])
    if named or not await _passes(check, group):
        return named
    return frozenset(candidates)


async def _passes(check: _Check, model: str) -> bool:
    from fastapi import HTTPException
    from litellm.proxy._types import ProxyException

    try:
        await check(model)
    except (ProxyException, HTTPException):
        return False
    except Exception:  # what cannot be checked is not granted
        logger.exception("outcome-router: whether a key may use a model could not be checked, so it may not")
        return False
    return True


def _check_of_key(key: Any, router: Any) -> _Check:
    """The key's own list of models; one that says "as the team" or has a configuration of its own restricts nothing here."""
    from litellm.proxy._types import SpecialModelNames
    from litellm.proxy.auth.auth_checks import can_key_call_model

    as_team = SpecialModelNames.all_team_models.value in (key.models or ())

    async def check(model: str) -> None:
        if not key.config and not as_team:
            await can_key_call_model(model=model, llm_model_list=None, valid_token=key, llm_router=router)

    return check


def _check_of(key: Any, router: Any) -> _Check:
    """What else restricts the key: team, member, project, end user."""
    from litellm.proxy.auth.auth_checks import can_key_call_resolved_model

    async def check(model: str) -> None:
        await can_key_call_resolved_model(model=model, llm_model_list=None, valid_token=key, llm_router=router)

    return check
