"""The table behind each chart: what it shows, in words and figures, for who cannot see it and who wants the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from training.charts.frontier import frontier_table
from training.charts.logs import PER, cost_rows, drift_rows
from training.charts.otherwise import otherwise_rows
from training.charts.theme import percent, span, usd

Table = tuple[list[str], list[list[str]]]


def table(name: str, part: Any) -> Table:
    """Headers and rows, all text, of the chart that the function `name` draws of the same part.

    `two_frontiers` takes both documents. Raises ValueError for a name that is no chart's, NothingToDrawError as the chart.
    """
    if name not in _TABLES:
        raise ValueError(f"{name!r} is no chart; the charts are {', '.join(_TABLES)}")
    return _TABLES[name](part)


def _frontier(document: Mapping[str, Any]) -> Table:
    headers = ["what", "kind", "USD per 1,000 requests", "quality", "quality, 95%", "saving"]
    return headers, [
        [
            row["name"],
            row["kind"],
            usd(row["cost"]),
            percent(row["quality"]),
            span(row["low"], row["high"]),
            row["saving"],
        ]
        for row in frontier_table(document)
    ]


def _two_frontiers(documents: tuple[Mapping[str, Any], Mapping[str, Any]]) -> Table:
    headers: list[str] = []
    rows: list[list[str]] = []
    for document in documents:
        headers, own = _frontier(document)
        rows += [[document["version"], *row] for row in own]
    return ["bundle", *headers], rows


def _knob(document: Mapping[str, Any]) -> Table:
    headers = [
        "cost_quality",
        "USD per 1,000 requests",
        "95%",
        "quality",
        "95%",
        "saving",
        "95%",
        "violations",
        "mostly to",
    ]
    return headers, [
        [
            "" if mark["cost_quality"] is None else f"{mark['cost_quality']:.1f}",
            usd(PER * mark["cost_usd"]),
            f"{usd(PER * mark['cost_low'])} … {usd(PER * mark['cost_high'])}",
            percent(mark["quality"]),
            span(mark["quality_low"], mark["quality_high"]),
            percent(mark["saving"]),
            span(mark["saving_low"], mark["saving_high"]),
            percent(mark["violation_rate"]),
            max(mark["shares"], key=mark["shares"].get),
        ]
        for mark in document["sweep"]
    ]


def _workflows(lines: Any) -> Table:
    headers = ["workflow", "requests", "cost before", "cost routed", "quality before", "quality routed"]
    return headers, [
        [
            line["workflow"],
            f"{line['requests']:,}",
            usd(PER * line["reference_cost_usd"]),
            usd(PER * line["cost_usd"]),
            percent(line["reference_quality"]),
            percent(line["quality"]),
        ]
        for line in lines
    ]


def _shares(lines: Any) -> Table:
    names = list(lines[0]["share"]) if lines else []
    return ["workflow", *names], [
        [line["workflow"], *(percent(line["share"].get(name)) for name in names)] for line in lines
    ]


def _bins(bins: Any) -> Table:
    headers = ["stated, from … to", "stated", "observed", "observed, 95%", "outcomes"]
    return headers, [
        [
            span(one["low"], one["high"]),
            percent(one["p"]),
            percent(one["y"]),
            span(one["y_low"], one["y_high"]),
            f"{one['n']:,}",
        ]
        for one in bins
    ]


def _bins_by_candidate(parts: Mapping[str, Any]) -> Table:
    headers, _ = _bins(())
    return ["candidate", *headers], [[name, *row] for name, bins in parts.items() for row in _bins(bins)[1]]


def _risk(marks: Any) -> Table:
    return ["requests decided", "fail", "95%"], [
        [percent(one["coverage"]), percent(one["risk"]), span(one["low"], one["high"])] for one in marks
    ]


def _profile(profiles: Any) -> Table:
    headers = ["candidate", "workflow", "quality", "against the mean", "95%", "judged"]
    return headers, [
        [
            one["candidate"],
            found["workflow"],
            percent(found["quality"]),
            f"{100 * found['gap']:+.1f} points",
            f"{100 * found['low']:+.1f} … {100 * found['high']:+.1f}",
            f"{found['n']:,}",
        ]
        for one in profiles
        for found in (*one["best"], *reversed(one["worst"]))
    ]


def _costs(frame: Any) -> Table:
    return ["workflow", "candidate", "calls with a cost", "USD per 1,000 calls"], [
        [row["workflow"], row["candidate"], f"{row['calls']:,}", row["label"]] for row in cost_rows(frame)
    ]


def _drift(frame: Any) -> Table:
    shown: dict[str, Callable[[float], str]] = {
        "requests": lambda value: f"{value:,.0f}",
        "quality": percent,
        "cost": usd,
    }
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for row in drift_rows(frame):
        rows.setdefault((row["at"], row["candidate"]), {})[row["what"]] = shown[row["what"]](row["value"])
    return ["from", "candidate", "requests", "judged quality", "USD per 1,000 calls"], [
        [*place, *(found.get(what, "") for what in shown)] for place, found in rows.items()
    ]


def _savings(lines: Any) -> Table:
    headers = ["name", "decisions", "actual", "all to the reference", "saved", "saved, between"]
    return headers, [
        [
            "(none)" if line["name"] is None else line["name"],
            f"{line['decisions']:,}",
            usd(line["actual_usd"]),
            usd(line["reference_usd"]),
            usd(line["saved_usd"]),
            "" if line["saved_low"] is None else f"{usd(line['saved_low'])} … {usd(line['saved_high']) or 'not known'}",
        ]
        for line in lines
    ]


def _otherwise(steps: Any) -> Table:
    return ["step", "USD per 1,000 requests", "quality", "saving"], [
        [row["step"], usd(row["cost"]), percent(row["quality"]), percent(row["saving"])]
        for row in otherwise_rows(steps)
    ]


_TABLES: dict[str, Callable[[Any], Table]] = {
    "frontier": _frontier,
    "two_frontiers": _two_frontiers,
    "knob": _knob,
    "workflows_before_after": _workflows,
    "workflows_quality": _workflows,
    "shares": _shares,
    "reliability": _bins,
    "reliability_by_candidate": _bins_by_candidate,
    "risk_coverage": _risk,
    "profile": _profile,
    "costs_by_workflow_and_candidate": _costs,
    "drift": _drift,
    "savings": _savings,
    "otherwise": _otherwise,
}
