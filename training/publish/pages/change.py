"""What would change that nothing is certified, or that nothing is saved, in a sentence for who decides about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.bundle.manifest import Manifest, OperatingPoint
from training.publish.pages.month import Month
from training.publish.pages.written import percent

_PLAN = (
    "answers of several candidates to the same requests, judged: `router-train plan --data LOG` says which ones to buy, what "
    "they cost, and how likely it is that the target is certified then; it sends nothing. A lower target is easier to certify."
)


def change(manifest: Manifest, making: Mapping[str, Any], month: Month) -> str | None:
    """Commands stand between `backticks`. None where something is certified and saved."""
    point = manifest.default
    if point.certificate is None:
        return _evidence(making) or _PLAN
    low = point.certificate.saving_low
    if not month.dearer and (point.saving or 0.0) > 0 and (low is None or low > 0):
        return None
    if (other := _cheaper(manifest, point)) is not None:
        assert other.certificate is not None
        return (
            f"a lower target. {other.name} is certified as well, at most {percent(other.certificate.alpha)} of requests fail "
            f"there instead of {percent(point.certificate.alpha)}, and it saves {percent(other.saving)} instead of "
            f"{percent(point.saving)}: `router-train set-point {other.name}`."
        )
    return (
        f"a candidate that costs less than {manifest.reference} and is nearly as good (`router-train add-candidate`), or a "
        "lower target than those that were certified."
    )


def _cheaper(manifest: Manifest, point: OperatingPoint) -> OperatingPoint | None:
    """The certified point that saves more and allows the least."""
    found = [
        one
        for one in manifest.operating_points
        if one.certificate is not None and (one.saving or 0.0) > max(point.saving or 0.0, 0.0)
    ]
    return min(found, key=lambda one: one.certificate.alpha if one.certificate is not None else 1.0, default=None)


def _evidence(making: Mapping[str, Any]) -> str | None:
    """What training found out about it, as one text: a command after "What now:" is marked as one."""
    lines = (making.get("evidence") or "").splitlines()
    told = []
    for line in lines:
        command = line.removeprefix("What now: ")
        told.append(f"`{command}`." if command != line and command.startswith("router-train") else command)
    return " ".join(told) or None
