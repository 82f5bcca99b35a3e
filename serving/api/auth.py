"""Who asks, and what they may see: API keys, their rates, their workflows."""

from __future__ import annotations

import hmac
from math import ceil

from fastapi import Request
from starlette.exceptions import HTTPException

from serving.api.parsing import BodyError
from serving.runtime.pipeline import Service
from serving.state.rates import NeverFitsError


async def caller(request: Request, service: Service, *, admin: bool = False) -> str | None:
    """The name of the caller's API key; None where the rules have no keys. Raises HTTPException 401, 403 or 429."""
    rules = service.rules  # once: a reload may put others in their place
    if not rules.keys:
        return None
    secret = _bearer(request)
    name = rules.key_of(secret)
    if name is None:
        why = "This API key is not known" if secret else "An API key is needed"
        raise HTTPException(401, f"{why}: Authorization: Bearer <key>.", {"WWW-Authenticate": "Bearer"})
    if admin and not rules.keys[name].admin:
        raise HTTPException(403, f"The key {name} may not administer (admin = true in the rule file).")
    _within_rate(name, await service.rates.kept(name))
    return name


def count_all(service: Service, key: str | None, field: str, requests: int) -> None:
    """Counts as many requests as `field` of the body has, the first of which `caller` has counted; for a thread that may wait.

    Raises HTTPException 429 where they do not fit the key's rate now, BodyError where they never will.
    """
    if key is None or requests <= 1:
        return
    try:
        _within_rate(key, service.rates.keep(key, requests, 1))
    except NeverFitsError as error:
        raise BodyError.on(field, str(error)) from None


def may_see(service: Service, key: str | None, scope: str) -> bool:
    """Whether the caller may see a scope's budget: of keys its own, of workflows those that it is bound to.

    One that may administer sees all of them, and so does everybody where the rules have no keys.
    """
    if key is None or scope == "default" or scope == f"key:{key}":
        return True
    rules = service.rules.keys.get(key)  # a key that has just been taken out of the rule file is nobody's
    return rules is not None and (rules.admin or scope in {f"workflow:{tag}" for tag in rules.workflows})


def may_administer(service: Service, key: str | None) -> bool:
    """Whether the caller may see what is everybody's: with a key that may administer, or where the rules have no keys."""
    if key is None:
        return True
    rules = service.rules.keys.get(key)
    return rules is not None and rules.admin


def taken_away(request: Request, service: Service, key: str | None, *, admin: bool) -> str | None:
    """Why a caller who was let in as `key`, an `admin` or none, may not stay; None if it may. No rate counts this."""
    rules = service.rules
    if (rules.key_of(_bearer(request)) if rules.keys else None) != key:
        return "This API key is not known any more." if key is not None else "An API key is needed now."
    if may_administer(service, key) != admin:
        return "What this API key may see has changed."
    return None


def administers(request: Request, service: Service) -> bool:
    """Whether who asks where no key is asked for may see what is everybody's, all the same. No rate counts this."""
    rules = service.rules
    name = rules.key_of(_bearer(request)) if rules.keys else None
    return not rules.keys or (name is not None and rules.keys[name].admin)


def sees_keys(request: Request, service: Service) -> bool:
    """Whether the caller may see the names of API keys in the metrics: with a key that may administer, or the metrics' own."""
    secret = _bearer(request)
    token = service.settings.metrics_token
    if token and hmac.compare_digest(secret.encode("utf-8", "surrogatepass"), token.encode()):
        return True
    known = service.rules
    name = known.key_of(secret)
    rules = known.keys[name] if name is not None else None
    return rules is not None and rules.admin


def _bearer(request: Request) -> str:
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def _within_rate(key: str, wait: float | None) -> None:
    if wait is not None:
        raise HTTPException(429, f"The key {key} is over its rate.", {"Retry-After": str(max(1, ceil(wait)))})
