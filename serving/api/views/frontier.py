"""`GET /v1/frontier`: what training measured of the trade-off, and at what volume it is used here."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Annotated, Any, Literal

import orjson
from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from serving.api.auth import caller, may_administer
from serving.api.confidential import frontier_for_all
from serving.api.endpoints import service_of
from serving.api.views.bundles import beside, folders, read_manifest
from serving.api.views.live.feed import LiveFeed
from serving.api.views.live.figures import Figures
from serving.api.views.table import OPERATORS, REFUSED, View
from serving.bundle.manifest import BundleError, Manifest
from serving.runtime.live import MLFLOW, frontier_of
from serving.runtime.pipeline import Service
from serving.traffic.month import DAYS_A_MONTH

_LONGEST_VERSION = 256
# What in the document is of single workflows, and how.
_BY_WORKFLOW = ("best", "worst")


class Seen(BaseModel):
    """How many requests there are: of this service once it stored decisions over 7 whole days (UTC), else of the log."""

    model_config = ConfigDict(extra="forbid")

    requests_a_month: float | None = Field(description="Decisions a day of those days, for 30.4375 days.")
    days: float | None = Field(
        description="Days that they are of: of the store whole weeks of days that are over, 28 at most."
    )
    decisions: int = Field(description="Decisions, or the log's requests, that it is from.")
    of: Literal["store", "log"] | None = Field(alias="from", description="Null: nothing is known of it.")
    scope: Literal["all", "key"] = Field(description="`key`: of the caller's own key alone.")


class FrontierResponse(BaseModel):
    """The bundle's frontier.json as it is (docs: bundle format), and how much traffic there is."""

    model_config = ConfigDict(extra="allow")

    version: str
    simulated: bool
    seen: Seen


async def frontier(
    request: Request,
    version: Annotated[
        str | None, Query(max_length=_LONGEST_VERSION, description="A bundle beside the served one.")
    ] = None,
) -> Response:
    """The frontier of the bundle that is served, or of another `version` beside it for a key that may administer.

    A key that is bound to workflows sees these alone where there is something of single workflows, and its own volume.
    """
    service = service_of(request)
    key = await caller(request, service)
    if version is not None and version != service.live.version and not may_administer(service, key):
        raise HTTPException(403, "Another bundle than the served one is for a key that may administer.")
    feed: LiveFeed = request.app.state.live
    document = await feed.ask(lambda: _document(service, feed.figures, key, version))
    return Response(orjson.dumps(document), media_type="application/json")


def _document(service: Service, figures: Figures, key: str | None, version: str | None) -> dict[str, Any]:
    manifest, content = _found(service, version)
    if content is None:
        raise HTTPException(404, f"The bundle {manifest.version} has no frontier.json: train again, and it has.")
    try:
        document = json.loads(content)  # as Python writes it: an infinite knob is no JSON
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise HTTPException(404, f"The frontier.json of the bundle {manifest.version} is no JSON object: train again.")
    bound = service.rules.keys[key].workflows if key is not None and key in service.rules.keys else ()
    if bound and not may_administer(service, key):
        document = _of_workflows(document, bound)
    shown = document if may_administer(service, key) else frontier_for_all(document)
    named = {"version": manifest.version, "simulated": manifest.simulated}
    return {**shown, **named, "seen": _seen(service, figures, key, document)}


def _found(service: Service, version: str | None) -> tuple[Manifest, bytes | None]:
    """A bundle's manifest and frontier: of what is loaded from memory, of what is beside it from disk."""
    for loaded in (service.live, *([service.shadow.live] if service.shadow is not None else [])):
        current = loaded.current
        if version is None or version == current.router.manifest.version:
            return current.router.manifest, current.frontier
    for folder in [] if service.live.source.startswith(MLFLOW) else folders(beside(service)):
        manifest = read_manifest(folder)
        if isinstance(manifest, Manifest) and manifest.version == version:
            try:
                return manifest, frontier_of(folder, manifest)
            except (BundleError, OSError) as error:
                raise HTTPException(404, f"The bundle {version} is broken: {error}") from None
    raise HTTPException(404, "There is no bundle of this version beside the served one; /v1/bundles lists them.")


def _of_workflows(document: dict[str, Any], bound: Collection[str]) -> dict[str, Any]:
    """The document without what is of other workflows."""

    def own(lines: object) -> list[Any]:
        known = lines if isinstance(lines, list) else []
        return [one for one in known if isinstance(one, dict) and one.get("workflow") in bound]

    kept = {**document}
    if "workflows" in kept:
        kept["workflows"] = own(kept["workflows"])
    if isinstance(kept.get("profiles"), list):
        profiles = [one for one in kept["profiles"] if isinstance(one, dict)]
        kept["profiles"] = [{**one, **{name: own(one.get(name)) for name in _BY_WORKFLOW}} for one in profiles]
    return kept


def _seen(service: Service, figures: Figures, key: str | None, document: dict[str, Any]) -> dict[str, Any]:
    """How much traffic there is; of a key that may not administer its own alone."""
    own = None if may_administer(service, key) else key
    scope = "all" if own is None else "key"
    if service.store is not None:
        try:
            decisions, days = figures.volume(own)
        except SQLAlchemyError:  # the rest of the answer is as good without it
            decisions, days = 0, 0
        if decisions:
            return {
                "requests_a_month": decisions / days * DAYS_A_MONTH,
                "days": days,
                "decisions": decisions,
                "from": "store",
                "scope": scope,
            }
    log = document.get("log")
    known = log if isinstance(log, dict) and own is None else {}
    a_month = known.get("requests_a_month")
    return {
        "requests_a_month": a_month,
        "days": known.get("days"),
        "decisions": (known.get("requests") or 0) if a_month is not None else 0,
        "from": None if a_month is None else "log",
        "scope": scope,
    }


VIEW = View(
    "/v1/frontier",
    frontier,
    FrontierResponse,
    "bundle",
    (
        *REFUSED,
        OPERATORS,
        (404, "The bundle has no frontier, or there is none of this version."),
        (422, "`version` is wrong."),
    ),
)
