"""The rows that charts of cost and quality draw: of `frontier.json`, each with its cost per 1,000 requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.charts.labels import best_baseline, efficient
from training.charts.theme import COLOURS, DASHES, MUTED, NothingToDrawError, Row, percent

ROUTER = "outcome-router"
# Amounts are per so many requests.
PER = 1000.0
GUARDED = f"{ROUTER}, guarded"
CERTIFIED, UNCERTIFIED, SINGLE = "operating point, certified", "operating point, not certified", "single candidate"
DOMINATED = "candidate that another beats in both"
ORACLE = "oracle (knows every outcome)"
OTHERS = "other routers"
LOOKS = {
    CERTIFIED: ("diamond", "#2a9464"),
    UNCERTIFIED: ("triangle-up", "#d1495b"),
    SINGLE: ("circle", MUTED),
    DOMINATED: ("cross", MUTED),
}


def by_cost(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The sweep's marks by rising cost, the same place once. Raises NothingToDrawError where there is none."""
    if not document.get("sweep"):
        raise NothingToDrawError(f"nothing was measured along the knob: {document.get('why_not')}")
    places = {(mark["cost_usd"], mark["quality"]): mark for mark in document["sweep"]}
    return [places[place] for place in sorted(places)]


def band_rows(document: Mapping[str, Any]) -> list[Row]:
    return [
        {
            "order": order,
            "cost": PER * mark["cost_usd"],
            "quality": mark["quality"],
            "low": mark["quality_low"],
            "high": mark["quality_high"],
            "saving": percent(mark["saving"]) or "not known",
        }
        for order, mark in enumerate(by_cost(document))
    ]


def line_rows(document: Mapping[str, Any]) -> list[Row]:
    """The router as it was swept, and the hulls of what it is compared with: the best baseline and the oracle as a series of
    their own, the others together, first, so that they lie below."""
    best = best_baseline(document, ROUTER)
    named = {ROUTER: ROUTER, "oracle": ORACLE, best: f"{best} (best baseline)"}
    curves = {GUARDED: [(one["cost_usd"], one["quality"]) for one in sorted(document["guarded"], key=_cost)]}
    for name, curve in document["curves"].items():
        curves[name] = list(zip(curve["cost_usd"], curve["quality"], strict=True))
    curves[ROUTER] = [(one["cost_usd"], one["quality"]) for one in by_cost(document)]
    return [
        {
            "router": name,
            "series": named.get(name, OTHERS),
            "order": order,
            "cost": PER * cost,
            "quality": quality,
        }
        for name in sorted(curves, key=lambda name: (name in named, name == ROUTER))
        for order, (cost, quality) in enumerate(curves[name])
    ]


def dot_rows(document: Mapping[str, Any]) -> list[Row]:
    """Single candidates and operating points, the default one last, so that it lies above the others."""
    best = efficient(document["singles"]) | {document.get("reference")}
    rows = [
        _dot(name, SINGLE if (told := name in best) else DOMINATED, one, label=name.split("/")[-1] if told else "")
        for one in document["singles"]
        for name in (one["candidate"],)
    ]
    for row in rows:
        row["reference"] = row["name"] == document.get("reference")
    rows.sort(key=lambda row: row["kind"] == SINGLE)
    points: Sequence[Mapping[str, Any]] = sorted(document["points"], key=lambda point: point["default"])
    for point in points:
        if point["test"] is not None:
            kind = CERTIFIED if point["certified"] else UNCERTIFIED
            label = point["name"] if point["default"] else ""
            rows.append(_dot(point["name"], kind, point["test"], label=label, default=point["default"]))
    return rows


def _dot(name: str, kind: str, found: Mapping[str, Any], *, label: str, default: bool = False) -> Row:
    low, high = found.get("quality_low"), found.get("quality_high")
    return {
        "name": name,
        "kind": kind,
        "cost": PER * found["cost_usd"],
        "quality": found["quality"],
        "low": low,
        "high": high,
        "interval": "" if low is None or high is None else f"{low:.1%} … {high:.1%}",
        "saving": percent(found["saving"]) or "not known",
        "label": label,
        "default": default,
        "reference": False,
    }


def rank(series: str) -> int:
    """The router first, then the best baseline, the oracle, and the others last."""
    return {ROUTER: 0, ORACLE: 2, OTHERS: 3}.get(series, 1)


def look(series: str) -> tuple[str, tuple[int, ...]]:
    """The colour and the dash of a series, the same in every chart."""
    return (MUTED, DASHES[0]) if series == OTHERS else (COLOURS[rank(series)], DASHES[rank(series)])


def _cost(mark: Mapping[str, Any]) -> float:
    return float(mark["cost_usd"])
