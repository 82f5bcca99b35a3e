"""`GET /v1/bundles`: the bundles beside the one that is served, by their manifests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from anyio import to_thread
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serving.api.auth import caller, may_administer
from serving.api.confidential import metrics_for_all
from serving.api.endpoints import service_of
from serving.api.views.table import View
from serving.bundle.manifest import FORMAT_VERSION, MANIFEST, Manifest, OperatingPoint
from serving.runtime.live import MLFLOW
from serving.runtime.pipeline import Service

MOST = 50  # bundles that are shown
_MOST_LOOKED_AT = 5_000  # entries of the folder
_LARGEST = 16 * 2**20  # bytes of a manifest
_PREVIOUS = "previous"  # the link that training leaves to the champion before


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BundlePoint(_Document):
    """An operating point, as it stands in the manifest: figures are of calibration data."""

    name: str
    quality_target: float | None
    knob: float | None = Field(description="Null is infinity (the cheapest).")
    always: str | None = Field(description="The candidate that it always uses, or null.")
    default: bool = Field(description="Whether a request that asks for none gets this one.")
    certified: bool
    alpha: float | None
    delta: float | None
    bound: float | None
    method: str | None
    requests: int = Field(description="Calibration requests that it rests on.")
    quality: float | None
    cost_usd: float | None
    saving: float | None
    saving_low: float | None
    saving_high: float | None
    violation_rate: float | None


class BundleEntry(_Document):
    """One bundle. Of a broken one only its folder's name (`version`) and what is wrong are known."""

    version: str
    created: str | None
    simulated: bool | None
    current: bool = Field(description="Whether it is the one that is served.")
    previous: bool = Field(description="Whether `router-train rollback` would make it the champion again.")
    shadow: bool = Field(description="Whether it is the shadow bundle.")
    broken: str | None = Field(
        description="What is wrong with its manifest, or null. Its other files are not looked at."
    )
    estimator: str | None
    candidates: list[str]
    reference: str | None
    default_point: str | None
    points: list[BundlePoint]
    metrics: dict[str, Any]
    comparable: bool = Field(
        description="Whether it was made from the data of the one that is served, so that their test figures are of one part."
    )


class BundlesResponse(_Document):
    """The bundles beside the one that is served, the newest first; that one alone for a key that may not administer."""

    live: str = Field(description="The version that is served.")
    shadow: str | None
    source: str | None = Field(description="Where it is from; null for a key that may not administer.")
    bundles: list[BundleEntry] = Field(description=f"At most {MOST}.")


async def bundles(request: Request) -> Response:
    """The versions that there are: what each promises, which is served and which is the shadow.

    Of a registered model (`models:/...`) the one that is served and its shadow alone are known here.
    """
    service = service_of(request)
    admin = may_administer(service, await caller(request, service))
    document = await to_thread.run_sync(_document, service, admin)
    return Response(orjson.dumps(document), media_type="application/json")


def _document(service: Service, admin: bool) -> dict[str, Any]:
    live = service.live.current.router.manifest
    shadow = service.shadow.live.current.router.manifest if service.shadow is not None and admin else None
    shown: dict[str, dict[str, Any]] = {}
    if admin and not service.live.source.startswith(MLFLOW):
        folder = beside(service)
        previous = (folder / _PREVIOUS).resolve().name if (folder / _PREVIOUS).is_symlink() else None
        for found in folders(folder):
            manifest = read_manifest(found)
            entry = entry_of(manifest, live) if isinstance(manifest, Manifest) else _broken(found.name, manifest)
            entry["previous"] = found.name == previous
            shown.setdefault(entry["version"], entry)
    for one in (live, shadow):  # what is loaded is known by heart, wherever its folder is now
        if one is not None:
            before = shown.get(one.version, {}).get("previous", False)
            shown[one.version] = entry_of(one, live) | {"previous": before}
    shown[live.version]["current"] = True
    if shadow is not None:
        shown[shadow.version]["shadow"] = True
    loaded = {live.version, *([shadow.version] if shadow is not None else [])}
    entries = sorted(shown.values(), key=lambda one: (one["created"] or "", one["version"]), reverse=True)
    if not admin:
        entries = [{**one, "metrics": metrics_for_all(one["metrics"])} for one in entries]
    others = [one["version"] for one in entries if one["version"] not in loaded][: MOST - len(loaded)]
    return {
        "live": live.version,
        "shadow": None if shadow is None else shadow.version,
        "source": service.live.source if admin else None,
        "bundles": [one for one in entries if one["version"] in loaded or one["version"] in others],
    }


