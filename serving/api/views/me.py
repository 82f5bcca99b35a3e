"""`GET /v1/me`: who asks, and what of the page there is for them."""

from __future__ import annotations

from typing import Literal

import orjson
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field

from serving.api.auth import caller, may_administer
from serving.api.endpoints import service_of
from serving.api.views.table import View

Tab = Literal["try", "frontier", "live", "bundles"]


class MeResponse(BaseModel):
    """What a caller's API key is for, and what this service has."""

    model_config = ConfigDict(extra="forbid")

    key: str | None = Field(description="The name of the API key; null where the rules have no keys.")
    admin: bool = Field(description="Whether the caller may administer; everybody may where the rules have no keys.")
    keys: bool = Field(description="Whether the rules have API keys at all.")
    workflows: list[str] = Field(description="The workflows that the key is bound to; empty: it may name any.")
    store: bool = Field(description="Whether decisions are stored.")
    prompts: bool = Field(description="Whether they are stored with their prompts, where nothing forbids that.")
    shadow: bool = Field(description="Whether there is a shadow bundle.")
    page_tabs: list[Tab] = Field(description="What the page has for this caller, in its order.")


async def me(request: Request) -> Response:
    """Who the caller is by its API key, and what of the page it may see."""
    service = service_of(request)
    key = await caller(request, service)
    rules, settings, admin = service.rules, service.settings, may_administer(service, key)
    own = rules.keys.get(key) if key is not None else None
    tabs: list[Tab] = ["try", "frontier", "live", "bundles"]
    if service.store is None and not admin:  # what is not stored is not known by key
        tabs.remove("live")
    document = {
        "key": key,
        "admin": admin,
        "keys": bool(rules.keys),
        "workflows": [] if own is None else list(own.workflows),
        "store": service.store is not None,
        "prompts": service.store is not None and settings.store_prompts,
        "shadow": service.shadow is not None,
        "page_tabs": tabs,
    }
    return Response(orjson.dumps(document), media_type="application/json")


VIEW = View("/v1/me", me, MeResponse, "operations")
