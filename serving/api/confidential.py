"""What a bundle says of the whole log that it was trained on: its volume, what it cost, and its workflows' names.

That is the operators' business. Who has no key that may administer sees the bundle without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_METRICS = ("log_", "month_", "requests_a_month")
_PARTS = ("log", "month")


def metrics_for_all(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest's metrics without those of the log's volume and cost."""
    return {name: value for name, value in metrics.items() if not name.startswith(_METRICS)}


def bundle_for_all(document: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest without the metrics of the log's volume and cost, and with no name of a workflow or a kind of prompts."""
    shown = {**document, "metrics": metrics_for_all(document["metrics"])}
    shown["head"] = {**document["head"], "workflows": [], "kinds": []}
    points = []
    for point in document["operating_points"]:
        certificate = point["certificate"]
        points.append({**point, "certificate": None if certificate is None else {**certificate, "workflows": {}}})
    return {**shown, "operating_points": points}


def frontier_for_all(document: Mapping[str, Any]) -> dict[str, Any]:
    """A frontier.json without the parts that tell the log's volume and cost."""
    return {name: None if name in _PARTS else value for name, value in document.items()}