def beside(service: Service) -> Path:
    """The folder that holds the served bundle, and others perhaps."""
    return service.live.current.router.bundle.folder.parent


def folders(root: Path) -> list[Path]:
    """The folders in `root` that hold a manifest, the one that was changed last first, at most `MOST`; no links."""

    def dated() -> Iterator[tuple[float, Path]]:
        for one in islice(root.iterdir(), _MOST_LOOKED_AT):
            try:
                if not one.is_symlink() and not one.name.startswith("."):
                    yield (one / MANIFEST).stat().st_mtime, one
            except OSError:  # no folder, none with a manifest, or one that is being removed
                continue

    try:
        return [path for _, path in sorted(dated(), reverse=True)[:MOST]]
    except OSError:  # the folder of the served bundle is gone
        return []


def read_manifest(folder: Path) -> Manifest | str:
    """The manifest of a bundle's folder, or what is wrong with it. Nothing else in the folder is read."""
    try:
        path = folder / MANIFEST
        if (size := path.stat().st_size) > _LARGEST:
            return f"{MANIFEST} has {size} bytes, at most {_LARGEST} are read"
        content = path.read_bytes()
    except OSError as error:
        return f"{MANIFEST} cannot be read: {error.strerror}"
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        return _format(content) or _said(error)
    return _format(content) or manifest


def _format(content: bytes) -> str | None:
    """What is wrong with the format version, None if nothing is."""
    try:
        document = orjson.loads(content)
        arrived = document.get("format_version", FORMAT_VERSION)
    except (ValueError, AttributeError):  # infinity is no JSON, so that what was written by pydantic may still be read
        return None
    if arrived == FORMAT_VERSION:
        return None
    return f"{MANIFEST}: format_version is {str(arrived)[:20]}, this code reads {FORMAT_VERSION}. Train again."


def _said(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"])) or "the document"
    return f"{MANIFEST}: {where}: {first['msg']}"[:300]


def entry_of(manifest: Manifest, live: Manifest) -> dict[str, Any]:
    """A bundle as `BundleEntry` describes it, without what other bundles there are."""
    return {
        "version": manifest.version,
        "created": manifest.created,
        "simulated": manifest.simulated,
        "current": False,
        "previous": False,
        "shadow": False,
        "broken": None,
        "estimator": manifest.head.estimator,
        "candidates": [one.name for one in manifest.candidates],
        "reference": manifest.reference,
        "default_point": manifest.default_point,
        "points": [_point(one, manifest.default_point) for one in manifest.operating_points],
        "metrics": manifest.metrics,
        "comparable": manifest.data_fingerprint == live.data_fingerprint,
    }


def _broken(name: str, why: str) -> dict[str, Any]:
    unknown = dict.fromkeys(("created", "simulated", "estimator", "reference", "default_point"))
    state = dict.fromkeys(("current", "previous", "shadow", "comparable"), False)
    return {"version": name, **unknown, **state, "broken": why, "candidates": [], "points": [], "metrics": {}}


def _point(point: OperatingPoint, default: str) -> dict[str, Any]:
    certificate, estimated = point.certificate, point.estimated
    known = certificate if certificate is not None else estimated
    return {
        "name": point.name,
        "quality_target": point.quality_target,
        "knob": point.knob,
        "always": point.always,
        "default": point.name == default,
        "certified": certificate is not None,
        "alpha": None if certificate is None else certificate.alpha,
        "delta": None if certificate is None else certificate.delta,
        "bound": None if certificate is None else certificate.bound,
        "method": None if certificate is None else certificate.method,
        "requests": point.calibration_requests,
        "quality": point.quality,
        "cost_usd": point.cost_usd,
        "saving": point.saving,
        "saving_low": None if known is None else known.saving_low,
        "saving_high": None if known is None else known.saving_high,
        "violation_rate": None if known is None else known.violation_rate,
    }


VIEW = View("/v1/bundles", bundles, BundlesResponse, "bundle")
