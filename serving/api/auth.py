"""Who asks: API keys and their rates."""

from __future__ import annotations

from math import ceil

from fastapi import Request
from starlette.exceptions import HTTPException

from serving.runtime.pipeline import Service


def caller(request: Request, service: Service, *, admin: bool = False) -> str | None:
    """The name of the caller's API key; None where the rules have no keys. Raises HTTPException 401, 403 or 429."""
    if not service.rules.keys:
        return None
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    name = service.rules.key_of(secret.strip()) if scheme.lower() == "bearer" else None
    if name is None:
        raise HTTPException(401, "An API key is needed: Authorization: Bearer <key>.", {"WWW-Authenticate": "Bearer"})
    if admin and not service.rules.keys[name].admin:
        raise HTTPException(403, f"The key {name} may not administer (admin = true in the rule file).")
    keep_rate(service, name)
    return name


def keep_rate(service: Service, key: str, requests: int = 1) -> None:
    """Counts requests of a key; raises HTTPException 429 where they are over its rate."""
    wait = service.rates.keep(key, requests)
    if wait is not None:
        raise HTTPException(429, f"The key {key} is over its rate.", {"Retry-After": str(max(1, ceil(wait)))})
